"""Files: copy one, replace one atomically, lock one."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def copy(source: Path, target: Path) -> None:
    """Copy a file's bytes; the kernel shares them where the disk can (Btrfs, XFS)."""
    with source.open("rb") as read, target.open("wb") as write:
        try:
            while os.copy_file_range(read.fileno(), write.fileno(), 2**30):
                pass
        except OSError:  # between some file systems it is not possible
            read.seek(0)
            write.truncate(0)
            write.seek(0)
            shutil.copyfileobj(read, write, 2**20)


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file's content. A reader sees the old content or the new one, never a part.

    Args:
        path: the file; its directory is made where it is missing.
        text: the new content.
        mode: the file's permissions.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(descriptor, mode)
            stream.write(text)
            stream.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; wait while another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
