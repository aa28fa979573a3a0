"""Serves one algorithm on this machine alone, without Ray. The algorithm's own Python runs it.

python -m modelserve.replica.local_server '{"app": {...AppArgs...}, "config": {...}, "port": 8001, ...}'
"""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from modelserve.errors import Problem, UserError
from modelserve.replica.arguments import LocalServerArgs
from modelserve.replica.author_app import Lifespan
from modelserve.replica.deployment import Algorithm
from modelserve.replica.exceptions import HTTPError
from modelserve.replica.responses import failure_of
from modelserve.serve.contract import AppArgs, UserConfig

HOST = "127.0.0.1"


class LocalApplication:
    """An ASGI application: the algorithm below its route, as Serve calls it.

    Attributes:
        cpu_threads: the number of CPU threads of the algorithm's numeric libraries.
    """

    def __init__(self, algorithm: Algorithm, route: str) -> None:
        self.cpu_threads = algorithm.cpu_threads
        self._application = algorithm.application
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; 404 for a path that is neither the route nor below it."""
        path = scope["path"]
        if path == self._route or path.startswith(f"{self._route}/"):
            await self._application({**scope, "root_path": self._route}, receive, send)
        else:
            await _refuse(scope, receive, send, f"only {self._route} is answered here")


async def _refuse(scope: Scope, receive: Receive, send: Send, info: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000, "reason": info})
    else:
        await failure_of(HTTPError(404, info), Request(scope))(scope, receive, send)


@asynccontextmanager
async def load(app: AppArgs, config: UserConfig, route: str) -> AsyncIterator[LocalApplication]:
    """Load an algorithm on the event loop that answers requests, and end it with the context.

    Args:
        app: what the replica is made of.
        config: what the section configures.
        route: path with its leading slash.

    Raises:
        Exception: whatever loading raises.
        RuntimeError: the warm-up request failed.
        UnhealthyError: the class's own ``check_health`` fails.
    """
    algorithm = Algorithm(app.model_dump())
    async with Lifespan(algorithm.application):
        await algorithm.reconfigure(config.model_dump())
        await algorithm.check_health()
        yield LocalApplication(algorithm, route)


def listen(port: int) -> socket.socket:
    """Return a socket that accepts connections on 127.0.0.1.

    Raises:
        UserError: the port is in use, or reserved for another user.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else "no such port"
        raise UserError(f"port {port} is not available on {HOST} ({reason})", "Choose another with --port") from None
    listener.listen()
    return listener


def curl_command(method: str, url: str, params: dict[str, Any]) -> str:
    """Return the shell command that sends a request to a route."""
    return shlex.join(["curl", "-X", method, url, "-d", json.dumps(params)])


async def serve(arguments: LocalServerArgs) -> None:
    """Load the algorithm, then answer requests until a signal arrives."""
    import uvicorn  # every environment has it from Ray; the tests' environment may not

    # Bound before the model is loaded: a port that is in use is reported without that wait.
    listener = listen(arguments.port)
    url = f"http://{HOST}:{arguments.port}{arguments.route}"
    command = curl_command(arguments.app.methods[0], url, arguments.config.warmup or {})
    async with load(arguments.app, arguments.config, arguments.route) as application:
        server = uvicorn.Server(uvicorn.Config(application, log_level="warning", lifespan="off"))
        ready = {"ok": True, "url": url, "try": command, "cpu_threads": application.cpu_threads}
        text = f"answering until Ctrl-C, CPU threads: {application.cpu_threads}; try:\n{command}"
        print(json.dumps(ready) if arguments.as_json else text, flush=True)
        await server.serve([listener])


def main(argument: str) -> int:
    """Serve the algorithm of the argument and return the exit code.

    Where it cannot be served, the code is 1 and one line names the cause, after the traceback of the author's code.
    """
    arguments = LocalServerArgs.model_validate_json(argument)
    try:
        asyncio.run(serve(arguments))
    except KeyboardInterrupt:
        return 0
    except UserError as error:
        problem = error.problems[0]
    except Exception as error:
        traceback.print_exc()  # the author's own code
        problem = Problem(f"{arguments.app.name} did not load: {type(error).__name__}: {error}")
    else:
        return 0
    if arguments.as_json:
        print(json.dumps({"ok": False, "problems": [problem.as_dict()]}))
    print(f"error: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
