"""Reads the body of a request: counted against a limit, and unpacked where it is compressed."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping

from starlette.requests import Request

from modelserve.replica.exceptions import ContentTooLargeError, InvalidBodyError, UnsupportedMediaTypeError
from modelserve.replica.uvicorn_compat import ClientDisconnectedError

# The gateway sends it, with its own limit, where it cannot check a body itself: the length is unknown, or it is packed.
LIMIT_HEADER = b"x-modelserve-max-body"
DEFAULT_LIMIT = 64 * 2**20
# Unpacked between two turns of the event loop: some milliseconds of work.
PIECE = 256 * 1024
# zlib's windowBits: 32 + 15 tells gzip from zlib by the header, -15 is deflate without one.
GZIP_OR_ZLIB, RAW_DEFLATE = 47, -15
ENCODINGS = ("gzip", "x-gzip", "deflate")

Head = Mapping[bytes, bytes]  # the headers of a request that say how to read its body


async def read_body(request: Request, head: Head) -> bytes:
    """Return the whole body of a request that nobody has read.

    Args:
        request: the request.
        head: its headers.

    Raises:
        ContentTooLargeError: the body exceeds the limit.
        UnsupportedMediaTypeError: it is packed in a way that is not understood.
        InvalidBodyError: it cannot be unpacked.
        ClientDisconnectedError: the client closed its connection.
    """
    if b"content-encoding" in head or b"transfer-encoding" in head or LIMIT_HEADER in head:
        return b"".join([chunk async for chunk in read_chunks(request, head)])
    body, more = await _receive(request)  # one message is the rule
    if not more:
        return body
    chunks = [body]
    while more:
        body, more = await _receive(request)
        chunks.append(body)
    return b"".join(chunks)


async def read_chunks(request: Request, head: Head) -> AsyncIterator[bytes]:
    """Yield the body of a request in pieces, none of which is empty. It raises what :func:`read_body` raises."""
    limit, encoding = _limit(head), _encoding(head)
    total, more = 0, True
    unpacker = Unpacker(encoding) if encoding else None
    while more:
        chunk, more = await _receive(request)
        for piece in (chunk,) if unpacker is None else unpacker.pieces(chunk):
            total += len(piece)
            if limit is not None and total > limit:
                raise ContentTooLargeError(limit, unpacked=unpacker is not None)
            if piece:
                yield piece
            if unpacker is not None:
                await asyncio.sleep(0)
    if unpacker is not None:
        unpacker.require_end()


class Unpacker:
    """Unpacks a body piece by piece, so that a small body that unpacks to a huge one is noticed in time."""

    def __init__(self, encoding: str) -> None:
        """Args: ``encoding``: one of :data:`ENCODINGS`."""
        self._encoding = encoding
        self._unpacker = zlib.decompressobj(GZIP_OR_ZLIB)
        self._begun = False

    def pieces(self, packed: bytes) -> Iterator[bytes]:
        """Yield what the next part of the body unpacks to, in pieces of at most :data:`PIECE` bytes.

        Raises:
            InvalidBodyError: it is not of the encoding.
        """
        full = False  # a full piece may have left some output behind, with no input for it
        while packed or (full and not self._unpacker.eof):
            if self._unpacker.eof:  # gzip allows several members, one after the other
                self._unpacker = zlib.decompressobj(GZIP_OR_ZLIB)
            piece = self._unpacked(packed)
            yield piece
            full = len(piece) == PIECE
            packed = self._unpacker.unconsumed_tail or self._unpacker.unused_data

    def require_end(self) -> None:
        """Raise an error unless the body is complete.

        Raises:
            InvalidBodyError: it is not.
        """
        if not self._unpacker.eof and self._begun:
            raise InvalidBodyError(f"the body ends in the middle of its {self._encoding} data")

    def _unpacked(self, packed: bytes) -> bytes:
        first, self._begun = not self._begun, True
        try:
            return self._unpacker.decompress(packed, PIECE)
        except zlib.error as error:
            problem = InvalidBodyError(f"the body is not {self._encoding}, as its Content-Encoding names it: {error}")
            if not first or self._encoding != "deflate":
                raise problem from None
        # Some clients send deflate without zlib's header.
        self._unpacker = zlib.decompressobj(RAW_DEFLATE)
        try:
            return self._unpacker.decompress(packed, PIECE)
        except zlib.error:
            raise problem from None


async def _receive(request: Request) -> tuple[bytes, bool]:
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnectedError("the client closed the connection before its request was complete")
    return message.get("body", b""), message.get("more_body", False)


def _limit(head: Head) -> int | None:
    """Return the limit of the body in bytes, or None where the gateway has checked the length."""
    value = head.get(LIMIT_HEADER, b"")
    if value.isdigit():
        return int(value)
    return DEFAULT_LIMIT if b"content-encoding" in head or b"transfer-encoding" in head else None


def _encoding(head: Head) -> str:
    value = head.get(b"content-encoding", b"").decode("latin-1").strip().lower()
    if value in ("", "identity"):
        return ""
    if value not in ENCODINGS:
        message = f"Content-Encoding {value} is not understood; send gzip, deflate, or the body as it is"
        raise UnsupportedMediaTypeError(message, {"Accept-Encoding": "gzip, deflate"})
    return value
