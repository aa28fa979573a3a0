"""Hash files, trees and values with SHA-256. The hashes are the same on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# Not part of a package: files that running it writes, and those of editors and version control.
IGNORED_DIRECTORIES = frozenset({"__pycache__", ".git", ".svn", ".idea", ".vscode", ".ipynb_checkpoints"})
IGNORED_SUFFIXES = (".pyc", ".pyo", ".swp", "~")
# 12 hex digits are 48 bits: among a thousand versions, the chance of an equal pair is 2 in 10^9.
SHORT = 12


def of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def of_value(value: Any) -> str:
    """Return the short hash of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:SHORT]


def tree_files(root: Path) -> Iterator[Path]:
    """Yield the files of a tree in a fixed order, without those that running or editing it leaves behind.

    A directory that is a link is left out.
    """
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if IGNORED_DIRECTORIES.isdisjoint(parts) and not path.name.endswith(IGNORED_SUFFIXES) and path.is_file():
            yield path


def of_tree(root: Path) -> str:
    """Return the short hash of a tree: relative names, executable bits and contents, not times and owners."""
    return of_files((str(path.relative_to(root)), path) for path in tree_files(root))


def of_files(files: Iterable[tuple[str, Path]]) -> str:
    """Return the short hash that a tree of these files has.

    Args:
        files: the name of each in the tree, and the file; in the order of :func:`tree_files`.
    """
    return of_value([(name, bool(path.stat().st_mode & 0o100), of_file(path)) for name, path in files])
