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
    """An error that the client is told of. An inference may raise it: ``raise modelserve.HTTPError(404, "no id 7")``.

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


class InvalidBodyError(HTTPError):
    """The body of a request cannot be read: 400."""

    def __init__(self, message: str) -> None:
        """Args: ``message``: what is wrong with the body, and what to send."""
        super().__init__(400, message, code="invalid_body")


class ContentTooLargeError(HTTPError):
    """The body of a request exceeds the limit: 413."""

    def __init__(self, limit: int, unpacked: bool = False) -> None:
        """Make the error.

        Args:
            limit: the limit in bytes.
            unpacked: whether the unpacked body exceeds it.
        """
        what = "the unpacked body" if unpacked else "the body"
        super().__init__(413, f"{what} exceeds the limit of {limit} bytes", code="content_too_large")


class UnsupportedMediaTypeError(HTTPError):
    """The body of a request has a type or an encoding that is not understood: 415."""

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        """Make the error.

        Args:
            message: what was sent, and what is understood.
            headers: ``Accept`` or ``Accept-Encoding``, with what is understood.
        """
        super().__init__(415, message, code="unsupported_media_type", headers=headers)


class InvalidInputError(HTTPError):
    """A request does not fit the annotation: 422.

    Attributes:
        errors: the ``field`` and the ``problem`` of each error.
    """

    def __init__(self, errors: list[dict[str, str]]) -> None:
        """Args: ``errors``: the ``field`` and the ``problem`` of each error."""
        message = "; ".join(f"{error['field'] or 'the body'}: {error['problem']}" for error in errors)
        super().__init__(422, message, code="validation_failed", errors=errors)
        self.errors = errors


class InvalidResultError(HTTPError):
    """A result has a value that JSON cannot express: 500."""

    def __init__(self, path: str, problem: str) -> None:
        """Make the error.

        Args:
            path: place of the value, such as ``result.scores[3]``.
            problem: what the value is.
        """
        message = f"{path} is {problem}, which JSON cannot express; return numbers, text, lists and dicts"
        super().__init__(500, message, code="invalid_result")


class Fatal(Exception):  # noqa: N818 - part of the authors' API: `raise modelserve.Fatal("the GPU is lost")`
    """An error after which the replica cannot answer any more: it is replaced."""
