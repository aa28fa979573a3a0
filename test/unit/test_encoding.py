"""JSON of results: what Python's libraries hold is expressed, and what cannot be is named by place and type."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from modelserve.replica.encoding import encode
from modelserve.replica.exceptions import InvalidResultError
from pydantic import BaseModel


class Colour(enum.Enum):
    RED = "red"


class Model(BaseModel):
    score: float
    path: Path


@dataclasses.dataclass
class Point:
    x: Any


ID = uuid.UUID(int=1)
DAY = datetime.date(2026, 1, 2)
TIME = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
TABLE = pd.DataFrame({"name": ["a", "b"], "score": [0.5, float("nan")], "at": [pd.Timestamp(TIME), pd.NaT]})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.arange(3, dtype=">i4"), [0, 1, 2]),
        (np.array([0.5, 1], dtype=">f8"), [0.5, 1]),
        (np.array([[1, 2], [3, 4]]).T, [[1, 3], [2, 4]]),
        (np.array(3), 3),
        (np.array([1, "a", None, Decimal("1.5")], dtype=object), [1, "a", None, "1.5"]),
        (np.array([np.nan, 1]), [None, 1]),
        (np.longdouble(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.array(["2026-01-02"], dtype="M8[D]"), ["2026-01-02T00:00:00"]),
        (
            {np.int64(3): 1, np.float32(0.5): 2, np.str_("a"): 3, np.bool_(True): 4},
            {"3": 1, "0.5": 2, "a": 3, "true": 4},
        ),
        ({1: 1, None: 2, Colour.RED: 3, DAY: 4, ID: 5}, {"1": 1, "null": 2, "red": 3, "2026-01-02": 4, str(ID): 5}),
        ({np.int64(1): {DAY: {ID: np.float32(0.5)}}}, {"1": {"2026-01-02": {str(ID): 0.5}}}),
        (2**64 - 1, 2**64 - 1),
        (2**64, 2**64),
        ([-(2**70), {"a": 2**70}], [-(2**70), {"a": 2**70}]),
        ([2**70, float("nan"), float("inf"), "ä"], [2**70, None, None, "ä"]),
        ([float("nan"), float("-inf")], [None, None]),
        (Decimal("0.10"), "0.10"),
        (Path("/a/b"), "/a/b"),
        (Colour.RED, "red"),
        ([ID, DAY, TIME], [str(ID), "2026-01-02", "2026-01-02T03:04:05+00:00"]),
        ([2**70, ID, DAY, TIME], [2**70, str(ID), "2026-01-02", "2026-01-02T03:04:05+00:00"]),
        ({1}, [1]),
        (frozenset("a"), ["a"]),
        (Model(score=1, path=Path("/a")), {"score": 1, "path": "/a"}),
        (Point(np.arange(2)), {"x": [0, 1]}),
        (Point(np.arange(2, dtype=">i2")), {"x": [0, 1]}),
        (b"text", "text"),
        (
            TABLE,
            [
                {"name": "a", "score": 0.5, "at": "2026-01-02T03:04:05+00:00"},
                {"name": "b", "score": None, "at": None},
            ],
        ),
        (TABLE["score"], [0.5, None]),
        (TABLE.index, [0, 1]),
        (
            {"at": pd.Timestamp("2026-01-02"), "none": [pd.NaT, pd.NA]},
            {"at": "2026-01-02T00:00:00", "none": [None] * 2},
        ),
        (pd.Series([1, None], dtype="Int64"), [1, None]),
    ],
)
def test_a_value_becomes_json(value: Any, expected: Any) -> None:
    text = encode({"result": value})
    assert json.loads(text) == {"result": expected}
    assert b"NaN" not in text


@pytest.mark.parametrize(
    ("value", "place", "kind"),
    [
        ({"scores": [1, 2j]}, "result.scores[1]", "type complex"),
        ([{"a": object()}], "result[0].a", "type object"),
        (np.array([1j]), "result[0]", "type complex"),
        ({"raw": b"\xff"}, "result.raw", "not UTF-8"),
        ({"a": {(1, 2): 3}}, "result.a", "a key of type tuple"),
        ("\ud800", "result", "surrogate"),
        ({"a": {"\ud800": 1}}, "result.a", "surrogate"),
        (lambda: None, "result", "type function"),
        (Point, "result", "type type"),
        (Point({1: 1j}), "result.x.1", "complex"),
    ],
)
def test_a_value_that_json_cannot_express_is_named(value: Any, place: str, kind: str) -> None:
    with pytest.raises(InvalidResultError, match="JSON cannot express") as caught:
        encode({"result": value})
    assert str(caught.value).startswith(f"{place} is ")
    assert kind in str(caught.value)
    assert (caught.value.status, caught.value.code) == (500, "invalid_result")


def test_a_value_that_holds_itself_is_named() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidResultError, match="holds itself"):
        encode({"result": loop})
