"""Load a URL with wrk for a bounded time, and parse its report."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SCRIPT = """local bodies = {%s}
local turn = 0
local requests = {}
local headers = {%s}
function init(args)
  for i, body in ipairs(bodies) do
    requests[i] = wrk.format("POST", nil, headers, body)
  end
end
function request()
  turn = turn %% #requests + 1
  return requests[turn]
end
"""
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True)
class Load:
    """One run: requests per second, latencies in milliseconds, requests without a 2xx answer."""

    rate: float
    p50_ms: float
    p99_ms: float
    failed: int


def available() -> bool:
    """Return whether wrk is installed."""
    return shutil.which("wrk") is not None


def load(
    url: str, bodies: Sequence[Any], connections: int, seconds: int, headers: Mapping[str, str] | None = None
) -> Load:
    """Load ``url`` over ``connections`` connections for ``seconds``, with each of ``bodies`` in turn as JSON.

    Raises:
        subprocess.CalledProcessError: wrk failed, or could not connect.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(lua(bodies, headers))
        script.flush()
        threads = min(2, connections)
        command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script.name, url]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return parse(text)


def lua(bodies: Sequence[Any], headers: Mapping[str, str] | None = None) -> str:
    """Return the script that makes wrk send ``bodies``. Lua does not interpret text between long brackets."""
    fields = {"Content-Type": "application/json", **(headers or {})}
    return _SCRIPT % (
        ", ".join(f"[=[{json.dumps(body)}]=]" for body in bodies),
        ", ".join(f"[ [=[{name}]=] ] = [=[{value}]=]" for name, value in fields.items()),
    )


def parse(text: str) -> Load:
    """Parse wrk's report.

    Raises:
        ValueError: the text is no report.
    """
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    if rate is None:
        raise ValueError(f"not a report of wrk's:\n{text}")
    failed = (int(refused[1]) if refused else 0) + (sum(map(int, errors.groups())) if errors else 0)
    return Load(float(rate[1]), _percentile(text, 50), _percentile(text, 99), failed)


def _percentile(text: str, percent: int) -> float:
    match = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)\s*$", text, re.M)
    return float(match[1]) * _UNITS[match[2]] if match else float("nan")
