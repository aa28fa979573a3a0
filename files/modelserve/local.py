"""Answers one algorithm's requests on this machine alone, without Ray: run by the algorithm's own Python.

python -m modelserve.local '{"app": {...AppArgs...}, "config": {...}, "port": 8001, "route": "/echo"}'
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelserve.serving import Algorithm


class Local:
    """An ASGI application: the algorithm below its route, as Serve would call it."""

    def __init__(self, algorithm: Algorithm, route: str) -> None:
        self._algorithm = algorithm
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; 404 for any path but the route and ``<route>/schema``."""
        path = scope["path"]
        if path not in (self._route, f"{self._route}/schema"):
            await Response(f"Only {self._route} is answered here.\n", 404)(scope, receive, send)
            return
        response = await self._algorithm(Request({**scope, "root_path": self._route}, receive))
        await response(scope, receive, send)


def application(app: dict[str, Any], config: dict[str, Any], route: str) -> Local:
    """Load an algorithm, and ask it the warm-up request.

    Args:
        app: fields of :class:`modelserve.serving.AppArgs`.
        config: what :meth:`modelserve.serving.Algorithm.reconfigure` takes.
        route: with its leading slash.

    Raises:
        Exception: whatever loading raises; RuntimeError for a warm-up that fails.
    """
    algorithm = Algorithm(app)
    asyncio.run(algorithm.reconfigure(config))
    return Local(algorithm, route)


def main(argument: str) -> None:
    question = json.loads(argument)
    local = application(question["app"], question["config"], question["route"])
    body = json.dumps(question["config"].get("warmup") or {}).replace("'", "'\\''")
    method = question["app"]["methods"][0]
    url = f"http://127.0.0.1:{question['port']}{question['route']}"
    print(f"answering; try: curl -X {method} {url} -d '{body}'", flush=True)
    import uvicorn  # in every environment, from Ray; the tests' has none

    uvicorn.run(local, host="127.0.0.1", port=question["port"], log_level="warning", lifespan="off")


if __name__ == "__main__":
    main(sys.argv[1])
