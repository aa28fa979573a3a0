"""Turns conf.ini, the packages and the models into a target, and makes its content in the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modelserve.config import debian, parser, project
from modelserve.config.ini import Lines
from modelserve.config.routes import Served, routes_of
from modelserve.config.section import Conf, Section
from modelserve.config.values import forms
from modelserve.deploy.releases import Target
from modelserve.deploy.secret_references import SecretReferences
from modelserve.environments.build import EnvironmentBuilder
from modelserve.environments.resolve import Environment, EnvironmentResolver
from modelserve.errors import UserError
from modelserve.models import directory, zoo
from modelserve.serve.application import Application
from modelserve.settings import Settings
from modelserve.store import manifest
from modelserve.store.model_store import Listing
from modelserve.store.store import Store

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Resolved:
    """What conf.ini asks for.

    Attributes:
        conf: the configuration.
        target: what it is in content.
        environments: the environment of each package, by the package's name.
        models: the content of each model, by its path in the store.
    """

    conf: Conf
    target: Target
    environments: dict[str, Environment]
    models: dict[str, Listing]


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
        models = directory.names(self._settings.model_zoo)
        problems = project.check(conf, self._settings.algopkg, models, str(file))
        if problems:
            raise UserError(Lines(text).locate(problems, str(file)))
        return conf, text

    def resolve(self) -> Resolved:
        """Find the content of everything in conf.ini, without building it.

        Raises:
            UserError: conf.ini is wrong, the cluster lacks a secret, the image a Debian package, a model is not what
                models.yml describes, or requirements cannot be met.
        """
        conf, text = self.read()
        self._secrets.read(conf, str(self._settings.conf_file), Lines(text))
        packages = {section.name: self._package(section) for section in conf.sections}
        if lacking := debian.missing(packages, debian.installed()):
            raise UserError(lacking)
        models = {form for section in conf.sections for name in section.model for form in forms(name)}
        verified = self._store.root / "signatures.json"
        zoo.require_described(self._settings.model_zoo, models, self._sha256, verified)
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
        return Resolved(conf, target, environments, self._listings(conf))

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
            for name, model in self._models(section):
                self._store.add_model(model, name)

    def _application(self, section: Section, environment: Environment) -> Application:
        package = self._store.package_path(section.name, self._package(section))
        models = [self._store.model_path(model, name) for name, model in self._models(section)]
        secrets = self._secrets.of_section(section)
        return Application.from_section(section, package, models, environment.path, secrets)

    def _package(self, section: Section) -> Path:
        return self._settings.algopkg / section.name

    def _models(self, section: Section) -> list[tuple[str, Path]]:
        """Return the section's models: their names in conf.ini and the store, and the working files or directories."""
        return [(name, directory.find(self._settings.model_zoo, name)) for name in section.model]

    def _listings(self, conf: Conf) -> dict[str, Listing]:
        models = [pair for section in conf.sections for pair in self._models(section)]
        listings = {pair: self._store.listing(pair[1]) for pair in models}
        return {str(self._store.models / listing.sha256 / name): listing for (name, _), listing in listings.items()}

    def _sha256(self, model: Path) -> str:
        """Return the hash of a model that models.yml names."""
        return self._store.sha256(directory.find(model.parent, model.name))
