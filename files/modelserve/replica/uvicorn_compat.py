"""The connection a request came by: is its client still there, and how is its answer written?

Serve's HTTP server is uvicorn, whose ``receive`` is a method of all that it keeps of a request. Where ``receive`` is
another's, nothing is known of the connection, and answers are written as the server does it.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class ClientLeft(Exception):
    """Whoever asked has closed the connection: nobody would read the answer."""


class Client:
    """Whoever sent a request."""

    def __init__(self, request: Request | None = None) -> None:
        """Args: ``request``; none for one that came by no connection."""
        self._cycle: Any = None if request is None else getattr(request.receive, "__self__", None)

    def require(self) -> None:
        """Go on only while the client waits; from any thread.

        Raises:
            ClientLeft: it has closed its connection.
        """
        if getattr(self._cycle, "disconnected", False) is True:
            raise ClientLeft("the client closed the connection before the inference began")


class Answer(Response):
    """A response whose head and body leave together: apart, they are two packets for each proxy on their way."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        cycle: Any = getattr(receive, "__self__", None)
        transport = getattr(cycle, "transport", None)
        if transport is None:
            await super().__call__(scope, receive, send)
            return
        cycle.transport = held = _Held(transport)
        try:
            await super().__call__(scope, receive, send)
        finally:
            cycle.transport = transport
            held.flush()


class _Held:
    """In the place of a transport: keeps what is written until it is flushed or closed."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._written.append(data)

    def flush(self) -> None:
        if self._written:
            written, self._written = self._written, []
            self._transport.writelines(written)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
