"""Generators of authors: their items are made where they belong, and handed to the event loop one by one.

A generator runs from its first item to its end in one thread or one task, as its context managers expect. It pauses
while its client is slow, and it is closed when the client disconnects: its ``finally`` runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

from modelserve.replica.health import Entry
from modelserve.replica.threads import call_soon, holdable

#: Items that a generator may be ahead of its client.
ITEMS_AHEAD = 16

_streams_of_request: ContextVar[list[Stream] | None] = ContextVar("streams_of_request", default=None)

Judge = Callable[[Exception], Awaitable[Any]]


def is_iterator(result: Any) -> bool:
    """Return whether a result is an iterator, such as a generator: its items are made in the threads of the model."""
    return hasattr(type(result), "__next__")


def is_async_iterator(result: Any) -> bool:
    """Return whether a result is an async iterator, such as an async generator or a :class:`Stream`."""
    return hasattr(type(result), "__anext__")


class Stream(ABC, AsyncIterator[Any]):
    """The items of a generator, for the event loop that answers the request.

    Attributes:
        judge: gets each error after the first item: it may be a fatal one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, entry: Entry) -> None:
        """Make an empty stream.

        Args:
            loop: the event loop that reads the items.
            entry: the inference in the replica's list of running ones; it ends with the first item.
        """
        self.judge: Judge | None = None
        self._loop = loop
        self._entry = entry
        self._items: deque[Any] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._changed: asyncio.Future[None] | None = None

    async def started(self) -> None:
        """Wait for the first item, or for the end of an empty stream.

        Raises:
            Exception: what the generator raised before its first item.
        """
        try:
            while not self._items and not self._ended:
                await self._change()
        except asyncio.CancelledError:
            self.stop()
            raise
        if not self._items:
            self._raise_error()

    async def __anext__(self) -> Any:
        """Return the next item.

        Raises:
            StopAsyncIteration: there are no more items.
            Exception: what the generator raised.
        """
        while not self._items:
            if self._ended:
                if self._error is not None and self.judge is not None:
                    await self.judge(self._error)
                self._raise_error()
                raise StopAsyncIteration
            await self._change()
        item = self._items.popleft()
        self._taken()
        return item

    async def aclose(self) -> None:
        """Close the generator, and wait until it has ended.

        Raises:
            Exception: what the generator raised while it was closed.
        """
        self.stop()
        while not self._ended:
            await self._change()
        self._items.clear()
        self._raise_error()

    def stop(self) -> None:
        """Close the generator without waiting for its end."""
        if not self._ended:
            self._entry.begin()  # a generator that does not end is a hung inference
            self._close()

    @abstractmethod
    def _close(self) -> None:
        """Have the generator closed."""

    @abstractmethod
    def _taken(self) -> None:
        """Note that the client took an item."""

    def _receive(self, item: Any) -> None:
        self._items.append(item)
        self._wake()

    def _end(self, error: Exception | None) -> None:
        self._error = error
        self._ended = True
        self._wake()

    async def _change(self) -> None:
        self._changed = self._loop.create_future()
        await self._changed

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


class ThreadStream(Stream):
    """The items of an iterator that runs in an inference thread, which it occupies until it ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, entry: Entry, iterator: Iterator[Any]) -> None:
        super().__init__(loop, entry)
        self._iterator = iterator
        self._slots = threading.Semaphore(ITEMS_AHEAD)
        self._closed = False

    def pump(self) -> None:
        """Run the generator to its end. The inference thread calls this."""
        error: Exception | None = None
        try:
            for item in self._iterator:
                if not self._closed:
                    self._entry.end()
                self._slots.acquire()  # released when the client takes an item
                if self._closed:
                    break
                call_soon(self._loop, self._receive, item)
        except BaseException as raised:
            error = holdable(raised)
        try:
            if hasattr(self._iterator, "close"):
                self._iterator.close()
        except BaseException as raised:
            error = error or holdable(raised)
        self._entry.end()
        call_soon(self._loop, self._end, error)

    def _close(self) -> None:
        self._closed = True
        self._slots.release()

    def _taken(self) -> None:
        self._slots.release()


class TaskStream(Stream):
    """The items of an async iterator, which runs in a task of its event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        entry: Entry,
        iterator: AsyncIterator[Any],
        home: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Start the task.

        Args:
            loop: the event loop that reads the items.
            entry: the inference in the replica's list of running ones; it ends with the first item.
            iterator: the items; a generator is closed at the end.
            home: the event loop of the iterator; None: ``loop``.
        """
        super().__init__(loop, entry)
        self._iterator = iterator
        self._home = loop if home is None else home
        self._slots = asyncio.Semaphore(ITEMS_AHEAD)
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._on(self._home, self._begin)

    def _begin(self) -> None:
        self._task = self._home.create_task(self._pump())
        if self._stopped:
            self._task.cancel()

    async def _pump(self) -> None:
        error: Exception | None = None
        try:
            async for item in self._iterator:
                self._entry.end()
                await self._slots.acquire()
                self._on(self._loop, self._receive, item)
        except asyncio.CancelledError:
            pass  # the stream was closed
        except BaseException as raised:
            error = holdable(raised)
        try:
            await close(self._iterator)
        except BaseException as raised:
            error = error or holdable(raised)
        self._entry.end()
        self._on(self._loop, self._end, error)

    def _on(self, loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *args: Any) -> None:
        if self._home is self._loop:
            function(*args)
        else:
            call_soon(loop, function, *args)

    def _close(self) -> None:
        self._on(self._home, self._cancel)

    def _cancel(self) -> None:
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    def _taken(self) -> None:
        self._on(self._home, self._slots.release)


@contextlib.contextmanager
def streams_closed() -> Iterator[None]:
    """Close the streams that are noted in the context, as in a request to an author's application, at its end."""
    streams: list[Stream] = []
    token = _streams_of_request.set(streams)
    try:
        yield
    finally:
        _streams_of_request.reset(token)
        for stream in streams:
            stream.stop()


def note(stream: Stream) -> Stream:
    """Return a stream that is handed to an author; it ends with the request of the context at the latest."""
    streams = _streams_of_request.get()
    if streams is not None:
        streams.append(stream)
    return stream


async def close(iterator: AsyncIterator[Any]) -> None:
    """Close an async iterator where it can be closed."""
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()
