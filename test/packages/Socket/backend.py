"""Brings an ASGI application of its own: a WebSocket, and a page below the route."""

from __future__ import annotations

from typing import Any

import modelserve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket


class Socket(modelserve.AlgoBackend):
    """Its ``app`` answers all below the route."""

    def _model_init(self, model_path_lst: list[str] | None = None) -> None:
        self.app = Starlette(routes=[Route("/page/{name}", self.page), WebSocketRoute("/echo", self.echo)])

    async def page(self, request: Request) -> Response:
        """Answer a page."""
        return PlainTextResponse(f"{request.path_params['name']} {request.query_params.get('q', '')}")

    async def echo(self, socket: WebSocket) -> None:
        """Send back each message, until the client leaves."""
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text.upper())

    def _model_inference(self, params: dict[str, Any]) -> Any:
        return params
