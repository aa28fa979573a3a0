"""Parses JSON text that clients send: exactly, in every Unicode encoding, and with errors that say what to send."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from modelserve.replica.exceptions import InvalidBodyError

# orjson makes a float of an integer beyond 64 bits. It has 20 digits at least, or 19 and a minus sign. Digits behind a
# point are no integer. The search for runs of digits costs less than the parsing.
_LARGE_INTEGER = re.compile(rb"(?<![0-9.])(?:[0-9]{20}|-[0-9]{19})")
_DIGITS = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else ord(" ") for byte in range(256))
_RUN = b"0" * 19
_NOT_A_NUMBER = re.compile(rb"(?<![\w\"])-?(?:NaN|Infinity)\b")


def parse(body: bytes) -> Any:
    """Return the value of a JSON text.

    Integers of any size are exact. UTF-16 and UTF-32 are recognised, and a byte order mark (BOM) is ignored.

    Raises:
        InvalidBodyError: it is not JSON.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        encoding = json.detect_encoding(body) if body else "utf-8"
        if encoding == "utf-8":
            raise InvalidBodyError(_problem(body, error)) from None
        return parse(_as_utf8(body, encoding))
    if len(body) > len(_RUN) and _RUN in body.translate(_DIGITS) and _LARGE_INTEGER.search(body):
        return _parse_exactly(body)
    return value


def _parse_exactly(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:  # more digits than Python turns into a number
        raise InvalidBodyError(f"the body is not understood: {error}") from None


def _as_utf8(body: bytes, encoding: str) -> bytes:
    try:
        text = body.decode(encoding).removeprefix("\ufeff").encode()
    except UnicodeError as error:
        raise InvalidBodyError(f"the body is not JSON in {encoding}: {error}") from None
    if not text:
        raise InvalidBodyError("the body is an empty text; send a JSON object such as {}")
    return text


def _problem(body: bytes, error: orjson.JSONDecodeError) -> str:
    if _NOT_A_NUMBER.search(body):
        return "the body is not JSON: NaN and Infinity are no JSON numbers; send null or a text instead"
    return f"the body is not JSON: {error}; send a JSON object such as {{}}"
