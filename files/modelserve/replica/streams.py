"""Streams: what a generator yields, sent item by item as it comes.

The first item decides the form: events are server-sent events, text and bytes are sent as they are, and other values
are lines of JSON, or events for a client that accepts these.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from modelserve.replica.encoding import encode
from modelserve.replica.responses import describe, failure_of, request_id_of
from modelserve.replica.results import Event
from modelserve.replica.types import EVENT_STREAM, JSON_LINES
from modelserve.replica.uploads import OCTETS

# A proxy that gathers an answer before it passes it on would hold the items back.
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
# Between two looks at a connection whose server has no end of a request to tell.
DISCONNECT_POLL_S = 0.1
_END = object()


class StreamAbortedError(Exception):
    """A stream failed after its first item, in a form that cannot tell the client: its connection is closed."""


@dataclass(frozen=True)
class Form:
    """The form of a stream.

    Attributes:
        media_type: content type of the answer.
        encode: returns the bytes of an item.
        encode_failure: returns the bytes that tell a failure, from its document; None where none can.
    """

    media_type: str
    encode: Callable[[Any], bytes]
    encode_failure: Callable[[Any], bytes] | None = None


class StreamResponse(Response):
    """The answer of a generator.

    An error before the first item is a failure as that of any request. A later one is an ``error`` event or a last line
    with the document of the failure; a stream of text or bytes ends without its end, so that no client takes it for
    complete. The generator is closed when the client disconnects.
    """

    def __init__(self, items: AsyncIterator[Any] | Iterator[Any], request: Request) -> None:
        """Make the answer.

        Args:
            items: what is sent; a plain iterator runs in a thread.
            request: the request.
        """
        super().__init__()
        self._items: Any = items if isinstance(items, AsyncIterator) else _InThread(items)
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream.

        Raises:
            StreamAbortedError: it failed after its first item, and its form cannot tell.
        """
        sending = asyncio.ensure_future(self._send(scope, receive, send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            sending.cancel()
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await sending
            finally:
                await self._close()

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            first = await anext(self._items, _END)
            form = form_of(first, accepts_events(self._request))
            body = b"" if first is _END else form.encode(first)
        except Exception as error:
            await failure_of(error, self._request)(scope, receive, send)
            return
        headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
        headers.append((b"content-type", form.media_type.encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if first is not _END:
            await send(_part(body))
            await self._send_rest(form, send)
        await send(_part(b"", more=False))

    async def _send_rest(self, form: Form, send: Send) -> None:
        while True:
            try:
                item = await anext(self._items, _END)
                if item is _END:
                    return
                part = _part(form.encode(item))
            except Exception as error:
                await send(_part(self._failure(error, form)))
                return
            await send(part)

    def _failure(self, error: Exception, form: Form) -> bytes:
        """Return the bytes that tell the client of a failure after the first item."""
        request_id = request_id_of(self._request)
        failure = describe(error, request_id)
        if form.encode_failure is None:
            raise StreamAbortedError(f"the stream of request {request_id} failed after its first item") from error
        return form.encode_failure(failure.document(request_id))

    async def _close(self) -> None:
        """End the generator, so that its ``finally`` runs now."""
        if hasattr(self._items, "aclose"):
            with contextlib.suppress(Exception):  # of the author's own `finally`
                await self._items.aclose()


class _InThread:
    """A plain iterator as an async one. It is closed when no thread runs it."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._lock = threading.Lock()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        item = await run_in_threadpool(self._next)
        if item is _END:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """End the iterator, once its next item is there."""
        await run_in_threadpool(self._close)

    def _next(self) -> Any:
        with self._lock:
            return next(self._items, _END)

    def _close(self) -> None:
        with self._lock:
            if hasattr(self._items, "close"):
                self._items.close()


def form_of(first: Any, events: bool) -> Form:
    """Return the form of a stream.

    Args:
        first: its first item.
        events: whether the client accepts server-sent events.
    """
    if isinstance(first, Event) or (events and not isinstance(first, bytes)):
        return Form(f"{EVENT_STREAM}; charset=utf-8", encode_event, _encode_error_event)
    if isinstance(first, str):
        return Form("text/plain; charset=utf-8", _encode_text)
    if isinstance(first, bytes | bytearray | memoryview):
        return Form(OCTETS, _encode_text)
    return Form(JSON_LINES, _encode_line, _encode_line)


def accepts_events(request: Request) -> bool:
    """Return whether the client names server-sent events in its ``Accept`` header."""
    return EVENT_STREAM in request.headers.get("accept", "").lower()


def encode_event(item: Any) -> bytes:
    """Return a server-sent event; a value that is none becomes the JSON data of one.

    Raises:
        ValueError: a line break is where the format has no place for one.
        InvalidResultError: the data is neither text nor JSON.
    """
    event = item if isinstance(item, Event) else Event(encode(item).decode())
    fields = {"event": event.event, "id": event.id, "retry": event.retry}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    if any("\n" in line or "\r" in line or "\0" in line for line in lines):
        raise ValueError(f"an event's type or id has a line break: {lines}")
    data = event.data if isinstance(event.data, str) else encode(event.data).decode()
    # A line ends with \r\n, \n or \r; str.splitlines knows more ends.
    lines += [f"data: {line}" for line in data.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return ("\n".join(lines) + "\n\n").encode()


def _encode_error_event(failure: Any) -> bytes:
    return encode_event(Event(failure, event="error"))


def _encode_text(item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    raise TypeError(f"a stream of text or bytes yielded a {type(item).__name__}")


def _encode_line(item: Any) -> bytes:
    return encode(item) + b"\n"


def _part(body: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def _disconnected(receive: Receive) -> None:
    """Return when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        await asyncio.sleep(DISCONNECT_POLL_S)
