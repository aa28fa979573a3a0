"""Files and directories that requirements name: their content is part of an environment's identity.

uv does not get their own paths but those of a staging directory, whose names hold the content's hash. So a lock is the
same wherever the project lies, a file that is rebuilt under its name makes another lock, and what uv builds has exactly
the content that the lock names.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import quote, unquote

from modelserve import hashing
from modelserve.environments.requirements import Line
from modelserve.errors import Problem, UserError

# In place of the staging directory in locks, which every build has elsewhere.
PLACEHOLDER = "/${MODELSERVE_LOCAL}"
ARCHIVES = (".whl", ".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar.xz", ".tar.zst")

_EDITABLE = re.compile(r"(?:-e|--editable)(?:\s*=\s*|\s+|(?<=-e))(?P<target>\S.*)")
_NAMED = re.compile(r"(?P<before>[A-Za-z0-9][\w.-]*\s*(?:\[[^\]]*\])?\s*@\s*)(?P<target>\S.*)")
# What may follow a path: extras, a fragment, a marker, options.
_TAIL = re.compile(r"(?P<path>.*?)(?P<after>(?:\[[\w,\s.-]+\])?(?:#\S*)?(?:(?:\s*;\s|\s+;|\s+--[a-z]).*)?)")
_REMOTE = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*:", re.IGNORECASE)
# Where conda's build machines have packages; "pip freeze" writes these directories for what conda installed.
_CONDA_BUILDS = re.compile(
    r"/croot/|/feedstock_root/|/conda-bld/|/perseverance-python-buildout/|/tmp/build/|/tmp/abs_|/bld/rattler-build"
    r"|/miniforge3?/conda-bld/|^/work/ci_|/Users/builder/|/ci/|^/[A-Za-z]:/(?:b|bld|ci|Miniconda)"
)


class Kind(Enum):
    """What a path of a requirement is."""

    ARCHIVE = "archive"  # a wheel or a source distribution
    TREE = "tree"  # a directory that a package is built from
    LINKS = "links"  # a directory of archives, of --find-links
    INDEX = "index"  # a directory that is a package index


@dataclass(frozen=True)
class Local:
    """A file or directory that takes part in an environment.

    Attributes:
        source: its path.
        digest: the hash of its content.
        kind: what it is.
        shown: how its line names it.
    """

    source: Path
    digest: str
    kind: Kind
    shown: str

    @property
    def path(self) -> str:
        """Return its path in a lock."""
        return f"{PLACEHOLDER}/{self.digest}/{self.source.name}"

    @property
    def url(self) -> str:
        """Return its URL in a lock."""
        return f"file://{PLACEHOLDER}/{self.digest}/{quote(self.source.name, safe='+')}"


@dataclass(frozen=True)
class Reference:
    """A path in a requirement line.

    Attributes:
        line: the line.
        before: the text before it: ``name @``, or nothing.
        written: the path as it is written, without ``file:``.
        after: the text behind it: extras, a fragment, a marker, hashes.
    """

    line: Line
    before: str
    written: str
    after: str

    @property
    def path(self) -> Path:
        """Return the path, seen from the file that names it."""
        return Path(f"{self.line.directory}/{self.written}" if self.written[:1] != "/" else self.written).resolve()

    def text(self, local: Local) -> str:
        """Return the line as a lock has it, as of :func:`not_editable`."""
        is_path = not self.before and self.after.startswith("[")  # uv reads no extras after a URL
        return f"{self.before}{local.path if is_path else local.url}{self.after}"


def reference(line: Line) -> Reference | None:
    """Return the path that a requirement line names; None for a package of an index or another host."""
    editable = _EDITABLE.fullmatch(line.text)
    if editable is None and line.text.startswith("-"):
        return None
    target, before = editable["target"] if editable else line.text, ""
    if (named := _NAMED.fullmatch(target)) is not None:
        target, before = named["target"], re.sub(r"\s*@\s*", " @ ", named["before"])
    target = re.sub(r"^(['\"])(.*)\1$", r"\2", target)
    if _REMOTE.match(target):
        return None
    parts = _TAIL.fullmatch(target)
    if parts is None or not (before or editable or _is_path(parts["path"])):
        return None
    return Reference(line, before, path_of(parts["path"].rstrip(), line), parts["after"])


def not_editable(text: str) -> str:
    """Return a requirement line without ``-e``: workers do not have the directory that it would link to."""
    editable = _EDITABLE.fullmatch(text)
    return editable["target"] if editable else text


def path_of(written: str, line: Line) -> str:
    """Return a path without the ``file:`` that it may begin with, and with the variable that uv defines."""
    written = written.replace("${PROJECT_ROOT}", str(line.directory))
    if not written.startswith("file:"):
        return written
    path = unquote(written.removeprefix("file:"))
    return re.sub(r"^//(?:localhost(?=/))?", "", path) if path.startswith("//") else path


def archive_or_tree(found: Reference, sha256: Callable[[Path], str]) -> Local:
    """Return what the path of a requirement line names, with the hash of its present content.

    Args:
        found: the path.
        sha256: returns a file's SHA-256.

    Raises:
        UserError: there is nothing at the path, or nothing that can be installed.
    """
    path, line = found.path, found.line
    if path.is_file():
        if not path.name.endswith(ARCHIVES):
            fix = "Name a wheel, a source distribution, or a directory with a pyproject.toml"
            raise UserError(line.problem(f"names {found.written}, which is no package", fix))
        return Local(path, sha256(path)[: hashing.SHORT], Kind.ARCHIVE, found.written)
    if path.is_dir():
        if not any((path / name).is_file() for name in ("pyproject.toml", "setup.py")):
            fix = "Name a directory with a pyproject.toml or a setup.py"
            raise UserError(line.problem(f"names the directory {found.written}, which is no package", fix))
        return Local(path, hashing.of_tree(path), Kind.TREE, found.written)
    raise UserError(_missing(found))


def is_of_conda(found: Reference) -> bool:
    """Return whether ``pip freeze`` wrote the line for a package that conda installed."""
    return bool(found.before and not found.path.exists() and _CONDA_BUILDS.search(found.written))


def conda_problem(references: Iterable[Reference]) -> Problem:
    """Return the problem of lines that ``pip freeze`` wrote in a conda environment."""
    first, *others = references
    message = (
        f"line {first.line.number} names {first.written}, a directory of the machine where conda's package was built: "
        "'pip freeze' writes such lines for what conda installed"
    )
    if others:
        message += f" ({len(others) + 1} lines here)"
    name = first.before.split(" @ ")[0]
    fix = f"Write {name}==VERSION; 'pip list --format=freeze' writes all lines so"
    return Problem(message, fix, first.line.shown)


def links(line: Line, written: str, sha256: Callable[[Path], str]) -> Local:
    """Return the directory of ``--find-links``, with a hash of the archives in it.

    Raises:
        UserError: there is no such directory.
    """
    path = _directory(line, written, "the packages that --find-links offers")
    archives = sorted(file for file in path.iterdir() if file.name.endswith(ARCHIVES) and file.is_file())
    digest = hashing.of_value([[file.name, sha256(file)] for file in archives])
    return Local(path, digest, Kind.LINKS, written)


def index(line: Line, written: str, sha256: Callable[[Path], str]) -> Local:
    """Return the directory that is a package index, with a hash of all its files.

    Raises:
        UserError: there is no such directory.
    """
    path = _directory(line, written, "a package index")
    files = [[str(file.relative_to(path)), sha256(file)] for file in hashing.tree_files(path)]
    return Local(path, hashing.of_value(files), Kind.INDEX, written)


def stage(locals_: Iterable[Local], directory: Path) -> None:
    """Give uv what its requirements name: links to files that it verifies, copies of what it builds.

    Args:
        locals_: what takes part in an environment.
        directory: the staging directory.

    Raises:
        UserError: a directory's content is not what it was any more.
    """
    for local in locals_:
        target = directory / local.digest / local.source.name
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if local.kind is not Kind.TREE:
            target.symlink_to(local.source)
            continue
        for file in hashing.tree_files(local.source):
            copy = target / file.relative_to(local.source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)
        if hashing.of_tree(target) != local.digest:
            raise UserError(f"{local.source} was written to while the environment was made", "Apply again")


def _is_path(text: str) -> bool:
    return text.startswith((".", "/", "file:", "${")) or "/" in text or text.endswith(ARCHIVES)


def _directory(line: Line, written: str, purpose: str) -> Path:
    path = (line.directory / path_of(written, line)).resolve()
    if not path.is_dir():
        fix = f"Put {purpose} in a directory below algopkg/, and name it relative to this file"
        reason = "is not a directory" if path.exists() else "does not exist"
        raise UserError(line.problem(f"names {written}, which {reason}", fix))
    return path


def _missing(found: Reference) -> Problem:
    name = Path(found.written).name or "the package"
    fix = f"Put {name} below algopkg/, and name it relative to this file: ./{name}"
    message = f"names {found.written}, which does not exist"
    if not found.written.startswith("/"):
        message += f" in the directory of {found.line.shown}"
    return found.line.problem(message, fix)
