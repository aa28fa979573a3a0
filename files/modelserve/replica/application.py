"""A backend as an ASGI application: its route, the schema below it, and what an ``app`` of the class takes over."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from modelserve.replica.author_app import AuthorApp
from modelserve.replica.exceptions import Fatal, HTTPError
from modelserve.replica.health import Health
from modelserve.replica.load import Load
from modelserve.replica.responses import (
    failure_of,
    json_response,
    logger,
    method_not_allowed,
    request_id_of,
    timed_out,
)
from modelserve.replica.threads import holdable
from modelserve.replica.uvicorn_compat import SingleWriteResponse
from modelserve.serve.contract import SCHEMA_PATH

SCHEMA_METHODS = frozenset({"GET"})
FIRST_SERVER_ERROR = 500  # of the HTTP statuses; those are logged as warnings
ROUTE_ITSELF = frozenset({"", "/"})
# After a request took too long: how long after the moment at which its inference counts as hung it is looked at.
HANG_CHECK_DELAY_S = 0.05


class Answering(Protocol):
    """What the application asks of a backend."""

    @property
    def app(self) -> ASGIApp | None:
        """The ASGI application that the class brings."""

    @property
    def takes_sub_paths(self) -> bool:
        """Whether the class answers paths below its route."""

    async def respond(self, request: Request) -> Response:
        """Return the answer to a request, or raise."""

    def schemas(self) -> dict[str, Any]:
        """Return the JSON Schemas ``input`` and ``output``."""


class Application:
    """The ASGI application of one algorithm.

    Attributes:
        timeout_s: time limit in seconds until the first byte of an answer; None: no limit.
        example: a request for the schema.
        load: counts the requests.
    """

    def __init__(self, name: str, methods: list[str], backend: Answering, health: Health) -> None:
        """Make the application.

        Args:
            name: the algorithm's name.
            methods: HTTP methods that are allowed.
            backend: answers the requests.
            health: learns of fatal errors and of inferences that hang.
        """
        self.timeout_s: float | None = None
        self.example: dict[str, Any] | None = None
        self._name = name
        self._methods = frozenset(methods)
        self._backend = backend
        self._health = health
        self._author_app = AuthorApp(backend.app)
        self._hang_check: asyncio.TimerHandle | None = None
        self.load = Load()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, a WebSocket, or the start and the end of the server."""
        if scope["type"] == "lifespan":
            await self._author_app.live(scope, receive, send)
            return
        load = self.load
        load.note(scope)
        load.ongoing += 1
        try:
            await self._call(scope, receive, send)
        finally:
            load.ongoing -= 1

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        below = path_below_route(scope)
        if scope["type"] == "websocket":
            await self._answer_websocket(scope, receive, send)
        elif self._backend.app is not None and below != SCHEMA_PATH:
            await self._pass_on(Request(scope, receive, send), send)
        else:
            await self._answer(Request(scope, receive, send), below, send)

    async def respond(self, request: Request) -> Response:
        """Return the answer to a request of an algorithm that brings no ``app``, or to one of its schema.

        405 for methods that are not allowed, 404 for unknown paths below the route, 504 after the time limit.
        """
        return await self._respond(request, path_below_route(request.scope))

    async def _respond(self, request: Request, below: str) -> Response:
        if below == SCHEMA_PATH:
            if request.method not in SCHEMA_METHODS:
                return method_not_allowed(request, SCHEMA_METHODS)
            return json_response(self._schema())
        if below not in ROUTE_ITSELF and not self._backend.takes_sub_paths:
            return failure_of(_not_found(request), request)
        if request.method not in self._methods:
            return method_not_allowed(request, self._methods)
        timeout_s = self.timeout_s
        try:
            if timeout_s is None:
                return await self._backend.respond(request)
            async with asyncio.timeout(timeout_s) as limit:
                return await self._backend.respond(request)
        except TimeoutError as error:
            # One that the inference itself raised is a failure like any other.
            if timeout_s is None or not limit.expired():
                return await self._failure(error, request)
            self._check_for_hang()
            return timed_out(request, timeout_s)
        except Exception as error:
            return await self._failure(error, request)
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            return await self._failure(holdable(error), request)  # the author's code raised it

    async def _answer(self, request: Request, below: str, send: Send) -> None:
        response = await self._respond(request, below)
        if type(response) is SingleWriteResponse:  # it cannot fail half-way
            await response(request.scope, request.receive, send)
            return
        sender = _Sender(send)
        try:
            await response(request.scope, request.receive, sender)
        except Exception as error:
            await self._fail_late(error, request, sender)

    async def _pass_on(self, request: Request, send: Send) -> None:
        """Let the ``app`` of the class answer a request."""
        timeout_s = self.timeout_s
        sender = _Sender(send)
        try:
            async with asyncio.timeout(timeout_s) as limit:
                sender.on_start = lambda: limit.reschedule(None)
                await self._author_app.answer(request.scope, request.receive, sender)
        except TimeoutError as error:
            if timeout_s is None or not limit.expired():
                await self._fail_late(error, request, sender)
            else:
                self._check_for_hang()
                await timed_out(request, timeout_s)(request.scope, request.receive, send)
        except Exception as error:
            await self._fail_late(error, request, sender)

    async def _answer_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._backend.app is None:
            await send({"type": "websocket.close", "code": 1000, "reason": "no WebSocket is answered here"})
            return
        try:
            await self._author_app.answer(scope, receive, send)
        except WebSocketDisconnect:  # how a handler that reads in a loop ends
            return
        except Exception as error:
            await self._health.judge(error)
            raise

    async def _fail_late(self, error: Exception, request: Request, sender: _Sender) -> None:
        """Answer an error that was raised while an answer was sent; one that has begun breaks off."""
        if isinstance(error, ClientDisconnect):
            return
        failure = await self._failure(error, request)
        if sender.started:
            raise error
        await failure(request.scope, request.receive, sender)

    async def _failure(self, error: Exception, request: Request) -> Response:
        if isinstance(error, HTTPError):
            if _is_of_author(error) and error.status < FIRST_SERVER_ERROR:
                logger.info("answered %d, request %s: %s", error.status, request_id_of(request), error)
        elif await self._health.judge(error) and not isinstance(error, Fatal):
            fatal = Fatal(f"{type(error).__name__}: {error}")
            fatal.__cause__ = error
            return failure_of(fatal, request)
        return failure_of(error, request)

    def _check_for_hang(self) -> None:
        """Look at the inferences again when the oldest counts as hung: the gateway must know before Serve asks."""
        seconds = self._health.seconds_to_hang()
        if self._hang_check is None and seconds is not None:
            delay_s = max(0.0, seconds) + HANG_CHECK_DELAY_S
            self._hang_check = asyncio.get_running_loop().call_later(delay_s, self._hang_checked)

    def _hang_checked(self) -> None:
        self._hang_check = None
        if not self._health.notice_hang():
            self._check_for_hang()

    def _schema(self) -> dict[str, Any]:
        example = {} if self.example is None else {"example": self.example}
        app = {} if self._backend.app is None else {"app": True}
        return {"name": self._name, "methods": sorted(self._methods), **self._backend.schemas(), **example, **app}


class _Sender:
    """The ``send`` of a request, which knows whether the answer has begun."""

    def __init__(self, send: Send) -> None:
        self.started = False
        self.on_start = _nothing
        self._send = send

    async def __call__(self, message: Message) -> None:
        if not self.started:
            self.started = True
            self.on_start()
        await self._send(message)


def _nothing() -> None:
    """Stand for what is done when an answer begins."""


def _is_of_author(error: HTTPError) -> bool:
    """Return whether an inference raised an error; the reading of requests raises subclasses of modelserve."""
    kind = type(error)
    return kind is HTTPError or not kind.__module__.startswith("modelserve.")


def _is_cancelled() -> bool:
    """Return whether the running task is to end."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def path_below_route(scope: Scope) -> str:
    """Return what follows the route in the path of a request."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _not_found(request: Request) -> HTTPError:
    route = request.scope.get("root_path", "") or "/"
    return HTTPError(404, f"{request.scope['path']} is not answered here; use {route}")
