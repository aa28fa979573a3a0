"""Types: what a backend annotates is checked before its model sees a request, and said in its schema."""

from __future__ import annotations

import asyncio
import dataclasses
import types
import typing
from typing import Any

import modelserve
import pytest
from modelserve.replica.types import InvalidInputError, Types
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


def bound(function: Any) -> Any:
    """Return a function as the method of an object."""
    return types.MethodType(function, object())


def test_a_request_that_fits_becomes_the_model() -> None:
    assert Types(bound(typed)).check({"text": "a", "top": 10}) == Question(text="a", top=10)
    assert Types(bound(batched), batch=True).check({"x": 1, "y": "2.5"}) == Point(1, 2.5)


@pytest.mark.parametrize(
    ("params", "fields"),
    [({}, ["text"]), ({"text": 1, "top": 11}, ["text", "top"]), ({"text": "a", "top": "many"}, ["top"])],
)
def test_what_does_not_fit_is_named_by_field(params: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Types(bound(typed)).check(params)
    assert [error["field"] for error in caught.value.errors] == fields
    assert all(field in str(caught.value) for field in fields)


@pytest.mark.parametrize("method", [untyped, unreadable, unknown])
def test_what_has_no_usable_annotation_is_left_alone(method: Any) -> None:
    untyped_input = Types(bound(method))
    assert untyped_input.check({"any": ["thing"]}) == {"any": ["thing"]}
    document = untyped_input.document()
    assert (document["input"], document["output"]) == ({"type": "object"}, {})


def test_the_document_is_json_schema() -> None:
    document = Types(bound(typed)).document()
    assert document["input"]["required"] == ["text"]
    assert document["input"]["properties"]["top"]["maximum"] == 10
    assert document["output"]["properties"]["labels"]["items"] == {"type": "string"}
    assert Types(bound(batched), batch=True).document()["output"] == {"type": "number"}


def other_self(this: Any, param_dict: Question) -> Answer:
    return Answer(labels=[param_dict.text])


def other_self_batch(me: Any, param_dicts: list[Question]) -> list[Answer]:
    return [Answer(labels=[question.text]) for question in param_dicts]


def no_self(param_dict: Question) -> Answer:
    return Answer(labels=[param_dict.text])


def self_is_the_input(that: Any, self: Question) -> Answer:
    return Answer(labels=[self.text])


@pytest.mark.parametrize(
    "methods",
    [
        {"_model_inference": other_self},
        {"_model_inference_batch": other_self_batch},
        {"_model_inference": staticmethod(no_self)},
        {"_model_inference": self_is_the_input},
    ],
    ids=["this", "batch", "static", "self is the input"],
)
def test_the_input_is_checked_whatever_the_first_parameter_is_called(methods: dict[str, Any]) -> None:
    backend = type("Backend", (modelserve.AlgoBackend,), methods)()
    assert backend.types.document()["input"]["required"] == ["text"]
    with pytest.raises(InvalidInputError, match="text"):
        asyncio.run(backend.infer({"top": 3}))
    assert asyncio.run(backend.infer({"text": "a"})) == Answer(labels=["a"])
