"""Read requirement files with everything that they include by ``-r`` and ``-c``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from modelserve.errors import Problem, UserError

# See pip's "Requirements File Format": both options, long and short, with a blank, with "=" or with neither.
_INCLUDE = re.compile(r"(?P<option>-r|-c|--requirement|--constraint)(?:\s*=\s*|\s+|(?<=-[rc]))(?P<file>\S.*)")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def read(file: Path, shown: str) -> list[str]:
    """Return what a requirement file asks for: its lines without comments, each include followed by its own lines.

    Args:
        file: the file; one that is missing asks for nothing.
        shown: its name in messages.

    Returns:
        The lines. They change whenever a file that takes part does, at any depth; those of a file without includes are
        its own.

    Raises:
        UserError: an included file is missing or not UTF-8, naming the file and line that includes it.
    """
    return list(_expanded(_numbered(file.read_text()), file.parent, shown, (file,))) if file.exists() else []


def with_includes(lines: Iterable[str], directory: Path, shown: str) -> list[str]:
    """Return requirement lines that stand in another file, each include followed by its own lines, as :func:`read`."""
    return list(_expanded(enumerate(lines, 1), directory, shown, ()))


def absolute(line: str, directory: Path) -> str:
    """Return a requirement line with the path that it includes, if any, as seen from ``directory``."""
    include = _INCLUDE.fullmatch(line)
    if include is None or _URL.match(include["file"]):
        return line
    return f"{include['option']} {directory / include['file']}"


def _expanded(
    lines: Iterable[tuple[int, str]], directory: Path, shown: str, including: tuple[Path, ...]
) -> Iterator[str]:
    for number, line in lines:
        yield line
        include = _INCLUDE.fullmatch(line)
        if include is None or _URL.match(include["file"]):
            continue
        file = directory / include["file"].strip("'\"")
        if file in including:  # a circle: uv names it
            continue
        try:
            text = file.read_text(encoding="utf-8-sig")
        except OSError as error:
            message = f"line {number} includes {include['file']}, which cannot be read: {error.strerror}"
            fix = "Put the file below algopkg/, or remove the line"
            raise UserError(Problem(message, fix, shown)) from None
        except UnicodeDecodeError:
            raise UserError(
                Problem(f"line {number} includes {include['file']}, which is not UTF-8 text", "", shown)
            ) from None
        name = f"{shown.rpartition('/')[0]}/{include['file']}".lstrip("/")
        yield from _expanded(_numbered(text), file.parent, name, (*including, file))


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    """The lines that say something, with the number of the line that each begins on."""
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first if joined else number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        whole = re.sub(r"(^|\s)#.*", "", joined + line).strip()
        joined = ""
        if whole:
            yield first, whole
