"""Brings Serve from the applications that it runs to those of a target, and waits until they answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from modelserve.cluster.nodes import Nodes
from modelserve.config import debian_hints
from modelserve.deploy.crashes import Crashes
from modelserve.deploy.plan import Change
from modelserve.deploy.probes import ApplicationProbe, SchedulingTimer, Thresholds
from modelserve.serve.api import RayAPI
from modelserve.serve.application import Application, Applications, deploy_document
from modelserve.serve.capacity import missing_for
from modelserve.serve.status import Failed, Statuses, Waiting, unschedulable
from modelserve.settings import Settings

Progress = Callable[[str], None]
# Called with the name of an application and what its new replicas are missing; returns whether it freed capacity.
FreeCapacity = Callable[[str, str], bool]
POLL_S = 0.25
REPORT_AGAIN_S = 15
HINT = (
    "Add a worker, lower replicas or gpu_cost, or accept a gap: 'modelserve apply --allow-downtime' or "
    "-e modelserve_allow_downtime=true"
)


@dataclass(frozen=True)
class Retiring:
    """Applications that run and are not in the target. They stop last, unless their capacity is needed.

    Attributes:
        applications: by name, as they run.
        removable_early: those that nothing replaces: they may stop before the new applications run.
        unroute: called with the names of those that stop early, before they do.
    """

    applications: Applications
    removable_early: frozenset[str]
    unroute: Callable[[list[str]], object]


@dataclass(frozen=True)
class _Watch:
    """An application that a rollout waits for: its target, its probe, and the time that it waits for capacity."""

    target: Application
    probe: ApplicationProbe
    timer: SchedulingTimer


class Rollout:
    """Submits applications to Serve and waits for them."""

    def __init__(self, settings: Settings, ray: RayAPI, progress: Progress) -> None:
        self._settings = settings
        self._ray = ray
        self._progress = progress

    def submit(self, applications: Applications) -> None:
        """Make these the whole of what Serve runs; return before it is."""
        self._ray.submit(deploy_document(applications.values(), self._settings.serve_port))

    def update(
        self,
        changes: Iterable[Change],
        target: Applications,
        earlier: Statuses,
        retiring: Retiring,
        allow_downtime: bool,
    ) -> dict[str, str]:
        """Submit the target beside what retires, and wait for the changed applications.

        Args:
            changes: what differs from what runs.
            target: all applications that run afterwards.
            earlier: the applications in Serve before.
            retiring: what runs until then.
            allow_downtime: where new replicas find no capacity beside the old ones, stop the old ones first.

        Returns:
            The causes of failures by name; empty when everything runs.
        """
        starting = [change for change in changes if change.action != "remove" and change.concerns_serve]
        capacity = _Capacity(self, target, retiring, allow_downtime, self._progress)
        if capacity.removable_early:
            # Waiting gains nothing where capacity is seen to be missing.
            for change in starting:
                missing = self._missing(target[change.name], False) if change.needs_new_replicas else ""
                if missing and capacity.retire(change.name, missing, retiring.removable_early):
                    break
        if starting:
            self.submit(capacity.applications)
        failed = self.wait_until_healthy(starting, target, earlier, capacity.free)
        capacity.roll_again(failed)
        return failed

    def finish(self, target: Applications, allow_downtime: bool) -> dict[str, str]:
        """Wait until all applications of a target that Serve was given already are healthy.

        Args:
            target: what Serve runs.
            allow_downtime: as for :meth:`update`.

        Returns:
            The causes of failures by name; empty when everything runs.
        """
        capacity = _Capacity(self, target, Retiring({}, frozenset(), len), allow_downtime, self._progress)
        unchanged = [Change("change", name) for name in target]
        failed = self.wait_until_healthy(unchanged, target, {}, capacity.free, expected=True)
        capacity.roll_again(failed)
        return failed

    def wait_until_healthy(
        self,
        changes: Iterable[Change],
        target: Applications,
        earlier: Statuses,
        free_capacity: FreeCapacity | None = None,
        expected: bool = False,
    ) -> dict[str, str]:
        """Wait until each changed application runs as in the target, or has failed.

        Args:
            changes: the applications to wait for; none that is removed.
            target: all applications, by name.
            earlier: the applications in Serve before the change.
            free_capacity: called where new replicas find no capacity.
            expected: whether they are healthy unless something is wrong: then one observation is enough, and only
                an application that is not healthy is reported.

        Returns:
            The causes of failures by name.
        """
        watches = {change.name: self._watch(change, target, earlier, expected) for change in changes}
        reports, crashes = _Reports(self._progress), Crashes(self._ray, unchanged=expected)
        failed: dict[str, str] = {}
        deadline = time.monotonic() + self._settings.deploy_timeout_s
        while watches:
            statuses = self._ray.applications()
            for name in sorted(watches):
                outcome = watches[name].probe.observe(statuses.get(name))
                if isinstance(outcome, Waiting):
                    reports.add(name, outcome.text)
                    missing = self._unschedulable(watches[name], statuses) if outcome.starting else ""
                    if not missing:
                        continue
                    if free_capacity is not None and free_capacity(name, missing):
                        deadline = time.monotonic() + self._settings.deploy_timeout_s
                        continue
                    outcome = Failed(f"{missing}. {HINT}")
                if isinstance(outcome, Failed):
                    failed[name] = debian_hints.with_hint(crashes.explain(name, outcome.text), name)
                if not expected or name in reports:
                    self._progress(f"{name}: {'FAILED' if name in failed else outcome.text}")
                del watches[name]
            if watches and time.monotonic() > deadline:
                timeout = f"not healthy after {self._settings.deploy_timeout_s:.0f} s"
                return failed | {name: f"{timeout}: {reports.last(name)}" for name in watches}
            if watches:
                time.sleep(POLL_S)
        return failed

    def _watch(self, change: Change, target: Applications, earlier: Statuses, expected: bool) -> _Watch:
        application = target[change.name]
        # Replicas that crash soon after their start show within min_ready_seconds.
        min_ready_s = self._settings.min_ready_seconds if change.needs_new_replicas else 0
        thresholds = Thresholds(min_ready=round(min_ready_s / POLL_S), once=expected)
        before = earlier.get(change.name)
        probe = ApplicationProbe(
            application, change.needs_new_replicas, before, thresholds, reconfigures=change.reconfigures
        )
        return _Watch(application, probe, SchedulingTimer(self._settings.scheduling_timeout_s))

    def _unschedulable(self, watch: _Watch, statuses: Statuses) -> str:
        """Return what a replica that has waited for the scheduling timeout is missing; else empty."""
        waited = watch.timer.waited(unschedulable(watch.target.name, statuses), time.monotonic())
        return self._missing(watch.target, watch.timer.overdue(waited)) if waited else ""

    def _missing(self, application: Application, overdue: bool) -> str:
        free = Nodes(self._settings, self._progress).free(application.resources.labels)
        return missing_for(application.resources, free, overdue)


class _Capacity:
    """Frees capacity for new replicas: retires applications early, and recreates instead of rolling."""

    def __init__(
        self, rollout: Rollout, target: Applications, retiring: Retiring, allow_downtime: bool, progress: Progress
    ) -> None:
        self._rollout = rollout
        self._target = target
        self._retiring = retiring
        self._allow_downtime = allow_downtime
        self._progress = progress
        self._left = dict(retiring.applications)
        # Applications of the target whose old replicas stop first.
        self.recreated: dict[str, Application] = {}

    @property
    def applications(self) -> dict[str, Application]:
        """What Serve runs: what still retires, and the target."""
        return {**self._left, **self._target, **self.recreated}

    @property
    def removable_early(self) -> bool:
        """Whether an application may stop before the new ones run."""
        return bool(self._retiring.removable_early & set(self._left))

    def retire(self, name: str, missing: str, names: Iterable[str]) -> bool:
        """Take retiring applications out of what Serve runs, for the sake of one; return whether there were any."""
        stopping = [other for other in sorted(names) if self._left.pop(other, None)]
        if stopping:
            self._progress(f"{name}: {missing}: {', '.join(stopping)}, which conf.ini no longer has, stops first")
            self._retiring.unroute(stopping)
        return bool(stopping)

    def free(self, name: str, missing: str) -> bool:
        """Free capacity for an application; return False where that is not allowed, or was done already."""
        names = self._retiring.applications if self._allow_downtime else self._retiring.removable_early
        if not self.retire(name, missing, names):
            if not self._allow_downtime or name in self.recreated:
                return False
            self._progress(f"{name}: {missing}: the old replicas stop first")
            self.recreated[name] = self._target[name].recreated()
        self._rollout.submit(self.applications)
        return True

    def roll_again(self, failed: Mapping[str, str]) -> None:
        """Give Serve the target itself once its recreated applications run, so that the next update rolls."""
        if self.recreated and not failed:
            self.recreated.clear()
            self._rollout.submit(self.applications)


class _Reports:
    """The progress of each application, reported when it changes and every ``REPORT_AGAIN_S`` seconds."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last: dict[str, tuple[str, float]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._last

    def last(self, name: str) -> str:
        """Return what was reported last of an application."""
        return self._last.get(name, ("no progress", 0.0))[0]

    def add(self, name: str, text: str) -> None:
        """Report a text of an application, unless it was reported a moment ago; an empty one is no report."""
        last, when = self._last.get(name, ("", 0.0))
        if text and (text != last or time.monotonic() - when > REPORT_AGAIN_S):
            self._last[name] = (text, time.monotonic())
            self._progress(f"{name}: {text}")
