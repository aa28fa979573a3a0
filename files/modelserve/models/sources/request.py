"""What a source is asked for, and what every source needs."""

from __future__ import annotations

import importlib
import shutil
import sys
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path
from types import ModuleType

from modelserve.errors import UserError
from modelserve.models.entry import Model

LOCK = "requirements-models.lock"


@dataclass(frozen=True)
class Request:
    """A model to fetch.

    Attributes:
        model: the entry.
        work: a directory for what is fetched; what an interrupted attempt left there is in it.
        project: the directory that a relative ``path`` begins at.
        report: takes a line about the progress.
    """

    model: Model
    work: Path
    project: Path
    report: Callable[[str], None]

    @property
    def content(self) -> Path:
        """Return the path at which a source puts what it fetched."""
        return self.work / "content"

    def require_space(self, size: int) -> None:
        """Return when the disk has space for what is still to be fetched.

        Args:
            size: bytes.

        Raises:
            OSError: with ENOSPC, as a write would have it.
        """
        free = shutil.disk_usage(self.work).free
        if size > free:
            raise OSError(ENOSPC, f"{human(size)} are to be fetched, {human(free)} are free")


def library(name: str, source: str) -> ModuleType:
    """Return a client library that only some sources need.

    Args:
        name: the module.
        source: the source, as the entry writes it.

    Raises:
        UserError: this Python does not have it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or name).split(".")[0]
        lock = next((path for parent in Path(__file__).parents if (path := parent / LOCK).exists()), None)
        if lock is None:  # the image
            fix = "Write 'fetch_on: operator' into the entry"
        else:
            fix = f"Run '{sys.executable} -m pip install --require-hashes -r {lock}'"
        raise UserError(f"'{source}' needs the library {missing}, which this Python lacks", fix) from None


def human(size: float) -> str:
    """Return a number of bytes for people: ``1.5 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def public(address: str) -> str:
    """Return an address without what may be secret in it: user, password, and the query."""
    parts = urllib.parse.urlsplit(address)
    if not parts.scheme or not parts.netloc:
        return address
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
