"""Asks modelserve over HTTPS with a key, for ten times what it can do, and for long. No peer takes part.

All goes to this machine's loopback, and is bounded in time.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cluster
import processes
import steady
import wrk
from page import Row
from processes import Sizes

OVERLOAD_S = 10
TIMES = 10
# As many connections as may be in the replica keep it busy, and none waits in the queue.
WITHIN = 4
SLOW = (
    "\n[algopkg.Slow]\nbackend = Slow\nroute = slow\nmethod = POST\nmax_ongoing_requests = 4\nmax_queued_requests = 2\n"
)
SOAK_RATE = 200
SLICE_S = 20


@contextmanager
def guarded(scratch: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The gateway with HTTPS and keys, for as long as the ``with`` block runs: its address, and what a client sends."""
    ours = {"modelserve_project": str(scratch)}
    on = {**ours, "modelserve_gateway_tls": True, "modelserve_gateway_keys": True, "modelserve_key_max_concurrent": 0}
    try:
        cluster.playbook("playbooks/deploy.yml", "-e", json.dumps(on))
        key = json.loads(cluster.head("modelserve", "keys", "add", "bench", "--json"))["key"]
        yield f"https://127.0.0.1:{cluster.port()}", {"X-API-Key": key}
    finally:
        cluster.run("docker", "exec", cluster.HEAD, "modelserve", "keys", "revoke", "bench", check=False)
        cluster.playbook("playbooks/deploy.yml", "-e", json.dumps(ours))


def overload(scratch: Path) -> list[Row]:
    """Offer a slow algorithm ten times what it can do; rows of what became of it."""
    conf = scratch / "conf.ini"
    text = conf.read_text()
    url = f"http://127.0.0.1:{cluster.port()}/slow"
    conf.write_text(text + SLOW)
    cluster.run("cp", "-R", "bench/packages/Slow", str(scratch / "algopkg"))
    cluster.put(scratch)
    cluster.head("modelserve", "apply")
    try:
        wrk.load(url, [{"x": 1}], WITHIN, 1)
        full = wrk.load(url, [{"x": 1}], WITHIN, OVERLOAD_S)
        capacity = full.rate - full.failed / OVERLOAD_S
        before = processes.sizes()
        answers = steady.answers(url, [{"x": 1}], TIMES * capacity, OVERLOAD_S)
        after = processes.sizes()
    finally:
        conf.write_text(text)
        cluster.put(scratch)
        cluster.head("modelserve", "apply")
    accepted = answers.pop(200, [])
    lost = len(answers.pop(0, []))
    refused = sorted(seconds for some in answers.values() for seconds in some)
    late, turned = (steady.percentile(some, 99) * 1000 for some in (accepted, refused))
    said = ", ".join(f"{len(some)} with {status}" for status, some in sorted(answers.items()))
    grown = max((after[part][0] / before[part][0] - 1, part) for part in after if part in before)
    return [
        (
            f"{TIMES} times its capacity of {capacity:.0f} requests/s: those accepted",
            f"{len(accepted) / OVERLOAD_S:.0f} requests/s, p99 {late:.0f} ms: "
            f"{late / full.p99_ms:.2f} times that at capacity ({full.p99_ms:.0f} ms)",
            "p99 within 2 times",
        ),
        ("the others", f"{said}; p99 {turned:.0f} ms; {lost} without an answer", "429 or 503 at once, none hangs"),
        ("memory meanwhile", f"{grown[0]:+.1%} at most ({grown[1]})", "flat"),
    ]


def soak(minutes: float) -> list[Row]:
    """Ask for long at a moderate rate; rows of how memory and open files grew, from the second fifth to the last, by
    their medians: connections come and go."""
    url = f"http://127.0.0.1:{cluster.port()}/echo"
    ends = time.monotonic() + minutes * 60
    seen: list[Sizes] = []
    asked = failed = 0
    while time.monotonic() < ends:
        answers = steady.answers(url, [{"x": 1}], SOAK_RATE, SLICE_S)
        asked += sum(map(len, answers.values()))
        failed += sum(len(some) for status, some in answers.items() if status != 200)
        seen.append(processes.sizes())
        print(f"soak: {asked} asked, {failed} failed", flush=True)
    fifth = max(1, len(seen) // 5)
    early, late = seen[fifth : 2 * fifth] or seen, seen[-fifth:]
    rows = [(f"{minutes:g} minutes at {SOAK_RATE} requests/s", f"{asked:,} asked, {failed} failed", "none fails")]
    for part in late[-1]:
        if all(part in sample for sample in seen):
            (mib, files), (mib_after, files_after) = (_medians(some, part) for some in (early, late))
            memory = f"{mib:.0f} to {mib_after:.0f} MiB ({mib_after / mib - 1:+.1%})"
            opened = f"{files:.0f} to {files_after:.0f} open files ({files_after / files - 1:+.1%})"
            rows.append((part, f"{memory}, {opened}", "within 2 %"))
    return rows


def _medians(samples: list[Sizes], part: str) -> tuple[float, float]:
    mib, files = zip(*(sample[part] for sample in samples), strict=True)
    return float(statistics.median(mib)), float(statistics.median(files))
