"""Is a stored model still what its name says?

Beside each model of the store lies a seal: size, times and inode as they were when its content was last hashed. As long
as they are the same, nothing wrote to the file, and asking costs nothing; else the content is hashed again.
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


def mark(path: Path) -> list[int]:
    """What tells that a file was written to. The change time is the kernel's: no program sets it back."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def seal(model: Path, hashed: list[int]) -> None:
    """Remember that the content of a stored model was hashed, and is what its name says.

    Args:
        model: the file.
        hashed: its :func:`mark` before that.
    """
    # Without a seal, on a disk that takes no file, the content is hashed when it is asked about.
    with contextlib.suppress(OSError):
        descriptor, aside = tempfile.mkstemp(prefix=".seal.", dir=model.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as stream:
                os.fchmod(descriptor, 0o644)
                json.dump(hashed, stream)
            os.replace(aside, _seal(model))
        except BaseException:
            os.unlink(aside)
            raise


def is_intact(model: Path) -> bool:
    """Whether a stored model is there, with the content that its directory's name says."""
    try:
        now = mark(model)
        with contextlib.suppress(OSError, ValueError):
            if json.loads(_seal(model).read_text()) == now:
                return True
        if hashing.of_file(model) != model.parent.name:
            return False
    except FileNotFoundError:
        return False
    seal(model, now)
    return True


def require(path: str) -> None:
    """Return when a file is no stored model, or an intact one.

    Raises:
        ValueError: it is another than the one that was deployed.
    """
    stored = _STORED.search(path)
    if stored and not is_intact(Path(path)):
        found = hashing.of_file(Path(path)) if os.path.exists(path) else "none: it is gone"
        raise ValueError(
            f"the stored model {path} is not the one that was deployed: its sha256 is {found}, not {stored[1]}. "
            "Nothing was loaded. Deploy again, or, on a worker, restart its container: that puts it back"
        )


def _seal(model: Path) -> Path:
    return model.with_name(f".{model.name}.seal")
