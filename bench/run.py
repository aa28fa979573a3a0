"""The benchmark: `make bench`. Needs a cluster that `make up` started here; writes docs/benchmark.md.

Load goes to this machine's loopback alone, for seconds at a time. Speeds are given as ratios within one run: these are
what carries over to another machine.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import cluster
import wrk

CONNECTIONS = 32
SECONDS = 6
ROUNDS = 3
PAGE = cluster.ROOT / "docs" / "benchmark.md"


def main() -> int:
    """Measure, and write the page."""
    if not cluster.is_up():
        raise SystemExit("error: no cluster runs on this machine. Run `make up` first")
    if not wrk.available():
        subprocess.run(["apt-get", "install", "-q", "-y", "--no-install-recommends", "wrk"], check=True)
    rows: list[tuple[str, str, str]] = []
    started = time.monotonic()
    recap = cluster.playbook("site.yml").strip().splitlines()[-1]
    changed = recap.split("changed=")[1].split()[0]
    rows.append(("second `site.yml`", f"{time.monotonic() - started:.1f} s, changed={changed}", "under 20 s"))
    with cluster.project() as scratch:
        rows += changes(scratch)
        rss, pss = cluster.replica_memory_mb("Echo")
        rows.append(("a replica's memory, no model", f"{rss:.0f} MiB resident, {pss:.0f} MiB proportional", "reported"))
        ours, stock = echo()
    PAGE.write_text(page(ours, stock, rows))
    print(PAGE.read_text())
    return 0


def changes(scratch: Path) -> list[tuple[str, str, str]]:
    """Times of changes, from the command to the answer over HTTP."""
    conf, code = scratch / "conf.ini", scratch / "algopkg/Echo/backend.py"
    rows = [
        ("`modelserve plan`", f"{cluster.timed('modelserve', 'plan'):.2f} s", "reported"),
        ("`modelserve apply`, nothing to do", f"{cluster.timed('modelserve', 'apply'):.2f} s", "reported"),
    ]

    def live(what: str, edit: Callable[[], object], answers: Callable[[], bool], aim: str = "under 5 s") -> None:
        edit()
        cluster.put(scratch)
        started = time.monotonic()
        output = cluster.head("modelserve", "apply")
        while not answers():
            time.sleep(0.02)
        built = "built" if "building" in output else "not built"
        rows.append((what, f"{time.monotonic() - started:.1f} s, environment {built}", aim))
        print(*rows[-1], sep=": ", flush=True)

    text, source = conf.read_text(), code.read_text()
    on, off = text, text.replace(cluster.SECTION, "")
    scaled = text.replace(cluster.SECTION, cluster.SECTION.replace("replicas = 1", "replicas = 2"))

    def result() -> object:
        answer = cluster.ask("echo", {"x": 1})[1]
        return answer and answer["result"]

    live("replicas 1 to 2", lambda: conf.write_text(scaled), lambda: result() == {"x": 1})
    live("replicas 2 to 1", lambda: conf.write_text(on), lambda: result() == {"x": 1})
    edited = source.replace("return param_dict", 'return {"new": True}')
    live("code edited, to the new answer", lambda: code.write_text(edited), lambda: result() == {"new": True})
    live("section commented out, to 404", lambda: conf.write_text(off), lambda: cluster.ask("echo", {})[0] == 404)
    live("section put back", lambda: conf.write_text(on), lambda: result() == {"new": True})
    pin = code.with_name("requirements.txt")
    live(
        "a dependency added (built, unless an earlier run did)",
        lambda: pin.write_text("tabulate==0.9.0\n"),
        lambda: result() == {"new": True},
        "reported",
    )
    code.write_text(source)
    pin.unlink()
    live("code and environment as they were", lambda: None, lambda: result() == {"x": 1})
    return rows


def echo() -> tuple[list[wrk.Load], list[wrk.Load]]:
    """Echo through the gateway and through stock Ray Serve, in turns."""
    ours: list[wrk.Load] = []
    stock: list[wrk.Load] = []
    with cluster.stock_serve() as url:
        sides = [(f"http://127.0.0.1:{cluster.port()}/echo", ours, "modelserve"), (url, stock, "stock Ray Serve")]
        for address, _, _ in sides:
            wrk.load(address, CONNECTIONS, 2)  # warm-up, not counted
        for _ in range(ROUNDS):
            for address, loads, name in sides:
                loads.append(wrk.load(address, CONNECTIONS, SECONDS))
                print(f"{name}: {loads[-1]}", flush=True)
    return ours, stock


def page(ours: list[wrk.Load], stock: list[wrk.Load], rows: list[tuple[str, str, str]]) -> str:
    """The page of docs."""
    ratio = statistics.median(a.rate / b.rate for a, b in zip(ours, stock, strict=True))
    lines = [
        "# How fast is it?",
        "",
        "Written by `make bench`, which anybody can run after `make up`. Absolute figures are this machine's; what",
        "carries over is the ratio within one run.",
        "",
        f"Machine: {os.cpu_count()} cores of {_cpu()}, {_memory_gib():.0f} GiB, "
        f"Linux {platform.release().split('-')[0]}.",
        f"Ray {cluster.head('python', '-c', 'import ray; print(ray.__version__)').strip()}, "
        f"{cluster.head('python', '--version').strip()}; {time.strftime('%Y-%m-%d')}.",
        "",
        f"## Echo of a small JSON, {CONNECTIONS} connections, one replica",
        "",
        f"wrk on the same machine, {ROUNDS} rounds of {SECONDS} s in turns; medians. modelserve as it comes, through",
        "its gateway. Stock Ray Serve in the same image, without HAProxy and throughput flags, with as many requests",
        "in flight per replica as modelserve allows (100; with Ray's default, 5, it answered 20 requests/s here).",
        "",
        "| | requests/s | p50 | p99 | failed |",
        "|---|---|---|---|---|",
    ]
    for name, loads in (("modelserve", ours), ("stock Ray Serve", stock)):
        rate, p50, p99 = (
            statistics.median(getattr(load, key) for load in loads) for key in ("rate", "p50_ms", "p99_ms")
        )
        failed = sum(load.failed for load in loads)
        lines.append(f"| {name} | {rate:,.0f} | {p50:.1f} ms | {p99:.1f} ms | {failed} |")
    lines += ["", f"**{ratio:.1f} times stock Ray Serve** (median of the rounds' ratios; the aim is 12).", ""]
    lines += ["## Changes", "", "From the command on the head to the answer over HTTP. Echo has no model to load.", ""]
    lines += [
        "| | measured | aim |",
        "|---|---|---|",
        *(f"| {what} | {value} | {aim} |" for what, value, aim in rows),
        "",
    ]
    return "\n".join(lines) + FIRST_ANSWER


# Needs a machine without anything, which the benchmark does not make; measured by hand, see the text.
FIRST_ANSWER = """
## From nothing to the first answer

`make up` on a fresh Debian 13 (no Docker, no virtual environment, no service manager), two cores: 138 s; on one that
has Docker but neither image nor virtual environment, 89 s. Where the time goes, in the latter:

| | seconds |
|---|---|
| the virtual environment | 7 |
| preflight and Docker | 3 |
| base system from Debian packages | 21 |
| image: Ray, tools, the conda channel | 31 |
| Ray's head, until healthy | 6 |
| models fetched, project put on the head | 4 |
| environments built: base, TextEmbedding | 5 |
| deployed, until both algorithms answer | 7 |
| gateway, one question to each | 3 |
"""


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return int(Path("/proc/meminfo").read_text().split()[1]) / 2**20


if __name__ == "__main__":
    raise SystemExit(main())
