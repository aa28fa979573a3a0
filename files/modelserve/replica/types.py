"""What does an algorithm take and give? Reads the annotations of its inference, checks requests against them.

Runs inside replicas, so it needs nothing but pydantic, which every environment has from Ray.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

_UNTYPED = (dict, Any, Mapping, inspect.Parameter.empty)


class InvalidInput(Exception):
    """A request that does not fit the annotation. ``errors`` name each ``field`` and its ``problem``."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{error['field'] or 'the body'}: {error['problem']}" for error in errors))
        self.errors = errors


class Types:
    """The annotated input and output of a backend's ``_model_inference``.

    The input is typed where its parameter is annotated with a pydantic model, a dataclass or a ``TypedDict``, and the
    output where the return is annotated; for a backend with ``_model_inference_batch`` alone, its list's item types.
    An annotation that cannot be read or checked counts as none: what it says is the author's, not ours.
    """

    def __init__(self, method: typing.Callable[..., Any], batch: bool = False) -> None:
        """Args: ``method`` is the bound or plain function; ``batch`` says that it takes and gives lists of them."""
        hints = _hints(method)
        names = [name for name in inspect.signature(method).parameters if name != "self"]
        given, returned = hints.get(names[0]) if names else None, hints.get("return")
        if batch:
            given, returned = _item(given), _item(returned)
        self.input = _adapter(given)
        self.output = _adapter(returned)

    def check(self, params: dict[str, Any]) -> Any:
        """A request's JSON object as the annotation says: a model, say; as it is where nothing is annotated.

        Raises:
            InvalidInput: naming each field that does not fit.
        """
        if self.input is None:
            return params
        try:
            return self.input.validate_python(params)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            problems = [{"field": ".".join(map(str, e["loc"])), "problem": e["msg"]} for e in found]
            raise InvalidInput(problems) from None

    def document(self) -> dict[str, Any]:
        """JSON Schemas of ``input`` and ``output``; an untyped input is any object, an untyped output anything."""
        given = self.input.json_schema() if self.input else {"type": "object"}
        return {"input": given, "output": self.output.json_schema(mode="serialization") if self.output else {}}


def _hints(method: typing.Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(method)
    except Exception:  # a name under TYPE_CHECKING, say: whatever evaluating an annotation raises
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
    except PydanticUserError:  # no schema for an array's class, say
        return None
    return adapter
