"""Failures of a package that writes into its own files, which nothing may change."""

from __future__ import annotations

import contextlib
import errno
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def explained(package: str) -> Iterator[None]:
    """Say where to write when a package or its environment cannot be written to; other errors pass as they are.

    Args:
        package: the package's directory.

    Raises:
        PermissionError: with the file, the reason and the fix.
    """
    try:
        yield
    except OSError as error:
        file = str(error.filename2 or error.filename or "")
        own = any(Path(file).is_relative_to(directory) for directory in (package, sys.prefix))
        if error.errno not in _READ_ONLY or not file or not own:
            raise
        fix = f"Write to {tempfile.gettempdir()}, or to {Path.home()}; most libraries have a variable for their cache"
        raise PermissionError(f"{file} cannot be written: packages and environments are read-only. {fix}") from error
