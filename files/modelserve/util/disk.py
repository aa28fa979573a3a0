"""Report a full disk in one line: what had no space, where, how much it needs and how much is free."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ByteSize

from modelserve.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
FIX = "Free some there, then run this again"


def is_full(error: BaseException) -> bool:
    """Return whether a full disk, or a quota that is used up, caused an error, also one of another program."""
    texts = (os.strerror(number) for number in FULL)
    return error.errno in FULL if isinstance(error, OSError) else any(text in str(error) for text in texts)


def size_text(size: int) -> str:
    """Return a number of bytes as people write it: ``1.5GiB``."""
    return ByteSize(size).human_readable()


def free_space(directory: Path) -> int:
    """Return the free bytes of the disk that a directory is on, or would be on."""
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free


def no_space(what: str, directory: Path, needed: int = 0, fix: str = FIX) -> UserError:
    """Return the error of a full disk.

    Args:
        what: what had no space.
        directory: where it was to be written.
        needed: its size in bytes; 0 where that is not known.
        fix: what to do.
    """
    need = f"it needs {size_text(needed)}, " if needed else ""
    return UserError(f"no space left for {what}: {need}{size_text(free_space(directory))} are free at {directory}", fix)


def require_space(what: str, directory: Path, needed: int) -> None:
    """Return when a disk has as much free space as something needs.

    Raises:
        UserError: it has less.
    """
    if needed > free_space(directory):
        raise no_space(what, directory, needed)


@contextmanager
def space_for(what: str, directory: Path, needed: int = 0) -> Iterator[None]:
    """Report a full disk as :func:`no_space` does.

    Raises:
        UserError: the disk became full, or its quota is used up.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise no_space(what, directory, needed) from error
