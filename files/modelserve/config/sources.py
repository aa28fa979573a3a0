"""The files of a package as its snapshot has them: its own, what its links lead to, and the code that packages share.

A snapshot has no links. The shared code, ``algopkg/_shared``, lies in the snapshot of each package that imports it.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from modelserve import hashing
from modelserve.errors import Problem, UserError

SHARED = "_shared"
# The directory of the shared code in a snapshot (modelserve.replica.import_path.algopkg).
SHARED_IN_SNAPSHOT = ".shared"
EDITOR_LOCK = ".#"  # Emacs' locks are links to nothing


def files(package: Path) -> dict[str, Path]:
    """Return the files of a package, by their names in its snapshot.

    Args:
        package: the package's directory, beside ``_shared`` where there is shared code.

    Returns:
        The files in the order of :func:`modelserve.hashing.tree_files`, so that the snapshot has the same hash.

    Raises:
        UserError: a link leads to nothing or into a circle, or a directory cannot be read.
    """
    found = list(_walk(package, (), (), f"algopkg/{package.name}"))
    shared = package.parent / SHARED
    if shared.is_dir() and _imports_shared(path for _, path in found):
        if (package / SHARED_IN_SNAPSHOT).exists():
            message = f"the snapshot has the shared code as {SHARED_IN_SNAPSHOT}, and the package has such a file"
            raise UserError(Problem(message, "Rename it", f"algopkg/{package.name}"))
        found += _walk(shared, (SHARED_IN_SNAPSHOT,), (), f"algopkg/{SHARED}")
    return {"/".join(parts): path for parts, path in sorted(found)}


def hash_of(package: Path) -> str:
    """Return the short hash of a package's snapshot.

    Raises:
        UserError: as :func:`files`.
    """
    return hashing.of_files(files(package).items())


def _walk(
    directory: Path, parts: tuple[str, ...], above: tuple[tuple[int, int], ...], shown: str
) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Yield the files below a directory with the parts of their names."""
    status = directory.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        raise UserError(Problem("the link leads to a directory above itself", "Remove the link", shown))
    try:
        entries = list(os.scandir(directory))
    except OSError as error:
        raise UserError(Problem(f"cannot be read: {error.strerror}", "Correct its permissions", shown)) from None
    for entry in entries:
        if entry.name in hashing.IGNORED_DIRECTORIES:
            continue
        name = f"{shown}/{entry.name}"
        if entry.is_symlink() and not Path(entry).exists():
            if entry.name.startswith(EDITOR_LOCK):
                continue
            fix = "Put what it links to below algopkg/, or remove the link"
            raise UserError(Problem(f"is a link to {Path(entry).readlink()}, which is not there", fix, name))
        if entry.is_dir():
            yield from _walk(Path(entry), (*parts, entry.name), (*above, identity), name)
        elif entry.is_file() and not entry.name.endswith(hashing.IGNORED_SUFFIXES):
            yield (*parts, entry.name), Path(entry)


def _imports_shared(paths: Iterable[Path]) -> bool:
    return any(path.suffix == ".py" and _names_shared(path.read_bytes()) for path in paths)


def _names_shared(source: bytes) -> bool:
    """Return whether a module imports the shared code, by a statement or by its name in a text."""
    if SHARED.encode() not in source:
        return False
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return True  # better a snapshot too large than one that lacks code
    return any(_is_shared(node) for node in nodes)


def _is_shared(node: ast.AST) -> bool:
    name = f"algopkg.{SHARED}"
    if isinstance(node, ast.Import):
        return any(_begins(alias.name, name) for alias in node.names)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and name in node.value
    if not isinstance(node, ast.ImportFrom):
        return False
    # Relative imports of two dots and more may lead out of the package.
    module = node.module or ""
    if node.level == 0:
        return _begins(module, name) or (module == "algopkg" and any(alias.name == SHARED for alias in node.names))
    outside = node.level > 1
    return outside and (_begins(module, SHARED) or (not module and any(alias.name == SHARED for alias in node.names)))


def _begins(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")
