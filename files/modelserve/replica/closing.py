"""An answer whose generator is closed at its end, however it ends."""

from __future__ import annotations

import contextlib

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelserve.replica.generators import Stream


class ClosingResponse(Response):
    """The answer of a generator. When it has been sent, or the client has disconnected, the generator is closed."""

    def __init__(self, response: Response, stream: Stream) -> None:
        """Make the answer.

        Args:
            response: sends the items.
            stream: the generator.
        """
        self.status_code = response.status_code
        self.background = None
        self.raw_headers = response.raw_headers
        self._response = response
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        try:
            await self._response(scope, receive, send)
        finally:
            with contextlib.suppress(Exception):
                await self._stream.aclose()
