"""The fields of an annotated type, and what they take for the text and the files of forms, queries and JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from modelserve.replica.exceptions import InvalidInputError
from modelserve.replica.uploads import UPLOAD_KEYWORD, Upload, from_base64

Schema = Mapping[str, Any]
Pairs = Iterable[tuple[str, "str | Upload"]]
_NESTED = ("object", "array")
# Key of the object that names a file in a warm-up request.
FILE_KEY = "file"


class Fields:
    """The fields of the type of a request, from its JSON Schema.

    Attributes:
        has_files: whether a field is a file, ``bytes`` or an upload, at any depth.
    """

    def __init__(self, schema: Schema) -> None:
        """Args: ``schema``: a JSON Schema as pydantic makes it."""
        self._defs: Mapping[str, Schema] = schema.get("$defs", {})
        self._root = self._resolved(schema)
        self.is_file = _is_file(self._root)
        self.is_upload = UPLOAD_KEYWORD in self._root
        self.has_files = self._has_files(self._root, set())

    def from_pairs(self, pairs: Pairs) -> dict[str, Any]:
        """Return the parameters of a form or a query.

        A name that comes several times, or whose field is a list, becomes a list. A field that is an object or a list
        of values may be JSON text. A browser sends the fields that were left empty, too; these are left out, and so is
        each file of a list that was not chosen.

        Args:
            pairs: names, each with a text or a file.
        """
        properties = self._root.get("properties", {})
        params: dict[str, Any] = {}
        for name, parts in grouped(pairs).items():
            nullable = {"type": "null"} in properties.get(name, {}).get("anyOf", ())
            field = self._resolved(properties.get(name, {}))
            items = self._resolved(field.get("items", {})) if field.get("type") == "array" else None
            values = [part for part in parts if not _is_unchosen_file(part, field if items is None else items)]
            if all(_is_empty(value, field) for value in values):
                continue
            if nullable and values == ["null"] and not _is_text(field):
                params[name] = None
            elif items is None:
                items_of_name = [converted(value, field) for value in values]
                params[name] = items_of_name[0] if len(values) == 1 else items_of_name
            elif len(values) == 1 and (array := _json_array(values[0])) is not None:
                params[name] = array
            else:
                params[name] = [converted(value, items) for value in values]
        return params

    def from_json(self, params: Any) -> Any:
        """Return a JSON value with bytes in the place of the base64 text of files.

        Raises:
            InvalidInputError: a text is not base64.
        """
        return self._decoded(params, self._root, ()) if self.has_files else params

    def with_files(self, params: Any, load: Callable[[str, Schema], Any]) -> Any:
        """Return the parameters of a warm-up request with its files.

        Args:
            params: the parameters; ``{"file": "<name>"}`` in the place of a file names one.
            load: returns what a file's name and its field's schema stand for.
        """
        return self._loaded(params, self._root, load) if self.has_files else params

    def _loaded(self, value: Any, schema: Schema, load: Callable[[str, Schema], Any]) -> Any:
        schema = self._resolved(schema)
        if _is_file(schema) and is_file_name(value):
            return load(value[FILE_KEY], schema)
        if isinstance(value, dict):
            fields = schema.get("properties", {})
            return {key: self._loaded(item, fields.get(key, {}), load) for key, item in value.items()}
        if isinstance(value, list):
            return [self._loaded(item, schema.get("items", {}), load) for item in value]
        return value

    def _decoded(self, value: Any, schema: Schema, path: tuple[str, ...]) -> Any:
        schema = self._resolved(schema)
        if isinstance(value, str) and _is_file(schema):
            try:
                return from_base64(value)
            except ValueError as error:
                raise InvalidInputError([{"field": ".".join(path), "problem": str(error)}]) from None
        if isinstance(value, dict) and "properties" in schema:
            fields = schema["properties"]
            return {key: self._decoded(item, fields.get(key, {}), (*path, key)) for key, item in value.items()}
        if isinstance(value, list) and "items" in schema:
            return [self._decoded(item, schema["items"], (*path, str(at))) for at, item in enumerate(value)]
        return value

    def _resolved(self, schema: Schema) -> Schema:
        """Return a schema without references and without the null of an optional field."""
        while True:
            options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
            if len(options) == 1:
                schema = options[0]
            elif str(schema.get("$ref", "")).startswith("#/$defs/"):
                schema = self._defs.get(schema["$ref"].removeprefix("#/$defs/"), {})
            else:
                return schema

    def _has_files(self, schema: Schema, seen: set[int]) -> bool:
        schema = self._resolved(schema)
        if id(schema) in seen:  # a recursive type
            return False
        seen.add(id(schema))
        parts = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
        return _is_file(schema) or any(self._has_files(part, seen) for part in parts)


def is_file_name(value: Any) -> bool:
    """Return whether a value of a warm-up request names a file of the package."""
    return isinstance(value, dict) and set(value) == {FILE_KEY} and isinstance(value[FILE_KEY], str)


def names_files(value: Any) -> bool:
    """Return whether a value names a file, at any depth."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return is_file_name(value) or any(names_files(part) for part in parts)


def converted(value: str | Upload, schema: Schema) -> Any:
    """Return what a field takes for a text or a file; pydantic turns text into numbers and the like."""
    if _is_file(schema):
        if isinstance(value, Upload):
            return value if UPLOAD_KEYWORD in schema else value.read()
        content = value.encode()
        return Upload.of(content, content_type="text/plain") if UPLOAD_KEYWORD in schema else content
    if isinstance(value, Upload):
        if not schema:  # no annotation
            return value
        value = value.read().decode(errors="replace")  # a text field that was sent as a file
    return _json(value) if schema.get("type") in _NESTED or "properties" in schema else value


def grouped(pairs: Pairs) -> dict[str, list[str | Upload]]:
    """Return the values of each name, in order."""
    groups: dict[str, list[str | Upload]] = {}
    for name, value in pairs:
        groups.setdefault(name, []).append(value)
    return groups


def without_keyword(schema: Any) -> Any:
    """Return a JSON Schema without the keyword that is for this module alone."""
    if isinstance(schema, dict):
        return {key: without_keyword(value) for key, value in schema.items() if key != UPLOAD_KEYWORD}
    return [without_keyword(item) for item in schema] if isinstance(schema, list) else schema


def _is_file(schema: Schema) -> bool:
    return schema.get("type") == "string" and schema.get("format") == "binary"


def _is_text(schema: Schema) -> bool:
    """Return whether any text fits."""
    return schema.get("type") == "string" and "enum" not in schema and not _is_file(schema)


def _is_empty(value: str | Upload, schema: Schema) -> bool:
    """Return whether a value is what a form has for a field that was left empty."""
    if isinstance(value, Upload):
        return not value.filename and value.size == 0
    return value == "" and bool(schema) and not _is_text(schema)


def _is_unchosen_file(value: str | Upload, schema: Schema) -> bool:
    """Return whether a value is what a form has for a file that was not chosen: a part without name and content."""
    return (isinstance(value, Upload) or _is_file(schema)) and _is_empty(value, schema)


def _json(text: str) -> Any:
    """Return the value of a JSON text, or the text itself, which pydantic then refuses by the field's name."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _json_array(value: str | Upload) -> list[Any] | None:
    array = _json(value) if isinstance(value, str) and value.lstrip().startswith("[") else None
    return array if isinstance(array, list) else None
