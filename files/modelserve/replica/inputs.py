"""What an inference gets of a request: its JSON object, query, form or file, in the annotated type.

| request | parameters |
|---|---|
| a JSON object | its fields |
| no body | the fields of the query; none are an empty object |
| a form | its fields; files are uploads |
| any body, for an inference that takes ``bytes`` or an ``Upload`` | the body |
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from modelserve.replica.bodies import LIMIT_HEADER, Head, read_body, read_chunks
from modelserve.replica.exceptions import InvalidBodyError, UnsupportedMediaTypeError
from modelserve.replica.fields import FILE_KEY, Pairs, is_file_name
from modelserve.replica.forms import parse_multipart, parse_pairs
from modelserve.replica.json_text import parse
from modelserve.replica.types import JSON, MULTIPART, URLENCODED, Types
from modelserve.replica.uploads import OCTETS, Upload, from_base64

_HEADERS = frozenset({b"content-type", b"content-encoding", b"transfer-encoding", LIMIT_HEADER})
# Above this size in bytes a file lies on the disk.
SPOOL_SIZE = 2**20
EMPTY_FILE = "the body is empty; send the file as the body"


async def read_params(request: Request, types: Types) -> Any:
    """Return what the inference gets of a request.

    Args:
        request: the request; nobody has read its body.
        types: the types of the inference.

    Returns:
        A dictionary, or an instance of the annotated type.

    Raises:
        InvalidBodyError: the body, the form or the query cannot be read.
        InvalidInputError: a field does not fit the annotation.
        ContentTooLargeError: the body exceeds the limit.
        UnsupportedMediaTypeError: the body is of a type or an encoding that is not understood.
        ClientDisconnectedError: the client closed its connection.
    """
    head = {name: value for name, value in request.scope["headers"] if name in _HEADERS}
    media_type = _media_type(head.get(b"content-type", b""))
    if media_type == MULTIPART:
        return await _read_form(request, head, types)
    if types.raw and media_type != JSON:
        return types.check_file(await _read_file(request, head, types))
    body = await read_body(request, head)
    if types.raw:
        return types.check_file(_file_of_json(body, types))
    if not body:
        return _params_of_query(request, types)
    if media_type == URLENCODED and body.lstrip()[:1] != b"{":  # curl names this type for any data
        return types.check_pairs(parse_pairs(body, "the form"))
    return types.check(_json_object(body, media_type, types))


def warmup_params(types: Types, warmup: Mapping[str, Any], package_dir: Path) -> Any:
    """Return what the inference gets for a warm-up request.

    Args:
        types: the types of the inference.
        warmup: the section's ``warmup``: the request's JSON object, with ``{"file": "<name>"}`` in the place of a
            file; that is the whole of it for an inference that takes a body.
        package_dir: the package's directory, which has the files.

    Raises:
        ValueError: the file is not in the directory.
        InvalidInputError: a field does not fit the annotation.
    """
    if not types.raw:
        return types.check_warmup(dict(warmup), lambda name: package_file(name, package_dir))
    if not is_file_name(warmup):
        raise ValueError(f'the inference takes a file: write warmup = {{"{FILE_KEY}": "<a file of the package>"}}')
    return types.check_file(package_file(warmup[FILE_KEY], package_dir))


def package_file(name: str, package_dir: Path) -> Upload:
    """Return a file that a warm-up request names, with the media type that its name has.

    Raises:
        ValueError: it is not in the package's directory.
    """
    path = (package_dir / name).resolve()
    if not path.is_relative_to(package_dir.resolve()) or not path.is_file():
        raise ValueError(f"warmup names the file '{name}', which is not in the package's directory")
    return Upload.of(path.read_bytes(), path.name, mimetypes.guess_type(path.name)[0] or OCTETS)


@lru_cache(256)
def _media_type(content_type: bytes) -> str:
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")


async def _read_form(request: Request, head: Head, types: Types) -> Any:
    pairs = await parse_multipart(request, head)
    if types.raw:
        files = [value for _, value in pairs if isinstance(value, Upload)]
        if len(files) != 1:
            raise InvalidBodyError(f"the form has {len(files)} files; send one")
        pairs = [("", files[0])]
    if any(isinstance(value, Upload) and value.size > SPOOL_SIZE for _, value in pairs):
        return await run_in_threadpool(_params_of_form, pairs, types)  # it may read from the disk
    return _params_of_form(pairs, types)


def _params_of_form(pairs: Pairs, types: Types) -> Any:
    if not types.raw:
        return types.check_pairs(pairs)
    ((_, file),) = pairs
    assert isinstance(file, Upload)
    return types.check_file(file)


async def _read_file(request: Request, head: Head, types: Types) -> Upload | bytes:
    """Return a body as a file, or as bytes where the inference takes these."""
    if not types.raw_upload:
        body = await read_body(request, head)
        if not body:
            raise InvalidBodyError(EMPTY_FILE)
        return body
    spool = SpooledTemporaryFile(max_size=SPOOL_SIZE)  # noqa: SIM115 - the inference reads it
    size = 0
    async for chunk in read_chunks(request, head):
        size += len(chunk)
        if size > SPOOL_SIZE:
            await run_in_threadpool(spool.write, chunk)
        else:
            spool.write(chunk)
    if not size:
        raise InvalidBodyError(EMPTY_FILE)
    content_type = head.get(b"content-type", b"")
    if _media_type(content_type) == URLENCODED:  # curl names this type for any data
        content_type = b""
    return Upload(cast(BinaryIO, spool), content_type=content_type.decode("latin-1"), size=size)


def _file_of_json(body: bytes, types: Types) -> bytes:
    text = parse(body)
    if not isinstance(text, str):
        raise _unsupported("JSON that is no base64 text", types)
    try:
        return from_base64(text)
    except ValueError:
        raise InvalidBodyError("the body is a JSON text, but not base64; send the file itself as the body") from None


def _params_of_query(request: Request, types: Types) -> Any:
    query: bytes = request.scope["query_string"]
    return types.check_pairs(parse_pairs(query, "the query")) if query else types.check({})


def _json_object(body: bytes, media_type: str, types: Types) -> dict[str, Any]:
    try:
        params = parse(body)
    except InvalidBodyError:
        if media_type in ("", URLENCODED) or "json" in media_type:
            raise
        raise _unsupported(media_type, types) from None
    if not isinstance(params, dict):
        raise InvalidBodyError("the body is JSON, but not a JSON object; send one, such as {}")
    return params


def _unsupported(sent: str, types: Types) -> UnsupportedMediaTypeError:
    accepted = ", ".join(types.consumes)
    return UnsupportedMediaTypeError(f"{sent} is not understood here; send {accepted}", {"Accept": accepted})
