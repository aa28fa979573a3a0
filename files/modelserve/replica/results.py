"""What an inference may return beside JSON values: files, and the events of a stream."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class File:
    """A file as the answer: ``return modelserve.File("/tmp/out.mp4")``. The file must stay until it is sent.

    Attributes:
        path: the file.
        media_type: its media type; None guesses it by the name.
        filename: the name under which a browser saves it; None lets the browser show it.
    """

    path: str | os.PathLike[str]
    media_type: str | None = None
    filename: str | None = None


@dataclass(frozen=True)
class Event:
    """A server-sent event: an inference that yields events is answered as ``text/event-stream``.

    Attributes:
        data: a text, or a value that is sent as JSON.
        event: its type; None is ``message``.
        id: the id that a client sends as ``Last-Event-ID`` when it connects again.
        retry: time in milliseconds after which a client connects again.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    data: Any = ""
    event: str | None = None
    id: str | None = None
    retry: int | None = None
