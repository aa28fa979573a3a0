"""The errors that an inference and the reading of a request raise, each with the HTTP answer that it becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_CODE = re.compile(r"[a-z][a-z0-9_]*")
_NAMES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "request_timeout",
    409: "conflict",
    410: "gone",
    413: "content_too_large",
    415: "unsupported_media_type",
    422: "validation_failed",
    429: "too_many_requests",
    500: "inference_failed",
    502: "bad_gateway",
    503: "unavailable",
    504: "timeout",
}


class HTTPError(Exception):
    """An error that the client is told of. An inference may raise it: ``raise modelserve.HTTPError(404, "no such id")``.

    Attributes:
        status: the HTTP status, 400 to 599.
        message: the cause, in one line; the field ``info`` of the answer.
        code: a stable word for programs, such as ``not_found``; the field ``code`` of the answer.
        headers: further headers of the answer, such as ``Retry-After``.
        details: further fields of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        headers: Mapping[str, str] | None = None,
        **details: Any,
    ) -> None:
        """Make an error.

        Args:
            status: the HTTP status, 400 to 599.
            message: the cause, in one line.
            code: a word of small letters, digits and underscores; empty chooses the status's own.
            headers: further headers of the answer.
            details: further fields of the answer, as JSON can express them.

        Raises:
            ValueError: the status is not an error's, or the code is not such a word.
        """
        if not 400 <= status <= 599:
            raise ValueError(f"{status} is not the HTTP status of an error; use 400 to 599")
        if code and not _CODE.fullmatch(code):
            raise ValueError(f"'{code}' is not a code; write small letters, digits and underscores")
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code or _NAMES.get(status, "client_error" if status < 500 else "server_error")
        self.headers = dict(headers or {})
        self.details = details


class Fatal(Exception):  # noqa: N818 - part of the authors' API: `raise modelserve.Fatal("the GPU is lost")`
    """An error after which the replica cannot answer any more: it is replaced."""
