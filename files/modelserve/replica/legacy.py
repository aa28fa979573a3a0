"""The legacy class API: a class of the original framework answers requests itself, as an ASGI-like callable."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from modelserve.replica.answers import answer_of
from modelserve.replica.bodies import read_body
from modelserve.replica.closing import ClosingResponse
from modelserve.replica.generators import Judge, Stream, TaskStream, is_async_iterator, is_iterator
from modelserve.replica.health import Running
from modelserve.replica.responses import failure_of
from modelserve.replica.threads import InferenceThreads, holdable
from modelserve.replica.uvicorn_compat import Client


def json_request(params: dict[str, Any], method: str = "GET", path: str = "/") -> Request:
    """Return a request as the HTTP server makes it, with ``params`` as its JSON body."""
    body = json.dumps(params).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not messages:  # the client waits for the answer
            await asyncio.get_running_loop().create_future()
        return messages.pop()

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
    return Request(scope, receive)


class OwnLoop:
    """An event loop that runs in the thread in which a class was loaded, and pauses for functions that block."""

    def __init__(self, threads: InferenceThreads) -> None:
        """Start the thread's event loop, which the class may have asked for in its constructor.

        Args:
            threads: the one thread in which the class was loaded.
        """
        self.loop: asyncio.AbstractEventLoop = threads.call(asyncio.get_event_loop)
        self._jobs: deque[Callable[[], None]] = deque()
        threads.submit(self._run)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Run a coroutine; the returned future is one of the caller's event loop."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def call(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Call a function while the event loop does not run: ``asyncio.run()`` works in it."""
        outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def job() -> None:
            try:
                outcome.set_result(function(*args))
            except BaseException as error:  # SystemExit would end the thread
                outcome.set_exception(holdable(error))

        self._jobs.append(job)
        self.loop.call_soon_threadsafe(self.loop.stop)
        return asyncio.wrap_future(outcome)

    def _run(self) -> None:
        while True:
            asyncio.set_event_loop(self.loop)
            self.loop.run_forever()
            while self._jobs:
                self._jobs.popleft()()


class LegacyBackend:
    """Runs a class of the legacy API on an event loop of its own.

    Such a class infers inside its coroutine; on the replica's loop that would stop health checks and queueing.

    Attributes:
        running: the inferences that run now.
        judge: gets each error of a stream after its first item.
    """

    def __init__(self, instance: Callable[[Request], Awaitable[Any]], threads: InferenceThreads | None = None) -> None:
        """Start the event loop.

        Args:
            instance: the object of the class.
            threads: the thread in which it was made; None: a new one.
        """
        self.running = Running()
        self.judge: Judge | None = None
        self._instance = instance
        self._own = OwnLoop(threads or InferenceThreads())

    @property
    def defines_inference(self) -> bool:
        """Whether the class answers requests itself; one with an ``app`` does not."""
        return callable(self._instance)

    async def reconfigure(self, user_config: Any) -> None:
        """Pass the section's user configuration to the class, in its own thread."""
        reconfigure = self._instance.reconfigure  # type: ignore[attr-defined]
        if inspect.iscoroutinefunction(reconfigure):
            await self._own.run(reconfigure(user_config))
            return
        outcome = await self._own.call(reconfigure, user_config)
        if asyncio.iscoroutine(outcome):
            await self._own.run(outcome)

    async def warm_up(self, params: Mapping[str, Any], request: Request, package: Path) -> Response:  # noqa: ARG002
        """Return the answer to a warm-up request, whose parameters ``request`` has as its JSON body.

        Raises:
            Exception: whatever the class raises.
        """
        return await self.respond(request)

    async def respond(self, request: Request) -> Response:
        """Return the answer to an HTTP request.

        Raises:
            ClientDisconnectedError: the client closed its connection.
            Exception: whatever the class raises.
        """
        # The body is read here, since the connection belongs to this event loop, and it is unpacked.
        body = await read_body(request, dict(request.scope["headers"]))
        client = Client(request)
        headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-encoding"]
        own_request = Request({**request.scope, "headers": headers}, _receive(body, request, client))
        result = await self._own.run(self._call(own_request, client))
        if is_iterator(result):
            result = _as_async(result)
        if is_async_iterator(result):
            stream = await self._started(result, client)
            return ClosingResponse(answer_of(stream, request), stream)
        if hasattr(result, "body_iterator"):  # Starlette's StreamingResponse, and the like of other packages
            result.body_iterator = stream = await self._started(aiter(result.body_iterator), client)
            return ClosingResponse(result, stream)
        return answer_of(result, request, envelope=False)

    async def __call__(self, request: Request) -> Response:
        """Answer an HTTP request; an error of the class is answered 500."""
        try:
            return await self.respond(request)
        except Exception as error:
            return failure_of(error, request)

    async def _call(self, request: Request, client: Client) -> Any:
        client.require_connected()
        entry = self.running.entry(client)
        entry.begin()
        try:
            return await self._instance(request)
        except (SystemExit, KeyboardInterrupt) as error:  # it would end the event loop
            raise holdable(error) from error
        finally:
            entry.end()

    async def _started(self, items: AsyncIterator[Any], client: Client) -> Stream:
        """Return a stream whose items are made on the class's own event loop."""
        entry = self.running.entry(client)
        entry.begin()
        stream = TaskStream(asyncio.get_running_loop(), entry, items, self._own.loop)
        stream.judge = self.judge
        await stream.started()
        return stream


async def _as_async(items: Iterator[Any]) -> AsyncIterator[Any]:
    """Yield the items of an iterator where this runs: in the thread of the class's own event loop."""
    try:
        for item in items:
            yield item
    finally:
        if hasattr(items, "close"):
            items.close()


def _receive(body: bytes, request: Request, client: Client) -> Callable[[], Awaitable[Message]]:
    """Return the ``receive`` of a request whose body is read, for the class's own event loop."""
    loop = asyncio.get_running_loop()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        if client.disconnected:
            return {"type": "http.disconnect"}
        waiting = asyncio.run_coroutine_threadsafe(_next_message(request), loop)
        return await asyncio.wrap_future(waiting)

    return receive


async def _next_message(request: Request) -> Message:
    return await request.receive()
