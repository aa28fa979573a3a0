"""The catalog as a web application, behind the gateway: ``/readyz``, ``/openapi.json`` and ``/docs``."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelserve.catalog.readiness import Catalog
from modelserve.errors import UserError
from modelserve.ports import SERVICE_PORTS
from modelserve.settings import Settings

ADDRESS = "127.0.0.1"
PORT = SERVICE_PORTS["catalog"]
ALIVE_PATH = "/livez"
PAGE = Path(__file__).with_name("static")
# Swagger UI's files, as the image has them.
SWAGGER_UI = Path("/opt/lib/swagger-ui")
# Scripts, styles and requests of this origin's own alone. Swagger UI's pictures are in its style sheet.
HEADERS = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-cache",
}


def application(catalog: Catalog, swagger_ui: Path = SWAGGER_UI) -> Starlette:
    """The web application.

    Args:
        catalog: what it tells.
        swagger_ui: directory of Swagger UI's files.
    """

    async def ready(_: Request) -> Response:
        look = await catalog.look()
        return JSONResponse(look.as_dict(), 200 if look.ready else 503)

    async def ready_one(request: Request) -> Response:
        name = request.path_params["name"]
        look = await catalog.look()
        one = look.algorithms.get(name)
        if one is None and look.served is not None:
            known = ", ".join(look.algorithms) or "nothing"
            return JSONResponse({"status": "unknown", "info": f"no algorithm {name} is served; {known} is"}, 404)
        if one is None:
            return JSONResponse({"status": "not ready", "info": look.info}, 503)
        found = {"ready": one.ready, "replicas": one.replicas}
        info = f"{one.info}; {look.trouble}" if look.trouble else one.info
        status = "ok" if one.ready else "not ready"
        return JSONResponse({"status": status, "info": f"{name}: {info}", **found}, 200 if one.ready else 503)

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


class _Headers:
    """Adds the headers that bound what the page may do, to all answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS.items()]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


def run(settings: Settings, address: str = ADDRESS) -> None:
    """Answer on ``address`` until told to stop."""
    import uvicorn

    app = application(Catalog(settings))
    # The gateway logs what failed; questions once a second would fill a log of their own.
    uvicorn.run(app, host=address, port=PORT, log_level="warning", access_log=False, server_header=False)


def health() -> None:
    """Return when the catalog answers, whatever the algorithms do.

    Raises:
        UserError: it does not.
    """
    url = f"http://{ADDRESS}:{PORT}{ALIVE_PATH}"
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).close()
    except OSError as error:
        raise UserError(f"the catalog does not answer at {url}: {getattr(error, 'reason', error)}") from None
