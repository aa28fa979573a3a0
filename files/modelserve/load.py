"""How much does a served algorithm answer? Loads its route for a bounded time."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.parse
from collections import Counter
from typing import Any

TIMEOUT_S = 60
MAX_SECONDS = 300
MAX_CONNECTIONS = 256


def measure(url: str, method: str, params: dict[str, Any], connections: int, seconds: float) -> dict[str, Any]:
    """Ask one route over and over, each connection as soon as it has its answer.

    Args:
        url: of the route.
        method: the HTTP method; the parameters are the body with each.
        params: the request.
        connections: how many ask at the same time, at most 256.
        seconds: for how long, at most 300.

    Returns:
        ``requests``, ``seconds``, ``per_second``, the latencies ``p50_ms``, ``p90_ms``, ``p99_ms`` and ``max_ms`` of
        those answered 200, and ``failures``: a count by kind (``HTTP 429``, or an error's name).
    """
    connections, seconds = min(connections, MAX_CONNECTIONS), min(seconds, MAX_SECONDS)
    target = urllib.parse.urlsplit(url)
    body, headers = json.dumps(params).encode(), {"Content-Type": "application/json"}
    started = time.perf_counter()
    until = started + seconds
    latencies: list[float] = []
    failures: Counter[str] = Counter()

    def ask_on() -> None:
        connection = http.client.HTTPConnection(target.hostname or "", target.port or 80, timeout=TIMEOUT_S)
        while (begun := time.perf_counter()) < until:
            try:
                connection.request(method, target.path, body, headers)
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as error:
                failures[type(error).__name__] += 1
                connection.close()
                time.sleep(0.05)  # nobody is helped by asking a closed port as fast as one can
                continue
            if response.status == 200:
                latencies.append(time.perf_counter() - begun)
            else:
                failures[f"HTTP {response.status}"] += 1
        connection.close()

    threads = [threading.Thread(target=ask_on) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
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


def _percentile(ordered: list[float], share: int) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, len(ordered) * share // 100)] * 1000, 2)
