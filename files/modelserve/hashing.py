"""Hash files, trees and values with SHA-256. The hashes are the same on every machine."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

# Not part of a package: files that running it writes, and those of editors and version control.
IGNORED_DIRECTORIES = frozenset({"__pycache__", ".git", ".svn", ".idea", ".vscode", ".ipynb_checkpoints"})
IGNORED_SUFFIXES = (".pyc", ".pyo", ".swp", "~")
# Not part of a model that is a directory: what version control and transfers keep beside its files.
IGNORED_IN_MODELS = frozenset({".git", ".cache", ".rsync-partial"})
IGNORED_MODEL_FILES = frozenset({".gitattributes", ".DS_Store"})
# 12 hex digits are 48 bits: among a thousand versions, the chance of an equal pair is 2 in 10^9.
SHORT = 12
_PART = 1 << 20  # bytes


def of_file(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hex digits.

    Args:
        path: the file.
        advance: gets the number of bytes of each part that was read.
    """
    with path.open("rb", buffering=0) as stream:
        if advance is None:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest, part = hashlib.sha256(), bytearray(_PART)
        while count := stream.readinto(part):
            digest.update(memoryview(part)[:count])
            advance(count)
        return digest.hexdigest()


def of_model(path: Path) -> str:
    """Return the SHA-256 of a model, as 64 hex digits.

    That of a file is the SHA-256 of its bytes. That of a directory is the SHA-256 of the text that ``sha256sum`` would
    print for its files, sorted by path: a line "<SHA-256>  <path>" for each.

    Args:
        path: a file or a directory.

    Raises:
        ValueError: as of :func:`model_files`.
    """
    if not path.is_dir():
        return of_file(path)
    return of_listing((name, of_file(file)) for name, file in model_files(path))


def of_listing(files: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 of a directory of which the files are known.

    Args:
        files: the path and the SHA-256 of each, as in :func:`of_model`, in any order.
    """
    ordered = sorted(files, key=lambda pair: pair[0].encode())
    return hashlib.sha256("".join(f"{sha256}  {name}\n" for name, sha256 in ordered).encode()).hexdigest()


def model_files(root: Path) -> list[tuple[str, Path]]:
    """Return the files of a model that is a directory, sorted by path.

    Links are followed. Names are in Unicode's composed form (NFC), since macOS may write the other one.

    Args:
        root: the directory.

    Returns:
        A pair for each file: its POSIX path below ``root``, and the file.

    Raises:
        ValueError: a link points nowhere or to a directory that holds it, a name is not UTF-8 or has a line break, or
            two names differ in their Unicode form alone.
    """
    files = []
    pending: list[tuple[Path, frozenset[Path]]] = [(root, frozenset())]
    while pending:
        directory, parents = pending.pop()
        real = Path(os.path.realpath(directory))
        if real in parents:
            raise ValueError(f"{directory} is a link to a directory that holds it")
        for path in directory.iterdir():
            if path.is_dir():
                if path.name not in IGNORED_IN_MODELS:
                    pending.append((path, parents | {real}))
            elif path.is_symlink() and not path.exists():
                raise ValueError(f"{path} is a link to a file that does not exist")
            elif path.is_file() and path.name not in IGNORED_MODEL_FILES:
                files.append((_model_name(path, root), path))
    files.sort(key=lambda pair: pair[0].encode())
    for (name, path), (following, other) in itertools.pairwise(files):
        if name == following:
            raise ValueError(f"{path} and {other.name} are the same name in two Unicode forms")
    return files


def _model_name(path: Path, root: Path) -> str:
    name = unicodedata.normalize("NFC", path.relative_to(root).as_posix())
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{str(path)!a}: its name is not UTF-8") from None
    if "\n" in name:  # a name could contain the line of another file
        raise ValueError(f"{str(path)!a}: its name has a line break")
    return name


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
