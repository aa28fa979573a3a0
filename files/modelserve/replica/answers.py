"""The HTTP answer to what an inference returns.

| returned | answer |
|---|---|
| a value that JSON can express, text included | ``{"status": 1, "result": ..., "info": ...}`` |
| ``bytes`` | the bytes, ``application/octet-stream`` |
| :class:`modelserve.File` | the file, in ranges where the client asks for them |
| an image of Pillow | PNG |
| a :class:`starlette.responses.Response` | as it is |
| a generator or another iterator, async or not | a stream |
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from modelserve.replica.responses import failure_of, json_response, success
from modelserve.replica.results import File
from modelserve.replica.streams import StreamResponse
from modelserve.replica.uploads import OCTETS
from modelserve.replica.uvicorn_compat import SingleWriteResponse

_JSON_TYPES = frozenset({dict, list, str, int, float, bool, tuple, type(None)})
_BYTES = bytes | bytearray | memoryview


def answer_of(result: Any, request: Request, *, envelope: bool = True) -> Response:
    """Return the answer to a request.

    Args:
        result: what the inference returned. A generator of a sync inference should come as an async iterator that runs
            it in the inference's thread; a plain one runs in another thread.
        request: the request.
        envelope: whether a JSON value is the ``result`` of a document, or the whole answer, as for a class of the
            legacy API.

    Raises:
        InvalidResultError: it holds a value that JSON cannot express.
        OSError: the file of a :class:`File` cannot be read.
    """
    if type(result) not in _JSON_TYPES:  # the rule comes first
        response = _special(result, request)
        if response is not None:
            return response
    return json_response(success(result) if envelope else result)


def _special(result: Any, request: Request) -> Response | None:
    """Return the answer to a result that is not sent as JSON, else None."""
    if isinstance(result, Response):
        return result
    if isinstance(result, _BYTES):
        return SingleWriteResponse(bytes(result), media_type=OCTETS)
    if isinstance(result, File):
        return _file_response(result)
    if _is_image(result):
        return ImageResponse(result, request)
    if isinstance(result, AsyncIterator | Iterator):
        return StreamResponse(result, request)
    return None


def _file_response(file: File) -> Response:
    # Now: an error is a failure of the request as long as nothing is sent.
    stat = Path(file.path).stat()
    return FileResponse(file.path, media_type=file.media_type, filename=file.filename, stat_result=stat)


class ImageResponse(Response):
    """An image of Pillow as PNG, which is made in a thread."""

    def __init__(self, image: Any, request: Request) -> None:
        """Make the answer.

        Args:
            image: an image of Pillow.
            request: the request.
        """
        super().__init__()
        self._image = image
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the image; one that cannot be written is a failure of the request."""
        try:
            content = await run_in_threadpool(_png, self._image)
        except Exception as error:
            response = failure_of(error, self._request)
        else:
            response = SingleWriteResponse(content, media_type="image/png")
        await response(scope, receive, send)


def _is_image(result: Any) -> bool:
    """Return whether a value is an image of Pillow, which an environment need not have."""
    return all(hasattr(result, name) for name in ("save", "format", "mode", "convert"))


def _png(image: Any) -> bytes:
    content = io.BytesIO()
    try:
        image.save(content, format="PNG")
    except OSError:  # PNG has no such mode, as CMYK
        content = io.BytesIO()
        image.convert("RGB").save(content, format="PNG")
    return content.getvalue()
