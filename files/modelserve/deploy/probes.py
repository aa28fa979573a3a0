"""The observation of one application during a rollout: from snapshots of Serve to waiting, healthy or failed.

Nothing here reads a clock: an observation is one snapshot, and the rollout takes one every ``POLL_S`` seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelserve.serve.application import Application
from modelserve.serve.status import ApplicationStatus, Failed, Healthy, Outcome, Waiting, at_target, outcome_of

# New replicas that start, are healthy and crash: a crash loop after so many.
CRASH_THRESHOLD = 2
CRASH_LOOP = "its replicas crash soon after they start"
# A replica that waits for so many times the scheduling timeout cannot be placed, whatever the sums of free resources.
OVERDUE_FACTOR = 4
# Serve keeps a replica of a version that it is given again before it stopped it, as after a deploy that failed. So many
# observations in a row in which Serve calls the target reached without a new replica are certain: 5 s.
KEPT_THRESHOLD = 20


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a probe, beside those of each outcome.

    Attributes:
        min_ready: observations in a row for which an application must be healthy: its ``min_ready_seconds``.
        once: whether the first observation of a healthy application is enough, whatever its outcome asks for.
        crash: crashes of new replicas that make a crash loop.
    """

    min_ready: int = 1
    once: bool = False
    crash: int = CRASH_THRESHOLD


class ApplicationProbe:
    """Observes one application until it is healthy or has failed.

    Args:
        target: what Serve was given.
        new_replicas: whether the change needs new replicas.
        earlier: the application before the change; None where there was none.
        thresholds: how many observations make an outcome certain.
        reconfigures: whether the change is made in running replicas.
    """

    def __init__(
        self,
        target: Application,
        new_replicas: bool,
        earlier: ApplicationStatus | None,
        thresholds: Thresholds,
        reconfigures: bool = False,
    ) -> None:
        self._target = target
        self._reconfigures = reconfigures
        self._new_replicas = new_replicas
        self._thresholds = thresholds
        # Replicas of another revision. While Serve builds an application it shows none.
        self._retired = earlier.replica_ids() if new_replicas and earlier else set()
        self._running: set[str] = set()
        self._reached = 0
        self._crashes = 0
        self._successes = 0
        self._failures = 0

    def observe(self, status: ApplicationStatus | None) -> Outcome:
        """Take in one snapshot.

        Args:
            status: the application in Serve; None where Serve does not know it.

        Returns:
            ``Healthy`` or ``Failed`` once that is certain, else ``Waiting``.
        """
        if self._new_replicas and status is not None:
            if not at_target(status, self._target):
                self._retired |= status.replica_ids()
            self._keep_what_serve_keeps(status)
            self._count_crashes(status)
        outcome = outcome_of(status, self._target, self._retired, self._reconfigures)
        if self._crashes >= self._thresholds.crash:
            why = f": {outcome.text}" if isinstance(outcome, Failed) else ""
            outcome = Failed(f"{CRASH_LOOP}{why}")
        self._successes = self._successes + 1 if isinstance(outcome, Healthy) else 0
        self._failures = self._failures + 1 if isinstance(outcome, Failed) else 0
        if isinstance(outcome, Healthy):
            needed = 1 if self._thresholds.once else max(self._thresholds.min_ready, outcome.success_threshold)
            return outcome if self._successes >= needed else Waiting("", starting=False)
        if isinstance(outcome, Failed) and self._failures < outcome.failure_threshold:
            return Waiting(f"unhealthy: {outcome.text}", starting=False)
        return outcome

    def _keep_what_serve_keeps(self, status: ApplicationStatus) -> None:
        deployments = status.deployments.values()
        reached = deployments and all(deployment.status == "HEALTHY" for deployment in deployments)
        self._reached = self._reached + 1 if reached and at_target(status, self._target) else 0
        if self._reached >= KEPT_THRESHOLD:
            self._retired.clear()

    def _count_crashes(self, status: ApplicationStatus) -> None:
        if status.deployments:  # while Serve builds the application it shows none
            running = status.replica_ids("RUNNING") - self._retired
            self._crashes += bool(self._running - running)
            self._running = running


class SchedulingTimer:
    """The time that an application's replica has waited for capacity, reported once per timeout.

    Args:
        timeout_s: seconds that a replica may wait for resources that no stopping replica is about to free.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._since: float | None = None
        self._reported = float("-inf")

    def waited(self, unschedulable: bool, now_s: float) -> float:
        """Return the seconds waited, once per timeout; 0 in between, and while the replica can be placed.

        Args:
            unschedulable: whether a replica waits for resources.
            now_s: seconds on a monotonic clock.
        """
        if not unschedulable:
            self._since = None
            return 0
        if self._since is None:
            self._since = now_s
        if now_s - max(self._since, self._reported) < self._timeout_s:
            return 0
        self._reported = now_s
        return now_s - self._since

    def overdue(self, waited_s: float) -> bool:
        """Return whether a replica that waited for so long cannot be placed on a node that seems to have capacity."""
        return waited_s > OVERDUE_FACTOR * self._timeout_s
