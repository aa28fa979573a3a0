"""The catalog as a web application, behind the gateway: ``/readyz``, ``/openapi.json`` and ``/docs``."""

from __future__ import annotations

import socket
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelserve.catalog.catalog import Catalog
from modelserve.catalog.readiness import LOCALHOST, Snapshot, get
from modelserve.errors import UserError
from modelserve.ports import SERVICE_PORTS
from modelserve.settings import Settings

ADDRESS = LOCALHOST
PORT = SERVICE_PORTS["catalog"]
ALIVE_PATH = "/livez"
HEALTH_TIMEOUT_S = 5
PAGE = Path(__file__).with_name("static")
# Swagger UI's files in the image.
SWAGGER_UI = Path("/opt/lib/swagger-ui")
# The page may load scripts and styles of this origin alone. Swagger UI's own pictures are in its style sheet, as data;
# an answer's picture is a blob. Sound and video are downloaded, so that no `media-src` is needed.
HEADERS = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-cache",
}


def application(catalog: Catalog, swagger_ui: Path = SWAGGER_UI) -> Starlette:
    """Return the web application.

    Args:
        catalog: source of its answers.
        swagger_ui: directory of Swagger UI's files.
    """

    async def ready(_: Request) -> Response:
        snapshot = await catalog.snapshot()
        return JSONResponse(snapshot.as_dict(), 200 if snapshot.ready else 503)

    async def ready_one(request: Request) -> Response:
        return _readiness_answer(await catalog.snapshot(), request.path_params["name"])

    async def document(_: Request) -> Response:
        try:
            return JSONResponse(await catalog.document())
        except UserError as error:
            return JSONResponse({"status": 0, "info": str(error)}, 503)

    async def alive(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def page(_: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    routes = [
        Route("/readyz", ready),
        Route("/readyz/{name}", ready_one),
        Route("/openapi.json", document),
        Route("/docs", page),
        Route("/docs/", page),
        Mount("/docs/swagger-ui", StaticFiles(directory=swagger_ui, check_dir=False)),
        Mount("/docs", StaticFiles(directory=PAGE)),
        Route(ALIVE_PATH, alive),
    ]
    return Starlette(routes=routes, middleware=[Middleware(_Headers)])


def _readiness_answer(snapshot: Snapshot, name: str) -> Response:
    """Return the answer of ``/readyz/<name>``."""
    readiness = snapshot.algorithms.get(name)
    if readiness is None and snapshot.served is not None:
        served = ", ".join(snapshot.algorithms) or "nothing"
        return JSONResponse({"status": "unknown", "info": f"no algorithm {name} is served; {served} is"}, 404)
    if readiness is None:
        return JSONResponse({"status": "not ready", "info": snapshot.info}, 503)
    info = "; ".join(text for text in (readiness.info, snapshot.degraded_reason) if text)
    answer = {
        "status": "ok" if readiness.ready else "not ready",
        "info": f"{name}: {info}",
        "ready": readiness.ready,
        "replicas": readiness.replicas,
    }
    return JSONResponse(answer, 200 if readiness.ready else 503)


class _Headers:
    """Adds the headers that limit the page to all answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS.items()]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


def run(settings: Settings, address: str = ADDRESS) -> None:
    """Serve the catalog until the process is stopped.

    Args:
        settings: the head's settings.
        address: address to listen on.
    """
    import uvicorn

    app = application(Catalog(settings))
    # The gateway logs failed requests; health checks would fill this log.
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    with listener(address, PORT) as server:
        uvicorn.Server(config).run(sockets=[server])


def listener(address: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; ``::`` stands for all of IPv6 and IPv4.

    Args:
        address: address to listen on.
        port: TCP port; 0 chooses one.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, dualstack_ipv6=address == "::")


def health() -> None:
    """Return when the catalog answers, whether or not the algorithms are ready.

    Raises:
        UserError: it does not answer.
    """
    url = f"http://{ADDRESS}:{PORT}{ALIVE_PATH}"
    try:
        get(url, HEALTH_TIMEOUT_S)
    except OSError as error:
        raise UserError(f"the catalog does not answer at {url}: {getattr(error, 'reason', error)}") from None
