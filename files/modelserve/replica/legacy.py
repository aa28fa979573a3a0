"""The legacy class API: a class of the original framework answers requests itself, as an ASGI-like callable."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from modelserve.replica.responses import failure_of, json_response
from modelserve.replica.uvicorn_compat import Client


def json_request(params: dict[str, Any], method: str = "GET", path: str = "/") -> Request:
    """Return a request as the HTTP server makes it, with ``params`` as its JSON body."""
    body = json.dumps(params).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
    return Request(scope, receive)


class LegacyBackend:
    """Runs a class of the legacy API on an event loop of its own.

    Such a class infers inside its coroutine; on the replica's loop that would stop health checks and queueing.
    """

    def __init__(self, instance: Callable[[Request], Awaitable[Any]], method: str) -> None:
        """Start the event loop.

        Args:
            instance: the object of the class.
            method: the HTTP method of the requests that :meth:`infer` makes.
        """
        self._instance = instance
        self._method = method
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="inference", daemon=True).start()

    async def infer(self, params: dict[str, Any]) -> Any:
        """Return what the class answers to a request with these parameters.

        Raises:
            Exception: whatever the class raises.
        """
        return await self._run(json_request(params, self._method))

    async def __call__(self, request: Request) -> Response:
        """Answer an HTTP request; an error of the class is answered 500."""
        await request.body()  # read here and kept by the request: its stream belongs to this loop
        try:
            answer = await self._run(request)
            return answer if isinstance(answer, Response) else json_response(answer)
        except Exception as error:
            return failure_of(error, request)

    async def _run(self, request: Request) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._answer(request), self._loop))

    async def _answer(self, request: Request) -> Any:
        Client(request).require_connected()
        return await self._instance(request)
