"""Debian packages that algorithms ask for: ``algopkg/<Name>/packages.txt``, one name a line.

The operator's lookup plugin reads them: the standard library alone is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modelserve.errors import Problem, UserError

FILE = "packages.txt"
VARIABLE = "modelserve_debian_packages"
# The names of all packages in the workers' image. Its build writes it; the layer of packages writes it again.
INSTALLED = Path("/opt/debian_packages.txt")
# Debian Policy, 5.6.1. apt takes a minus at the end for "remove".
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.]")
_WITH_MORE = re.compile(r"([a-z0-9][a-z0-9+.-]+)\s*([=/:<>~(\[].*)")


@dataclass(frozen=True)
class DebianPackage:
    """A package that is asked for.

    Attributes:
        name: Debian's name.
        file: the file, or the variable, that asks for it.
        line: the line of the file; 0 for a variable.
    """

    name: str
    file: str
    line: int = 0

    @property
    def place(self) -> str:
        """Return where it is asked for, as ``algopkg/OCR/packages.txt line 2``."""
        return f"{self.file} line {self.line}" if self.line else self.file

    def problem(self, message: str, fix: str) -> Problem:
        """Return a problem with it."""
        return Problem(f"line {self.line}: {message}" if self.line else message, fix, self.file)


def read(package: Path, name: str = "") -> tuple[DebianPackage, ...]:
    """Return what a package asks for, in the file's order.

    Args:
        package: its directory.
        name: its name, where the directory has another one.

    Raises:
        UserError: the file is not a list of names, with every line that is not.
    """
    shown = f"algopkg/{name or package.name}/{FILE}"
    try:
        text = (package / FILE).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        cause = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(Problem(f"cannot be read: {cause}", "Write a text file with one name a line", shown)) from None
    lines = [(number, line.partition("#")[0].strip()) for number, line in enumerate(text.splitlines(), 1)]
    asked = tuple(DebianPackage(line, shown, number) for number, line in lines if line)
    return _checked(asked)


def read_all(
    algopkg: Path | None, variable: Iterable[object] = (), name: str = VARIABLE
) -> tuple[dict[str, str], list[str]]:
    """Return what a variable and all packages of a project ask for.

    A package counts that no section serves now: to leave a section out, or to put it back, must not make another image.

    Args:
        algopkg: the directory of packages; None reads the variable alone.
        variable: the variable's value.
        name: the variable's name.

    Returns:
        By the name of each Debian package, sorted, who asks for it; and a line for each problem.
    """
    problems: list[str] = []
    asked: list[DebianPackage] = []
    try:
        asked += _checked(tuple(DebianPackage(str(value), name) for value in variable))
    except UserError as error:
        problems += map(str, error.problems)
    for file in sorted(algopkg.glob(f"*/{FILE}")) if algopkg else ():
        try:
            asked += read(file.parent)
        except UserError as error:
            problems += map(str, error.problems)
    places: dict[str, str] = {}
    for package in asked:
        places.setdefault(package.name, package.place)
    return dict(sorted(places.items())), problems


def installed() -> Collection[str] | None:
    """Return the names of the packages in the workers' image; None on a machine that does not run it."""
    try:
        return frozenset(INSTALLED.read_text(encoding="utf-8").split())
    except FileNotFoundError:
        return None


def missing(packages: Mapping[str, Path], available: Collection[str] | None) -> list[Problem]:
    """Return what packages ask for and the image does not have.

    Args:
        packages: their directories, by name.
        available: what the image has; None is not compared.

    Raises:
        UserError: a file is not a list of names.
    """
    if available is None:
        return []
    fix = "Run site.yml: it adds a layer to the image, and restarts the nodes one after another"
    return [
        asked.problem(f"asks for {asked.name}, which this image does not have", fix)
        for name, package in sorted(packages.items())
        for asked in read(package, name)
        if asked.name not in available
    ]


def _checked(asked: tuple[DebianPackage, ...]) -> tuple[DebianPackage, ...]:
    problems = [package.problem(*_wrong(package.name)) for package in asked if not _NAME.fullmatch(package.name)]
    if problems:
        raise UserError(problems)
    return asked


def _wrong(text: str) -> tuple[str, str]:
    """Return message and fix for what is not a name."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    if versioned := _WITH_MORE.fullmatch(text):
        fix = f"Write the name alone: {versioned[1]}. The image has the version of its Debian release"
        return f"'{text}' names more than a package", fix
    if len(text.split()) > 1 and all(map(_NAME.fullmatch, text.split())):
        return f"'{text}' is more than one name", "Write one name a line"
    fix = "Write its name as packages.debian.org has it: small letters, digits and + . -, libgl1 say"
    return f"'{text}' is not the name of a Debian package", fix
