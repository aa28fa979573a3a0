"""A package before it is deployed: what it is tried with, and the environment it is tried in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from modelserve.config import parser, project
from modelserve.config.section import Conf, Section
from modelserve.environments.build import Environment, Environments
from modelserve.errors import Location, Problem, UserError, validation_problems
from modelserve.serve.application import args_of
from modelserve.settings import Settings
from modelserve.store.store import Store


@dataclass(frozen=True)
class Trial:
    """What a package is tried with.

    Attributes:
        section: as in conf.ini; made up where the package has none there.
        package: its directory.
        zoo: the directory of model files.
    """

    section: Section
    package: Path
    zoo: Path

    def app(self) -> dict[str, Any]:
        """Fields of :class:`modelserve.serve.contract.AppArgs`."""
        return args_of(self.section, self.package, [self.zoo / model for model in self.section.model]).to_serve()

    def config(self) -> dict[str, Any]:
        """What :meth:`modelserve.replica.deployment.Algorithm.reconfigure` takes."""
        section = self.section
        kept = {"user_config": section.user_config, "warmup": section.warmup}
        return {**kept, "request_timeout": section.request_timeout}


def trial(settings: Settings, name: str, root: Path | None = None, **given: str | None) -> Trial:
    """Find out what a package is tried with: what is given, else its section of conf.ini, else its only class.

    Args:
        settings: the cluster's settings.
        name: the package under ``algopkg/``.
        root: the directory of ``conf.ini``, ``algopkg`` and ``Model_ZOO``; None takes modelserve_home.
        given: values for keys of the section, as conf.ini has them; None for what was not given.

    Raises:
        UserError: there is no such package, class or model, or several classes to choose from.
    """
    root = root or settings.home
    package, zoo = root / "algopkg" / name, root / "Model_ZOO"
    values = {key: value for key, value in given.items() if value is not None}
    section = _section(root, settings, name)
    data = {"route": "test"} if section is None else section.model_dump(exclude={"name"}, exclude_unset=True)
    if section is None and "backend" not in values:
        classes = project.classes_of(package) if package.is_dir() else []
        if package.is_dir() and len(classes) != 1:
            raise UserError(
                f"{package}/backend.py has {len(classes)} classes: {', '.join(classes)}",
                f"Give --backend, or write a section [{parser.SECTION_PREFIX}{name}] in conf.ini",
            )
        values["backend"] = classes[0] if classes else name
    try:
        section = Section.model_validate({**data, **values, "name": name})
    except ValidationError as error:
        invalid = validation_problems(error, Location(), values)
        raise UserError([Problem(f"--{problem.key}: {problem.message}", problem.fix) for problem in invalid]) from None
    there = [path.name for path in zoo.glob("*")]
    problems = project.check(Conf(port=666, sections=(section,)), root / "algopkg", there, "the test")
    if problems:
        raise UserError(problems)
    return Trial(section, package, zoo)


def environment_of(settings: Settings, package: Path, progress: Callable[[str], None]) -> Environment:
    """A package's environment, built where it is missing.

    Raises:
        UserError: it cannot be built.
    """
    environments = Environments(settings, Store(settings.home / "store"))
    environment = environments.of_package(package.name, package)
    environments.build(environment, progress)
    return environment


def serve(
    settings: Settings, tried: Trial, port: int, progress: Callable[[str], None], as_json: bool = False
) -> NoReturn:
    """Become a server of the package alone, on 127.0.0.1, in its own environment; ``as_json``: it says so as JSON.

    Raises:
        UserError: the environment cannot be built.
    """
    environment = environment_of(settings, tried.package, progress)
    where = {"port": port, "route": f"/{tried.section.route}", "json": as_json}
    question = {"app": tried.app(), "config": tried.config(), **where}
    python = str(environment.path / "bin" / "python")
    variables = {**os.environ, **tried.section.env}
    os.execve(python, [python, "-m", "modelserve.replica.local_server", json.dumps(question)], variables)


def shell(
    settings: Settings, name: str, root: Path | None, command: str | None, progress: Callable[[str], None]
) -> NoReturn:
    """Become a shell in a package's environment and directory, with its section's variables, or one command there.

    Raises:
        UserError: there is no such package, or its environment cannot be built.
    """
    root = (root or settings.home).absolute()
    package = root / "algopkg" / name
    if not name.isidentifier() or not package.is_dir():
        raise UserError(f"there is no package {package}")
    section = _section(root, settings, name)
    environment = environment_of(settings, package, progress).path
    path = f"{environment}/bin:{os.environ.get('PATH', '')}"
    own = {} if section is None else section.env
    variables = {**os.environ, **own, "PATH": path, "CONDA_PREFIX": str(environment), "PYTHONPATH": str(package)}
    os.chdir(package)
    if command is None:
        os.execve("/bin/bash", ["bash", "--norc"], {**variables, "PS1": f"({package.name}) \\w$ "})
    os.execve("/bin/bash", ["bash", "-c", command], variables)


def _section(root: Path, settings: Settings, name: str) -> Section | None:
    for file in (root / "conf.ini", settings.conf_file):
        if file.is_file():
            parsed = parser.parse_unless_template(parser.read(file), str(file))
            if parsed is not None:  # else the head has what became of it
                return next((section for section in parsed.sections if section.name == name), None)
    return None
