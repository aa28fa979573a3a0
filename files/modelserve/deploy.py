"""The controller: makes the cluster serve what conf.ini says, and leaves it as it was when that fails."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelserve import conf, manifest, project, serve_config, spread
from modelserve.conf import Conf, Section
from modelserve.env import Environment, Environments
from modelserve.errors import UserError
from modelserve.gateway import Gateway
from modelserve.health import Outcome, aims_at, may_rest, outcome_of, replica_ids, status_of, target_of
from modelserve.plan import Change, Plan, compare
from modelserve.ray_api import RayAPI
from modelserve.release import Releases
from modelserve.settings import Settings
from modelserve.store import Store, write_atomically

Progress = Callable[[str], None]
POLL_S = 0.25
SAY_AGAIN_S = 15
ROUTES_TIMEOUT_S = 30


@dataclass(frozen=True)
class Wanted:
    """What conf.ini asks for, resolved to content: the configuration, and what it is made of."""

    conf: Conf
    conf_text: str
    applications: dict[str, dict[str, Any]]
    environments: dict[str, Environment]


@dataclass(frozen=True)
class Applied:
    """What an apply did: the plan it carried out, the release it made (None when conf.ini asked for nothing new),
    whether anything was changed (the gateway's settings, say), and the seconds."""

    plan: Plan
    release: int | None
    changed: bool
    seconds: float


class Controller:
    """Reads, plans and applies. One at a time applies: a lock sees to that."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._store = Store(settings.home / "store")
        self._ray = RayAPI(settings)
        self._gateway = Gateway(settings)
        self._spread_file = settings.home / "spread.json"
        self._releases = Releases(settings.home / "releases", settings.keep_releases)

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
        parsed, text = conf.load(file)
        models = [path.name for path in self._settings.model_zoo.glob("*") if path.is_file()]
        problems = project.check(parsed, self._settings.algopkg, models, str(file))
        if problems:
            raise UserError(problems)
        return parsed, text

    def plan(self) -> tuple[Plan, Wanted]:
        """Compare what conf.ini asks for with what is served; changes nothing that is served.

        Raises:
            UserError: conf.ini is wrong, requirements cannot be met, or Ray does not answer.
        """
        wanted = self._wanted()
        return compare(
            wanted.applications,
            _configurations(self._ray.serve_details()["applications"]),
            wanted.conf.port,
            self._gateway.port(),
        ), wanted

    def apply(self, keep_going: bool = False) -> Applied:
        """Make the cluster serve what conf.ini says, and wait until it does.

        Args:
            keep_going: when some algorithms fail, serve the others' changes instead of none.

        Raises:
            UserError: naming each algorithm that failed and its own error. What was served before is served still.
        """
        started = time.monotonic()
        with self._lock():
            plan, wanted = self.plan()
            if not plan:
                # Whatever was lost meanwhile, the manifest or content of the store, is made anew.
                self._materialise(wanted)
                self._publish(wanted.applications)
                self._spread()
                self._settle(wanted)
                reconfigured = self._gateway.configure(wanted.conf.port)
                return Applied(plan, None, reconfigured, time.monotonic() - started)
            self._materialise(wanted)
            served = _configurations(self._ray.serve_details()["applications"])
            self._publish(wanted.applications, served)
            self._spread()
            old_port = self._gateway.port()
            self._gateway.configure(
                wanted.conf.port
            )  # first: a port that is taken stops the apply with nothing changed
            if plan.changes:
                details = self._ray.serve_details()["applications"]
                before = _configurations(details)
                self._put(wanted.applications)
                failed = self._wait(plan.changes, wanted.applications, details)
                if failed:
                    if old_port is not None and not keep_going:
                        self._gateway.configure(old_port)
                    self._restore(before, wanted, failed, keep_going)
                self._wait_for_routes(before, wanted.applications)
            document = serve_config.document(wanted.applications.values(), self._settings.serve_port)
            release = self._releases.record(wanted.conf_text, wanted.conf.port, document)
            # What served until now may still answer its last requests: its content goes with a later release.
            kept = self._publish(wanted.applications, kept=served)
            self._store.collect(kept)
        return Applied(plan, release, True, time.monotonic() - started)

    def status(self) -> list[dict[str, Any]]:
        """What is served: a row per algorithm with ``name``, ``status``, ``route``, ``url``, ``replicas``
        (running), ``wanted``, ``gpu_cost``, ``environment`` and ``message``."""
        rows = []
        for name, details in sorted(self._ray.serve_details()["applications"].items()):
            config = details.get("deployed_app_config") or {}
            deployment = (config.get("deployments") or [{}])[0]
            replicas = [r for d in details.get("deployments", {}).values() for r in d.get("replicas", [])]
            rows.append(
                {
                    "name": name,
                    "status": status_of(details),
                    "route": details.get("route_prefix") or "",
                    "url": f"{self._gateway.url()}{details.get('route_prefix') or ''}",
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
        environments = Environments(self._settings, self._store)
        by_name = {s.name: environments.of_package(s.name, self._settings.algopkg / s.name) for s in parsed.sections}
        applications = {}
        for section in parsed.sections:
            package = self._store.package_path(section.name, self._settings.algopkg / section.name)
            models = [self._store.model_path(source) for source in self._models(section)]
            applications[section.name] = serve_config.application(section, package, models, by_name[section.name].path)
        return Wanted(parsed, text, applications, by_name)

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
        for number in self._releases.numbers():
            applications = {app["name"]: app for app in self._releases.read(number)["serve"]["applications"]}
            stay |= dict.fromkeys(manifest.paths_of(applications, self._store))
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
        spread.to_workers(self._progress)
        self._remember_spread(needed)

    def _on_workers(self) -> list[str]:
        """The paths that every worker has: those alive then fetched them, those that joined since did so before."""
        try:
            return list(json.loads(self._spread_file.read_text()))
        except (OSError, ValueError):
            return []

    def _remember_spread(self, paths: Iterable[str]) -> None:
        write_atomically(self._spread_file, json.dumps(sorted(paths)))

    def _put(self, applications: dict[str, dict[str, Any]]) -> None:
        self._ray.put_applications(serve_config.document(applications.values(), self._settings.serve_port))

    def _settle(self, wanted: Wanted) -> None:
        """Wait until what is served already is healthy: after a restart of the head it may not be yet."""
        unchanged = [Change("change", name) for name in wanted.applications]
        failed = self._wait(unchanged, wanted.applications, {}, quiet=True)
        if failed:
            raise UserError(
                "\n".join(f"{name} is served as conf.ini says, but fails: {why}" for name, why in failed.items())
            )
        self._wait_for_routes({}, wanted.applications)

    def _wait(
        self,
        changes: Iterable[Change],
        wanted: dict[str, dict[str, Any]],
        earlier: dict[str, Any],
        quiet: bool = False,
    ) -> dict[str, str]:
        """Wait until each changed application runs as ``wanted`` or has failed; returns the failures' causes by name.

        ``earlier`` is what Serve's details of the applications were before; ``quiet`` expects them healthy at once.
        """
        waiting = {change.name: change for change in changes if change.action != "remove"}
        failed: dict[str, str] = {}
        # Replicas that cannot be the wanted ones. While Serve builds an application it shows none at all.
        before = {
            name: replica_ids(earlier.get(name)) if c.needs_new_replicas else set() for name, c in waiting.items()
        }
        healthy: Counter[str] = Counter()
        failing: Counter[str] = Counter()
        deadline = time.monotonic() + self._settings.deploy_timeout_s
        said: dict[str, tuple[str, float]] = {}
        while waiting:
            applications = self._ray.serve_details()["applications"]
            for name in sorted(waiting):
                details = applications.get(name)
                if waiting[name].needs_new_replicas and not aims_at(details, wanted[name]):
                    before[name] |= replica_ids(details)
                outcome = outcome_of(details, wanted[name], before[name])
                if outcome.state is not Outcome.State.HEALTHY:
                    healthy[name] = 0
                if outcome.state is not Outcome.State.FAILED:
                    failing[name] = 0
                if outcome.state is Outcome.State.HEALTHY:
                    healthy[name] += 1
                    if healthy[name] < outcome.sightings and not quiet:
                        continue
                elif outcome.state is Outcome.State.WAITING:
                    self._say_once(said, name, outcome.text)
                    continue
                else:
                    failing[name] += 1
                    if failing[name] < outcome.sightings:
                        self._say_once(said, name, f"unhealthy: {outcome.text}")
                        continue
                    failed[name] = outcome.text
                del waiting[name]
                if not quiet or name in said:
                    self._progress(f"{name}: {'FAILED' if name in failed else outcome.text}")
            if waiting and time.monotonic() > deadline:
                for name in waiting:
                    text = said.get(name, ("no progress", 0.0))[0]
                    failed[name] = f"not healthy after {self._settings.deploy_timeout_s:.0f} s: {text}"
                break
            if waiting:
                time.sleep(POLL_S)
        return failed

    def _wait_for_routes(self, before: dict[str, dict[str, Any]], wanted: dict[str, dict[str, Any]]) -> None:
        """Wait until the ingress answers the routes of ``wanted``, and no more those that were there before."""
        # Asking one that may rest would wake it: its first answer takes as long as its model to load.
        new = {application["route_prefix"] for application in wanted.values() if not may_rest(application)}
        old = {application["route_prefix"] for application in before.values()}
        old -= {application["route_prefix"] for application in wanted.values()}
        deadline = time.monotonic() + ROUTES_TIMEOUT_S
        while not (all(map(self._ray.ingress_answers, new)) and not any(map(self._ray.ingress_answers, old))):
            if time.monotonic() > deadline:
                raise UserError(
                    f"Serve's ingress on port {self._settings.serve_port} does not follow: wanted are {sorted(new)}",
                    "See 'modelserve status' and 'docker logs modelserve_head'",
                )
            time.sleep(POLL_S / 2)

    def _say_once(self, said: dict[str, tuple[str, float]], name: str, text: str) -> None:
        last, when = said.get(name, ("", 0.0))
        if text != last or time.monotonic() - when > SAY_AGAIN_S:
            said[name] = (text, time.monotonic())
            self._progress(f"{name}: {text}")

    def _restore(
        self, before: dict[str, dict[str, Any]], wanted: Wanted, failed: dict[str, str], keep_going: bool
    ) -> None:
        if keep_going:
            kept = {name: app for name, app in wanted.applications.items() if name not in failed}
            kept |= {name: before[name] for name in failed if name in before}
        else:
            kept = before
        self._put(kept)
        self._wait([Change("change", name) for name in failed if name in kept], kept, {})
        self._publish(kept)
        what = "the others' changes are served" if keep_going else "what was served before is served still"
        messages = [f"{name} failed to start: {cause}" for name, cause in failed.items()]
        raise UserError("\n".join([*messages, f"Nothing is lost: {what}."]))

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
            holder = {"pid": os.getpid(), "since": time.strftime("%H:%M:%S")}
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
