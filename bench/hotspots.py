"""The processor time of an echo: by process, and within the replica by kind of work, as py-spy samples it."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable

import cluster
import processes
import wrk
from page import Row

CONNECTIONS = 32
SECONDS = 10
WARM_UP_S = 2
SAMPLES_PER_S = 250
PY_SPY = cluster.ROOT / ".venv/bin/py-spy"
WRITING = "writing the answer to the socket, head and body at once"
CALLING = "modelserve: reading and checking the request, the call"
ANSWERING = "modelserve: the answer as JSON, its response"
REPORTING = "Serve's counts of requests, reported in between"
SERVE = "Serve's counts of a request, and its limit"
FRONT = "modelserve: what surrounds the call for Serve"
SERVER = "uvicorn and the event loop: reading, parsing"
# The first of these frames that a stack holds names its kind. ``modelserve/`` is the package in the image.
KINDS = (
    ("_report_cached_metrics_forever", REPORTING),
    ("(ray/", SERVE),
    ("_BufferedTransport.flush (modelserve/replica/uvicorn_compat.py", WRITING),
    ("SingleWriteResponse.__call__ (modelserve/replica/uvicorn_compat.py", ANSWERING),
    ("json_response (modelserve/replica/responses.py", ANSWERING),
    ("Application.__call__ (modelserve/replica/application.py", CALLING),
    ("Front.__call__ (modelserve/replica/front.py", FRONT),
    ("(modelserve/", CALLING),
)


def rows(body: object) -> list[Row]:
    """Return the rows of an echo's processor time at 32 connections: part, amount, unit.

    Args:
        body: of the request, for JSON.

    Raises:
        SystemExit: py-spy could not sample the replica.
    """
    url = f"http://127.0.0.1:{cluster.port()}/echo"
    wrk.load(url, [body], CONNECTIONS, WARM_UP_S)
    before = processes.cpu_seconds()
    load = wrk.load(url, [body], CONNECTIONS, SECONDS)
    after = processes.cpu_seconds()
    requests = load.rate * SECONDS
    spent = {part: (after[part] - before[part]) / requests * 1e6 for part in after if part in before}
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    by_process: list[Row] = [(part, f"{us:.0f} µs", "processor time per request") for part, us in ordered if us >= 1]
    kinds = shares(sampled(url, body))
    return by_process + [(kind, f"{share:.0%}", "of the replica's event loop") for kind, share in kinds]


def sampled(url: str, body: object) -> list[str]:
    """Return the folded stacks of Echo's replica under load: frames from the outermost, a blank, a count."""
    (pid,) = processes.by_part()[processes.REPLICA]
    # The load must outlast py-spy, which needs time to start.
    loading = threading.Thread(target=wrk.load, args=(url, [body], CONNECTIONS, SECONDS + 2 * WARM_UP_S))
    loading.start()
    try:
        with tempfile.NamedTemporaryFile(suffix=".folded") as out:
            command = [str(PY_SPY), "record", f"--pid={pid}", f"--duration={SECONDS}", f"--rate={SAMPLES_PER_S}"]
            command += ["--threads", "--format=raw", f"--output={out.name}"]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                raise SystemExit(f"error: py-spy cannot sample the replica (it needs root): {result.stderr.strip()}")
            return out.read().decode().splitlines()
    finally:
        loading.join()


def shares(samples: Iterable[str]) -> list[tuple[str, float]]:
    """Return the share of each kind of work in the thread that answers requests, the largest first.

    Raises:
        ValueError: no thread answers requests.
    """
    threads: dict[str, Counter[str]] = {}
    for stack in samples:
        frames, _, count = stack.rpartition(" ")
        threads.setdefault(frames.partition(";")[0], Counter())[frames] += int(count)
    answering = [stacks for stacks in threads.values() if any("run_asgi" in frames for frames in stacks)]
    if not answering:
        raise ValueError("none of the threads sampled answers requests")
    (busiest,) = sorted(answering, key=Counter.total)[-1:]
    kinds: Counter[str] = Counter()
    for frames, count_of_frames in busiest.items():
        kinds[next((kind for frame, kind in KINDS if frame in frames), SERVER)] += count_of_frames
    return [(kind, total / kinds.total()) for kind, total in kinds.most_common()]
