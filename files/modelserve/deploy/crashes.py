"""Why the replicas of a failed rollout died: Serve tells only that an actor died."""

from __future__ import annotations

import time

from modelserve.deploy.probes import CRASH_LOOP
from modelserve.errors import UserError
from modelserve.serve.api import RayAPI
from modelserve.serve.death_records import read_deaths

# Replicas that died shortly before the rollout began to wait belong to it.
EARLIER_S = 5
# Of an application that was not changed: it may have failed some time ago.
EARLIER_UNCHANGED_S = 3600
_DIED = ("ActorDiedError", "RayActorError", "ActorUnavailableError", "WorkerCrashedError", "OutOfMemoryError")


class Crashes:
    """The deaths of replicas from the beginning of a rollout on.

    Args:
        ray: Ray's REST API.
        unchanged: whether the applications run already.
    """

    def __init__(self, ray: RayAPI, unchanged: bool) -> None:
        self._ray = ray
        self._since = time.time() - (EARLIER_UNCHANGED_S if unchanged else EARLIER_S)

    def explain(self, name: str, failure: str) -> str:
        """Return a failure with the reason for which the last replica died, where Serve does not tell it.

        Args:
            name: the application.
            failure: the cause as far as Serve tells it; an error of the author's code stays as it is.
        """
        if not any(word in failure for word in _DIED) and ("Error" in failure or "Exception" in failure):
            return failure
        try:
            deaths = read_deaths(self._ray, name, self._since)
        except UserError:  # the failure itself matters more
            return failure
        if not deaths:
            return failure
        death = deaths[-1]
        reason = f"{death.reason}; the last line of its log: {death.last_line}" if death.last_line else death.reason
        return f"{CRASH_LOOP}: {reason}" if failure.startswith(CRASH_LOOP) else reason
