"""The connection of a request: whether its client is connected, and how its answer is written.

Serve's HTTP server is uvicorn, whose ``receive`` is a method of the object that holds the state of a request. Where
``receive`` belongs to another server, a client counts as connected, and that server writes the answers.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class ClientDisconnectedError(Exception):
    """The client closed its connection: nothing would read the answer."""


class Client:
    """The sender of a request."""

    def __init__(self, request: Request | None = None) -> None:
        """Args: ``request``: None for one that came by no connection."""
        self._request = request
        self._cycle: Any = None if request is None else getattr(request.receive, "__self__", None)

    @property
    def request_id(self) -> str:
        """The id that the client or the gateway gave the request; empty where there is none."""
        return "" if self._request is None else self._request.headers.get("x-request-id", "")

    @property
    def disconnected(self) -> bool:
        """Whether the client closed its connection. Safe from any thread."""
        return getattr(self._cycle, "disconnected", False) is True

    def require_connected(self) -> None:
        """Raise an error unless the client is connected. Safe from any thread.

        Raises:
            ClientDisconnectedError: the client closed its connection.
        """
        if self.disconnected:
            raise ClientDisconnectedError("the client closed the connection before the inference began")


class SingleWriteResponse(Response):
    """A response whose head and body are written together: apart, they are two packets for each proxy on their way."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        cycle: Any = getattr(receive, "__self__", None)
        transport = getattr(cycle, "transport", None)
        if transport is None:
            await super().__call__(scope, receive, send)
            return
        cycle.transport = buffered = _BufferedTransport(transport)
        try:
            await super().__call__(scope, receive, send)
        finally:
            cycle.transport = transport
            buffered.flush()


class _BufferedTransport:
    """A transport that buffers what is written until it is flushed or closed."""

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
