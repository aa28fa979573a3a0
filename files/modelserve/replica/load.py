"""The load of a replica: its requests, and its part of those that wait in the gateway."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import Scope

from modelserve.serve.contract import QUEUED_HEADER

# A queue of which no request has told for so long is over.
FRESH_S = 2.0
_HEADER = QUEUED_HEADER.lower().encode()


class Load:
    """Counts requests. The gateway's queue is read from their headers once somebody has asked for the load.

    Args:
        clock: returns seconds from any fixed moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.ongoing = 0
        self._clock = clock
        self._measured = False
        self._queued = 0
        self._told = float("-inf")

    def note(self, scope: Scope) -> None:
        """Take in what a request tells of the gateway's queue.

        Args:
            scope: the request's ASGI scope.
        """
        if self._measured:
            for name, value in scope["headers"]:
                if name == _HEADER and value.isdigit():
                    self._queued, self._told = int(value), self._clock()

    def measure(self) -> float:
        """Return the number of requests: those here, and this replica's part of those that wait."""
        self._measured = True
        return self.ongoing + (self._queued if self._clock() - self._told < FRESH_S else 0)
