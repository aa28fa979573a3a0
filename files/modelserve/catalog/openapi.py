"""The OpenAPI 3.1 document of all algorithms. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from modelserve.catalog import components
from modelserve.catalog.components import ref
from modelserve.config.routes import ALGORITHM_HEADER
from modelserve.replica.fields import names_files

METHOD_HEADER = "X-HTTP-Method-Override"
UNTYPED: dict[str, Any] = {"type": "object"}
ABOUT = (
    "An algorithm takes a JSON object as the request's body, whatever the method, GET included, or a file. A request "
    "without a body has its parameters in the query. A form (`multipart/form-data` or "
    "`application/x-www-form-urlencoded`) is understood in the place of an object. A client that cannot send a body "
    f"with GET, as a browser cannot, sends POST with the header `{METHOD_HEADER}: GET`; this page does."
)
JSON = "application/json"
MULTIPART = "multipart/form-data"
ANY = "*/*"
# Media types of text that comes item by item.
STREAMS = ("text/event-stream", "application/x-ndjson", "text/plain")
FILE: dict[str, Any] = {"type": "string", "format": "binary"}
BODY_FIRST = "Counts only where the request has no body: empty the one below first."
_SIMPLE = ("string", "integer", "number", "boolean")
# Keywords of JSON Schema that hold schemas by name, and those that hold plain data.
_MAPS = ("properties", "patternProperties", "dependentSchemas", "$defs")
_DATA = ("const", "enum", "default", "examples", "example", "required")


@dataclass(frozen=True)
class Algorithm:
    """An algorithm in the document.

    Attributes:
        name: the section's name.
        methods: HTTP methods that are allowed.
        input: JSON Schema of the request.
        output: JSON Schema of ``result``.
        example: an example of a request, or None.
        queue: longest queue of a replica, or None.
        timeout_s: time limit of a request in seconds, or None.
        note: a sentence for the reader, or empty.
        consumes: media types of a request, the preferred one first.
        produces: media types of an answer.
        streams: whether the answer comes item by item.
    """

    name: str
    methods: tuple[str, ...]
    input: Mapping[str, Any]
    output: Mapping[str, Any]
    example: Any = None
    queue: int | None = None
    timeout_s: float | None = None
    note: str = ""
    consumes: tuple[str, ...] = (JSON,)
    produces: tuple[str, ...] = (JSON,)
    streams: bool = False

    @property
    def title(self) -> str:
        """The name, with a mark where the answer is a stream."""
        return f"{self.name} (stream)" if self.streams else self.name

    @property
    def fits_query(self) -> bool:
        """Whether a query can express every field of the request."""
        fields = self.input.get("properties", {}).values()
        closed = not self.input.get("additionalProperties")
        return bool(fields) and closed and all(_is_expressible(field, self.input) for field in fields)

    @property
    def bodies(self) -> tuple[str, ...]:
        """The media types that the page shows; a form of text adds nothing to a JSON object."""
        return self.consumes[: self.consumes.index(JSON) + 1] if JSON in self.consumes else self.consumes


def document(
    routes: Mapping[str, Sequence[tuple[Algorithm, float]]], version: str, keys: bool = False
) -> dict[str, Any]:
    """Return the OpenAPI document.

    Args:
        routes: by public route, without slashes at its ends: the algorithms that answer it, each with its weight.
        version: version of modelserve.
        keys: whether clients need a key.
    """
    algorithms = {algorithm.name: algorithm for answering in routes.values() for algorithm, _ in answering}
    schemas = components.schemas()
    for algorithm in algorithms.values():
        for part, schema in (("input", algorithm.input), ("output", algorithm.output)):
            schemas |= hoisted(schema, f"{algorithm.name}.{part}")
    paths: dict[str, Any] = {}
    ids: set[str] = set()
    for route, answering in routes.items():
        paths[f"/{route}"] = _operations(route, answering, ids)
    for route, answering in routes.items():
        # A public route that ends in /schema wins, as it does in the gateway.
        paths.setdefault(f"/{route}/schema", _schema_operation(route, answering, ids))
    tags = [{"name": name, **_described(algorithm.note)} for name, algorithm in algorithms.items()]
    shared: dict[str, Any] = {"schemas": schemas, "responses": components.responses(), "headers": components.headers()}
    guard: dict[str, Any] = {}
    if keys:
        shared["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
        guard = {"security": [{"key": []}]}
        refused = {"401": "Unauthorized", "403": "Forbidden", "429": "TooManyRequests"}
        for operation in (operation for path in paths.values() for operation in path.values()):
            operation["responses"] |= {code: ref("responses", name) for code, name in refused.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "modelserve", "version": version, "description": ABOUT},
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": shared,
        **guard,
    }


def hoisted(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a JSON Schema as components of an OpenAPI document: as ``name``, and its ``$defs`` as ``name.<def>``.

    Args:
        schema: the schema, with references into itself.
        name: name that is unique within the document.
    """
    root = _component(name)
    defs = schema.get("$defs", {})
    names: dict[str, str] = {}
    for definition in defs:  # two names may differ only in characters that a component cannot have
        names[definition] = _unique(_component(f"{name}.{definition}"), names.values())
    body = {key: value for key, value in schema.items() if key not in ("$defs", "$schema", "$id")}
    components = {root: _rewritten(body, root, names)}
    return components | {names[key]: _rewritten(value, root, names) for key, value in defs.items()}


def _component(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _rewritten(schema: Any, root: str, names: Mapping[str, str]) -> Any:
    """Return a schema with references to the components."""
    if isinstance(schema, list):
        return [_rewritten(item, root, names) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str):
            result[key] = _reference(value, root, names)
        elif key in _MAPS and isinstance(value, Mapping):
            result[key] = {name: _rewritten(item, root, names) for name, item in value.items()}
        elif key == "discriminator" and isinstance(value, Mapping):
            mapping = {name: _reference(item, root, names) for name, item in value.get("mapping", {}).items()}
            result[key] = {**value, "mapping": mapping}
        elif key in _DATA:
            result[key] = value
        elif key == "items" and isinstance(value, Mapping) and value.get("format") == "binary":
            # Swagger UI sends its example for a file of a list that was not chosen; replicas drop an empty one.
            result[key] = {**value, "examples": [""]}
        else:
            result[key] = _rewritten(value, root, names)
    return result


def _reference(reference: str, root: str, names: Mapping[str, str]) -> str:
    if not reference.startswith("#"):
        return reference
    parts = reference[1:].split("/")[1:]  # a JSON Pointer (RFC 6901)
    if len(parts) >= 2 and parts[0] == "$defs":
        name = parts[1].replace("~1", "/").replace("~0", "~")
        return "/".join(["#/components/schemas", names.get(name, _component(name)), *parts[2:]])
    return "/".join(["#/components/schemas", root, *parts])


def _operations(route: str, answering: Sequence[tuple[Algorithm, float]], ids: set[str]) -> dict[str, Any]:
    methods = sorted({method for algorithm, _ in answering for method in algorithm.methods})
    return {method.lower(): _operation(method, route, answering, ids) for method in methods}


def _operation(method: str, route: str, answering: Sequence[tuple[Algorithm, float]], ids: set[str]) -> dict[str, Any]:
    able = [algorithm for algorithm, _ in answering if method in algorithm.methods]
    # Few clients send a body with GET. The page sends one where the document has one, and its query then counts for
    # nothing.
    without_body = method == "GET" and all(algorithm.fits_query for algorithm in able)
    parameters = _query(able, without_body) if method == "GET" else []
    # A query is another way to send what is required.
    required = not parameters and any(JSON not in item.consumes or item.input.get("required") for item in able)
    operation: dict[str, Any] = {
        "operationId": _unique_id(f"{method.lower()}_{route}", ids),
        "summary": f"Ask {' or '.join(algorithm.title for algorithm in able)}",
        "tags": [algorithm.name for algorithm in able],
        **_described(" ".join([_split(answering), *(algorithm.note for algorithm in able)]).strip()),
        "parameters": [*_selection(answering), *parameters],
        **({} if without_body else {"requestBody": {"required": required, "content": _contents(able)}}),
        "responses": _responses(able),
    }
    return operation


def _schema_operation(route: str, answering: Sequence[tuple[Algorithm, float]], ids: set[str]) -> dict[str, Any]:
    names = [algorithm.name for algorithm, _ in answering]
    answer = {
        "description": "JSON Schemas of the request (`input`) and of the answer's `result` (`output`)",
        "content": {"application/json": {"schema": ref("schemas", "Description")}},
    }
    operation = {
        "operationId": _unique_id(f"get_{route}_schema", ids),
        "summary": f"What {' or '.join(names)} takes and returns",
        "tags": names,
        "parameters": _selection(answering),
        "responses": {"200": answer, "500": ref("responses", "Failed"), "503": ref("responses", "Unavailable")},
    }
    return {"get": operation}


def _unique_id(text: str, ids: set[str]) -> str:
    """Return an operation's id that is not used yet, and add it to ``ids``."""
    operation_id = _unique(re.sub(r"[^A-Za-z0-9]+", "_", text), ids)
    ids.add(operation_id)
    return operation_id


def _unique(name: str, taken: Container[str]) -> str:
    """Return a name that is not taken: the given one, or one with a number behind it."""
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique


def _split(answering: Sequence[tuple[Algorithm, float]]) -> str:
    if len(answering) == 1:
        return ""
    total = sum(weight for _, weight in answering) or 1
    shares = ", ".join(f"{algorithm.name} {100 * weight / total:.4g}%" for algorithm, weight in answering)
    return f"Weighted random split: {shares} of the requests. The header `{ALGORITHM_HEADER}` selects one."


def _selection(answering: Sequence[tuple[Algorithm, float]]) -> list[dict[str, Any]]:
    """Return the parameter of a shared route: the header that names the algorithm."""
    if len(answering) == 1:
        return []
    names = [algorithm.name for algorithm, _ in answering]
    parameter = {
        "name": ALGORITHM_HEADER,
        "in": "header",
        "required": False,
        "description": "The algorithm to use; without this header, a weighted random split selects one.",
        "schema": {"type": "string", "enum": names},
    }
    return [parameter]


def _query(algorithms: Sequence[Algorithm], without_body: bool) -> list[dict[str, Any]]:
    """Return the parameters of a query: the fields of the requests that a text can express, and lists of them.

    Args:
        algorithms: the algorithms that answer the operation.
        without_body: whether the operation has no body beside the query.
    """
    parameters: dict[str, dict[str, Any]] = {}
    for algorithm in algorithms:
        root = _component(f"{algorithm.name}.input")
        for name, schema in algorithm.input.get("properties", {}).items():
            if name in parameters or not _is_expressible(schema, algorithm.input):
                continue
            pointer = quote(name.replace("~", "~0").replace("/", "~1"), safe="~")
            required = without_body and all(name in item.input.get("required", ()) for item in algorithms)
            # A query cannot express an empty list.
            least = {"minItems": 1} if required and "items" in schema and "minItems" not in schema else {}
            parameter = {
                "name": name,
                "in": "query",
                "required": required,
                "schema": {"$ref": f"#/components/schemas/{root}/properties/{pointer}", **least},
            }
            if without_body:
                parameter |= _described(schema.get("description", "")) | _example(algorithm, name)
            else:
                parameter["description"] = BODY_FIRST
            parameters[name] = parameter
    return list(parameters.values())


def _example(algorithm: Algorithm, name: str) -> dict[str, Any]:
    """Return the value of a field in the warm-up request as an example; a query cannot express null."""
    value = algorithm.example.get(name) if isinstance(algorithm.example, Mapping) else None
    return {} if value is None else {"example": value}


def _is_expressible(schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """Return whether a query can express a field: a text can, or it is a list of such values."""
    return _is_simple(schema, root) or _is_simple(schema.get("items", {}), root)


def _is_simple(schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """Return whether a text can express a value: it is a text, a number or a boolean, or null."""
    reference = schema.get("$ref", "")
    if reference.startswith("#/$defs/"):
        schema = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    if options:
        return all(_is_simple(option, root) for option in options)
    return schema.get("type") in _SIMPLE and schema.get("format") != "binary"


def _contents(algorithms: Sequence[Algorithm]) -> dict[str, Any]:
    """Return the request's body by media type."""
    media_types = list(dict.fromkeys(media_type for algorithm in algorithms for media_type in algorithm.bodies))
    return {
        media_type: _content(media_type, [item for item in algorithms if media_type in item.bodies])
        for media_type in media_types
    }


def _content(media_type: str, algorithms: Sequence[Algorithm]) -> dict[str, Any]:
    """Return the request's body: of one algorithm, or of any that shares the route."""
    schemas = [_input(media_type, algorithm) for algorithm in algorithms]
    examples = [
        (algorithm.name, algorithm.example)
        for algorithm in algorithms
        if algorithm.example is not None and media_type == JSON and not _names_files(algorithm)
    ]
    content: dict[str, Any] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    if len(algorithms) == 1 and examples:
        content["example"] = examples[0][1]
    elif examples:
        content["examples"] = {_component(name): {"summary": name, "value": value} for name, value in examples}
    return content


def _names_files(algorithm: Algorithm) -> bool:
    """Return whether the example names files of the package: a client cannot send it."""
    return algorithm.consumes[0] != JSON and names_files(algorithm.example)


def _input(media_type: str, algorithm: Algorithm) -> dict[str, Any]:
    """Return the schema of a body: that of the request, or a form with its file."""
    schema: dict[str, Any] = ref("schemas", _component(f"{algorithm.name}.input"))
    if JSON in algorithm.consumes:
        return schema
    if media_type == MULTIPART:
        return {"type": "object", "required": ["file"], "properties": {"file": FILE}}
    return {**schema, "minLength": 1}


def _answered(algorithms: Sequence[Algorithm]) -> dict[str, Any]:
    """Return the answer of success, by media type."""
    media_types = list(dict.fromkeys(media_type for algorithm in algorithms for media_type in algorithm.produces))
    content: dict[str, Any] = {}
    for media_type in media_types:
        producing = [item for item in algorithms if media_type in item.produces]
        content[media_type] = {"schema": _envelope(producing) if media_type == JSON else _output(media_type, producing)}
    streamed = [kind for kind in media_types if any(item.streams and kind in item.produces for item in algorithms)]
    text = (
        f"Answered, as a stream: each item is sent when it is there ({', '.join(streamed)}). "
        "The page `/docs` shows the items only when the stream has ended."
        if streamed
        else "Answered"
    )
    headers = {name: ref("headers", name) for name in ("X-Request-ID", ALGORITHM_HEADER)}
    return {"description": text, "headers": headers, "content": content}


def _output(media_type: str, algorithms: Sequence[Algorithm]) -> dict[str, Any]:
    """Return the schema of an answer that is not a document: a file, or the text of a stream."""
    if media_type == ANY:
        return {}
    if media_type not in STREAMS:
        return FILE
    items = [ref("schemas", _component(f"{algorithm.name}.output")) for algorithm in algorithms]
    item = items[0] if len(items) == 1 else {"anyOf": items}
    # Without a type: readers differ in whether the schema is that of the text or of an item.
    return {"description": "One item after the other.", "contentSchema": item}


def _envelope(algorithms: Sequence[Algorithm]) -> dict[str, Any]:
    """Return the schema of the document that holds a result."""
    results = [ref("schemas", _component(f"{algorithm.name}.output")) for algorithm in algorithms]
    return {
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": {
                "type": "integer",
                "examples": [1],
                "description": "1: success. 0: failure, with the cause in `info`; only classes of the legacy class API "
                "report a failure with this HTTP status.",
            },
            "result": results[0] if len(results) == 1 else {"anyOf": results},
            "info": {"type": "string", "description": "The host that answered."},
        },
    }


def _responses(algorithms: Sequence[Algorithm]) -> dict[str, Any]:
    """Return the answers of an operation: of its algorithms, the gateway and Serve."""
    refs = {"400": "BadRequest", "404": "NotFound", "405": "MethodNotAllowed", "500": "Failed", "503": "Unavailable"}
    refs |= {"413": "ContentTooLarge", "415": "UnsupportedMediaType", "502": "BadGateway", "504": "GatewayTimeout"}
    if any(algorithm.input != UNTYPED for algorithm in algorithms):
        refs["422"] = "UnprocessableContent"
    if any(algorithm.queue is not None for algorithm in algorithms):
        refs["429"] = "QueueFull"
    return {"200": _answered(algorithms), **{code: ref("responses", refs[code]) for code in sorted(refs)}}


def _described(text: str) -> dict[str, str]:
    return {"description": text} if text else {}
