"""The secrets of a target: which value each section's secret has now, and what its replicas find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from modelserve.config.ini import Lines
from modelserve.config.section import Conf, Section
from modelserve.deploy.releases import Target
from modelserve.errors import Location, Problem, UserError
from modelserve.security.section_secrets import SectionSecrets, missing, uses
from modelserve.serve.application import Applications
from modelserve.serve.contract import AppArgs, Secret
from modelserve.settings import Settings
from modelserve.store import secret_values

Progress = Callable[[str], None]


class SecretReferences:
    """The present values of the cluster's secrets, read once for each apply, so that digests and values agree.

    Args:
        settings: the head's settings.
        progress: gets a line about secrets of a release.
    """

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._secrets = SectionSecrets(settings)
        self._values: dict[str, str] = {}

    def read(self, conf: Conf, file: str, lines: Lines) -> None:
        """Read the values of the secrets that sections refer to.

        Args:
            conf: the configuration.
            file: conf.ini's name in messages.
            lines: its lines.

        Raises:
            UserError: secrets that the cluster does not have, or whose values are not valid.
        """
        self._values = {}
        try:
            self._read(uses(conf, file))
        except UserError as error:
            raise UserError(lines.locate(error.problems, file)) from None

    def of_section(self, section: Section) -> dict[str, Secret]:
        """Return the secrets of a section, by environment variable."""
        return {variable: self._present(name) for variable, name in section.secret.items()}

    def renew(self, target: Target, number: int) -> Target:
        """Return a release's target with the present values of its secrets.

        Args:
            target: the target.
            number: the release's number.

        Raises:
            UserError: the cluster does not have one of its secrets any more.
        """
        self._values = {}
        applications = {name: app for name, app in target.applications.items() if app.args.secrets}
        if not applications:
            return target
        secrets = {secret.name: secret for app in applications.values() for secret in app.args.secrets.values()}
        self._read([(name, Location(f"release {number}")) for name in secrets])
        changed = sorted(name for name, secret in secrets.items() if self._present(name) != secret)
        others = sorted(secrets.keys() - {*changed})
        texts = [f"{', '.join(changed)} changed since release {number}"] * bool(changed)
        texts += [f"{', '.join(others)} did not change"] * bool(others)
        self._progress(f"secrets have their present values: {'; '.join(texts)}")
        renewed = {
            name: app.with_secrets({variable: self._present(old.name) for variable, old in app.args.secrets.items()})
            for name, app in applications.items()
        }
        return replace(target, applications={**target.applications, **renewed})

    def publish(self, needed: Iterable[Applications]) -> None:
        """Have replicas of these applications find the values of their secrets, and remove all other values."""
        args_by_id = {app.args.secrets_id: app.args for apps in needed for app in apps.values() if app.args.secrets}
        held = secret_values.held(self._settings)
        if not args_by_id and not held:
            return
        values = {
            secrets_id: self._values_of(args) for secrets_id, args in args_by_id.items() if secrets_id not in held
        }
        present = {secrets_id: found for secrets_id, found in values.items() if found is not None}
        secret_values.publish(self._settings, present, args_by_id.keys())

    def _read(self, places: Sequence[tuple[str, Location]]) -> None:
        """Read the values of secrets, each given with the place that refers to it."""
        if not places:
            return
        names, problems = self._secrets.names(), list[Problem]()
        for name, location in places:
            if name not in names:
                problems.append(missing(name, location))
            elif name not in self._values:
                try:
                    self._values[name] = self._secrets.value(name)
                except UserError as error:
                    problems += error.problems
        if problems:
            raise UserError(problems)

    def _present(self, name: str) -> Secret:
        return Secret(name=name, digest=self._secrets.digest(name, self._values[name]))

    def _values_of(self, args: AppArgs) -> dict[str, str] | None:
        """Return the values of an application's secrets; None where one has another value by now."""
        known = all(secret.name in self._values for secret in args.secrets.values())
        if not known or any(self._present(secret.name) != secret for secret in args.secrets.values()):
            return None
        return {variable: self._values[secret.name] for variable, secret in args.secrets.items()}
