"""A steady load of requests, without retries; every answer is counted."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

TIMEOUT_S = 20
PAUSE_S = 0.1  # each request has a connection of its own, and the hosts share two cores with the load


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent, how long it took (s), its HTTP status (0: none) and what was wrong, if it was."""

    at: float
    seconds: float
    status: int
    error: str = ""

    @property
    def good(self) -> bool:
        return self.status == 200


@dataclass
class Load:
    """Requests to ``routes`` of a host, sent all the while the ``with`` block runs; over TLS where there is a context.

    Attributes:
        answers: one per request, in the order in which they were done.
    """

    host: str
    port: int
    routes: Sequence[tuple[str, object]]
    context: ssl.SSLContext | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._go, args=route) for route in self.routes for _ in range(2)]
        for thread in self._threads:
            thread.start()
        time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def failed(self, after: float = 0, before: float = float("inf")) -> list[Answer]:
        """The requests that failed, of those sent between two times (``time.monotonic``)."""
        return [answer for answer in self.answers if not answer.good and after <= answer.at < before]

    def kinds(self) -> str:
        """What went wrong and how often, in words."""
        return ", ".join(f"{n} {what}" for what, n in Counter(a.error or str(a.status) for a in self.failed()).items())

    def longest(self) -> float:
        """The longest a good answer took, in seconds."""
        return max((answer.seconds for answer in self.answers if answer.good), default=0.0)

    def _go(self, route: str, params: object) -> None:
        while not self._stop.is_set():
            at = time.monotonic()
            status, error = 0, ""
            connection = self._connection()
            try:
                headers = {"Content-Type": "application/json", **self.headers}
                connection.request("GET", f"/{route}", json.dumps(params), headers)
                response = connection.getresponse()
                response.read()
                status = response.status
            except (OSError, http.client.HTTPException) as problem:
                error = type(problem).__name__
            finally:
                connection.close()
            self.answers.append(Answer(at, time.monotonic() - at, status, error))
            time.sleep(PAUSE_S)

    def _connection(self) -> http.client.HTTPConnection:
        if self.context is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        return http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT_S, context=self.context)
