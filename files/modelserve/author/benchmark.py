"""A benchmark of a served algorithm: requests to its route for a bounded time."""

from __future__ import annotations

import http.client
import json
import math
import re
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelserve.util.http import local_context

TIMEOUT_S = 60
MAX_SECONDS = 300
MAX_CONNECTIONS = 256
# A refused connection is not retried as fast as the loop can: that would only load the host.
RETRY_DELAY_S = 0.05
_STATUS_0 = re.compile(rb'"status"\s*:\s*0')


@dataclass(frozen=True)
class Load:
    """The request of a benchmark.

    Attributes:
        url: URL of the route.
        method: HTTP method; the body comes with each.
        body: the body of the request.
        headers: its headers.
    """

    url: str
    method: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection to the route's host, which is made with the first request."""
        target = urllib.parse.urlsplit(self.url)
        host = target.hostname or ""
        if target.scheme == "https":
            context = local_context()
            return http.client.HTTPSConnection(host, target.port or 443, timeout=TIMEOUT_S, context=context)
        return http.client.HTTPConnection(host, target.port or 80, timeout=TIMEOUT_S)


@dataclass(frozen=True)
class Measurement:
    """What a benchmark measured.

    Attributes:
        url: URL of the route.
        connections: number of concurrent connections.
        requests: number of requests, failed ones included.
        seconds: duration.
        latencies_s: latency of each successful request in seconds, in ascending order.
        failures: number of failed requests by kind: ``HTTP 429``, ``status 0``, or the name of an error.
    """

    url: str
    connections: int
    requests: int
    seconds: float
    latencies_s: tuple[float, ...]
    failures: Mapping[str, int]

    @property
    def per_second(self) -> float:
        """Number of successful requests per second."""
        return round(len(self.latencies_s) / self.seconds, 1)

    def percentile_ms(self, share: int) -> float | None:
        """Return the latency in milliseconds that ``share`` percent of the requests do not exceed; None without any."""
        if not self.latencies_s:
            return None
        return round(self.latencies_s[math.ceil(len(self.latencies_s) * share / 100) - 1] * 1000, 2)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "url": self.url,
            "connections": self.connections,
            "requests": self.requests,
            "seconds": round(self.seconds, 2),
            "per_second": self.per_second,
            **{f"p{share}_ms": self.percentile_ms(share) for share in (50, 90, 99)},
            "max_ms": self.percentile_ms(100),
            "failures": dict(self.failures),
        }


def measure(load: Load, connections: int, seconds: float) -> Measurement:
    """Send requests to a route; each connection sends the next one when it has its answer.

    A request is failed where its answer has ``status`` 0, whatever its HTTP status: that is how the legacy class API
    reports an error. At the end, pending requests get one minute; an interrupt ends all of them at once.

    Args:
        load: the request.
        connections: number of concurrent connections, 1 to 256.
        seconds: duration, more than 0 and at most 300.

    Raises:
        ValueError: a number is out of its bounds.
    """
    if not 1 <= connections <= MAX_CONNECTIONS or not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"{connections} connections for {seconds} s")
    started = time.perf_counter()
    run = _Run(load, until=started + seconds)
    # Daemons: the end of an interrupted program does not wait for them.
    threads = [threading.Thread(target=run.send_requests, daemon=True) for _ in range(connections)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        run.stopped.set()
    duration_s = time.perf_counter() - started
    requests = len(run.latencies_s) + sum(run.failures.values())
    return Measurement(load.url, connections, requests, duration_s, tuple(sorted(run.latencies_s)), dict(run.failures))


class _Run:
    """The shared state of a benchmark's threads."""

    def __init__(self, load: Load, until: float) -> None:
        self._load = load
        self._path = urllib.parse.urlsplit(load.url).path
        self._until = until
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self.latencies_s: list[float] = []
        self.failures: Counter[str] = Counter()

    def send_requests(self) -> None:
        """Send requests over one connection until the end."""
        connection = self._load.connect()
        while (begun := time.perf_counter()) < self._until and not self.stopped.is_set():
            try:
                failure = self._send(connection)
            except (OSError, http.client.HTTPException) as error:
                failure = type(error).__name__
                connection.close()
                time.sleep(RETRY_DELAY_S)
            if failure:
                with self._lock:  # adding to a count is a read and a write
                    self.failures[failure] += 1
            else:
                self.latencies_s.append(time.perf_counter() - begun)
        connection.close()

    def _send(self, connection: http.client.HTTPConnection) -> str:
        """Send a request and return the kind of its failure; empty for a success."""
        connection.request(self._load.method, self._path, self._load.body, dict(self._load.headers))
        response = connection.getresponse()
        answer = response.read()
        if not 200 <= response.status < 300:
            return f"HTTP {response.status}"
        return "status 0" if _has_status_0(answer) else ""


def _has_status_0(answer: bytes) -> bool:
    # Most answers are not parsed: the client shares its processors with the replicas that it measures.
    if not _STATUS_0.search(answer):
        return False
    try:
        content = json.loads(answer)
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("status") == 0
