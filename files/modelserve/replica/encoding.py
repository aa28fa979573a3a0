"""JSON of what an inference returns.

Beside plain values: numpy scalars and arrays, tensors, pydantic models, dataclasses, data frames (a list of records),
series, sets, enumerations, dates, UUIDs and paths. A decimal number is text, so that no digit is lost. NaN and Infinity
are ``null``. Integers of any size are exact.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import uuid
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

import orjson

from modelserve.replica.exceptions import InvalidResultError

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
MAX_DEPTH = 200


def encode(content: Any) -> bytes:
    """Return a value as JSON.

    Raises:
        InvalidResultError: it holds a value that JSON cannot express.
    """
    try:
        return orjson.dumps(content, default=_plain, option=_OPTIONS)
    except (TypeError, ValueError):
        # What orjson cannot express, or has no default for: keys of numpy, arrays of the other endianness, integers
        # beyond 64 bits. The error does not name the place either.
        return _encode_exactly(_expanded(content, "", 0))


def _encode_exactly(content: Any) -> bytes:
    try:
        return orjson.dumps(content)
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    """Return a value that orjson or :func:`_expanded` knows for one that it does not.

    Libraries of arrays and tables are recognised by their methods: an environment need not have them.

    Raises:
        TypeError: there is none.
        ValueError: bytes are not UTF-8 text.
    """
    if hasattr(value, "tolist"):  # arrays, numpy's scalars, tensors, series
        plain = value.tolist()
        return float(plain) if type(plain) is type(value) else plain  # a longdouble stays what it is
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if hasattr(value, "model_dump"):  # models of pydantic
        return value.model_dump(mode="json")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode()
    if isinstance(value, Decimal | PurePath):
        return str(value)
    if isinstance(value, datetime.date | datetime.time):  # of pandas; a NaT is not equal to itself
        return value.isoformat() if value == value else None
    if hasattr(value, "to_dicts"):  # a table of polars
        return value.to_dicts()
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # a table of pandas
        return value.to_dict(orient="records")
    if type(value).__name__ == "NAType":  # pandas.NA
        return None
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


def _expanded(value: Any, path: str, depth: int) -> Any:
    """Return a value of dictionaries, lists, text, numbers and None alone.

    Args:
        value: any value.
        path: its place in the answer.
        depth: the number of values around it.

    Raises:
        InvalidResultError: JSON cannot express it.
    """
    if depth > MAX_DEPTH:
        raise InvalidResultError(path[:80] + "...", f"nested deeper than {MAX_DEPTH} levels, or holds itself")
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        items = ((_key(key, path), item) for key, item in value.items())
        return {key: _expanded(item, f"{path}.{key}".lstrip("."), depth + 1) for key, item in items}
    if isinstance(value, list | tuple):
        return [_expanded(item, f"{path}[{at}]", depth + 1) for at, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _expanded(fields, path, depth + 1)
    if isinstance(value, uuid.UUID):
        return str(value)
    if hasattr(value, "dtype"):  # dates of numpy look the same on both ways
        with contextlib.suppress(TypeError):
            return orjson.loads(orjson.dumps(value, option=_OPTIONS))
    try:
        plain = _plain(value)
    except Exception as error:
        raise InvalidResultError(path, _named(value)) from error
    return _expanded(plain, path, depth + 1)


def _key(key: Any, path: str) -> str:
    """Return a key of a dictionary as JSON has it."""
    if isinstance(key, Enum):
        key = key.value
    if hasattr(key, "tolist"):  # numpy's scalars
        key = key.tolist()
    if isinstance(key, str):
        return _text(key, path)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, float) and not math.isfinite(key):
        return "null"
    if isinstance(key, int | float | Decimal | PurePath | uuid.UUID):
        return str(key)
    if isinstance(key, datetime.date | datetime.time):
        return key.isoformat()
    raise InvalidResultError(path or "the result", f"a dictionary with a key of type {type(key).__name__}")


def _text(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidResultError(path, "a text that is not Unicode (a lone surrogate)") from error
    return str(text)


def _named(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{type(value).__name__} that are not UTF-8 text (encode them as base64)"
    module = type(value).__module__
    return f"of type {type(value).__name__ if module == 'builtins' else f'{module}.{type(value).__name__}'}"
