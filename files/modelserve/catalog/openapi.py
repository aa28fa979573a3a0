"""How are the algorithms asked? Makes the OpenAPI 3.1 document of all that is served. Pure functions."""

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
# JSON Schema's keywords that hold schemas by name, and those that hold plain data.
_MAPS = ("properties", "patternProperties", "dependentSchemas", "$defs")
_DATA = ("const", "enum", "default", "examples", "example", "required")


@dataclass(frozen=True)
class Algorithm:
    """What the document says of an algorithm.

    Attributes:
        name: the section's name.
        methods: HTTP methods it answers.
        input: JSON Schema of the request.
        output: JSON Schema of ``result``.
        example: a request it answers, or None.
        queue: requests that queue per replica before more are turned away, or None.
        timeout_s: seconds after which it gives up, or None.
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
    """The OpenAPI document.

    Args:
        routes: per public route, without slashes at its ends, the algorithms that answer it, each with its weight.
        version: modelserve's.
        keys: whether the gateway asks clients for a key.
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
        # A route of its own that ends so wins, as it does in the ingress.
        paths.setdefault(f"/{route}/schema", _schema_operation(route, answering, ids))
    tags = [{"name": name, **_described(algorithm.note)} for name, algorithm in algorithms.items()]
    components = {"schemas": schemas, "responses": _common_responses(), "headers": _common_headers()}
    guard: dict[str, Any] = {}
    if keys:
        components["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
        guard = {"security": [{"key": []}]}
        refused = {"401": "NoKey", "403": "NotForThis", "429": "TooMany"}
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
    """A JSON Schema as components of an OpenAPI document: itself as ``name``, its ``$defs`` as ``name.<def>``.

    Args:
        schema: the schema, whose references lead into itself.
        name: unique within the document.
    """
    root = _component(name)
    defs = schema.get("$defs", {})
    names: dict[str, str] = {}
    for definition in defs:  # names that differ only in what a component's name cannot have stay apart
        names[definition] = _free(_component(f"{name}.{definition}"), names.values())
    body = {key: value for key, value in schema.items() if key not in ("$defs", "$schema", "$id")}
    components = {root: _rewritten(body, root, names)}
    return components | {names[key]: _rewritten(value, root, names) for key, value in defs.items()}


def _component(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _rewritten(schema: Any, root: str, names: Mapping[str, str]) -> Any:
    """A schema whose references lead to the components."""
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
        "operationId": _unique(f"{method.lower()}_{route}", ids),
        "summary": f"Ask {' or '.join(algorithm.name for algorithm in able)}",
        "tags": [algorithm.name for algorithm in able],
        **_described(" ".join([_split(answering), *(algorithm.note for algorithm in able)]).strip()),
        **_pick(answering),
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
        "operationId": _unique(f"get_{route}_schema", ids),
        "summary": f"What {' or '.join(names)} takes and gives",
        "tags": names,
        **_pick(answering),
        "responses": {"200": answer, "500": _ref("responses", "Failed"), "503": _ref("responses", "Unavailable")},
    }
    return {"get": operation}


def _unique(wanted: str, ids: set[str]) -> str:
    """An operation's id that none has yet; from now on this one has."""
    found = _free(re.sub(r"[^A-Za-z0-9]+", "_", wanted), ids)
    ids.add(found)
    return found


def _free(wanted: str, taken: Container[str]) -> str:
    """A name that is not taken: the wanted one, or one with a number behind it."""
    found, number = wanted, 1
    while found in taken:
        number += 1
        found = f"{wanted}_{number}"
    return found


def _split(answering: Sequence[tuple[Algorithm, float]]) -> str:
    if len(answering) == 1:
        return ""
    total = sum(weight for _, weight in answering) or 1
    shares = ", ".join(f"{algorithm.name} {100 * weight / total:.4g}%" for algorithm, weight in answering)
    return f"Several algorithms share this route: {shares} of the requests. The header `{ALGORITHM_HEADER}` picks one."


def _pick(answering: Sequence[tuple[Algorithm, float]]) -> dict[str, Any]:
    """The header that picks one of a shared route, as the operation's parameters."""
    if len(answering) == 1:
        return {}
    names = [algorithm.name for algorithm, _ in answering]
    parameter = {
        "name": ALGORITHM_HEADER,
        "in": "header",
        "required": False,
        "description": "The algorithm that shall answer; without it, chance decides by the weights.",
        "schema": {"type": "string", "enum": names},
    }
    return {"parameters": [parameter]}


def _content(able: Sequence[Algorithm]) -> dict[str, Any]:
    """The request's body: of one algorithm, or of any that shares the route."""
    schemas = [_ref("schemas", _component(f"{algorithm.name}.input")) for algorithm in able]
    examples = [(algorithm.name, algorithm.example) for algorithm in able if algorithm.example is not None]
    content: dict[str, Any] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    if len(able) == 1 and examples:
        content["example"] = examples[0][1]
    elif examples:
        content["examples"] = {_component(name): {"summary": name, "value": value} for name, value in examples}
    return content


def _responses(able: Sequence[Algorithm]) -> dict[str, Any]:
    """The answers that an operation's algorithms give, or the gateway and Serve in their place."""
    results = [_ref("schemas", _component(f"{algorithm.name}.output")) for algorithm in able]
    schema = {
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": {
                "type": "integer",
                "examples": [1],
                "description": "1: answered. 0: failed, `info` says why; with this HTTP status, only classes written "
                "the original way say so.",
            },
            "result": results[0] if len(results) == 1 else {"anyOf": results},
            "info": {"type": "string", "description": "The host that answered."},
        },
    }
    headers = {name: _ref("headers", name) for name in ("X-Request-ID", ALGORITHM_HEADER)}
    answered = {"description": "Answered", "headers": headers, "content": {"application/json": {"schema": schema}}}
    refs = {"400": "NoObject", "404": "NotHere", "405": "OtherMethod", "500": "Failed", "503": "Unavailable"}
    refs |= {"411": "NoLength", "413": "TooLong", "504": "TookTooLong"}
    if any(algorithm.input != UNTYPED for algorithm in able):
        refs["422"] = "DoesNotFit"
    if any(algorithm.queue is not None for algorithm in able):
        refs["429"] = "QueueFull"
    return {"200": answered, **{code: _ref("responses", refs[code]) for code in sorted(refs)}}


def _common_schemas() -> dict[str, Any]:
    failure = {
        "type": "object",
        "required": ["status", "info"],
        "properties": {
            "status": {"const": 0},
            "info": {"type": "string", "description": "What happened, in a line."},
            "request_id": {"type": "string", "description": "The log has the request under this id."},
        },
    }
    problem = {
        "type": "object",
        "required": ["field", "problem"],
        "properties": {
            "field": {"type": "string", "description": "The field's path; empty for the body itself."},
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
            "example": {"type": "object", "description": "A request it answers."},
        },
    }
    misfit = {
        "allOf": [_ref("schemas", "Failure")],
        "required": ["errors"],
        "properties": {"errors": {"type": "array", "items": _ref("schemas", "Problem")}},
    }
    return {"Failure": failure, "Problem": problem, "Misfit": misfit, "Description": description}


def _common_responses() -> dict[str, Any]:
    def failure(description: str, schema: str = "Failure", headers: Sequence[str] = ()) -> dict[str, Any]:
        named = {"headers": {name: _ref("headers", name) for name in headers}} if headers else {}
        content = {"application/json": {"schema": _ref("schemas", schema)}}
        return {"description": description, **named, "content": content}

    full = "Too many requests queue already (`max_queued_requests`); nothing was started"
    many = "More requests than the key may have, at once or a second, or too many queue already; try again"
    known = ("X-Request-ID",)
    return {
        "NoKey": failure("A key is needed"),
        "NotForThis": failure("The key is not for this algorithm"),
        "TooMany": failure(many, headers=("Retry-After",)),
        "NoLength": failure("The request does not say its length"),
        "TooLong": failure("The request is longer than the gateway takes"),
        "NoObject": failure("The body is no JSON object", headers=known),
        "NotHere": failure(f"`{ALGORITHM_HEADER}` names an algorithm that does not answer this route"),
        "OtherMethod": failure("The algorithm does not answer this method", headers=(*known, "Allow")),
        "DoesNotFit": failure("The request does not fit the algorithm's types", "Misfit", known),
        "QueueFull": failure(full, headers=("Retry-After",)),
        "Failed": failure("The inference failed, or its replica died; the log has the cause", headers=known),
        "Unavailable": failure("No node of the cluster answers; try again"),
        "TookTooLong": failure("It took longer than `request_timeout`, or than the gateway waits"),
    }


def _common_headers() -> dict[str, Any]:
    return {
        "X-Request-ID": {"description": "The request's id in the log.", "schema": {"type": "string"}},
        ALGORITHM_HEADER: {"description": "The algorithm that answered.", "schema": {"type": "string"}},
        "Allow": {"description": "The methods that are answered.", "schema": {"type": "string"}},
        "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}},
    }


def _described(text: str) -> dict[str, str]:
    return {"description": text} if text else {}


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}
