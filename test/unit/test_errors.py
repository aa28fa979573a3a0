"""Problems: one line each, with the place to edit, whatever pydantic found."""

from __future__ import annotations

from typing import Literal

import pytest
from modelserve.errors import Location, Problem, validation_problems
from pydantic import BaseModel, Field, ValidationError, field_validator


class Inner(BaseModel):
    rate: int = Field(1, ge=1, le=9)


class Document(BaseModel, extra="forbid"):
    name: str
    mode: Literal["on", "off"] = "on"
    inner: Inner = Inner()

    @field_validator("name")
    @classmethod
    def _short(cls, value: str) -> str:
        if len(value) > 3:
            raise ValueError("is too long")
        return value


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({}, "f [s] name: is missing. Add 'name'"),
        ({"name": "long"}, "f [s] name: is too long"),
        ({"name": "a", "mode": "no"}, "f [s] mode: 'no' is not known. Write 'on' or 'off'"),
        ({"name": "a", "nmae": "b"}, "f [s] nmae: is not a known key. Remove it"),
        ({"name": "a", "inner": {"rate": 0}}, "f [s] inner.rate: 0 is out of range. It must be at least 1"),
        (
            {"name": "a", "inner": {"rate": "{key}"}},
            "f [s] inner.rate: '{key}' is not a whole number. Write a whole number",
        ),
        ([], "f [s]: Input should be a valid dictionary or instance of Document"),
    ],
)
def test_what_pydantic_finds_is_one_line_with_its_place(document: object, line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Document.model_validate(document)
    assert [str(problem) for problem in validation_problems(caught.value, Location("f", "s"))] == [line]


def test_a_value_is_shown_as_it_was_written() -> None:
    with pytest.raises(ValidationError) as caught:
        Inner.model_validate({"rate": 2**40})
    (problem,) = validation_problems(caught.value, Location("f"), {"rate": "1TiB"})
    assert problem == Problem("1TiB is out of range", "It must be at most 9", "f", key="rate")
