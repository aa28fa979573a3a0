"""The components that every OpenAPI document has: schemas, answers to requests that fail, and headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelserve.config.routes import ALGORITHM_HEADER


def schemas() -> dict[str, Any]:
    """Return the schemas that every document has."""
    failure = {
        "type": "object",
        "required": ["status", "info"],
        "properties": {
            "status": {"const": 0},
            "info": {"type": "string", "description": "The cause, in one line."},
            "request_id": {"type": "string", "description": "The id of the request in the log."},
            "code": {"type": "string", "description": "A stable word for programs, such as `invalid_body`."},
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
    media_types = {"type": "array", "items": {"type": "string"}}
    description = {
        "type": "object",
        "required": ["name", "methods", "input", "output"],
        "properties": {
            "name": {"type": "string"},
            "methods": {"type": "array", "items": {"type": "string"}},
            "input": {"type": "object", "description": "JSON Schema of the request's body."},
            "output": {"type": "object", "description": "JSON Schema of `result`."},
            "example": {"type": "object", "description": "An example of a request."},
            "consumes": {**media_types, "description": "Media types of a request, the preferred one first."},
            "produces": {**media_types, "description": "Media types of an answer."},
            "streams": {"type": "boolean", "description": "Whether the answer comes item by item."},
            "app": {
                "type": "boolean",
                "description": "Whether an application of the class answers the route and below.",
            },
        },
    }
    validation_error = {
        "allOf": [ref("schemas", "Failure")],
        "required": ["errors"],
        "properties": {"errors": {"type": "array", "items": ref("schemas", "Problem")}},
    }
    return {"Failure": failure, "Problem": problem, "ValidationError": validation_error, "Description": description}


def responses() -> dict[str, Any]:
    """Return the answers to requests that fail."""

    def failure(description: str, schema: str = "Failure", named: Sequence[str] = ()) -> dict[str, Any]:
        described = {"headers": {name: ref("headers", name) for name in named}} if named else {}
        content = {"application/json": {"schema": ref("schemas", schema)}}
        return {"description": description, **described, "content": content}

    full = "The queue is full (`max_queued_requests`); the request was not started"
    many = (
        "The limit of the key is reached (concurrent requests, or requests per second), or the queue is full; try again"
    )
    with_id = ("X-Request-ID",)
    return {
        "Unauthorized": failure("A key is required"),
        "Forbidden": failure("The key does not grant this algorithm"),
        "TooManyRequests": failure(many, named=("Retry-After",)),
        "ContentTooLarge": failure("The body, or what it unpacks to, is longer than the gateway's limit"),
        "UnsupportedMediaType": failure(
            "The type or the encoding of the body is not understood; `info` names those that are",
            named=(*with_id, "Accept", "Accept-Encoding"),
        ),
        "BadRequest": failure("The body is not what its type says, or not an object", named=with_id),
        "NotFound": failure(f"`{ALGORITHM_HEADER}` names an algorithm that does not answer this route"),
        "MethodNotAllowed": failure("The algorithm does not allow this method", named=(*with_id, "Allow")),
        "UnprocessableContent": failure("The request does not match the algorithm's types", "ValidationError", with_id),
        "QueueFull": failure(full, named=("Retry-After",)),
        "Failed": failure("The inference failed; the log has the cause", named=with_id),
        "BadGateway": failure("The replica ended while it had the request, or its answer cannot be read"),
        "Unavailable": failure("No replica answers; try again", named=("Retry-After",)),
        "GatewayTimeout": failure("The request took longer than `request_timeout`, or than the gateway's limit"),
    }


def headers() -> dict[str, Any]:
    """Return the headers of answers."""
    return {
        "X-Request-ID": {"description": "The id of the request in the log.", "schema": {"type": "string"}},
        ALGORITHM_HEADER: {"description": "The algorithm that answered.", "schema": {"type": "string"}},
        "Allow": {"description": "The methods that are allowed.", "schema": {"type": "string"}},
        "Accept": {"description": "The media types that are understood.", "schema": {"type": "string"}},
        "Accept-Encoding": {"description": "The encodings that are understood.", "schema": {"type": "string"}},
        "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}},
    }


def ref(kind: str, name: str) -> dict[str, str]:
    """Return a reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}
