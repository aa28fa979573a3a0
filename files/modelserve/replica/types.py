"""The types of an algorithm's request and result: read from annotations, checked, and published as JSON Schemas.

It runs inside replicas and needs nothing but pydantic, which every environment has from Ray.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from starlette.responses import Response

from modelserve.replica.exceptions import InvalidInputError
from modelserve.replica.fields import Fields, Pairs, converted, without_keyword
from modelserve.replica.results import Event, File
from modelserve.replica.uploads import OCTETS, Upload

__all__ = ["InvalidInputError", "Types"]

JSON = "application/json"
MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
EVENT_STREAM = "text/event-stream"
JSON_LINES = "application/x-ndjson"
ANY = "*/*"
_UNTYPED = (dict, Any, Mapping, inspect.Parameter.empty)
_STREAMS = (Iterator, Generator, AsyncIterator, AsyncGenerator)
# Media types of a stream by what it yields; of other values, the second is for clients that accept it.
_STREAMED: tuple[tuple[type, tuple[str, ...]], ...] = (
    (Event, (EVENT_STREAM,)),
    (str, ("text/plain", EVENT_STREAM)),
    (bytes, (OCTETS,)),
)


class Types:
    """The annotated input and output of a backend's ``_model_inference``.

    The input is typed where the first parameter is annotated with a pydantic model, a dataclass, a ``TypedDict``,
    ``bytes`` or :class:`Upload`, and the output where the return value is annotated. An annotation that pydantic cannot
    read or check counts as none.

    Attributes:
        raw: whether the body itself is the input: the annotation is ``bytes`` or :class:`Upload`.
        raw_upload: whether it is :class:`Upload`.
        consumes: media types of a request, the preferred one first.
        produces: media types of an answer.
        streams: whether the answer comes item by item.
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
        self.streams = _streams(method, returned)
        if self.streams:
            returned = _streamed(returned)
        self.input = _adapter(taken)
        self.output = None if _is_response(returned) else _adapter(returned)
        self._schema = self.input.json_schema() if self.input else {"type": "object"}
        self._fields = Fields(self._schema)
        self.raw, self.raw_upload = self._fields.is_file, self._fields.is_upload
        self.consumes = self._consumes()
        self.produces = _produces_stream(returned) if self.streams else _produces(returned)

    def check(self, params: Any) -> Any:
        """Return a request's JSON object in the annotated type; unchanged where there is none.

        Raises:
            InvalidInputError: a field does not fit.
        """
        if self.input is None:
            return params
        return self._validated(self._fields.from_json(params))

    def check_pairs(self, pairs: Pairs) -> Any:
        """Return the fields of a form or a query in the annotated type; as a dictionary where there is none.

        Raises:
            InvalidInputError: a field does not fit.
        """
        return self._validated(self._fields.from_pairs(pairs))

    def check_file(self, content: Upload | bytes) -> Any:
        """Return a file in the annotated type, ``bytes`` or :class:`Upload`.

        Raises:
            InvalidInputError: it does not fit, as by its length.
        """
        return self._validated(content.read() if isinstance(content, Upload) and not self.raw_upload else content)

    def check_warmup(self, params: Any, load: Callable[[str], Upload]) -> Any:
        """Return the parameters of a warm-up request in the annotated type.

        Args:
            params: the parameters; ``{"file": "<name>"}`` in the place of a file names one.
            load: returns the file of a name.

        Raises:
            InvalidInputError: a field does not fit.
        """
        return self.check(self._fields.with_files(params, lambda name, schema: converted(load(name), schema)))

    def _validated(self, params: Any) -> Any:
        if self.input is None:
            return params
        try:
            return self.input.validate_python(params)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            errors = [{"field": ".".join(map(str, e["loc"])), "problem": e["msg"]} for e in details]
            raise InvalidInputError(errors) from None

    def _consumes(self) -> tuple[str, ...]:
        if self.raw:
            return (OCTETS, MULTIPART)
        if self._fields.has_files:
            return (MULTIPART, JSON)
        return (JSON, MULTIPART, URLENCODED)

    def document(self) -> dict[str, Any]:
        """Return the JSON Schemas ``input`` and ``output``, the media types ``consumes`` and ``produces``, ``streams``.

        Where there is no type, the schemas are those of any object and any value. ``output`` is the schema of
        ``result``, or of an item of a stream.
        """
        return {
            "input": without_keyword(self._schema),
            "output": without_keyword(self.output.json_schema(mode="serialization")) if self.output else {},
            "consumes": list(self.consumes),
            "produces": list(self.produces),
            "streams": self.streams,
        }


def _hints(method: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(method, include_extras=True)
    except Exception:  # evaluating an author's annotation can raise anything, as for a name under TYPE_CHECKING
        return {}


def _item(annotation: Any) -> Any:
    arguments = typing.get_args(annotation)
    return arguments[0] if len(arguments) == 1 else None


def _streams(method: Callable[..., Any], returned: Any) -> bool:
    is_generator = inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method)
    return is_generator or returned in _STREAMS or typing.get_origin(returned) in _STREAMS


def _streamed(returned: Any) -> Any:
    """Return the type of the items of a stream."""
    arguments = typing.get_args(returned)
    return arguments[0] if arguments else None


def _is_response(returned: Any) -> bool:
    return returned is Event or (isinstance(returned, type) and issubclass(returned, Response | File))


def _produces_stream(item: Any) -> tuple[str, ...]:
    return next((media_types for kind, media_types in _STREAMED if item is kind), (JSON_LINES, EVENT_STREAM))


def _produces(returned: Any) -> tuple[str, ...]:
    if _is_response(returned):
        return (ANY,)
    if returned in (bytes, bytearray):
        return (OCTETS,)
    if str(getattr(returned, "__module__", "")).startswith("PIL."):
        return ("image/png",)
    return (JSON,)


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    if annotation is None or annotation in _UNTYPED or typing.get_origin(annotation) in _UNTYPED:
        return None
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        adapter.json_schema()
    except PydanticUserError:  # no schema, as for the class of an array
        return None
    return adapter
