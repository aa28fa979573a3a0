"""The controller: makes the cluster serve what conf.ini says, and leaves it as it was when that fails."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from modelserve.config import parser, project
from modelserve.config.routes import Served, plain, routes_of
from modelserve.config.section import Conf, Section
from modelserve.deploy.plan import Change, Plan, compare
from modelserve.deploy.releases import Releases, Target, author
from modelserve.deploy.rollout import Leaving, Rollout
from modelserve.environments.build import Environment, Environments
from modelserve.errors import UserError
from modelserve.gateway.gateway import Gateway
from modelserve.models import zoo
from modelserve.serve import application as serve_config
from modelserve.serve.api import RayAPI
from modelserve.serve.status import status_of, target_of
from modelserve.settings import Settings
from modelserve.store import distribute, manifest
from modelserve.store.store import Store
from modelserve.util.files import write_atomically

Progress = Callable[[str], None]
Apps = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """What conf.ini asks for: what it says, what that is in content, and the environments to build for it."""

    conf: Conf
    target: Target
    environments: dict[str, Environment]


@dataclass(frozen=True)
class Applied:
    """What an apply did: the plan it carried out, the release it made (None when nothing new was asked for), whether
    anything was changed (the gateway's settings, say), the seconds, and the release it returned to, if any."""

    plan: Plan
    release: int | None
    changed: bool
    seconds: float
    rollback_of: int | None = None


class Controller:
    """Reads, plans and applies. One at a time applies: a lock sees to that."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._store = Store(settings.home / "store")
        self._ray = RayAPI(settings)
        self._gateway = Gateway(settings, progress)
        self._spread_file = settings.home / "spread.json"
        self._releases = Releases(settings.home / "releases", settings.keep_releases)
        self._rollout = Rollout(settings, self._ray, progress)

    def read(self) -> tuple[Conf, str]:
        """Read conf.ini and check it against the packages and models there are.

        Returns:
            The configuration and the file's text.

        Raises:
            UserError: with every problem found.
        """
        file = self._settings.conf_file
        if not file.exists():
            raise UserError(f"{file} is missing", "Run site.yml or playbooks/deploy.yml to put it there")
        parsed, text = parser.load(file)
        there = [path.name for path in self._settings.model_zoo.glob("*") if path.is_file()]
        problems = project.check(parsed, self._settings.algopkg, there, str(file))
        if problems:
            raise UserError(problems)
        return parsed, text

    def plan(self) -> tuple[Plan, Wanted]:
        """Compare what conf.ini asks for with what is served; changes nothing that is served.

        Raises:
            UserError: conf.ini is wrong, a model is not what models.yml describes, requirements cannot be
                met, or Ray does not answer.
        """
        wanted = self._wanted()
        return self._compare(wanted.target), wanted

    def apply(self, keep_going: bool = False, allow_downtime: bool = False) -> Applied:
        """Make the cluster serve what conf.ini says, and wait until it does.

        Args:
            keep_going: when some algorithms fail, serve the others' changes instead of none.
            allow_downtime: where new replicas find no room beside the old ones, stop the old ones first.

        Raises:
            UserError: naming each algorithm that failed and its own error. What was served before is served still.
        """
        started = time.monotonic()
        with self._lock():
            plan, wanted = self.plan()
            self._materialise(wanted)
            if plan:
                release = self._carry_out(wanted.target, plan, keep_going, allow_downtime)
                return Applied(plan, release, True, time.monotonic() - started)
            # Whatever was lost meanwhile, the manifest or content of the store, is made anew.
            self._publish(wanted.target.applications)
            self._spread()
            self._settle(wanted.target)
            reconfigured = self._gateway.configure(wanted.target.served)
            number = self._record_late(wanted.target)
            return Applied(plan, number, reconfigured or number is not None, time.monotonic() - started)

    def rollback(self, number: int | None = None, allow_downtime: bool = False) -> Applied:
        """Return to a release: its code, environments, models and configuration, from the store. Builds nothing.

        Args:
            number: the release; None takes the one before the last.
            allow_downtime: as for :meth:`apply`.

        Raises:
            UserError: there is no such release, it was made for another Python or Ray, its content is not in the
                store, or an algorithm failed. What was served before is served still.
        """
        started = time.monotonic()
        with self._lock():
            release = self._releases.choose(number)
            target, number = release.target, release.number
            here = manifest.Versions.here()
            for what, then, now in (("Python", "python", here.python), ("Ray", "ray", here.ray)):
                if target.versions.get(then, now) != now:
                    message = f"release {number} was made for {what} {target.versions[then]}, this image has {now}"
                    fix = f"Apply its conf.ini instead: 'modelserve releases show {number}' prints it"
                    raise UserError(message, fix)
            missing = [
                path
                for path in manifest.paths_of(target.applications, self._store)
                if not self._store.holds({"path": path})
            ]
            if missing:
                fix = "Apply its conf.ini and packages instead, or choose another release"
                raise UserError(
                    f"release {number} needs {', '.join(missing)}, which the store does not have whole any more", fix
                )
            plan = self._compare(target)
            done = self._carry_out(target, plan, False, allow_downtime, number) if plan else None
            return Applied(plan, done, bool(plan), time.monotonic() - started, number)

    @property
    def gateway(self) -> Gateway:
        """The gateway, as the controller asks it."""
        return self._gateway

    @property
    def releases(self) -> Releases:
        """The releases that are kept."""
        return self._releases

    def status(self) -> list[dict[str, Any]]:
        """What is served: a row per algorithm with ``name``, ``status``, ``route``, ``weight`` (its part of the route's
        requests, in percent), ``url``, ``replicas`` (running), ``wanted``, ``gpu_cost``, ``environment`` and
        ``message``."""
        rows = []
        served = self._gateway.served()
        shares = {} if served is None else served.percentages()
        for name, details in sorted(self._ray.serve_details()["applications"].items()):
            config = details.get("deployed_app_config") or {}
            deployment = (config.get("deployments") or [{}])[0]
            replicas = [r for d in details.get("deployments", {}).values() for r in d.get("replicas", [])]
            route, weight = shares.get(name, ("", 0))
            rows.append(
                {
                    "name": name,
                    "status": status_of(details),
                    "route": f"/{route}" if route else "",
                    "weight": weight,
                    "url": f"{self._gateway.url()}/{route}" if route else "",
                    "replicas": sum(replica["state"] == "RUNNING" for replica in replicas),
                    "wanted": target_of(details, config),
                    "gpu_cost": (deployment.get("ray_actor_options") or {}).get("num_gpus", 0),
                    "environment": Path(config.get("runtime_env", {}).get("py_executable", "//")).parent.parent.name,
                    "message": details.get("message", ""),
                }
            )
        return rows

    def _wanted(self) -> Wanted:
        parsed, text = self.read()
        used = {name for section in parsed.sections for name in section.model}
        verified = self._store.root / "signatures.json"
        zoo.require_described(self._settings.model_zoo, used, self._store.sha256, verified)
        environments = Environments(self._settings, self._store)
        by_name = {s.name: environments.of_package(s.name, self._settings.algopkg / s.name) for s in parsed.sections}
        applications = {}
        for section in parsed.sections:
            package = self._store.package_path(section.name, self._settings.algopkg / section.name)
            stored = [self._store.model_path(source) for source in self._models(section)]
            applications[section.name] = serve_config.application(section, package, stored, by_name[section.name].path)
        document = serve_config.document(applications.values(), self._settings.serve_port)
        versions = manifest.Versions.here().model_dump(exclude={"image"})
        served = Served(port=parsed.port, routes=routes_of(parsed.sections))
        return Wanted(parsed, Target(text, served, document, versions), by_name)

    def _record_late(self, target: Target) -> int | None:
        """Record what is served where an apply was ended before it did; returns the release's number, if it is new."""
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

    def _compare(self, target: Target) -> Plan:
        running = _configurations(self._ray.serve_details()["applications"])
        return compare(target.applications, running, target.served, self._gateway.served())

    def _carry_out(
        self, target: Target, plan: Plan, keep_going: bool, allow_downtime: bool, rollback_of: int | None = None
    ) -> int:
        """Do what a plan says; returns the release's number."""
        wanted = target.applications
        details = self._ray.serve_details()["applications"]
        before = _configurations(details)
        self._publish(wanted, before)
        self._spread()
        answered = self._gateway.served() or Served(port=target.served.port, routes=plain(before))
        meanwhile = answered.model_copy(update={"port": target.served.port})
        self._gateway.configure(meanwhile)  # first: a port that is taken stops the apply with nothing changed
        leaving = Leaving(
            {name: app for name, app in before.items() if name not in wanted},
            frozenset(name for name, (route, _) in answered.places().items() if route not in target.served.routes),
            lambda names: self._gateway.configure(meanwhile.without(names)),
        )
        if plan.changes:
            failed = self._rollout.bring(plan.changes, wanted, details, leaving, allow_downtime)
            if failed:
                self._restore(before, answered, target, plan, failed, keep_going)
            self._rollout.wait_for_routes(wanted)
        self._gateway.configure(target.served)
        if leaving.applications:  # nobody asks them any more
            self._rollout.put(wanted)
        release = self._record(target, plan.summary(), rollback_of)
        # What served until now may still answer its last requests: its content goes with a later release.
        self._store.collect(self._publish(wanted, kept=before))
        return release

    def _models(self, section: Section) -> list[Path]:
        return [self._settings.model_zoo / model for model in section.model]

    def _materialise(self, wanted: Wanted) -> None:
        environments = Environments(self._settings, self._store)
        for environment in wanted.environments.values():
            environments.build(environment, self._progress)
        for section in wanted.conf.sections:
            self._store.add_package(section.name, self._settings.algopkg / section.name)
            for source in self._models(section):
                self._store.add_model(source)

    def _publish(self, *needed: manifest.Apps, kept: manifest.Apps | None = None) -> tuple[str, ...]:
        """Name in the store's manifest what nodes have to have, and what they may keep.

        Args:
            needed: applications to run; theirs is fetched by every node before it joins.
            kept: applications whose content stays, beside that of the kept releases.

        Returns:
            The paths below the store that stay.
        """
        base = str(Environments(self._settings, self._store).base().path.relative_to(self._store.root))
        wanted = dict.fromkeys([base, *(path for apps in needed for path in manifest.paths_of(apps, self._store))])
        wanted = {path: None for path in wanted if (self._store.root / path).exists()}
        stay = dict.fromkeys([*wanted, *manifest.paths_of(kept or {}, self._store)])
        for release in self._releases:
            stay |= dict.fromkeys(manifest.paths_of(release.target.applications, self._store))
        contents = manifest.contents(wanted, self._store)
        versions = manifest.Versions.here()  # the controller runs in the head's container
        manifest.Manifest(versions=versions, needed=contents, kept=tuple(stay)).publish(self._store)
        # A worker that restarts drops what is not kept: it does not count as being there.
        self._remember_spread(set(self._on_workers()) & set(stay))
        return tuple(stay)

    def _spread(self) -> None:
        """Have every live worker fetch what the manifest names, before Serve may start replicas there."""
        if not self._settings.workers:
            return
        needed = [content.path for content in manifest.Manifest.load(self._store.root / manifest.NAME).needed]
        if set(needed) <= set(self._on_workers()):
            return
        self._progress("bringing what is new to the workers")
        distribute.to_workers(self._progress)
        self._remember_spread(needed)

    def _on_workers(self) -> list[str]:
        """The paths that every worker has: those alive then fetched them, those that joined since did so before."""
        try:
            return list(json.loads(self._spread_file.read_text()))
        except (OSError, ValueError):
            return []

    def _remember_spread(self, paths: Iterable[str]) -> None:
        write_atomically(self._spread_file, json.dumps(sorted(paths)))

    def _settle(self, target: Target) -> None:
        """Wait until what is served already is healthy: after a restart of the head it may not be yet.

        What fails was left by an apply that was ended in the middle, if the last release is another: that is put back.
        """
        unchanged = [Change("change", name) for name in target.applications]
        failed = self._rollout.wait(unchanged, target.applications, {}, quiet=True)
        if failed:
            messages = [f"{name} is served as conf.ini says, but fails: {why}" for name, why in failed.items()]
            latest = self._releases.latest()
            if latest is not None and not latest.serves(target):
                self._rollout.put(latest.target.applications)
                self._gateway.configure(latest.target.served)
                messages.append(f"release {latest.number} is put back: what it served is served again.")
            raise UserError("\n".join(messages))
        self._rollout.wait_for_routes(target.applications)

    def _restore(
        self, before: Apps, answered: Served, target: Target, plan: Plan, failed: dict[str, str], keep_going: bool
    ) -> NoReturn:
        kept, served = before, answered
        if keep_going:
            kept = {name: app for name, app in target.applications.items() if name not in failed}
            kept |= {name: before[name] for name in failed if name in before}
            served = target.served.keeping(answered, failed)
        self._rollout.put({**before, **kept})
        back = [name for name in kept if name in failed or name not in target.applications]
        self._rollout.wait([Change("change", name) for name in back], kept, {})
        self._gateway.configure(served)
        if keep_going:
            self._rollout.put(kept)
        self._publish(kept)
        messages = [f"{name} failed to start: {cause}" for name, cause in failed.items()]
        if (kept, served) != (before, answered):
            self._rollout.wait_for_routes(kept)
            document = serve_config.document(kept.values(), self._settings.serve_port)
            good = Plan(tuple(change for change in plan.changes if change.name not in failed), (), plan.port)
            changes = [*good.summary(), *(f"! {name} failed" for name in failed)]
            number = self._record(replace(target, serve=document, served=served), changes)
            messages.append(f"Nothing is lost: the others' changes are served, as release {number}.")
        else:
            messages.append("Nothing is lost: what was served before is served still.")
        raise UserError("\n".join(messages))

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
            holder = {"pid": os.getpid(), "since": time.strftime("%H:%M:%S %Z"), "by": author()}
            stream.write(json.dumps(holder))
            stream.flush()
            try:
                yield
            finally:
                stream.truncate(0)


def _configurations(applications: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: application["deployed_app_config"]
        for name, application in applications.items()
        if application.get("deployed_app_config") and application["status"] != "DELETING"
    }
