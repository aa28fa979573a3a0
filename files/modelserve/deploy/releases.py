"""The releases: ``releases/<n>.json``, one document per apply that changed something."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelserve.config.routes import Served, plain
from modelserve.errors import Problem, UserError
from modelserve.serve.application import Application, Applications, deploy_document, limits_of
from modelserve.util import clock
from modelserve.util.files import write_atomically

FIX_DAMAGED = "Restore the file from a backup, or delete it: then its code, environments and models are not kept"


@dataclass(frozen=True)
class Target:
    """A state to serve.

    Attributes:
        conf: conf.ini's text.
        served: what the gateway answers: its port, and the algorithms behind each route.
        applications: what Serve runs, by name.
        versions: the ``python`` and ``ray`` that it was made for.
        serve_port: the port of Serve's own proxy on the head.
    """

    conf: str
    served: Served
    applications: Mapping[str, Application]
    versions: Mapping[str, str]
    serve_port: int = 8000

    def to_serve(self) -> dict[str, Any]:
        """Return Serve's whole configuration (``ServeDeploySchema``)."""
        return deploy_document(self.applications.values(), self.serve_port)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Target:
        """Return the target of a release's document, of any version of modelserve.

        Raises:
            ValueError: the document is damaged. Also KeyError, TypeError or AttributeError.
        """
        serve = document["serve"]
        applications = {app["name"]: Application.from_serve(app) for app in serve["applications"]}
        if "served" in document:
            served = _with_limits(Served.model_validate(document["served"]), applications)
        else:  # of a version in which clients called Serve's own routes
            routes = plain({name: application.prefix for name, application in applications.items()})
            served = Served(port=document["port"], routes=routes)
        port = serve.get("http_options", {}).get("port", cls.serve_port)
        return cls(document["conf"], served, applications, document.get("versions", {}), port)


def _with_limits(served: Served, applications: Applications) -> Served:
    """Return the routes with the limits of the applications, which releases of earlier versions do not repeat there."""
    routes = {
        route: tuple(
            share.model_copy(update={"limits": limits_of(applications[share.name])})
            if "limits" not in share.model_fields_set and share.name in applications
            else share
            for share in shares
        )
        for route, shares in served.routes.items()
    }
    return served.model_copy(update={"routes": routes})


@dataclass(frozen=True)
class Release:
    """A target that was served.

    Attributes:
        number: its number, which is given once.
        time: when it was recorded, in UTC (ISO 8601).
        by: the user and the host of the apply.
        target: what was served.
        changes: what was new in it, a line each.
        rollback_of: the release that it returned to; None: none.
    """

    number: int
    time: str
    by: str
    target: Target
    changes: tuple[str, ...] = ()
    rollback_of: int | None = None

    @classmethod
    def from_document(cls, number: int, document: Mapping[str, Any]) -> Release:
        """Return the release of a document as :meth:`as_dict` makes it.

        Raises:
            ValueError: the document is damaged. Also KeyError, TypeError or AttributeError.
        """
        target, changes = Target.from_document(document), tuple(document.get("changes", ()))
        return cls(number, document["time"], document["by"], target, changes, document.get("rollback_of"))

    def serves(self, target: Target) -> bool:
        """Return whether it serves the same as a target."""
        return (self.target.served, self.target.applications) == (target.served, target.applications)

    def as_dict(self) -> dict[str, Any]:
        """Return the release as a JSON document, which is also the form of its file."""
        return {
            "number": self.number,
            "time": self.time,
            "by": self.by,
            "changes": list(self.changes),
            "rollback_of": self.rollback_of,
            "conf": self.target.conf,
            "served": self.target.served.model_dump(),
            "serve": self.target.to_serve(),
            "versions": dict(self.target.versions),
        }


class Releases:
    """The releases under a directory. A number is given once and never again.

    Args:
        directory: holds a file per release.
        keep: how many releases are kept.
        report: called with one line for a damaged file that is left out.
    """

    def __init__(self, directory: Path, keep: int, report: Callable[[str], None] | None = None) -> None:
        self._directory = directory
        self._keep = keep
        self._report = report or _to_standard_error
        self._reported: set[int] = set()

    def __iter__(self) -> Iterator[Release]:
        """Return the kept releases that can be read, the oldest first."""
        return iter([release for number in self.numbers() if (release := self._read_or_report(number))])

    def numbers(self) -> list[int]:
        """Return the numbers of the kept releases, the oldest first."""
        return sorted(int(path.stem) for path in self._directory.glob("*.json") if path.stem.isdigit())

    def latest(self) -> Release | None:
        """Return the last release that can be read; None before the first."""
        releases = map(self._read_or_report, reversed(self.numbers()))
        return next((release for release in releases if release), None)

    def read(self, number: int) -> Release:
        """Return one release.

        Raises:
            UserError: there is none of that number, it is not kept any more, or its file is damaged.
        """
        file = self._directory / f"{number}.json"
        try:
            return Release.from_document(number, json.loads(file.read_text()))
        except FileNotFoundError:
            numbers = self.numbers()
            kept = f"kept are {numbers[0]} to {numbers[-1]}" if numbers else "nothing was released yet"
            raise UserError(f"there is no release {number}: {kept}", "See 'modelserve releases'") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            text = f"release {number} is damaged ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            raise UserError(Problem(text, FIX_DAMAGED, str(file))) from None

    def choose(self, number: int | None) -> Release:
        """Return the release to roll back to; None chooses the one before the last.

        Raises:
            UserError: there is none, or its file is damaged.
        """
        if number is None:
            numbers = self.numbers()
            if len(numbers) < 2:
                raise UserError("there is no release before the present one", "See 'modelserve releases'")
            number = numbers[-2]
        return self.read(number)

    def record(self, target: Target, changes: Iterable[str] = (), rollback_of: int | None = None) -> int:
        """Write the next release and delete the oldest beyond those kept.

        Args:
            target: what is served.
            changes: what is new in it, a line each.
            rollback_of: the release that it returns to.

        Returns:
            The release's number.
        """
        numbers = self.numbers()
        number = numbers[-1] + 1 if numbers else 1
        now = clock.utc_now()
        release = Release(number, now, user(), target, tuple(changes), rollback_of)
        # Environment variables of a section may be secret.
        write_atomically(self._directory / f"{number}.json", json.dumps(release.as_dict(), indent=1) + "\n", 0o600)
        for old in numbers[: max(0, len(numbers) + 1 - self._keep)]:
            (self._directory / f"{old}.json").unlink()
        return number

    def _read_or_report(self, number: int) -> Release | None:
        try:
            return self.read(number)
        except UserError as error:
            if number not in self._reported:
                self._reported.add(number)
                self._report(f"warning: {error}")
            return None


def user() -> str:
    """Return who applies, and from which host: ``$MODELSERVE_USER``, which the playbooks set."""
    return os.environ.get("MODELSERVE_USER") or f"controller@{socket.gethostname()}"


def _to_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
