"""Whether a replica can answer: it is sick after a fatal error, while an inference hangs, and when its class says so.

Serve asks every few seconds. A sick replica gets no more requests, and Serve replaces it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, Protocol

from modelserve.replica import cuda
from modelserve.replica.exceptions import Fatal
from modelserve.replica.threads import in_own_thread

logger = logging.getLogger("ray.serve")

#: Longest time in seconds that the class's own ``check_health`` may take.
OWN_CHECK_LIMIT_S = 5.0
#: Shortest time in seconds by which an inference may exceed the section's ``request_timeout``.
SHORTEST_GRACE_S = 5.0
#: The same as a share of ``request_timeout``.
GRACE_SHARE = 0.1

Clock = Callable[[], float]
OwnCheck = Callable[[], Any]


class UnhealthyError(Exception):
    """The replica cannot answer any more; the text has the reason."""


class Identified(Protocol):
    """What has the id of a request."""

    @property
    def request_id(self) -> str:
        """The id, or the empty string."""


class Running:
    """The inferences that run now. Safe from any thread."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """Make an empty list.

        Args:
            clock: returns seconds from any fixed moment.
        """
        self.clock = clock
        self._numbers = count()
        self._entries: dict[int, tuple[float, Sequence[Identified]]] = {}

    def entry(self, *requests: Identified) -> Entry:
        """Return the entry of an inference that has not begun.

        Args:
            requests: the request, or those of a batch.
        """
        return Entry(self._entries, next(self._numbers), requests, self.clock)

    def oldest(self) -> tuple[float, str] | None:
        """Return the age in seconds of the oldest inference, and which requests it has; None where nothing runs."""
        entries = list(self._entries.values())
        if not entries:
            return None
        began, requests = min(entries, key=lambda entry: entry[0])
        return self.clock() - began, _named([request.request_id for request in requests if request.request_id])


def _named(ids: Sequence[str]) -> str:
    if not ids:
        return "a request without an id"
    return f"request {ids[0]}" if len(ids) == 1 else f"requests {', '.join(ids)}"


class Entry:
    """One inference in the list of running ones."""

    __slots__ = ("_clock", "_entries", "_number", "_requests")

    def __init__(
        self,
        entries: dict[int, tuple[float, Sequence[Identified]]],
        number: int,
        requests: Sequence[Identified],
        clock: Clock,
    ) -> None:
        self._entries = entries
        self._number = number
        self._requests = requests
        self._clock = clock

    def begin(self) -> None:
        """Note that the inference begins now, unless it runs already."""
        self._entries.setdefault(self._number, (self._clock(), self._requests))

    def end(self) -> None:
        """Note that it does not run any more; nothing happens where that is known."""
        self._entries.pop(self._number, None)


class Health:
    """The judgement on one replica.

    Attributes:
        timeout_s: the section's ``request_timeout``; None sets no limit, and no inference counts as hung.
    """

    def __init__(
        self,
        running: Running,
        own_check: OwnCheck | None = None,
        fatal_errors: tuple[type[BaseException], ...] = (),
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """Make a healthy replica's judgement.

        Args:
            running: the inferences that run now.
            own_check: ``check_health`` of the package's class.
            fatal_errors: the class's exceptions after which the replica cannot answer any more.
            on_failure: called from any thread as soon as a failure is noticed.
        """
        self.timeout_s: float | None = None
        self._running = running
        self._own_check = own_check
        self._own_check_runs = False
        self._fatal: tuple[type[BaseException], ...] = (Fatal, *fatal_errors)
        self._on_failure = on_failure
        self._failure = ""
        self._reported = ""

    @property
    def reason(self) -> str:
        """Why the replica is unhealthy, as the last check found it; empty for a healthy one."""
        return self._reported

    def fail(self, reason: str) -> None:
        """Mark the replica unhealthy for good. Safe from any thread; the first reason stays.

        Args:
            reason: the cause, in one line.
        """
        if not self._failure:
            self._failure = reason
            self._report(reason)
            self._on_failure()

    async def judge(self, error: BaseException) -> bool:
        """Return whether an error of an inference is fatal; the replica is then marked unhealthy.

        An error of CUDA is fatal where it is confirmed that no later call works either.
        """
        fatal = isinstance(error, self._fatal) or (cuda.is_error(error) and await cuda.is_lost())
        if fatal:
            self.fail(f"fatal error {type(error).__name__}: {error}")
        return fatal

    async def check(self) -> None:
        """Check the replica, the cheapest check first.

        Raises:
            UnhealthyError: it cannot answer, with the reason.
        """
        reason = self._failure or self.hang() or await self._own_reason()
        if reason:
            self._report(reason)
            raise UnhealthyError(reason)
        if self._reported:
            logger.info("replica is healthy again; it was unhealthy: %s", self._reported)
            self._reported = ""

    def hang(self) -> str:
        """Return which inference hangs, and for how long; empty where none does."""
        oldest = self._running.oldest()
        if oldest is None or self.timeout_s is None or oldest[0] <= self._limit_s(self.timeout_s):
            return ""
        age_s, requests = oldest
        return f"the inference of {requests} has run for {age_s:.0f} s; request_timeout is {self.timeout_s:g} s"

    def seconds_to_hang(self) -> float | None:
        """Return after how many seconds the oldest inference hangs; None where none can."""
        oldest = self._running.oldest()
        return None if oldest is None or self.timeout_s is None else self._limit_s(self.timeout_s) - oldest[0]

    def notice_hang(self) -> bool:
        """Return whether an inference hangs; one that does is reported before Serve asks."""
        reason = self.hang()
        if reason:
            self._report(reason)
            self._on_failure()
        return bool(reason)

    def _limit_s(self, timeout_s: float) -> float:
        return timeout_s + max(SHORTEST_GRACE_S, GRACE_SHARE * timeout_s)

    def _report(self, reason: str) -> None:
        if not self._reported:
            logger.error("replica is unhealthy: %s", reason)
        self._reported = self._reported or reason

    async def _own_reason(self) -> str:
        if self._own_check is None:
            return ""
        if self._own_check_runs:
            return f"check_health has not returned after {OWN_CHECK_LIMIT_S:g} s"
        try:
            async with asyncio.timeout(OWN_CHECK_LIMIT_S):
                await self._run_own_check(self._own_check)
        except TimeoutError as error:
            return f"check_health: {error}" if str(error) else f"check_health took longer than {OWN_CHECK_LIMIT_S:g} s"
        except Exception as error:
            return f"check_health raised {type(error).__name__}: {error}"
        return ""

    async def _run_own_check(self, check: OwnCheck) -> None:
        if inspect.iscoroutinefunction(check):
            await check()
            return
        self._own_check_runs = True

        def checked() -> Any:
            try:
                return check()
            finally:
                self._own_check_runs = False

        outcome = await in_own_thread(checked)
        if isinstance(outcome, Awaitable):  # a wrapper of an async check
            await outcome
