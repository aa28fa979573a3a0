"""The outermost ASGI application of a replica's HTTP server: it answers the algorithm's requests itself.

Serve's own wrappers around a request cost half of a small one. What they do for the cluster is done here, by Serve's
own objects: the limit of requests at the same time, the count of those in flight (a drain waits for them, autoscaling
follows them), the metrics, and the context from which log lines take the request id. Everything else, such as Serve's
health check, stays with Serve.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("ray.serve")

REQUEST_ID = b"x-request-id"


@dataclass(frozen=True)
class ServeReplica:
    """What a request needs of Serve's replica.

    Attributes:
        prefix: the path below which the algorithm answers.
        application: the name of the Serve application.
        deployment: the name of its deployment.
        protocol: Serve's mark of HTTP.
        slots: the limit of requests at the same time (``acquire``, ``release``).
        metrics: counts of requests, and their durations.
        context: makes what log lines and calls of other deployments know of a request.
        current_context: holds it.
        route_of: returns the route of a request, by which metrics tell requests apart.
        on_cancelled: ends what a cancelled request has called in other deployments.
        on_failed: called with an error that nothing else handled.
    """

    prefix: str
    application: str
    deployment: str
    protocol: Any
    slots: Any
    metrics: Any
    context: Callable[..., Any]
    current_context: ContextVar[Any]
    route_of: Callable[[Scope], str]
    on_cancelled: Callable[[Any, asyncio.CancelledError], None]
    on_failed: Callable[[Any, Exception], None]


class Front:
    """Answers what lies below the algorithm's route, and passes everything else on to Serve."""

    def __init__(self, serve_app: ASGIApp, serve: ServeReplica, application: ASGIApp) -> None:
        """Stand before Serve.

        Args:
            serve_app: Serve's ASGI application of this replica.
            serve: Serve's replica.
            application: answers the algorithm's requests.
        """
        self._serve_app = serve_app
        self._serve = serve
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or a WebSocket."""
        if scope["type"] == "lifespan" or not scope["path"].startswith(self._serve.prefix):
            await self._serve_app(scope, receive, send)
            return
        scope["root_path"] = self._serve.prefix
        async with _Counted(self._serve, scope, send) as counted:
            await self._application(scope, receive, counted.send)


class _Counted:
    """A request as Serve counts it. An error that the application raises is logged and ends here, as with Serve.

    Attributes:
        is_direct_ingress: Serve reads this of a request, as it does the next two.
        protocol: Serve's mark of HTTP.
        internal_request_id: under which Serve keeps what the request calls in other deployments.
    """

    __slots__ = ("_began", "_route", "_scope", "_send", "_serve", "_status", "internal_request_id", "protocol")
    _numbers = count()
    is_direct_ingress = True

    def __init__(self, serve: ServeReplica, scope: Scope, send: Send) -> None:
        self._serve = serve
        self._scope = scope
        self._send = send
        self._status = ""
        self._route = serve.route_of(scope)
        self._began = time.time()
        self.protocol = serve.protocol
        self.internal_request_id = str(next(self._numbers))

    async def __aenter__(self) -> _Counted:
        serve = self._serve
        serve.current_context.set(
            serve.context(
                route=self._route,
                request_id=request_id_of(self._scope),
                _internal_request_id=self.internal_request_id,
                app_name=serve.application,
                cancel_on_parent_request_cancel=True,
            )
        )
        try:
            await serve.slots.acquire()
        except asyncio.CancelledError as error:
            self._note(error)
            raise
        serve.metrics.inc_num_ongoing_requests(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._serve.metrics.dec_num_ongoing_requests(self)
        self._serve.slots.release()
        self._note(error)
        return isinstance(error, Exception | asyncio.CancelledError)

    async def send(self, message: Message) -> None:
        """Send a message of the answer."""
        if not self._status and message["type"] == "http.response.start":
            self._status = str(message["status"])
        await self._send(message)

    def _note(self, error: BaseException | None) -> None:
        serve = self._serve
        if isinstance(error, asyncio.CancelledError):
            serve.on_cancelled(self, error)
        elif isinstance(error, Exception):
            logger.error("request failed, request %s", request_id_of(self._scope), exc_info=error)
            serve.on_failed(self, error)
        milliseconds = (time.time() - self._began) * 1000
        serve.metrics.record_request_metrics(
            route=self._route,
            latency_ms=milliseconds,
            is_error=error is not None,
            exception_type=None if error is None else type(error).__name__,
        )
        if self._status:  # a WebSocket has none
            serve.metrics.record_ingress_request_metrics(
                protocol=serve.protocol,
                method=self._scope["method"],
                route=self._route,
                app_name=serve.application,
                deployment_name=serve.deployment,
                latency_ms=milliseconds,
                is_error=self._status[0] in "45",
                status_code=self._status,
            )


def request_id_of(scope: Scope) -> str:
    """Return the id that the gateway gave a request; one without any gets a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID:
            return str(value, "latin-1")
    request_id = uuid.uuid4().hex
    scope["headers"] = [*scope["headers"], (REQUEST_ID, request_id.encode())]
    return request_id
