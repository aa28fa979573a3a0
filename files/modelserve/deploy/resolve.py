"""Turns conf.ini, the packages and the models into a target, and makes its content in the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modelserve.config import parser, project
from modelserve.config.ini import Lines
from modelserve.config.routes import Served, routes_of
from modelserve.config.section import Conf, Section
from modelserve.deploy.releases import Target
from modelserve.deploy.secret_references import SecretReferences
from modelserve.environments.build import EnvironmentBuilder
from modelserve.environments.resolve import Environment, EnvironmentResolver
from modelserve.errors import UserError
from modelserve.models import zoo
from modelserve.serve.application import Application
from modelserve.settings import Settings
from modelserve.store import manifest
from modelserve.store.store import Store

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Resolved:
    """What conf.ini asks for.

    Attributes:
        conf: the configuration.
        target: what it is in content.
        environments: the environment of each package, by the package's name.
    """

    conf: Conf
    target: Target
    environments: dict[str, Environment]


class Resolver:
    """Reads the project on the head."""

    def __init__(self, settings: Settings, store: Store, secrets: SecretReferences, progress: Progress) -> None:
        self._settings = settings
        self._store = store
        self._secrets = secrets
        self._progress = progress

    def read(self) -> tuple[Conf, str]:
        """Read conf.ini and check it against the packages and models that exist.

        Returns:
            The configuration and the file's text.

        Raises:
            UserError: with every problem found.
        """
        file = self._settings.conf_file
        if not file.exists():
            raise UserError(f"{file} is missing", "Run site.yml or playbooks/deploy.yml to put it there")
        conf, text = parser.load(file)
        models = [path.name for path in self._settings.model_zoo.glob("*") if path.is_file()]
        problems = project.check(conf, self._settings.algopkg, models, str(file))
        if problems:
            raise UserError(Lines(text).locate(problems, str(file)))
        return conf, text

    def resolve(self) -> Resolved:
        """Find the content of everything in conf.ini, without building it.

        Raises:
            UserError: conf.ini is wrong, the cluster lacks a secret, a model is not what models.yml describes, or
                requirements cannot be met.
        """
        conf, text = self.read()
        self._secrets.read(conf, str(self._settings.conf_file), Lines(text))
        models = {name for section in conf.sections for name in section.model}
        verified = self._store.root / "signatures.json"
        zoo.require_described(self._settings.model_zoo, models, self._store.sha256, verified)
        resolver = EnvironmentResolver(self._settings, self._store)
        environments = {
            section.name: resolver.of_package(section.name, self._package(section)) for section in conf.sections
        }
        applications = {
            section.name: self._application(section, environments[section.name]) for section in conf.sections
        }
        target = Target(
            conf=text,
            served=Served(port=conf.port, routes=routes_of(conf.sections)),
            applications=applications,
            versions=manifest.Versions.running().model_dump(exclude={"image"}),
            serve_port=self._settings.serve_port,
        )
        return Resolved(conf, target, environments)

    def build(self, resolved: Resolved) -> None:
        """Make the content that the store lacks: environments, packages and models.

        Raises:
            UserError: an environment cannot be built, or a model was written to meanwhile.
        """
        resolver = EnvironmentResolver(self._settings, self._store)
        builder = EnvironmentBuilder(self._settings, self._store, resolver)
        for environment in resolved.environments.values():
            builder.build(environment, self._progress)
        for section in resolved.conf.sections:
            self._store.add_package(section.name, self._package(section))
            for model in self._models(section):
                self._store.add_model(model)

    def _application(self, section: Section, environment: Environment) -> Application:
        package = self._store.package_path(section.name, self._package(section))
        models = map(self._store.model_path, self._models(section))
        secrets = self._secrets.of_section(section)
        return Application.from_section(section, package, models, environment.path, secrets)

    def _package(self, section: Section) -> Path:
        return self._settings.algopkg / section.name

    def _models(self, section: Section) -> list[Path]:
        return [self._settings.model_zoo / model for model in section.model]
