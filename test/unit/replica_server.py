"""A backend behind a real uvicorn on loopback, for tests of whole HTTP exchanges."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import modelserve
import uvicorn
from starlette.requests import Request


def backend_of(method: Any, **annotations: Any) -> modelserve.AlgoBackend:
    """Return a backend whose inference is a function of one argument, with other annotations where they are local."""
    if annotations:
        method.__annotations__ = annotations
    made: modelserve.AlgoBackend = type(
        "Backend", (modelserve.AlgoBackend,), {"_model_inference": staticmethod(method)}
    )()
    return made


@contextlib.contextmanager
def serving(answering: Any) -> Iterator[httpx.Client]:
    """Serve a callable that takes a request and returns a response; yield a client."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response = await answering(Request(scope, receive, send))
        await response(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off", http="httptools"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
