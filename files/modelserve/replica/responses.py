"""The shape of every JSON answer of a replica: results, failures, and which error becomes which HTTP status."""

from __future__ import annotations

import logging
import socket
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from modelserve.replica.encoding import encode
from modelserve.replica.exceptions import Fatal, HTTPError, InvalidBodyError, InvalidResultError
from modelserve.replica.uvicorn_compat import ClientDisconnectedError, SingleWriteResponse

__all__ = ["InvalidBodyError"]

logger = logging.getLogger("ray.serve")
HOSTNAME = socket.gethostname()
# After these the same request may succeed, so the client is told when to try again.
RETRY_AFTER_S = {429: "1", 503: "1"}
_OWN_FIELDS = ("status", "info", "request_id", "code")


@dataclass(frozen=True)
class Failure:
    """What a client reads of a failed request.

    Attributes:
        status_code: the HTTP status.
        info: the cause, in one line.
        code: a stable word for programs; empty chooses the status's own.
        headers: further headers.
        details: further fields of the document.
    """

    status_code: int
    info: str
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def document(self, request_id: str) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "status": 0,
            "info": f"Result from {HOSTNAME}: {self.info}",
            "request_id": request_id,
            "code": self.code or HTTPError(self.status_code, self.info).code,
            **{key: value for key, value in self.details.items() if key not in _OWN_FIELDS},
        }

    def response(self, request_id: str) -> Response:
        """Return the HTTP answer.

        Raises:
            InvalidResultError: JSON cannot express a detail.
            ValueError: a header cannot be sent.
        """
        headers = {"X-Request-ID": request_id}
        if self.status_code in RETRY_AFTER_S:
            headers["Retry-After"] = RETRY_AFTER_S[self.status_code]
        own = {name.lower() for name in self.headers}  # a header that comes twice is ambiguous
        headers = {name: value for name, value in headers.items() if name.lower() not in own}
        return json_response(self.document(request_id), self.status_code, headers | self.headers)


def success(result: Any) -> dict[str, Any]:
    """Return the content of an answer with a result."""
    return {"status": 1, "result": result, "info": f"Result from {HOSTNAME}"}


def json_response(content: Any, status_code: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer.

    Args:
        content: the document; :mod:`modelserve.replica.encoding` lists what it may hold.
        status_code: the HTTP status.
        headers: further headers.

    Raises:
        InvalidResultError: ``content`` holds a value that JSON cannot express.
    """
    return SingleWriteResponse(encode(content), status_code, headers, media_type="application/json")


def failure(
    status_code: int,
    info: str,
    request_id: str,
    headers: dict[str, str] | None = None,
    *,
    code: str = "",
    **details: Any,
) -> Response:
    """Return the answer to a request that failed.

    Args:
        status_code: the HTTP status.
        info: the cause.
        request_id: the id under which the log has the request.
        headers: further headers.
        code: a stable word for programs; empty chooses the status's own.
        details: further fields of the document.
    """
    return Failure(status_code, info, code, headers or {}, details).response(request_id)


def failure_of(error: BaseException, request: Request) -> Response:
    """Return the answer to a request that ended in an error, and log what its operator must know.

    An :class:`HTTPError` has its own status; 499 is for a disconnected client, and 500 for every other error, whose
    text the client does not get: the log has it, with its traceback.
    """
    request_id = request_id_of(request)
    try:
        return describe(error, request_id).response(request_id)
    except (InvalidResultError, ValueError) as problem:  # details or headers of an author's HTTPError
        return describe(problem, request_id).response(request_id)


def describe(error: BaseException, request_id: str) -> Failure:
    """Return what a client reads of an error, and log what its operator must know."""
    match error:
        case InvalidResultError():
            logger.error("invalid result, request %s: %s", request_id, error)
            return _of_http_error(error)
        case HTTPError():
            if error.status >= 500:
                logger.warning("answered %s, request %s: %s", error.status, request_id, error)
            return _of_http_error(error)
        case HTTPException() if 400 <= error.status_code <= 599:  # of Starlette or FastAPI
            return Failure(error.status_code, str(error.detail), headers=dict(error.headers or {}))
        case ClientDisconnectedError() | ClientDisconnect():
            info = str(error) or "the client closed the connection"
            return Failure(499, info, "client_disconnected")
        case Fatal():
            logger.error("the replica cannot go on, request %s", request_id, exc_info=error)
            info = "the replica that had the request cannot go on and is replaced; the log has the cause"
            return Failure(500, info, "replica_failed")
    logger.error("inference failed, request %s", request_id, exc_info=error)
    info = "the inference failed; its log has the cause under this request id"
    return Failure(500, info, "inference_failed")


def method_not_allowed(request: Request, allowed: frozenset[str]) -> Response:
    """Return the answer to a request with another method than the allowed ones."""
    methods = ", ".join(sorted(allowed))
    info = f"{request.method} is not answered here; use {methods}"
    return failure(405, info, request_id_of(request), {"Allow": methods}, code="method_not_allowed")


def timed_out(request: Request, timeout_s: float) -> Response:
    """Return the answer to a request that exceeded the section's ``request_timeout``, and log it."""
    request_id = request_id_of(request)
    logger.warning("took longer than request_timeout, %g s, request %s", timeout_s, request_id)
    info = f"it took longer than {timeout_s:g} s (request_timeout)"
    return failure(504, info, request_id, code="inference_timeout")


def request_id_of(request: Request) -> str:
    """Return the id that the client or the gateway gave the request, else a new one."""
    return request.headers.get("x-request-id") or uuid.uuid4().hex


def _of_http_error(error: HTTPError) -> Failure:
    headers = {name: str(value) for name, value in error.headers.items()}
    return Failure(error.status, error.message, error.code, headers, error.details)
