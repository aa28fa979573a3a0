"""The shape of every answer of a replica: results, failures, and which error becomes which HTTP status."""

from __future__ import annotations

import logging
import socket
import uuid
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from modelserve.replica.types import InvalidInputError
from modelserve.replica.uvicorn_compat import ClientDisconnectedError, SingleWriteResponse

logger = logging.getLogger("ray.serve")
HOSTNAME = socket.gethostname()


class InvalidBodyError(Exception):
    """The body of a request is not a JSON object."""


def success(result: Any) -> dict[str, Any]:
    """Return the content of an answer with a result."""
    return {"status": 1, "result": result, "info": f"Result from {HOSTNAME}"}


def json_response(content: Any, status_code: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer.

    Args:
        content: the document; numpy arrays and scalars become lists and numbers.
        status_code: the HTTP status.
        headers: further headers.

    Raises:
        TypeError: ``content`` holds a value that JSON cannot express.
    """
    body = orjson.dumps(content, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return SingleWriteResponse(body, status_code, headers, media_type="application/json")


def failure(
    status_code: int, info: str, request_id: str, headers: dict[str, str] | None = None, **details: Any
) -> Response:
    """Return the answer to a request that failed.

    Args:
        status_code: the HTTP status.
        info: the cause.
        request_id: the id under which the log has the request.
        headers: further headers.
        details: further fields of the document.
    """
    content = {"status": 0, "info": f"Result from {HOSTNAME}: {info}", "request_id": request_id, **details}
    return json_response(content, status_code, {"X-Request-ID": request_id, **(headers or {})})


def failure_of(error: Exception, request: Request) -> Response:
    """Return the answer to a request that ended in an error, and log a failed inference with its traceback.

    400 for a body that is not a JSON object, 422 for one that does not fit the annotations, 499 for a disconnected
    client, 500 for every other error, whose text the client does not get.
    """
    request_id = request_id_of(request)
    match error:
        case InvalidBodyError():
            return failure(400, str(error), request_id)
        case InvalidInputError():
            return failure(422, str(error), request_id, errors=error.errors)
        case ClientDisconnectedError():
            return failure(499, str(error), request_id)
    logger.error("inference failed, request %s", request_id, exc_info=error)
    return failure(500, "the inference failed; its log has the cause under this request id", request_id)


def method_not_allowed(request: Request, allowed: frozenset[str]) -> Response:
    """Return the answer to a request with another method than the allowed ones."""
    methods = ", ".join(sorted(allowed))
    info = f"{request.method} is not answered here; use {methods}"
    return failure(405, info, request_id_of(request), {"Allow": methods})


def timed_out(request: Request, timeout_s: float) -> Response:
    """Return the answer to a request that exceeded the section's ``request_timeout``, and log it."""
    request_id = request_id_of(request)
    logger.warning("took longer than request_timeout, %g s, request %s", timeout_s, request_id)
    return failure(504, f"it took longer than {timeout_s:g} s (request_timeout)", request_id)


def request_id_of(request: Request) -> str:
    """Return the id that the client or the gateway gave the request, else a new one."""
    return request.headers.get("x-request-id") or uuid.uuid4().hex


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # tensors, non-contiguous arrays
        return value.tolist()
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if hasattr(value, "model_dump"):  # models of pydantic
        return value.model_dump(mode="json")
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"a result of type {type(value).__name__} is not JSON; return numbers, strings, lists and dicts")
