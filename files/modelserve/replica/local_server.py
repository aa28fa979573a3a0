"""Answers one algorithm's requests on this machine alone, without Ray: run by the algorithm's own Python.

python -m modelserve.replica.local_server '{"app": {...AppArgs...}, "config": {...}, "port": 8001, ...}'
"""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
import sys
import traceback
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelserve.errors import Problem, UserError
from modelserve.replica.deployment import Algorithm

HOST = "127.0.0.1"


class Local:
    """An ASGI application: the algorithm below its route, as Serve would call it."""

    def __init__(self, algorithm: Algorithm, route: str) -> None:
        self._algorithm = algorithm
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; 404 for any path that is neither the route nor below it."""
        path = scope["path"]
        if path != self._route and not path.startswith(f"{self._route}/"):
            await Response(f"Only {self._route} is answered here.\n", 404)(scope, receive, send)
            return
        response = await self._algorithm(Request({**scope, "root_path": self._route}, receive))
        await response(scope, receive, send)


async def application(app: dict[str, Any], config: dict[str, Any], route: str) -> Local:
    """Load an algorithm, and ask it the warm-up request, on the event loop it will answer on.

    Args:
        app: fields of :class:`modelserve.serve.contract.AppArgs`.
        config: what :meth:`modelserve.replica.deployment.Algorithm.reconfigure` takes.
        route: with its leading slash.

    Raises:
        Exception: whatever loading raises; RuntimeError for a warm-up that fails.
    """
    algorithm = Algorithm(app)
    await algorithm.reconfigure(config)
    return Local(algorithm, route)


def listen(port: int) -> socket.socket:
    """A socket that takes connections on 127.0.0.1.

    Raises:
        UserError: the port is taken, or not this user's to have.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else "no such port"
        raise UserError(f"port {port} cannot be had on {HOST} ({reason})", "Choose another with --port") from None
    listener.listen()
    return listener


def question_line(method: str, url: str, params: dict[str, Any]) -> str:
    """The command that asks a route, as a shell takes it."""
    return shlex.join(["curl", "-X", method, url, "-d", json.dumps(params)])


async def serve(question: dict[str, Any]) -> None:
    """Load, then answer until a signal comes."""
    import uvicorn  # in every environment, from Ray; the tests' has none

    # Had before the model is loaded: who has to wait for that should not hear of a taken port afterwards.
    listener = listen(question["port"])
    local = await application(question["app"], question["config"], question["route"])
    server = uvicorn.Server(uvicorn.Config(local, log_level="warning", lifespan="off"))
    url = f"http://{HOST}:{question['port']}{question['route']}"
    line = question_line(question["app"]["methods"][0], url, question["config"].get("warmup") or {})
    ready = json.dumps({"ok": True, "url": url, "try": line})
    print(ready if question.get("json") else f"answering until Ctrl-C; try:\n{line}", flush=True)
    await server.serve([listener])


def main(argument: str) -> int:
    """Serve what the argument says; 1 where that cannot be, told in one line, after the traceback of what loads."""
    question = json.loads(argument)
    try:
        asyncio.run(serve(question))
        return 0
    except KeyboardInterrupt:
        return 0
    except UserError as error:
        problem = error.problems[0]
    except Exception as error:
        traceback.print_exc()  # the author's own code
        problem = Problem(f"{question['app']['name']} did not load: {type(error).__name__}: {error}")
    if question.get("json"):
        print(json.dumps({"ok": False, "problems": [problem.as_dict()]}))
    print(f"error: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
