"""Load modelserve over HTTPS with a key, at ten times its capacity, and for a long time. No peer takes part.

The load goes to this machine's loopback, and is bounded in time.
"""

from __future__ import annotations

import json
import statistics
import threading
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
# As many connections as the replica takes at the same time keep it busy, and none waits in the queue.
WITHIN = 4
SLOW = (
    "\n[algopkg.Slow]\nbackend = Slow\nroute = slow\nmethod = POST\nmax_ongoing_requests = 4\nmax_queued_requests = 2\n"
)
SOAK_RATE = 200
SLICE_S = 20
DEPLOY_EVERY_S = 60


@contextmanager
def guarded(scratch: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Give the gateway HTTPS and keys in the ``with`` block; yield its address and a client's headers."""
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
    """Load a slow algorithm at ten times its capacity; return the rows of the outcome."""
    conf = scratch / "conf.ini"
    text = conf.read_text()
    url = f"http://127.0.0.1:{cluster.port()}/slow"
    conf.write_text(text + SLOW)
    cluster.run("cp", "-R", "bench/packages/Slow", str(scratch / "algopkg"))
    cluster.upload(scratch)
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
        cluster.upload(scratch)
        cluster.head("modelserve", "apply")
    accepted = answers.pop(200, [])
    lost = len(answers.pop(0, []))
    refused = sorted(seconds for latencies in answers.values() for seconds in latencies)
    accepted_ms, refused_ms = (steady.percentile(latencies, 99) * 1000 for latencies in (accepted, refused))
    statuses = ", ".join(f"{len(latencies)} with {status}" for status, latencies in sorted(answers.items()))
    growth, part = max((after[part][0] / before[part][0] - 1, part) for part in after if part in before)
    return [
        (
            f"{TIMES} times its capacity of {capacity:.0f} requests/s: those accepted",
            f"{len(accepted) / OVERLOAD_S:.0f} requests/s, p99 {accepted_ms:.0f} ms: "
            f"{accepted_ms / full.p99_ms:.2f} times that at capacity ({full.p99_ms:.0f} ms)",
            "p99 within 2 times",
        ),
        (
            "the others",
            f"{statuses}; p99 {refused_ms:.0f} ms; {lost} without an answer",
            "429 or 503 at once, none hangs",
        ),
        ("memory meanwhile", f"{growth:+.1%} at most ({part})", "flat"),
    ]


@contextmanager
def deploys(scratch: Path) -> Iterator[list[float]]:
    """Deploy new code of Echo once a minute in the ``with`` block; yield the seconds that each deploy took."""
    stop = threading.Event()
    took: list[float] = []

    def deploy() -> None:
        while not stop.wait(DEPLOY_EVERY_S):
            with (scratch / "algopkg/Echo/backend.py").open("a") as stream:
                stream.write(f"# {len(took)}\n")
            cluster.upload(scratch)
            took.append(cluster.timed("modelserve", "apply"))

    thread = threading.Thread(target=deploy)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()


def soak(minutes: float, scratch: Path) -> list[Row]:
    """Send requests for minutes at a moderate rate, with a deploy a minute; return the rows of memory and open files.

    The medians of the second fifth of the time and of the last one are compared, because connections come and go.

    Args:
        minutes: duration.
        scratch: the deployed project.
    """
    with deploys(scratch) as took:
        rows = _soak(minutes)
    deployed = f"{len(took)} deploys of new code, {max(took):.0f} s at most" if took else "none"
    return [*rows, ("deploys meanwhile", deployed, "one a minute")]


def _soak(minutes: float) -> list[Row]:
    url = f"http://127.0.0.1:{cluster.port()}/echo"
    ends = time.monotonic() + minutes * 60
    samples: list[Sizes] = []
    asked = failed = 0
    while time.monotonic() < ends:
        answers = steady.answers(url, [{"x": 1}], SOAK_RATE, SLICE_S)
        asked += sum(map(len, answers.values()))
        failed += sum(len(latencies) for status, latencies in answers.items() if status != 200)
        samples.append(processes.sizes())
        print(f"soak: {asked} asked, {failed} failed", flush=True)
    fifth = max(1, len(samples) // 5)
    early, late = samples[fifth : 2 * fifth] or samples, samples[-fifth:]
    rows = [(f"{minutes:g} minutes at {SOAK_RATE} requests/s", f"{asked:,} asked, {failed} failed", "none fails")]
    for part in late[-1]:
        if all(part in sample for sample in samples):
            (mib, files), (mib_after, files_after) = (_medians(period, part) for period in (early, late))
            memory = f"{mib:.0f} to {mib_after:.0f} MiB ({mib_after / mib - 1:+.1%})"
            opened = f"{files:.0f} to {files_after:.0f} open files ({files_after / files - 1:+.1%})"
            rows.append((part, f"{memory}, {opened}", "within 2 %"))
    return rows


def _medians(samples: list[Sizes], part: str) -> tuple[float, float]:
    mib, files = zip(*(sample[part] for sample in samples), strict=True)
    return float(statistics.median(mib)), float(statistics.median(files))
