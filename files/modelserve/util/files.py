"""Files: copy one, replace one atomically, lock one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from modelserve.util import disk

_FICLONE = 0x40049409  # linux/fs.h
_PART = 64 << 20  # bytes


def copy(source: Path, target: Path, advance: Callable[[int], None] | None = None) -> None:
    """Copy a file's bytes and time to the disk; the kernel shares the bytes where the disk can (Btrfs, XFS).

    Args:
        source: the file.
        target: the copy. Nothing is left of one that fails.
        advance: gets the number of bytes of each part that was copied.

    Raises:
        UserError: the disk has no space for it. Nothing is copied where that shows beforehand.
    """
    status = source.stat()
    try:
        with disk.space_for(source.name, target.parent, status.st_size):
            with source.open("rb") as read, target.open("wb") as write:
                if not _share(read.fileno(), write.fileno()):
                    disk.require_space(source.name, target.parent, status.st_size)
                    _copy_bytes(read, write, status.st_size, advance or (lambda _: None))
                os.fsync(write.fileno())  # a copy that has its final name must survive a power cut
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _share(source: int, target: int) -> bool:
    """Have an empty file share all blocks of another; returns False where the disk cannot."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, _FICLONE, source)
        return True
    return False


def _copy_bytes(source: BinaryIO, target: BinaryIO, size: int, advance: Callable[[int], None]) -> None:
    copied = 0
    try:
        while count := os.copy_file_range(source.fileno(), target.fileno(), _PART):
            copied += count
            advance(count)
    except OSError as error:  # between some file systems it is not possible
        if disk.is_full(error):
            raise
    if copied < size:  # some file systems report the end at once
        source.seek(0)
        target.seek(0)
        target.truncate(0)
        shutil.copyfileobj(source, target, _PART)


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file's content. A reader sees the old content or the new one, never a part.

    Args:
        path: the file; its directory is made where it is missing.
        text: the new content.
        mode: the file's permissions.

    Raises:
        OSError: the file cannot be written; the error names it.
    """
    try:
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
    except OSError as error:
        if disk.is_full(error):  # writing to an open file names none
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; wait while another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
