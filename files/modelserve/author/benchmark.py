"""How much does a served algorithm answer? Loads its route for a bounded time."""

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
from typing import Any

from modelserve.util.http import local_context

TIMEOUT_S = 60
MAX_SECONDS = 300
MAX_CONNECTIONS = 256
_STATUS_0 = re.compile(rb'"status"\s*:\s*0')


def measure(
    url: str, method: str, params: dict[str, Any], connections: int, seconds: float, headers: Mapping[str, str] = {}
) -> dict[str, Any]:
    """Ask one route over and over, each connection as soon as it has its answer.

    An answer whose ``status`` is 0 failed, whatever its HTTP status: that is how classes written the original way say
    it. What is under way at the end is waited for, a minute at most; an interrupt ends it all at once.

    Args:
        url: of the route.
        method: the HTTP method; the parameters are the body with each.
        params: the request.
        connections: how many ask at the same time, 1 to 256.
        seconds: for how long, more than 0 and at most 300.
        headers: sent with each request.

    Returns:
        ``requests``, ``seconds``, ``per_second``, the latencies ``p50_ms``, ``p90_ms``, ``p99_ms`` and ``max_ms`` of
        those that were answered, and ``failures``: a count by kind (``HTTP 429``, ``status 0``, or an error's name).

    Raises:
        ValueError: more connections or seconds than that, or none.
    """
    if not 1 <= connections <= MAX_CONNECTIONS or not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"{connections} connections for {seconds} s")
    target = urllib.parse.urlsplit(url)
    body, headers = json.dumps(params).encode(), {"Content-Type": "application/json", **headers}
    started = time.perf_counter()
    until = started + seconds
    latencies: list[float] = []
    failures: Counter[str] = Counter()
    stopped = threading.Event()

    def ask_on() -> None:
        connection = _connection(target)
        while (begun := time.perf_counter()) < until and not stopped.is_set():
            try:
                connection.request(method, target.path, body, headers)
                response = connection.getresponse()
                answer = response.read()
            except (OSError, http.client.HTTPException) as error:
                failures[type(error).__name__] += 1
                connection.close()
                time.sleep(0.05)  # nobody is helped by asking a closed port as fast as one can
                continue
            took = time.perf_counter() - begun
            if response.status != 200:
                failures[f"HTTP {response.status}"] += 1
            elif _failed(answer):
                failures["status 0"] += 1
            else:
                latencies.append(took)
        connection.close()

    # Daemons: an interrupted program does not wait for them.
    threads = [threading.Thread(target=ask_on, daemon=True) for _ in range(connections)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stopped.set()
    took = time.perf_counter() - started
    latencies.sort()
    return {
        "url": url,
        "connections": connections,
        "requests": len(latencies) + sum(failures.values()),
        "seconds": round(took, 2),
        "per_second": round(len(latencies) / took, 1),
        **{f"p{share}_ms": _percentile(latencies, share) for share in (50, 90, 99)},
        "max_ms": _percentile(latencies, 100),
        "failures": dict(failures),
    }


def _failed(answer: bytes) -> bool:
    # Parsed only where it may be so: the time of parsing would be taken from the asking.
    if not _STATUS_0.search(answer):
        return False
    try:
        content = json.loads(answer)
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("status") == 0


def _percentile(ordered: list[float], share: int) -> float | None:
    if not ordered:
        return None
    return round(ordered[math.ceil(len(ordered) * share / 100) - 1] * 1000, 2)


def _connection(target: urllib.parse.SplitResult) -> http.client.HTTPConnection:
    host = target.hostname or ""
    if target.scheme == "https":
        context = local_context()
        return http.client.HTTPSConnection(host, target.port or 443, timeout=TIMEOUT_S, context=context)
    return http.client.HTTPConnection(host, target.port or 80, timeout=TIMEOUT_S)
