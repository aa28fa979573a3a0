"""The catalog of what is served: readiness, schemas, the OpenAPI document and its page."""
