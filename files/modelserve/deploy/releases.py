"""Remembers what was deployed: ``releases/<n>.json``, one document per apply that changed something."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelserve.config.routes import Served, plain
from modelserve.errors import UserError
from modelserve.util.files import write_atomically


@dataclass(frozen=True)
class Target:
    """What shall be served.

    Attributes:
        conf: conf.ini's text.
        served: what the gateway answers: its port, and the algorithms behind each route.
        serve: Serve's whole configuration (``ServeDeploySchema``); its paths carry the hashes of code, environments
            and models.
        versions: the ``python`` and ``ray`` it was made for.
    """

    conf: str
    served: Served
    serve: dict[str, Any]
    versions: dict[str, str]

    @property
    def applications(self) -> dict[str, dict[str, Any]]:
        """The Serve applications by name."""
        return {application["name"]: application for application in self.serve["applications"]}


@dataclass(frozen=True)
class Release:
    """A target that was served: its number, when (UTC), by whom and from where, what was new in it, and the release
    it returned to, if it did."""

    number: int
    time: str
    by: str
    target: Target
    changes: tuple[str, ...] = ()
    rollback_of: int | None = None

    def serves(self, target: Target) -> bool:
        """Whether it serves just that."""
        return (self.target.served, self.target.serve) == (target.served, target.serve)

    def as_dict(self) -> dict[str, Any]:
        """The release as a JSON document: how it is kept, too."""
        return {
            "number": self.number,
            "time": self.time,
            "by": self.by,
            "changes": list(self.changes),
            "rollback_of": self.rollback_of,
            **vars(self.target),
            "served": self.target.served.model_dump(),
        }


class Releases:
    """The releases under ``directory``; a number is given once and never again."""

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = directory
        self._keep = keep

    def __iter__(self) -> Iterator[Release]:
        """The kept releases, oldest first."""
        return iter([self.read(number) for number in self.numbers()])

    def numbers(self) -> list[int]:
        """The numbers of the kept releases, oldest first."""
        return sorted(int(path.stem) for path in self._directory.glob("*.json") if path.stem.isdigit())

    def latest(self) -> Release | None:
        """The last release, or None before the first."""
        numbers = self.numbers()
        return self.read(numbers[-1]) if numbers else None

    def read(self, number: int) -> Release:
        """One release.

        Raises:
            UserError: there is none of that number, or it is kept no more.
        """
        try:
            document = json.loads((self._directory / f"{number}.json").read_text())
        except FileNotFoundError:
            numbers = self.numbers()
            kept = f"kept are {numbers[0]} to {numbers[-1]}" if numbers else "nothing was released yet"
            raise UserError(f"there is no release {number}: {kept}", "See 'modelserve releases'") from None
        target = Target(document["conf"], _served(document), document["serve"], document.get("versions", {}))
        changes = tuple(document.get("changes", ()))
        return Release(number, document["time"], document["by"], target, changes, document.get("rollback_of"))

    def choose(self, number: int | None) -> Release:
        """A release to return to; None takes the one before the last.

        Raises:
            UserError: there is none.
        """
        if number is None:
            numbers = self.numbers()
            if len(numbers) < 2:
                raise UserError("there is no release before the present one", "See 'modelserve releases'")
            number = numbers[-2]
        return self.read(number)

    def record(self, target: Target, changes: Iterable[str] = (), rollback_of: int | None = None) -> int:
        """Write the next release and drop the oldest beyond those kept.

        Args:
            target: what is served.
            changes: what is new in it, a line each.
            rollback_of: the release it returns to.

        Returns:
            The release's number.
        """
        numbers = self.numbers()
        number = numbers[-1] + 1 if numbers else 1
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        release = Release(number, now, author(), target, tuple(changes), rollback_of)
        # What a section sets as environment variables may be secret.
        write_atomically(self._directory / f"{number}.json", json.dumps(release.as_dict(), indent=1) + "\n", 0o600)
        for old in numbers[: max(0, len(numbers) + 1 - self._keep)]:
            (self._directory / f"{old}.json").unlink()
        return number


def _served(document: dict[str, Any]) -> Served:
    if "served" in document:
        return Served.model_validate(document["served"])
    # Written before routes were the gateway's.
    return Served(port=document["port"], routes=plain({app["name"]: app for app in document["serve"]["applications"]}))


def author() -> str:
    """Who applies, and from which host: ``$MODELSERVE_USER``, as the playbooks set it."""
    return os.environ.get("MODELSERVE_USER") or f"controller@{socket.gethostname()}"
