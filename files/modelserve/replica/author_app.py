"""An ASGI application that a package's class brings: its attribute ``app``, such as one of FastAPI."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelserve.replica.generators import streams_closed

_PARAMETERS = 3  # of an ASGI application: scope, receive, send


def is_asgi(value: Any) -> bool:
    """Return whether a value is an ASGI application: a coroutine function of three parameters, or an object with one.

    Authors give the name ``app`` to other things, too.
    """
    if inspect.isclass(value) or not callable(value):
        return False
    function = value if inspect.isroutine(value) else type(value).__call__
    bound = function is value or isinstance(function, staticmethod)
    if not inspect.iscoroutinefunction(function):
        return False
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) == _PARAMETERS + (not bound)


class AuthorApp:
    """The application of a class, below the algorithm's route."""

    def __init__(self, app: ASGIApp | None) -> None:
        """Make the application.

        Args:
            app: the application; None where the class brings none.
        """
        self._app = app

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or a WebSocket.

        The route itself has the path ``/`` within the application: its own router would redirect from an empty one.
        """
        if self._app is None:
            raise RuntimeError("the class brings no app")
        if scope["path"] == scope.get("root_path", ""):
            scope = {**scope, "path": f"{scope['path']}/"}
            if scope.get("raw_path") is not None:
                scope["raw_path"] += b"/"
        with streams_closed():
            await self._app(scope, receive, send)

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application's start and end; one that has none of its own starts and ends at once."""
        if self._app is None:
            await _start_and_end(receive, send)
            return
        received: list[Message] = []
        sent: list[Message] = []

        async def own_receive() -> Message:
            received.append(await receive())
            return received[-1]

        async def own_send(message: Message) -> None:
            sent.append(message)
            await send(message)

        try:
            await self._app(scope, own_receive, own_send)
        except Exception:
            if sent:  # a start or an end that failed, and said so
                raise
        if not sent:
            await _start_and_end(receive, send, begun=bool(received))


async def _start_and_end(receive: Receive, send: Send, begun: bool = False) -> None:
    if not begun:
        await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


class Lifespan:
    """The start and the end of an ASGI application, where no server sends them."""

    def __init__(self, app: ASGIApp) -> None:
        """Make the lifespan.

        Args:
            app: the application.
        """
        self._app = app
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Lifespan:
        """Start the application.

        Raises:
            RuntimeError: it does not start.
            Exception: what it raises.
        """
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        self._task = asyncio.create_task(self._run(scope))
        await self._send("lifespan.startup")
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the application."""
        await self._send("lifespan.shutdown")

    async def _run(self, scope: Scope) -> None:
        await self._app(scope, self._messages.get, self._answers.put)

    async def _send(self, kind: str) -> None:
        await self._messages.put({"type": kind})
        answer = asyncio.create_task(self._answers.get())
        if self._task is None:
            raise RuntimeError("the application has not been started")
        await asyncio.wait([answer, self._task], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            await self._task
        elif answer.result()["type"] != f"{kind}.complete":
            raise RuntimeError(f"{kind} failed: {answer.result().get('message', '')}")
