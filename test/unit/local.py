"""A package behind the local server's application and a real uvicorn on loopback, for tests of streams and ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import uvicorn
from modelserve.replica.local_server import load
from modelserve.serve.contract import AppArgs, UserConfig

ROUTE = "/echo"


@contextlib.contextmanager
def serving(args: AppArgs, **config: Any) -> Iterator[httpx.Client]:
    """Serve a package at /echo; yield a client of it."""
    started: queue.Queue[Any] = queue.Queue()

    async def serve() -> None:
        async with load(args, UserConfig(**config), ROUTE) as application:
            server = uvicorn.Server(
                uvicorn.Config(application, port=0, log_level="critical", lifespan="off", http="httptools")
            )
            running = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(0.005)
            started.put(server)
            await running

    def run() -> None:
        try:
            asyncio.run(serve())
        except Exception as error:
            started.put(error)

    thread = threading.Thread(target=run)
    thread.start()
    server = started.get(timeout=30)
    if isinstance(server, Exception):
        thread.join()
        raise server
    host, port = server.servers[0].sockets[0].getsockname()
    try:
        with httpx.Client(base_url=f"http://{host}:{port}", trust_env=False, timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
