"""A request that is answered within the process: the answer is collected and described."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message

#: Bytes of an answer that are kept.
KEPT_BYTES = 16 * 2**20
#: Characters of a text that a description shows.
SHOWN_CHARACTERS = 1000


@dataclass
class Answer:
    """A collected answer.

    Attributes:
        status_code: the HTTP status.
        content_type: the header of this name.
        body: the first :data:`KEPT_BYTES` of the body.
        size: bytes of the whole body.
    """

    status_code: int = 0
    content_type: str = ""
    body: bytearray = field(default_factory=bytearray)
    size: int = 0

    async def receive(self, message: Message) -> None:
        """Take a message that an ASGI application sends."""
        if message["type"] == "http.response.start":
            self.status_code = message["status"]
            headers = {bytes(name).lower(): bytes(value) for name, value in message.get("headers", ())}
            self.content_type = headers.get(b"content-type", b"").decode("latin-1")
        elif message["type"] == "http.response.body":
            part = message.get("body", b"")
            self.size += len(part)
            self.body += part[: KEPT_BYTES - len(self.body)]

    def document(self) -> dict[str, Any]:
        """Return the JSON object of the answer, or what describes another answer."""
        if self.content_type.startswith("application/json") and self.size == len(self.body):
            document = json.loads(bytes(self.body))
            return document if isinstance(document, dict) else {"result": document}
        described = {"status_code": self.status_code, "content_type": self.content_type, "bytes": self.size}
        if self.content_type.startswith(("text/", "application/x-ndjson", "application/jsonl")):
            return {**described, "text": self.body.decode(errors="replace")[:SHOWN_CHARACTERS]}
        return described


async def exchange(app: ASGIApp, request: Request) -> Answer:
    """Return the answer of an ASGI application or a response to a request.

    Raises:
        Exception: whatever the application raises.
    """
    answer = Answer()
    await app(request.scope, request.receive, answer.receive)
    return answer
