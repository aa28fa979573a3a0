"""Brings Serve from what it runs to what it shall run, waits until that is so, and puts it back when it fails."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from modelserve.cluster.nodes import Nodes, amounts, cost_of, fits
from modelserve.deploy.plan import Change
from modelserve.errors import UserError
from modelserve.serve import application as serve_config
from modelserve.serve.api import RayAPI
from modelserve.serve.status import Outcome, aims_at, may_rest, outcome_of, replica_ids, room_missing
from modelserve.settings import Settings

Progress = Callable[[str], None]
Apps = dict[str, dict[str, Any]]
POLL_S = 0.25
SAY_AGAIN_S = 15
ROUTES_TIMEOUT_S = 30
# New replicas that start, pass and die: so often is no accident any more.
DEATHS = 2
# Shares that are free on several GPUs do not make a whole one, and only Ray knows which share is where: one that waits
# for so many times room_timeout_s has no room, whatever the sums say.
PATIENCE = 4
WAYS_OUT = (
    "Add a worker, lower replicas or gpu_cost, or accept a gap: 'modelserve apply --allow-downtime' or "
    "-e modelserve_allow_downtime=true"
)


@dataclass(frozen=True)
class Leaving:
    """What runs and shall not: it stops last, unless its room is needed.

    Attributes:
        applications: by name, as they run.
        dispensable: those that nothing takes the place of: they may go before what is new runs.
        part: called with the names of those that go earlier, before they do.
    """

    applications: Apps
    dispensable: frozenset[str]
    part: Callable[[list[str]], object]


class Rollout:
    """Serve's applications, and the waiting for them."""

    def __init__(self, settings: Settings, ray: RayAPI, progress: Progress) -> None:
        self._settings = settings
        self._ray = ray
        self._progress = progress

    def put(self, applications: Apps) -> None:
        """Make these the whole of what Serve shall run; returns before it does."""
        self._ray.put_applications(serve_config.document(applications.values(), self._settings.serve_port))

    def bring(
        self, changes: Iterable[Change], wanted: Apps, earlier: Apps, leaving: Leaving, allow_downtime: bool
    ) -> dict[str, str]:
        """Put ``wanted`` beside what leaves, and wait for the changed applications.

        Args:
            changes: what differs from what runs.
            wanted: all applications that shall run, by name.
            earlier: Serve's details of the applications as they are before.
            leaving: what runs until then.
            allow_downtime: where new replicas find no room beside the old ones, stop the old ones first.

        Returns:
            The causes of failures by name; empty when everything runs.
        """
        coming = [change for change in changes if change.action != "remove" and change.concerns_serve]
        staying = dict(leaving.applications)
        given_way: dict[str, Any] = {}

        def go(name: str, missing: str, names: Iterable[str]) -> bool:
            going = [one for one in sorted(names) if staying.pop(one, None)]
            if going:
                self._progress(f"{name}: {missing}: {', '.join(going)}, which conf.ini has no more, stops first")
                leaving.part(going)
            return bool(going)

        def make_room(name: str, missing: str) -> bool:
            if not go(name, missing, leaving.applications if allow_downtime else leaving.dispensable):
                if not allow_downtime or name in given_way:
                    return False
                self._progress(f"{name}: {missing}: the old replicas stop first")
                given_way[name] = copy.deepcopy(wanted[name])
                given_way[name]["deployments"][0]["max_surge_percent"] = 0
            self.put({**staying, **wanted, **given_way})
            return True

        if leaving.dispensable & set(staying):
            # Nothing is gained by waiting for room that is seen to be missing.
            for change in coming:
                missing = self._no_room(wanted[change.name], False) if change.needs_new_replicas else ""
                if missing and go(change.name, missing, leaving.dispensable):
                    break
        if coming:
            self.put({**staying, **wanted})
        failed = self.wait(coming, wanted, earlier, make_room)
        if given_way and not failed:
            self.put({**staying, **wanted})
        return failed

    def wait(
        self,
        changes: Iterable[Change],
        wanted: Apps,
        earlier: Apps,
        make_room: Callable[[str, str], bool] | None = None,
        quiet: bool = False,
    ) -> dict[str, str]:
        """Wait until each changed application runs as ``wanted`` or has failed; returns the failures' causes by name.

        ``earlier`` is what Serve's details of the applications were before; ``make_room`` is called with the name of an
        application whose new replicas find none and what they miss, and says whether it could do something; ``quiet``
        expects them healthy at once.
        """
        waiting = {change.name: change for change in changes if change.action != "remove"}
        failed: dict[str, str] = {}
        # Replicas that cannot be the wanted ones. While Serve builds an application it shows none at all.
        before = {
            name: replica_ids(earlier.get(name)) if c.needs_new_replicas else set() for name, c in waiting.items()
        }
        watch = {name: self._sightings(c) if not quiet else 1 for name, c in waiting.items()}
        healthy: Counter[str] = Counter()
        failing: Counter[str] = Counter()
        deaths: Counter[str] = Counter()
        running: dict[str, set[str]] = {}
        room = _Room(self._settings)
        deadline = time.monotonic() + self._settings.deploy_timeout_s
        said: dict[str, tuple[str, float]] = {}
        while waiting:
            applications = self._ray.serve_details()["applications"]
            for name in sorted(waiting):
                details = applications.get(name)
                if waiting[name].needs_new_replicas and not aims_at(details, wanted[name]):
                    before[name] |= replica_ids(details)
                outcome = outcome_of(details, wanted[name], before[name])
                now = replica_ids(details, "RUNNING") - before[name]
                if waiting[name].needs_new_replicas and (details or {}).get("deployments"):
                    deaths[name] += bool(running.get(name, set()) - now)
                    running[name] = now
                if deaths[name] >= DEATHS:
                    why = f": {outcome.text}" if outcome.state is Outcome.State.FAILED else ""
                    outcome = Outcome(Outcome.State.FAILED, f"its replicas start, and die soon after{why}")
                if outcome.state is not Outcome.State.HEALTHY:
                    healthy[name] = 0
                if outcome.state is not Outcome.State.FAILED:
                    failing[name] = 0
                if outcome.state is Outcome.State.HEALTHY:
                    healthy[name] += 1
                    if healthy[name] < max(watch[name], outcome.sightings) and not quiet:
                        continue
                elif outcome.state is Outcome.State.WAITING:
                    self._say_once(said, name, outcome.text)
                    waited = room.waited(name, applications)
                    missing = self._no_room(wanted[name], waited > PATIENCE * room.timeout_s) if waited else ""
                    if not missing:
                        continue
                    if make_room is not None and make_room(name, missing):
                        deadline = time.monotonic() + self._settings.deploy_timeout_s
                        continue
                    failed[name] = f"{missing}. {WAYS_OUT}"
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

    def wait_for_routes(self, wanted: Apps) -> None:
        """Wait until the ingress answers all of ``wanted``."""
        # Asking one that may rest would wake it: its first answer takes as long as its model to load.
        prefixes = {application["route_prefix"] for application in wanted.values() if not may_rest(application)}
        deadline = time.monotonic() + ROUTES_TIMEOUT_S
        while not all(map(self._ray.ingress_answers, prefixes)):
            if time.monotonic() > deadline:
                port = self._settings.serve_port
                raise UserError(
                    f"Serve's ingress on port {port} does not follow: wanted are {sorted(prefixes)}",
                    "See 'modelserve status' and 'docker logs modelserve_head'",
                )
            time.sleep(POLL_S / 2)

    def _sightings(self, change: Change) -> int:
        """How often in a row new replicas must be seen healthy: what crashes soon after its start shows then."""
        return round(self._settings.watch_s / POLL_S) if change.needs_new_replicas else 1

    def _no_room(self, application: dict[str, Any], long: bool) -> str:
        """What a replica misses on every node; empty when one seems to have room, and it has not waited for long."""
        cost = cost_of(application)
        labels = application["deployments"][0]["ray_actor_options"].get("label_selector") or {}
        free = Nodes(self._settings, self._progress).free(labels)
        seems = any(fits(cost, room) for room in free.values())
        if seems and not long:  # Ray is slow to start it, that is all
            return ""
        where = f" with {', '.join(f'{key}={value}' for key, value in labels.items())}" if labels else ""
        if not free:
            return f"no room for a new replica: there is no node{where}"
        needed = [kind for kind, value in cost.items() if value]
        rooms = [f"{node} {amounts({k: room[k] for k in needed}, zero=True)}" for node, room in free.items()]
        parts = ", in parts of several GPUs" if seems and cost["GPU"] else ""
        needs = amounts(cost) or "a node"
        return f"no room for a new replica: it needs {needs}{where}; free are {', '.join(rooms)}{parts}"

    def _say_once(self, said: dict[str, tuple[str, float]], name: str, text: str) -> None:
        last, when = said.get(name, ("", 0.0))
        if text != last or time.monotonic() - when > SAY_AGAIN_S:
            said[name] = (text, time.monotonic())
            self._progress(f"{name}: {text}")


class _Room:
    """For how long has an application's replica waited for room that nobody is about to give?"""

    def __init__(self, settings: Settings) -> None:
        self.timeout_s = settings.room_timeout_s
        self._since: dict[str, float] = {}
        self._asked: dict[str, float] = {}

    def waited(self, name: str, applications: dict[str, Any]) -> float:
        """The seconds, once per ``timeout_s``; 0 meanwhile, and while nothing waits."""
        now = time.monotonic()
        if not room_missing(name, applications):
            self._since.pop(name, None)
            return 0
        since = self._since.setdefault(name, now)
        if now - max(since, self._asked.get(name, since)) < self.timeout_s:
            return 0
        self._asked[name] = now
        return now - since
