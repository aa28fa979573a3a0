"""Applies conf.ini and rolls back to releases. A failed apply leaves what was served as it was."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from modelserve.config import debian
from modelserve.config.routes import Served, plain
from modelserve.config.section import Conf
from modelserve.deploy.model_changes import described
from modelserve.deploy.plan import Change, Plan, compare
from modelserve.deploy.publish import Publisher
from modelserve.deploy.releases import Releases, Target, user
from modelserve.deploy.resolve import Resolved, Resolver
from modelserve.deploy.rollout import Retiring, Rollout
from modelserve.deploy.secret_references import SecretReferences
from modelserve.deploy.status import algorithm_statuses
from modelserve.errors import Problem, UserError
from modelserve.gateway.gateway import Gateway
from modelserve.serve.api import RayAPI
from modelserve.serve.application import Applications
from modelserve.serve.status import MIGRATING, Statuses, running_applications
from modelserve.settings import Settings
from modelserve.store import manifest
from modelserve.store.store import Store

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Applied:
    """The result of an apply or a rollback.

    Attributes:
        plan: the plan that was executed.
        release: the release that it recorded; None when nothing was new.
        changed: whether anything changed, for example the gateway's settings.
        seconds: its duration.
        rollback_of: the release that it returned to; None for an apply.
    """

    plan: Plan
    release: int | None
    changed: bool
    seconds: float
    rollback_of: int | None = None


@dataclass(frozen=True)
class _Failure:
    """A rollout in which applications failed.

    Attributes:
        causes: the causes by name.
        plan: the plan that was executed.
        target: the target of the rollout.
        before: the applications that ran.
        answered: the routes that the gateway answered.
    """

    causes: dict[str, str]
    plan: Plan
    target: Target
    before: Applications
    answered: Served


class Controller:
    """Plans, applies and rolls back. A lock keeps applies apart."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._store = Store(settings.home / "store", progress)
        self._ray = RayAPI(settings)
        self._gateway = Gateway(settings, progress)
        self._releases = Releases(settings.home / "releases", settings.keep_releases, progress)
        self._secrets = SecretReferences(settings, progress)
        self._resolver = Resolver(settings, self._store, self._secrets, progress)
        self._publisher = Publisher(settings, self._store, self._releases, self._secrets, progress)
        self._rollout = Rollout(settings, self._ray, progress)

    def read(self) -> tuple[Conf, str]:
        """Read conf.ini and check it against the packages and models that exist.

        Returns:
            The configuration and the file's text.

        Raises:
            UserError: with every problem found.
        """
        return self._resolver.read()

    def plan(self) -> tuple[Plan, Resolved]:
        """Compare what conf.ini asks for with what is served, which stays as it is.

        Raises:
            UserError: conf.ini is wrong, a model is not what models.yml describes, requirements cannot be
                met, or Ray does not answer.
        """
        resolved = self._resolver.resolve()
        return described(self._compare(resolved.target), resolved.models), resolved

    def apply(self, keep_going: bool = False, allow_downtime: bool = False) -> Applied:
        """Make the cluster serve what conf.ini says, and wait until it does.

        Args:
            keep_going: when some algorithms fail, serve the changes of the others instead of none.
            allow_downtime: where new replicas find no capacity beside the old ones, stop the old ones first.

        Raises:
            UserError: naming each algorithm that failed and its own error. What was served before is served still.
        """
        started = time.monotonic()
        with self._lock():
            plan, resolved = self.plan()
            target = resolved.target
            self._resolver.build(resolved)
            if plan:
                release = self._execute(target, plan, keep_going, allow_downtime)
                return Applied(plan, release, True, time.monotonic() - started)
            # A manifest or content of the store that was lost is made anew.
            self._publisher.publish(target.applications)
            self._publisher.distribute()
            self._wait_until_healthy(target, allow_downtime)
            reconfigured = self._gateway.configure(target.served)
            self._wait_for_replicas(target.applications)
            number = self._record_late(target)
            return Applied(plan, number, reconfigured or number is not None, time.monotonic() - started)

    def rollback(self, number: int | None = None, allow_downtime: bool = False) -> Applied:
        """Return to a release: its code, environments, models and configuration, from the store. Build nothing.

        Secrets keep the values that they have now.

        Args:
            number: the release; None chooses the one before the last.
            allow_downtime: as for :meth:`apply`.

        Raises:
            UserError: there is no such release, it was made for another Python or Ray, its content is not in the
                store, the cluster does not have one of its secrets, or an algorithm failed. What was served before
                is served still.
        """
        started = time.monotonic()
        with self._lock():
            release = self._releases.choose(number)
            target, number = release.target, release.number
            self._require_content(target, number)
            target = self._secrets.renew(target, number)
            plan = described(self._compare(target), {})
            recorded = self._execute(target, plan, False, allow_downtime, number) if plan else None
            return Applied(plan, recorded, bool(plan), time.monotonic() - started, number)

    @property
    def gateway(self) -> Gateway:
        """The head's gateway."""
        return self._gateway

    def status(self) -> list[dict[str, Any]]:
        """Return a row per algorithm: the fields of :class:`modelserve.deploy.status.AlgorithmStatus`."""
        shared_by = manifest.Manifest.load(self._store.root / manifest.NAME).cores_shared_by
        rows = algorithm_statuses(
            self._ray.applications(), self._gateway.served(), self._gateway.url(), self._cores(), shared_by
        )
        return [row.as_dict() for row in rows]

    def _cores(self) -> dict[str, int]:
        """Return each node's cores, by its id; none where Ray does not list its nodes."""
        try:
            return {node["node_id"]: int((node["resources_total"] or {}).get("CPU", 0)) for node in self._ray.nodes()}
        except (UserError, KeyError):
            return {}

    def _compare(self, target: Target) -> Plan:
        running = running_applications(self._ray.applications())
        return compare(target.applications, running, target.served, self._gateway.served())

    def _require_content(self, target: Target, number: int) -> None:
        """Raise a UserError where a release cannot run here."""
        image = manifest.Versions.running()
        for what, key, version in (("Python", "python", image.python), ("Ray", "ray", image.ray)):
            if target.versions.get(key, version) != version:
                message = f"release {number} was made for {what} {target.versions[key]}, this image has {version}"
                fix = f"Apply its conf.ini instead: 'modelserve releases show {number}' prints it"
                raise UserError(message, fix)
        paths = manifest.paths_of(target.applications, self._store)
        missing = [path for path in paths if not self._store.holds(path)]
        if missing:
            message = f"release {number} needs {', '.join(missing)}, which is not complete in the store"
            raise UserError(message, "Apply its conf.ini and packages instead, or choose another release")
        packages = {name: application.package.path for name, application in target.applications.items()}
        if lacking := debian.missing(packages, debian.installed()):
            raise UserError([Problem(f"release {number}: {problem}") for problem in lacking])

    def _execute(
        self, target: Target, plan: Plan, keep_going: bool, allow_downtime: bool, rollback_of: int | None = None
    ) -> int:
        """Execute a plan; return the number of the release that it recorded."""
        statuses = self._wait_until_settled({change.name for change in plan.changes if change.needs_new_replicas})
        before = running_applications(statuses)
        self._publisher.publish(target.applications, before)
        self._publisher.distribute()
        prefixes = {name: application.prefix for name, application in before.items()}
        answered = self._gateway.served() or Served(port=target.served.port, routes=plain(prefixes))
        meanwhile = answered.model_copy(update={"port": target.served.port})
        self._gateway.configure(meanwhile)  # first: a port that is taken stops the apply with nothing changed
        routes = target.served.routes
        retiring = Retiring(
            {name: application for name, application in before.items() if name not in target.applications},
            frozenset(name for name, (route, _) in answered.places().items() if route not in routes),
            lambda names: self._gateway.configure(meanwhile.without(names)),
        )
        if plan.changes:
            causes = self._rollout.update(plan.changes, target.applications, statuses, retiring, allow_downtime)
            if causes:
                self._restore(_Failure(causes, plan, target, before, answered), keep_going)
        self._gateway.configure(target.served)
        self._wait_for_replicas(target.applications)
        if retiring.applications:  # no client calls them any more
            self._rollout.submit(target.applications)
        release = self._record(target, plan.summary(), rollback_of)
        # Replicas that served until now may still answer their last requests: a later release collects their content.
        self._store.collect_garbage(self._publisher.publish(target.applications, kept=before))
        return release

    def _wait_until_settled(self, names: Set[str]) -> Statuses:
        """Return Serve's applications once no replica of some moves off a worker that is drained.

        Serve stops a replica that moves without its grace when its application is updated: its requests would be cut.

        Args:
            names: the applications that are about to be updated.

        Raises:
            UserError: replicas still move after the deploy timeout.
        """
        deadline = time.monotonic() + self._settings.deploy_timeout_s
        reported: list[str] = []
        while True:
            statuses = self._ray.applications()
            moving = sorted(name for name in names & statuses.keys() if statuses[name].replica_ids(MIGRATING))
            if not moving:
                return statuses
            if time.monotonic() > deadline:
                fix = "Add a worker or free GPUs for them, or have the drained worker back: playbooks/restart.yml"
                raise UserError(f"replicas of {', '.join(moving)} do not leave the worker that is drained", fix)
            if moving != reported:
                reported = moving
                self._progress(f"waiting: replicas of {', '.join(moving)} move off a worker that is drained")
            time.sleep(1)

    def _restore(self, failure: _Failure, keep_going: bool) -> NoReturn:
        """Return to what was served before; with ``keep_going``, only for the applications that failed."""
        causes, target, before, answered = failure.causes, failure.target, failure.before, failure.answered
        kept, served = dict(before), answered
        if keep_going:
            kept = {name: application for name, application in target.applications.items() if name not in causes}
            kept |= {name: before[name] for name in causes if name in before}
            served = target.served.keeping(answered, causes)
        self._rollout.submit({**before, **kept})
        restored = [name for name in kept if name in causes or name not in target.applications]
        self._rollout.wait_until_healthy([Change("change", name) for name in restored], kept, {})
        self._gateway.configure(served)
        if keep_going:
            self._rollout.submit(kept)
        self._publisher.publish(kept)
        messages = [f"{name} failed to start: {cause}" for name, cause in causes.items()]
        if (kept, served) == (before, answered):
            raise UserError("\n".join([*messages, "Nothing is lost: what was served before is served still."]))
        self._wait_for_replicas(kept)
        succeeded = tuple(change for change in failure.plan.changes if change.name not in causes)
        changes = [*Plan(succeeded, (), failure.plan.port).summary(), *(f"! {name} failed" for name in causes)]
        number = self._record(replace(target, applications=kept, served=served), changes)
        messages.append(f"Nothing is lost: the others' changes are served, as release {number}.")
        raise UserError("\n".join(messages))

    def _wait_until_healthy(self, target: Target, allow_downtime: bool) -> None:
        """Wait until what Serve was given already is healthy.

        After a restart of the head it may not be yet, nor where new replicas found no room.

        An application that fails was left by an apply that was interrupted, if the last release is another one: that
        release is restored.

        Raises:
            UserError: naming each algorithm that failed.
        """
        causes = self._rollout.finish(target.applications, allow_downtime)
        if causes:
            messages = [f"{name} is served as conf.ini says, but fails: {cause}" for name, cause in causes.items()]
            latest = self._releases.latest()
            if latest is not None and not latest.serves(target):
                self._rollout.submit(latest.target.applications)
                self._gateway.configure(latest.target.served)
                messages.append(f"Release {latest.number} is served again.")
            raise UserError("\n".join(messages))

    def _wait_for_replicas(self, applications: Applications) -> None:
        self._gateway.wait_for_replicas(self._ray, (application.prefix for application in applications.values()))

    def _record_late(self, target: Target) -> int | None:
        """Record what is served where an apply was interrupted before it did; return the number of a new release."""
        latest = self._releases.latest()
        if latest is None:
            return self._record(target)
        if latest.serves(target):
            self._gateway.name_release(latest.number)
            return None
        old = latest.target
        changes = compare(target.applications, old.applications, target.served, old.served).summary()
        return self._record(target, changes)

    def _record(self, target: Target, changes: Iterable[str] = (), rollback_of: int | None = None) -> int:
        number = self._releases.record(target, changes, rollback_of)
        self._gateway.name_release(number)
        return number

    @contextmanager
    def _lock(self) -> Iterator[None]:
        path = self._settings.home / "apply.lock"
        with path.open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                self._progress(f"waiting for another apply: {stream.read().strip()}")
                fcntl.flock(stream, fcntl.LOCK_EX)
            stream.truncate(0)
            holder = {"pid": os.getpid(), "since": time.strftime("%H:%M:%S %Z"), "by": user()}
            stream.write(json.dumps(holder))
            stream.flush()
            try:
                yield
            finally:
                stream.truncate(0)
