"""The types of an algorithm's request and result: read from annotations, checked, and published as JSON Schemas.

It runs inside replicas and needs nothing but pydantic, which every environment has from Ray.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

_UNTYPED = (dict, Any, Mapping, inspect.Parameter.empty)


class InvalidInputError(Exception):
    """A request does not fit the annotation.

    Attributes:
        errors: the ``field`` and the ``problem`` of each error.
    """

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{error['field'] or 'the body'}: {error['problem']}" for error in errors))
        self.errors = errors


class Types:
    """The annotated input and output of a backend's ``_model_inference``.

    The input is typed where the first parameter is annotated with a pydantic model, a dataclass or a ``TypedDict``, and
    the output where the return value is annotated. An annotation that pydantic cannot read or check counts as none.
    """

    def __init__(self, method: Callable[..., Any], batch: bool = False) -> None:
        """Read the annotations.

        Args:
            method: the inference as it is called: a bound method, which has no ``self`` of whatever name.
            batch: whether it takes and returns lists; the types are then those of the items.
        """
        hints = _hints(method)
        parameters = list(inspect.signature(method).parameters)
        taken, returned = hints.get(parameters[0]) if parameters else None, hints.get("return")
        if batch:
            taken, returned = _item(taken), _item(returned)
        self.input = _adapter(taken)
        self.output = _adapter(returned)

    def check(self, params: dict[str, Any]) -> Any:
        """Return a request's JSON object in the annotated type; unchanged where there is none.

        Raises:
            InvalidInputError: a field does not fit.
        """
        if self.input is None:
            return params
        try:
            return self.input.validate_python(params)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            errors = [{"field": ".".join(map(str, e["loc"])), "problem": e["msg"]} for e in details]
            raise InvalidInputError(errors) from None

    def document(self) -> dict[str, Any]:
        """Return the JSON Schemas ``input`` and ``output``: any object and any value where there is no type."""
        taken = self.input.json_schema() if self.input else {"type": "object"}
        return {"input": taken, "output": self.output.json_schema(mode="serialization") if self.output else {}}


def _hints(method: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(method)
    except Exception:  # evaluating an author's annotation can raise anything, as for a name under TYPE_CHECKING
        return {}


def _item(annotation: Any) -> Any:
    arguments = typing.get_args(annotation)
    return arguments[0] if len(arguments) == 1 else None


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    if annotation is None or annotation in _UNTYPED or typing.get_origin(annotation) in _UNTYPED:
        return None
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        adapter.json_schema()
    except PydanticUserError:  # no schema, as for the class of an array
        return None
    return adapter
