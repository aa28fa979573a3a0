"""Read requirement files with everything that they include by ``-r`` and ``-c``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelserve.environments import text
from modelserve.errors import Problem, UserError

# See pip's "Requirements File Format": both options, long and short, with a blank, with "=" or with neither.
_INCLUDE = re.compile(r"(?P<option>-r|-c|--requirement|--constraint)(?:\s*=\s*|\s+|(?<=-[rc]))(?P<file>\S.*)")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """A line of a requirement file that asks for something.

    Attributes:
        text: the line without comments; continued ones are joined.
        directory: the directory of its file, which relative paths begin at.
        shown: its file's name in messages.
        number: the line's number in the file.
        constraint: whether it only limits versions: ``-c`` includes its file.
        included: whether it includes a file whose lines follow.
    """

    text: str
    directory: Path
    shown: str
    number: int
    constraint: bool = False
    included: bool = False

    def problem(self, message: str, fix: str = "") -> Problem:
        """Return a problem of this line."""
        return Problem(f"line {self.number} {message}", fix, self.shown)


def read(file: Path, shown: str) -> list[Line]:
    """Return what a requirement file asks for: its lines without comments, each include followed by its own lines.

    Args:
        file: the file; one that is missing asks for nothing.
        shown: its name in messages.

    Returns:
        The lines. They change whenever a file that takes part does, at any depth; those of a file without includes are
        its own.

    Raises:
        UserError: a file cannot be read; an included one is named with the file and line that include it.
    """
    if not file.exists():
        return []
    return list(_expanded(_numbered(text.read(file, shown)), file.parent, shown, (file.resolve(),), False))


def of_text(content: str, directory: Path, shown: str) -> list[Line]:
    """Return the lines of a requirement file's text, as :func:`read`."""
    return list(_expanded(_numbered(content), directory, shown, (), False))


def with_includes(lines: Iterable[str], directory: Path, shown: str) -> list[Line]:
    """Return requirement lines that stand in another file, each include followed by its own lines, as :func:`read`."""
    return list(_expanded(enumerate(lines, 1), directory, shown, (), False))


def _expanded(
    lines: Iterable[tuple[int, str]], directory: Path, shown: str, including: tuple[Path, ...], constraint: bool
) -> Iterator[Line]:
    for number, written in lines:
        include = _INCLUDE.fullmatch(written)
        if include is None or _URL.match(include["file"]):
            yield Line(written, directory, shown, number, constraint)
            continue
        line = Line(written, directory, shown, number, constraint, included=True)
        yield line
        file = directory / include["file"].strip("'\"")
        if file.resolve() in including:  # a circle
            continue
        if not file.is_file():
            reason = "is a directory" if file.is_dir() else "cannot be read: No such file or directory"
            fix = "Put the file below algopkg/, or remove the line"
            raise UserError(line.problem(f"includes {include['file']}, which {reason}", fix))
        name = f"{shown.rpartition('/')[0]}/{include['file']}".lstrip("/")
        limits = constraint or include["option"] in ("-c", "--constraint")
        content = _numbered(text.read(file, name))
        yield from _expanded(content, file.parent, name, (*including, file.resolve()), limits)


def _numbered(content: str) -> Iterator[tuple[int, str]]:
    """The lines that say something, with the number of the line that each begins on."""
    joined, first = "", 0
    lines = content.splitlines()
    for number, line in enumerate(lines, 1):
        first = first if joined else number
        if line.endswith("\\") and number < len(lines):
            joined += line[:-1] + " "
            continue
        whole = re.sub(r"(^|\s)#.*", "", joined + line.removesuffix("\\")).strip()
        joined = ""
        if whole:
            yield first, whole
