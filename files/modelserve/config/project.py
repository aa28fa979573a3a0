"""Check a conf.ini against its project: the packages in algopkg/ and the models in Model_ZOO/."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from pathlib import Path

from modelserve.config import debian, sources
from modelserve.config.parser import SECTION_PREFIX
from modelserve.config.section import Conf, Section
from modelserve.config.values import composed
from modelserve.errors import Problem, UserError


def check(conf: Conf, algopkg: Path, models: Iterable[str], file: str = "conf.ini") -> list[Problem]:
    """Return what conf.ini names and the project lacks.

    Args:
        conf: the configuration.
        algopkg: the directory of packages.
        models: names of the models that exist or are described in models.yml.
        file: conf.ini's name in messages.

    Returns:
        Every problem.
    """
    available = sorted(map(composed, models))
    problems: list[Problem] = []
    for section in conf.sections:
        problems += _check_package(section, algopkg, file)
        try:
            debian.read(algopkg / section.name)
        except UserError as error:
            problems += error.problems
        for model in section.model:
            if composed(model) not in available:
                near = difflib.get_close_matches(composed(model), available, n=1)
                fix = f"Did you mean '{near[0]}'?" if near else "Put it there, or describe it in Model_ZOO/models.yml"
                problems.append(
                    Problem(f"'{model}' is not in Model_ZOO", fix, file, SECTION_PREFIX + section.name, "model")
                )
    return problems


def _check_package(section: Section, algopkg: Path, file: str) -> list[Problem]:
    title = SECTION_PREFIX + section.name
    directory = algopkg / section.name
    if section.name == sources.SHARED:
        fix = "Remove the section, or give the package another name"
        return [Problem(f"algopkg/{sources.SHARED} is the code that packages share", fix, file, title)]
    if not directory.is_dir():
        packages = sorted(path.name for path in algopkg.glob("*") if (path / "backend.py").is_file())
        near = difflib.get_close_matches(section.name, packages, n=1)
        fix = f"Did you mean [algopkg.{near[0]}]?" if near else f"Packages there: {', '.join(packages) or 'none'}"
        return [Problem(f"there is no package algopkg/{section.name}", fix, file, title)]
    source = directory / "backend.py"
    try:
        sources.files(directory)
    except UserError as error:
        return error.problems
    if not source.is_file():
        return [
            Problem(f"algopkg/{section.name}/backend.py is missing", "The file's name is fixed: create it", file, title)
        ]
    try:
        names = _top_level_names(source.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = f" line {error.lineno}" if isinstance(error, SyntaxError) else ""
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        return [Problem(f"does not parse:{line} {text}", "Correct it", f"algopkg/{section.name}/backend.py")]
    if section.backend in names or "*" in names:
        return []
    classes = [name for name, is_class in names.items() if is_class]
    near = difflib.get_close_matches(section.backend, classes, n=1)
    fix = f"Did you mean '{near[0]}'?" if near else f"Classes there: {', '.join(classes) or 'none'}"
    message = f"algopkg/{section.name}/backend.py has no class '{section.backend}'"
    return [Problem(message, fix, file, title, "backend")]


def classes_of(package: Path) -> list[str]:
    """Return the names of the classes that a package's ``backend.py`` defines, without those that begin with ``_``.

    Raises:
        UserError: the file is missing or does not parse.
    """
    source = package / "backend.py"
    try:
        names = _top_level_names(source.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{source} is missing", "The file's name is fixed: create it") from None
    except (SyntaxError, ValueError) as error:
        raise UserError(Problem(f"does not parse: {error}", "Correct it", str(source))) from None
    return sorted(name for name, is_class in names.items() if is_class and not name.startswith("_"))


def _top_level_names(source: bytes) -> dict[str, bool]:
    """Return the names that a module defines, and whether each is a class; ``*`` for all names of another module."""
    names: dict[str, bool] = {}
    nodes: list[ast.AST] = [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            nodes += ast.iter_child_nodes(node)  # under "if" and "try" too, but not inside classes and functions
        if isinstance(node, ast.ClassDef):
            names[node.name] = True
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update({(alias.asname or alias.name): False for alias in node.names})
        elif isinstance(node, ast.Assign):
            names.update({target.id: False for target in node.targets if isinstance(target, ast.Name)})
    return names
