"""A package before it is deployed: tested with one request, served on this machine, or opened in a shell."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from modelserve.config import debian, debian_hints, parser, project, template
from modelserve.config.section import Conf, Section
from modelserve.environments.build import EnvironmentBuilder
from modelserve.environments.resolve import Environment, EnvironmentResolver
from modelserve.errors import Location, Problem, UserError, validation_problems
from modelserve.models import directory
from modelserve.replica.arguments import LocalServerArgs, TryOnceArgs
from modelserve.replica.loader import import_variables
from modelserve.security.section_secrets import SectionSecrets
from modelserve.serve.application import args_of
from modelserve.serve.contract import AppArgs, UserConfig
from modelserve.settings import Settings
from modelserve.store.store import Store

PLACEHOLDER_ROUTE = "test"


@dataclass(frozen=True)
class Trial:
    """A package with everything that it is tried with.

    Attributes:
        section: the section of conf.ini; a made-up one where the package has none.
        package: directory of the package.
        zoo: directory of the models.
        secrets: values of the section's secrets, by environment variable.
    """

    section: Section
    package: Path
    zoo: Path
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def args(self) -> AppArgs:
        """What the replica is made of. Here nothing reserves cores, so it names the threads of ``cpu_cost``."""
        args = args_of(self.section, self.package, [directory.find(self.zoo, model) for model in self.section.model])
        reserved = max(1, int(self.section.cpu_cost)) if self.section.cpu_cost else 0
        return args.model_copy(update={"cpu_threads": args.cpu_threads or reserved})

    @property
    def config(self) -> UserConfig:
        """What the section configures in a running replica."""
        section = self.section
        return UserConfig(
            user_config=section.user_config, warmup=section.warmup, request_timeout=section.request_timeout
        )

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of its process."""
        return {**os.environ, **self.section.env, **self.secrets}


def prepare(settings: Settings, name: str, root: Path | None = None, **overrides: str | None) -> Trial:
    """Return a package as it is tried: with the overrides, else its section of conf.ini, else its only class.

    Args:
        settings: the cluster's settings.
        name: the package under ``algopkg/``.
        root: directory of ``conf.ini``, ``algopkg`` and ``Model_ZOO``; None: modelserve_home.
        overrides: values for keys of the section, as conf.ini has them; None leaves a key as it is.

    Raises:
        UserError: the package, class or model does not exist, the package has several classes, or a secret of the
            section has no value here.
    """
    root = root or settings.home
    package, zoo = root / "algopkg" / name, root / "Model_ZOO"
    values = {key: value for key, value in overrides.items() if value is not None}
    section = _section(root, settings, name)
    if section is None and "backend" not in values:
        values["backend"] = _only_class(package, name)
    own = {"route": PLACEHOLDER_ROUTE}
    if section is not None:
        own = section.model_dump(exclude={"name"}, exclude_unset=True)
    try:
        section = Section.model_validate({**own, **values, "name": name})
    except ValidationError as error:
        invalid = validation_problems(error, Location(), values)
        raise UserError([Problem(f"--{problem.key}: {problem.message}", problem.fix) for problem in invalid]) from None
    conf = Conf(port=666, sections=(section,))
    problems = project.check(conf, root / "algopkg", directory.names(zoo), "the test")
    problems += directory.link_problems(zoo, section.model)
    if problems:
        raise UserError(problems)
    return Trial(section, package, zoo, _secrets(section, settings))


def environment_of(settings: Settings, package: Path, progress: Callable[[str], None]) -> Environment:
    """Return a package's environment, which is built where it is missing.

    Raises:
        UserError: it cannot be built, or the image lacks a Debian package that the package asks for.
    """
    if lacking := debian.missing({package.name: package}, debian.installed()):
        raise UserError(lacking)
    store = Store(settings.home / "store")
    resolver = EnvironmentResolver(settings, store)
    environment = resolver.of_package(package.name, package)
    EnvironmentBuilder(settings, store, resolver).build(environment, progress)
    return environment


def test(settings: Settings, trial: Trial, params: dict[str, Any], progress: Callable[[str], None]) -> dict[str, Any]:
    """Load a package in its own environment and run one request.

    Args:
        settings: the cluster's settings; its store keeps the environment.
        trial: the package.
        params: the request.
        progress: called with a line about each long step.

    Returns:
        ``ok`` with ``answer``, ``load_s``, ``answer_s`` and ``cpu_threads``, or not ``ok`` with ``error``.

    Raises:
        UserError: the environment cannot be built.
    """
    python = _python(environment_of(settings, trial.package, progress))
    argument = TryOnceArgs(app=trial.args, params=params).model_dump_json()
    command = [python, "-m", "modelserve.replica.try_once", argument]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=trial.variables, check=False)
    last = run.stdout.strip().splitlines()[-1:]
    try:
        result: dict[str, Any] = json.loads(last[0])
    except (IndexError, ValueError):
        return {"ok": False, "error": f"the package ended its Python (exit code {run.returncode}) before it answered"}
    if "error" in result:
        result["error"] = debian_hints.with_hint(result["error"], trial.section.name)
    return result


def serve(
    settings: Settings, trial: Trial, port: int, progress: Callable[[str], None], as_json: bool = False
) -> NoReturn:
    """Replace this process by a server of the package alone, on 127.0.0.1, in the package's own environment.

    Args:
        settings: the cluster's settings; its store keeps the environment.
        trial: the package.
        port: TCP port.
        progress: called with a line about each long step.
        as_json: whether the server prints JSON documents.

    Raises:
        UserError: the environment cannot be built.
    """
    python = _python(environment_of(settings, trial.package, progress))
    arguments = LocalServerArgs(
        app=trial.args, config=trial.config, port=port, route=f"/{trial.section.route}", as_json=as_json
    )
    command = [python, "-m", "modelserve.replica.local_server", arguments.model_dump_json()]
    os.execve(python, command, trial.variables)


def shell(
    settings: Settings, name: str, root: Path | None, command: str | None, progress: Callable[[str], None]
) -> NoReturn:
    """Replace this process by a shell in a package's directory, with its environment and its section's variables.

    Args:
        settings: the cluster's settings; its store keeps the environment.
        name: the package under ``algopkg/``.
        root: directory of ``conf.ini`` and ``algopkg``; None: modelserve_home.
        command: run instead of an interactive shell.
        progress: called with a line about each long step.

    Raises:
        UserError: there is no such package, its environment cannot be built, or a secret has no value here.
    """
    root = (root or settings.home).absolute()
    package = root / "algopkg" / name
    if not name.isidentifier() or not package.is_dir():
        raise UserError(f"there is no package {package}")
    section = _section(root, settings, name)
    environment = environment_of(settings, package, progress).path
    path = f"{environment}/bin:{os.environ.get('PATH', '')}"
    own = {} if section is None else {**section.env, **_secrets(section, settings)}
    imports = import_variables(name, str(package), python_path=str(package))
    variables = {**os.environ, **own, "PATH": path, "CONDA_PREFIX": str(environment), **imports}
    os.chdir(package)
    if command is None:
        os.execve("/bin/bash", ["bash", "--norc"], {**variables, "PS1": f"({package.name}) \\w$ "})
    os.execve("/bin/bash", ["bash", "-c", command], variables)


def _python(environment: Environment) -> str:
    return str(environment.path / "bin" / "python")


def _only_class(package: Path, name: str) -> str:
    """Return the only class of a package; a package that does not exist is reported by the check of the project."""
    if not package.is_dir():
        return name
    classes = project.classes_of(package)
    if len(classes) != 1:
        raise UserError(
            f"{package}/backend.py has {len(classes)} classes: {', '.join(classes)}",
            f"Give --backend, or write a section [{parser.SECTION_PREFIX}{name}] in conf.ini",
        )
    return classes[0]


def _section(root: Path, settings: Settings, name: str) -> Section | None:
    for file in (root / "conf.ini", settings.conf_file):
        if file.is_file():
            text = parser.read(file)
            is_rendered = file == settings.conf_file  # what Ansible made of the template
            conf = (parser.parse if is_rendered else template.read_if_known)(text, str(file))
            if conf is not None:
                return next((section for section in conf.sections if section.name == name), None)
    return None


def _secrets(section: Section, settings: Settings) -> dict[str, str]:
    """Return the values of a section's secrets: the author's environment variables, else, on the head, the cluster's.

    Raises:
        UserError: secrets that have neither.
    """
    if not section.secret:
        return {}
    secrets = SectionSecrets(settings)
    names = {} if _is_unreadable(settings) else secrets.names()
    values, problems = {}, []
    for variable, name in section.secret.items():
        if value := os.environ.get(variable):
            values[variable] = value
        elif name in names:
            values[variable] = secrets.value(name)
        else:
            location = Location("conf.ini", parser.SECTION_PREFIX + section.name, f"secret.{variable}")
            fix = f"Set it for this run: 'read -rs {variable}; export {variable}' keeps it out of the shell's history"
            problems.append(location.problem(f"{variable} is not set in your environment", fix))
    if problems:
        raise UserError(problems)
    return values


def _is_unreadable(settings: Settings) -> bool:
    """Return whether the head's secrets are not there, or are closed to this user: an author is not an operator."""
    return not os.access(settings.home / "secrets", os.R_OK | os.X_OK)
