"""The threads in which a backend is loaded, configured and asked: its objects stay in the thread that made them.

Libraries such as sqlite3, TensorRT and pycuda bind an object to the thread that made it. No event loop runs in these
threads, but each has one: ``asyncio.get_event_loop()`` returns it, and ``asyncio.run()`` works.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

Job = Callable[[], None]
_current = threading.local()


class InferenceThreads:
    """A fixed number of daemon threads: an inference that hangs does not stop the process from ending."""

    def __init__(self, count: int = 1) -> None:
        """Start the threads; they end when nothing refers to this object any more.

        Args:
            count: number of threads, and of jobs that run at the same time.
        """
        self.count = 0
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.grow(count)

    def grow(self, count: int) -> None:
        """Have at least this number of threads."""
        own = weakref.ref(self)
        for number in range(self.count, count):
            name = f"inference_{number}"
            threading.Thread(target=_work, args=(self._jobs, own), name=name, daemon=True).start()
            weakref.finalize(self, self._jobs.put, None)
        self.count = max(self.count, count)

    def submit(self, job: Job) -> None:
        """Run a job in one of the threads, after those that came before. It must not raise."""
        self._jobs.put(job)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what a function returns that runs in one of the threads; the caller's thread waits.

        Raises:
            BaseException: what the function raises.
        """
        if current() is self:
            return function(*args)
        outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def job() -> None:
            try:
                outcome.set_result(function(*args))
            except BaseException as error:
                outcome.set_exception(error)

        self._jobs.put(job)
        return outcome.result()

    def run(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run a function in one of the threads, unless the returned future is cancelled before it begins.

        Returns:
            A future of the running event loop. SystemExit, which would end the replica, and StopIteration, which no
            future can hold, become a RuntimeError.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Any] = loop.create_future()
        self._jobs.put(lambda: _run(loop, outcome, function, args))
        return outcome


def current() -> InferenceThreads | None:
    """Return the inference threads to which the calling thread belongs."""
    own: weakref.ref[InferenceThreads] | None = getattr(_current, "own", None)
    return None if own is None else own()


def holdable(error: BaseException) -> Exception:
    """Return an error in a form that a future can hold and that ends no process."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    held = RuntimeError(f"{type(error).__name__}: {error}")
    held.__cause__ = error
    return held


async def in_own_thread(function: Callable[[], Any]) -> Any:
    """Return what a function returns, from a thread of its own: one that hangs keeps nothing else from running.

    Raises:
        Exception: what the function raises.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()
    threading.Thread(target=_run, args=(loop, outcome, function, ()), name="check", daemon=True).start()
    return await outcome


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *args: Any) -> None:
    """Have an event loop call a function; nothing happens where the loop is closed, as at the end of a process."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _work(jobs: queue.SimpleQueue[Job | None], own: weakref.ref[InferenceThreads]) -> None:
    _current.own = own
    loop = asyncio.new_event_loop()
    while (job := jobs.get()) is not None:
        _require_event_loop(loop)
        job()
        del job  # it holds the request until the next one comes
    loop.close()


def _require_event_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        asyncio.get_event_loop()
    except RuntimeError:  # at first, and after asyncio.run(), which removes the thread's event loop
        asyncio.set_event_loop(loop)


def _run(
    loop: asyncio.AbstractEventLoop, outcome: asyncio.Future[Any], function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    if outcome.cancelled():
        return
    try:
        result, error = function(*args), None
    except BaseException as raised:
        result, error = None, holdable(raised)
    call_soon(loop, settle, outcome, result, error)


def settle(outcome: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    """Set the outcome of a job, unless its caller was cancelled."""
    if outcome.done():
        return
    if error is None:
        outcome.set_result(result)
    else:
        outcome.set_exception(error)
