"""Parses forms and query strings into names with texts and files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from modelserve.replica.bodies import DEFAULT_LIMIT, Head, read_chunks
from modelserve.replica.exceptions import InvalidBodyError
from modelserve.replica.uploads import OCTETS, Upload

MAX_FIELDS = 1000


async def parse_multipart(request: Request, head: Head) -> list[tuple[str, str | Upload]]:
    """Return the fields of a ``multipart/form-data`` body; large files go to the disk.

    Raises:
        InvalidBodyError: the body is not a complete form.
        HTTPError: the body cannot be read.
    """
    headers = Headers(raw=[(b"content-type", head[b"content-type"])])
    parser = _Parser(headers, read_chunks(request, head))
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidBodyError(f"the body is not multipart/form-data: {error.message}") from None
    if not parser.ended:
        raise InvalidBodyError("the body is not multipart/form-data: it ends before its closing boundary")
    return [(name, _upload(value) if isinstance(value, UploadFile) else value) for name, value in form.multi_items()]


def parse_pairs(text: bytes, what: str) -> list[tuple[str, str | Upload]]:
    """Return the fields of a query string or an ``application/x-www-form-urlencoded`` body.

    Args:
        text: the encoded fields.
        what: how an error names them.

    Raises:
        InvalidBodyError: they are not UTF-8, or too many.
    """
    try:
        pairs = parse_qsl(text.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise InvalidBodyError(f"{what} cannot be read: {error}") from None
    return list(pairs)


class _Parser(MultiPartParser):
    """Notes whether the form is complete; the original takes one that is cut off for a shorter one."""

    ended = False

    def __init__(self, headers: Headers, chunks: AsyncIterator[bytes]) -> None:
        # The whole body has a limit already; a field may be as long as it.
        super().__init__(headers, chunks, max_files=MAX_FIELDS, max_fields=MAX_FIELDS, max_part_size=DEFAULT_LIMIT)  # type: ignore[arg-type]

    def on_end(self) -> None:
        """Note that the closing boundary came."""
        self.ended = True


def _upload(part: UploadFile) -> Upload:
    return Upload(part.file, part.filename or "", part.content_type or OCTETS, part.size)
