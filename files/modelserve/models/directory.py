"""The models that lie in Model_ZOO: files and directories, by the names that conf.ini has for them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from modelserve import hashing
from modelserve.config.values import composed
from modelserve.errors import Problem

FIX = "Put it there, or remove the link"


def names(zoo: Path) -> list[str]:
    """Return the names of the models, in Unicode's composed form."""
    return sorted({composed(path.name) for path in zoo.glob("*") if path.is_file() or path.is_dir()})


def find(zoo: Path, name: str) -> Path:
    """Return the path of a model, whatever form of Unicode its name has on the disk.

    Args:
        zoo: Model_ZOO.
        name: the name in conf.ini.
    """
    path = zoo / name
    if path.exists() or name.isascii():
        return path
    return next((other for other in sorted(zoo.glob("*")) if composed(other.name) == composed(name)), path)


def link_problems(zoo: Path, used: Collection[str] | None = None) -> list[Problem]:
    """Return the links in Model_ZOO that cannot be followed: a deploy copies what they point to.

    Args:
        zoo: Model_ZOO on the machine that the links are right for.
        used: the names of the models to look at; None looks at all.
    """
    problems = []
    for path in sorted(zoo.glob("*") if used is None else (find(zoo, name) for name in used)):
        if path.is_symlink() and not path.exists():
            place = path.readlink()
            problems.append(Problem(f"{path.name} is a link to {place}, which does not exist", FIX, zoo.name))
        elif path.is_dir():
            try:
                hashing.model_files(path)
            except ValueError as error:
                problems.append(Problem(str(error), FIX, zoo.name))
    return problems
