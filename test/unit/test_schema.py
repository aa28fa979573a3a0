"""Types: what a backend annotates is checked before its model sees a request, and said in its schema."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest
from modelserve.replica.types import InvalidInput, Types
from pydantic import BaseModel, Field

if typing.TYPE_CHECKING:
    from nowhere import Missing


class Question(BaseModel):
    """What is asked."""

    text: str
    top: int = Field(3, ge=1, le=10)


class Answer(BaseModel):
    """What comes back."""

    labels: list[str]


@dataclasses.dataclass
class Point:
    """A place."""

    x: float
    y: float


def typed(self: Any, param_dict: Question) -> Answer:
    return Answer(labels=[param_dict.text])


def batched(self: Any, param_dicts: list[Point]) -> list[float]:
    return [point.x for point in param_dicts]


def untyped(self: Any, param_dict: dict[str, Any]) -> Any:
    return param_dict


def unreadable(self: Any, param_dict: Missing) -> None:
    return None


def unknown(self: Any, param_dict: dict[str, Any]) -> memoryview:
    return memoryview(b"")


def test_a_request_that_fits_becomes_the_model() -> None:
    assert Types(typed).check({"text": "a", "top": 10}) == Question(text="a", top=10)
    assert Types(batched, batch=True).check({"x": 1, "y": "2.5"}) == Point(1, 2.5)


@pytest.mark.parametrize(
    ("params", "fields"),
    [({}, ["text"]), ({"text": 1, "top": 11}, ["text", "top"]), ({"text": "a", "top": "many"}, ["top"])],
)
def test_what_does_not_fit_is_named_by_field(params: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        Types(typed).check(params)
    assert [error["field"] for error in caught.value.errors] == fields
    assert all(field in str(caught.value) for field in fields)


@pytest.mark.parametrize("method", [untyped, unreadable, unknown])
def test_what_has_no_usable_annotation_is_left_alone(method: Any) -> None:
    types = Types(method)
    assert types.check({"any": ["thing"]}) == {"any": ["thing"]}
    assert types.document() == {"input": {"type": "object"}, "output": {}}


def test_the_document_is_json_schema() -> None:
    document = Types(typed).document()
    assert document["input"]["required"] == ["text"] and document["input"]["properties"]["top"]["maximum"] == 10
    assert document["output"]["properties"]["labels"]["items"] == {"type": "string"}
    assert Types(batched, batch=True).document()["output"] == {"type": "number"}
