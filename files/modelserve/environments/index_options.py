"""Options of package indexes in requirement files: what uv gets of them, when it resolves and when it installs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from modelserve.environments import local
from modelserve.environments.local import Local
from modelserve.environments.requirements import Line
from modelserve.errors import UserError

_LONG = {"-i": "--index-url", "--pypi-url": "--index-url", "-f": "--find-links"}
_INDEXES = ("--index-url", "--extra-index-url")
_CHOICES = ("--no-binary", "--only-binary")
_TRUSTED = "--trusted-host"
# Of pip, with no meaning here: the lock has the hash of each package, and uv prefers wheels anyway.
_WITHOUT_EFFECT = ("--prefer-binary", "--require-hashes")
_VALUED = (*_INDEXES, "--find-links", *_CHOICES, _TRUSTED)
_FLAGS = ("--pre", "--no-index", *_WITHOUT_EFFECT)


@dataclass(frozen=True)
class IndexOptions:
    """The options of a package's requirement files.

    Attributes:
        lines: those that resolving and installing need, as the lock has them.
        prerelease: whether any prerelease may be taken.
        locals: directories that they name.
    """

    lines: tuple[str, ...] = ()
    prerelease: bool = False
    locals: tuple[Local, ...] = ()


def is_option(line: Line) -> bool:
    """Return whether a line is an option, and neither a requirement nor an include of another host's file."""
    return bool(re.match(r"-(?!e|-editable|r(?!e)|-requirement|c|-constraint)", line.text))


def read(lines: Iterable[Line], project: Path, sha256: Callable[[Path], str]) -> IndexOptions:
    """Return the options of requirement lines.

    Args:
        lines: those that are options; includes of other hosts are not.
        project: a directory below which a package index counts with its content, as ``--find-links`` does anywhere.
        sha256: returns a file's SHA-256.

    Raises:
        UserError: an option cannot be used here, or names a directory that does not exist.
    """
    written: list[str] = []
    locals_: list[Local] = []
    prerelease = False
    for line in lines:
        for option, value in _options(line):
            prerelease |= option == "--pre"
            if option in _CHOICES:
                written += [f"{option} {name.strip()}" for name in value.split(",") if name.strip()]
            elif option in (*_INDEXES, "--find-links"):
                content = _content(option, value, line, project, sha256)
                locals_ += [content] if content else []
                written.append(f"{option} {_url(value, line, content)}")
            elif option == _TRUSTED:
                written.append(f"{option} {value}")
            elif option not in ("--pre", *_WITHOUT_EFFECT):
                written.append(option)
    return IndexOptions(tuple(dict.fromkeys(written)), prerelease, tuple(dict.fromkeys(locals_)))


def arguments(lines: Iterable[str]) -> list[str]:
    """Return the options that uv takes on its command line and in no file."""
    hosts = [line.split()[1] for line in lines if line.startswith(_TRUSTED)]
    return [word for host in hosts for word in ("--allow-insecure-host", host)]


def of_files(lines: Iterable[str]) -> list[str]:
    """Return the options that uv takes in a file."""
    return [line for line in lines if not line.startswith(_TRUSTED)]


def has_own_index(lines: Iterable[str]) -> bool:
    """Return whether the options name the index that takes the place of the cluster's."""
    return any(line.startswith("--index-url") for line in lines)


def _options(line: Line) -> list[tuple[str, str]]:
    """Return the options on a line, each with its value, by their long names."""
    words = shlex.split(line.text, posix=True)
    found = []
    while words:
        word = words.pop(0)
        option, equals, value = word.partition("=")
        if word[:2] in _LONG and not word.startswith("--") and len(word) > 2:  # -fdirectory
            option, equals, value = word[:2], "=", word[2:].removeprefix("=")
        option = _LONG.get(option, option)
        if option in _FLAGS:
            found.append((option, ""))
        elif option in _VALUED and (equals or words):
            found.append((option, value if equals else words.pop(0)))
        elif option in _VALUED:
            raise UserError(line.problem(f"has {option} without a value", "Add it, or remove the line"))
        else:  # pip has more, which uv passes over or refuses
            return [(line.text, "")]
    return found


def _content(option: str, value: str, line: Line, project: Path, sha256: Callable[[Path], str]) -> Local | None:
    """Return the directory that an option names, where its content counts."""
    if re.match(r"(?!file:)[a-z][a-z0-9+.-]*:", value, re.IGNORECASE):
        return None
    if option == "--find-links":
        return local.links(line, value, sha256)
    path = (line.directory / local.path_of(value, line)).resolve()
    return local.index(line, value, sha256) if path.is_relative_to(project.resolve()) else None


def _url(value: str, line: Line, content: Local | None) -> str:
    if content is None:
        if re.match(r"[a-z][a-z0-9+.-]*:", value, re.IGNORECASE):
            return value
        return (line.directory / value).resolve().as_uri()
    return content.url
