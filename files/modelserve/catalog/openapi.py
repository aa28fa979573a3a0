"""The OpenAPI 3.1 document of all algorithms. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelserve.config.routes import ALGORITHM_HEADER

METHOD_HEADER = "X-HTTP-Method-Override"
UNTYPED: dict[str, Any] = {"type": "object"}
ABOUT = (
    "Every algorithm takes a JSON object as the request's body, whatever the method, GET included. A client that "
    "cannot send a body with GET, as a browser cannot, sends POST with the header "
    f"`{METHOD_HEADER}: GET`; this page does."
)
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
    """

    name: str
    methods: tuple[str, ...]
    input: Mapping[str, Any]
    output: Mapping[str, Any]
    example: Any = None
    queue: int | None = None
    timeout_s: float | None = None
    note: str = ""


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
    schemas = _common_schemas()
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
    components = {"schemas": schemas, "responses": _common_responses(), "headers": _common_headers()}
    guard: dict[str, Any] = {}
    if keys:
        components["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
        guard = {"security": [{"key": []}]}
        refused = {"401": "Unauthorized", "403": "Forbidden", "429": "TooManyRequests"}
        for operation in (operation for path in paths.values() for operation in path.values()):
            operation["responses"] |= {code: _ref("responses", name) for code, name in refused.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "modelserve", "version": version, "description": ABOUT},
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": components,
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
    operation: dict[str, Any] = {
        "operationId": _unique_id(f"{method.lower()}_{route}", ids),
        "summary": f"Ask {' or '.join(algorithm.name for algorithm in able)}",
        "tags": [algorithm.name for algorithm in able],
        **_described(" ".join([_split(answering), *(algorithm.note for algorithm in able)]).strip()),
        **_selection(answering),
        "requestBody": {"required": True, "content": {"application/json": _content(able)}},
        "responses": _responses(able),
    }
    return operation


def _schema_operation(route: str, answering: Sequence[tuple[Algorithm, float]], ids: set[str]) -> dict[str, Any]:
    names = [algorithm.name for algorithm, _ in answering]
    answer = {
        "description": "JSON Schemas of the request (`input`) and of the answer's `result` (`output`)",
        "content": {"application/json": {"schema": _ref("schemas", "Description")}},
    }
    operation = {
        "operationId": _unique_id(f"get_{route}_schema", ids),
        "summary": f"What {' or '.join(names)} takes and returns",
        "tags": names,
        **_selection(answering),
        "responses": {"200": answer, "500": _ref("responses", "Failed"), "503": _ref("responses", "Unavailable")},
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


def _selection(answering: Sequence[tuple[Algorithm, float]]) -> dict[str, Any]:
    """Return the parameter of a shared route: the header that names the algorithm."""
    if len(answering) == 1:
        return {}
    names = [algorithm.name for algorithm, _ in answering]
    parameter = {
        "name": ALGORITHM_HEADER,
        "in": "header",
        "required": False,
        "description": "The algorithm to use; without this header, a weighted random split selects one.",
        "schema": {"type": "string", "enum": names},
    }
    return {"parameters": [parameter]}


def _content(algorithms: Sequence[Algorithm]) -> dict[str, Any]:
    """Return the request's body: of one algorithm, or of any that shares the route."""
    schemas = [_ref("schemas", _component(f"{algorithm.name}.input")) for algorithm in algorithms]
    examples = [(algorithm.name, algorithm.example) for algorithm in algorithms if algorithm.example is not None]
    content: dict[str, Any] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    if len(algorithms) == 1 and examples:
        content["example"] = examples[0][1]
    elif examples:
        content["examples"] = {_component(name): {"summary": name, "value": value} for name, value in examples}
    return content


def _responses(algorithms: Sequence[Algorithm]) -> dict[str, Any]:
    """Return the answers of an operation: of its algorithms, the gateway and Serve."""
    results = [_ref("schemas", _component(f"{algorithm.name}.output")) for algorithm in algorithms]
    schema = {
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
    headers = {name: _ref("headers", name) for name in ("X-Request-ID", ALGORITHM_HEADER)}
    answered = {"description": "Answered", "headers": headers, "content": {"application/json": {"schema": schema}}}
    refs = {"400": "BadRequest", "404": "NotFound", "405": "MethodNotAllowed", "500": "Failed", "503": "Unavailable"}
    refs |= {"411": "LengthRequired", "413": "ContentTooLarge", "504": "GatewayTimeout"}
    if any(algorithm.input != UNTYPED for algorithm in algorithms):
        refs["422"] = "UnprocessableContent"
    if any(algorithm.queue is not None for algorithm in algorithms):
        refs["429"] = "QueueFull"
    return {"200": answered, **{code: _ref("responses", refs[code]) for code in sorted(refs)}}


def _common_schemas() -> dict[str, Any]:
    failure = {
        "type": "object",
        "required": ["status", "info"],
        "properties": {
            "status": {"const": 0},
            "info": {"type": "string", "description": "The cause, in one line."},
            "request_id": {"type": "string", "description": "The id of the request in the log."},
        },
    }
    problem = {
        "type": "object",
        "required": ["field", "problem"],
        "properties": {
            "field": {"type": "string", "description": "Path of the field; empty for the whole body."},
            "problem": {"type": "string"},
        },
    }
    description = {
        "type": "object",
        "required": ["name", "methods", "input", "output"],
        "properties": {
            "name": {"type": "string"},
            "methods": {"type": "array", "items": {"type": "string"}},
            "input": {"type": "object", "description": "JSON Schema of the request's body."},
            "output": {"type": "object", "description": "JSON Schema of `result`."},
            "example": {"type": "object", "description": "An example of a request."},
        },
    }
    validation_error = {
        "allOf": [_ref("schemas", "Failure")],
        "required": ["errors"],
        "properties": {"errors": {"type": "array", "items": _ref("schemas", "Problem")}},
    }
    return {"Failure": failure, "Problem": problem, "ValidationError": validation_error, "Description": description}


def _common_responses() -> dict[str, Any]:
    def failure(description: str, schema: str = "Failure", headers: Sequence[str] = ()) -> dict[str, Any]:
        named = {"headers": {name: _ref("headers", name) for name in headers}} if headers else {}
        content = {"application/json": {"schema": _ref("schemas", schema)}}
        return {"description": description, **named, "content": content}

    full = "The queue is full (`max_queued_requests`); the request was not started"
    many = (
        "The limit of the key is reached (concurrent requests, or requests per second), or the queue is full; try again"
    )
    with_id = ("X-Request-ID",)
    return {
        "Unauthorized": failure("A key is required"),
        "Forbidden": failure("The key does not grant this algorithm"),
        "TooManyRequests": failure(many, headers=("Retry-After",)),
        "LengthRequired": failure("The request has no Content-Length"),
        "ContentTooLarge": failure("The request is longer than the gateway's limit"),
        "BadRequest": failure("The body is not a JSON object", headers=with_id),
        "NotFound": failure(f"`{ALGORITHM_HEADER}` names an algorithm that does not answer this route"),
        "MethodNotAllowed": failure("The algorithm does not allow this method", headers=(*with_id, "Allow")),
        "UnprocessableContent": failure("The request does not match the algorithm's types", "ValidationError", with_id),
        "QueueFull": failure(full, headers=("Retry-After",)),
        "Failed": failure("The inference failed, or its replica crashed; the log has the cause", headers=with_id),
        "Unavailable": failure("No node of the cluster answers; try again"),
        "GatewayTimeout": failure("The request took longer than `request_timeout`, or than the gateway's limit"),
    }


def _common_headers() -> dict[str, Any]:
    return {
        "X-Request-ID": {"description": "The id of the request in the log.", "schema": {"type": "string"}},
        ALGORITHM_HEADER: {"description": "The algorithm that answered.", "schema": {"type": "string"}},
        "Allow": {"description": "The methods that are allowed.", "schema": {"type": "string"}},
        "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}},
    }


def _described(text: str) -> dict[str, str]:
    return {"description": text} if text else {}


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}
