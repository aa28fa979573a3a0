"""Verify that a stored model has the content that its name says.

Beside each model of the store lies an integrity stamp: the size, times and inode that the file had when its content was
last hashed. While they are the same, nothing wrote to the file, and no hashing is needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from pathlib import Path

from modelserve import hashing

_STORED = re.compile(r"/model/([0-9a-f]{64})/[^/]+$")


def file_state(path: Path) -> list[int]:
    """Return what every write to a file changes: size, modification time, change time and inode.

    The kernel sets the change time; no program can set it back.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def write_stamp(model: Path, state: list[int]) -> None:
    """Record that the content of a stored model was hashed and is what its name says.

    Args:
        model: the file.
        state: its :func:`file_state` before it was hashed.
    """
    # Without a stamp, on a disk that takes no file, the content is hashed each time.
    with contextlib.suppress(OSError):
        descriptor, name = tempfile.mkstemp(prefix=".seal.", dir=model.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                os.fchmod(descriptor, 0o644)
                json.dump(state, stream)
            temporary.replace(_stamp(model))
        except BaseException:
            temporary.unlink()
            raise


def verify_integrity(model: Path) -> bool:
    """Return whether a stored model exists and has the content that its directory's name says."""
    try:
        state = file_state(model)
        with contextlib.suppress(OSError, ValueError):
            if json.loads(_stamp(model).read_text()) == state:
                return True
        if hashing.of_file(model) != model.parent.name:
            return False
    except FileNotFoundError:
        return False
    write_stamp(model, state)
    return True


def require_integrity(path: str) -> None:
    """Return when a file is not a stored model, or is the one that was deployed.

    Raises:
        ValueError: the stored model is missing or has another content.
    """
    stored = _STORED.search(path)
    if stored and not verify_integrity(Path(path)):
        sha256 = hashing.of_file(Path(path)) if Path(path).exists() else "none: it is missing"
        raise ValueError(
            f"the stored model {path} is not the one that was deployed: its sha256 is {sha256}, not {stored[1]}. "
            "Nothing was loaded. Deploy again, or, on a worker, restart its container: that fetches it again"
        )


def _stamp(model: Path) -> Path:
    # ".seal" is on the disks of running clusters: another name would hash every model again.
    return model.with_name(f".{model.name}.seal")
