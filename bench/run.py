"""The benchmark: `make bench`. Needs a cluster that `make up` started here; writes docs/benchmark.md and its plot.

Load goes only to this machine's loopback, for seconds at a time. Speeds are given as ratios within one run: these
ratios hold on another machine too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cluster
import hotspots
import peers
import pressure
import steady
import wrk
from page import AIMED_AT, OURS, Results, Row, page, plot
from peers import Side

CONNECTIONS = (1, 32, 128)
# In the order of measurement, the most important first.
PARTS = ("speeds", "pressure", "changes", "profile")
SECONDS = 3
QUICK_S = 2
ROUNDS = 4
WARM_UP_S = 1
STEADY_S = 5
# Requests per second that every side can answer: at this rate the latencies are compared.
STEADY_RATES = {"echo": 100, "embed": 40}
# Several lengths, as real sentences have: how a batch handles them is part of the speed.
SENTENCES = (
    "a cat sits on the mat",
    "The quarterly revenue of the company grew by twelve percent compared with the year before.",
    "hello world",
    "Serving models behind one gateway lets a small team share a few machines without anybody waiting for the other.",
    "What is the capital of France?",
    "He said that the weather would turn cold at the weekend, and that we had better bring in the wood.",
    "kittens",
    "The request is answered once the batch that holds it has been computed, which takes longer the more sentences "
    "of different length share it, because each is padded to the longest.",
)
ECHO = {"text": "hello", "number": 42}
STOCK = "stock Ray Serve"
DOCS = cluster.ROOT / "docs"
SAVED = peers.CACHE / "results.json"


def main() -> int:
    """Measure, and write the page after each part: a part's results are kept if a later part fails."""
    arguments = parsed()
    if not cluster.is_up():
        raise SystemExit("error: no cluster runs on this machine. Run `make up` first")
    if not wrk.available():
        subprocess.run(["apt-get", "install", "-q", "-y", "--no-install-recommends", "wrk"], check=True)
    results = Results()
    if (arguments.add or arguments.only) and not arguments.quick:
        if not SAVED.exists():
            raise SystemExit(
                f"error: {SAVED} does not exist: no earlier run to keep. Run `make bench` without ARGS first"
            )
        results = Results.from_json(json.loads(SAVED.read_text()))
    seconds = QUICK_S if arguments.quick else SECONDS
    measured = version()  # before the page itself makes the checkout another
    with cluster.project() as scratch:
        for part in arguments.parts:
            print(f"measuring: {part}", flush=True)
            if part == "speeds":
                speeds(results, arguments, seconds, measured)
            else:
                setattr(results, part, rows(part, scratch, arguments.soak))
            results.taken[part] = f"{measured}, {time.strftime('%Y-%m-%d')}"
            results.machine = machine()
            if not arguments.quick:
                save(results)
                (DOCS / "benchmark.md").write_text(page(results, seconds) + FIRST_ANSWER)
                (DOCS / "benchmark.svg").write_text(plot(results))
    print(page(results, seconds))
    return 0


def parsed() -> argparse.Namespace:
    """Return the options, with the parts to measure, in order."""
    parser = argparse.ArgumentParser(description="Measure modelserve beside its peers; up to 30 minutes.")
    parser.add_argument("--quick", action="store_true", help="one short round; the page is printed, docs stay")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds over all sides (default: %(default)s)")
    parser.add_argument("--add", action="store_true", help="add rounds to those of the last run, and nothing else")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="measure these anew, keep the rest of the last run")
    parser.add_argument(
        "--soak",
        type=float,
        default=0,
        metavar="MINUTES",
        help="and send requests for so long, at a moderate rate, with a deploy a minute",
    )
    arguments = parser.parse_args()
    arguments.parts = arguments.only or (["speeds"] if arguments.add else list(PARTS))
    if arguments.quick:
        arguments.parts = [part for part in arguments.parts if part != "pressure"]
    if arguments.soak:
        arguments.parts += ["soak"]
    return arguments


def rows(part: str, scratch: Path, minutes: float) -> list[Row]:
    """Measure a part; return its rows."""
    if part == "changes":
        rss, pss = cluster.replica_memory_mb("Echo")
        memory = f"{rss:.0f} MiB resident, {pss:.0f} MiB proportional"
        return [second_run(scratch), *changes(scratch), ("a replica's memory, no model", memory, "reported")]
    if part == "pressure":
        return [*over_https(scratch), *pressure.overload(scratch)]
    return hotspots.rows(ECHO) if part == "profile" else pressure.soak(minutes, scratch)


def speeds(results: Results, arguments: argparse.Namespace, seconds: int, measured: str) -> None:
    """Measure all sides in turn, in several rounds."""
    if not arguments.add:
        results.runs, results.steady, results.sides, results.missing = {}, {}, {}, {}
    sides = installed(results, measured)
    connections = (AIMED_AT,) if arguments.quick else CONNECTIONS
    for number in range(1 if arguments.quick else arguments.rounds):
        for side in sides:
            with up(side, results) as ready:
                if ready:
                    closed_loop(side, results, seconds, connections)
                    if not arguments.quick and number == 0 and not has_steady(results, side):
                        at_a_rate(side, results)
            if not arguments.quick:
                save(results)


def installed(results: Results, measured: str) -> list[Side]:
    """Return the sides that can be measured, modelserve first; write the reasons for the others to the results.

    Args:
        results: receives the sides and the reasons.
        measured: modelserve's version.
    """
    base = f"http://127.0.0.1:{cluster.port()}"
    ours = Side(OURS, OURS, echo=f"{base}/echo", embed=f"{base}/embed", settings=f"as shipped{_batches()}")
    sides = [ours]
    results.sides[OURS] = (measured, ours.settings)
    for side in peers.PEERS:
        try:
            results.sides[side.title] = (peers.install(side), side.settings)
            sides.append(side)
        except peers.PeerError as error:
            results.missing[side.title] = str(error)
            print(f"{side.title}: {error}", flush=True)
    return sides


@contextmanager
def up(side: Side, results: Results) -> Iterator[bool]:
    """Run a side in the ``with`` block; yield whether it runs. modelserve always runs."""
    if side.name == OURS:
        if problem := fault(side):
            raise SystemExit(f"error: modelserve does not answer as it should: {problem}")
        yield True
        return
    try:
        with peers.started(side, fault):
            yield True
    except peers.PeerError as error:
        results.missing[side.title] = str(error).splitlines()[0]
        print(f"{side.title}: {error}", flush=True)
        yield False


def fault(side: Side) -> str:
    """Return what is wrong with a side's answers; empty if nothing. Each side must do the work to be compared."""
    try:
        echoed = json.loads(peers.post(side.echo, json.dumps(ECHO).encode()))
        embedded = json.loads(peers.post(side.embed, json.dumps(side.request(SENTENCES[0])).encode()))
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    if (echoed.get("result", echoed) if isinstance(echoed, dict) else echoed) != ECHO:
        return f"the echo of {ECHO} is {echoed}"
    length = sum(number * number for number in numbers(embedded))
    count = len(numbers(embedded))
    return "" if count == 384 and abs(length - 1) < 1e-3 else f"the embedding has {count} numbers, length {length:.3f}"


def numbers(content: object) -> list[float]:
    """Return all floating-point numbers of an answer, at any depth: each side wraps them in its own way."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [number for part in content for number in numbers(part)]
    return [content] if isinstance(content, float) else []


def closed_loop(side: Side, results: Results, seconds: int, connections: tuple[int, ...]) -> None:
    """Load a side over growing numbers of connections; each sends a request as soon as the last one is answered."""
    for work, (url, bodies) in requests(side).items():
        wrk.load(url, bodies, 32, WARM_UP_S)
        for count in connections:
            load = wrk.load(url, bodies, count, seconds)
            results.runs.setdefault((work, count), {}).setdefault(side.title, []).append(load)
            print(f"{side.title}, {work}, {count} connections: {load}", flush=True)


def over_https(scratch: Path) -> list[Row]:
    """Measure the echo over HTTPS with a key, stock Ray Serve and plain HTTP in turn; return the row."""
    plain = f"http://127.0.0.1:{cluster.port()}/echo"
    stock = next(side for side in peers.PEERS if side.title == STOCK)
    peers.install(stock)
    with peers.started(stock, fault):
        wrk.load(stock.echo, [ECHO], AIMED_AT, WARM_UP_S)
        theirs = wrk.load(stock.echo, [ECHO], AIMED_AT, 2 * SECONDS)
    wrk.load(plain, [ECHO], AIMED_AT, WARM_UP_S)
    before = wrk.load(plain, [ECHO], AIMED_AT, SECONDS)
    with pressure.guarded(scratch) as (url, headers):
        wrk.load(f"{url}/echo", [ECHO], AIMED_AT, WARM_UP_S, headers)
        load = wrk.load(f"{url}/echo", [ECHO], AIMED_AT, 2 * SECONDS, headers)
    after = wrk.load(plain, [ECHO], AIMED_AT, SECONDS)
    outcome = f"{load.rate:,.0f} requests/s, p99 {load.p99_ms:.1f} ms, {load.failed} failed"
    outcome += f"; {load.rate / theirs.rate:.1f} times stock Ray Serve over HTTP ({theirs.rate:,.0f})"
    outcome += f"; plain HTTP before and after: {before.rate:,.0f} and {after.rate:,.0f}"
    return [(f"echo over HTTPS with a key, {AIMED_AT} connections", outcome, "12 times stock Ray Serve")]


def at_a_rate(side: Side, results: Results) -> None:
    """Send requests to a side at a fixed rate."""
    for work, (url, bodies) in requests(side).items():
        load = steady.load(url, bodies, STEADY_RATES[work], STEADY_S)
        results.steady.setdefault((work, STEADY_RATES[work]), {})[side.title] = [load]
        print(f"{side.title}, {work}, steady: {load}", flush=True)


def has_steady(results: Results, side: Side) -> bool:
    """Return whether an earlier run measured this side at the fixed rate."""
    return all(side.title in results.steady.get((work, rate), {}) for work, rate in STEADY_RATES.items())


def requests(side: Side) -> dict[str, tuple[str, list[object]]]:
    """Return the URL and the requests in turn, by kind of work."""
    return {"echo": (side.echo, [ECHO]), "embed": (side.embed, [side.request(text) for text in SENTENCES])}


def save(results: Results) -> None:
    """Save the results so far."""
    SAVED.parent.mkdir(parents=True, exist_ok=True)
    SAVED.write_text(json.dumps(results.to_json()))


def version() -> str:
    """Return the version of modelserve, from git."""
    return cluster.run("git", "describe", "--always", "--dirty", check=False).strip()


def machine() -> list[str]:
    """Return the description of the machine, in lines."""
    return [
        f"Machine: {os.cpu_count()} cores of {_cpu()}, {_memory_gib():.0f} GiB, "
        f"Linux {platform.release().split('-')[0]}.",
        f"Ray {cluster.head('python', '-c', 'import ray; print(ray.__version__)').strip()}, "
        f"{cluster.head('python', '--version').strip()}; {time.strftime('%Y-%m-%d')}.",
    ]


def second_run(scratch: Path) -> Row:
    """Measure the second of two runs of `site.yml`, which changes nothing; return the row."""
    cluster.playbook("site.yml", "-e", f"modelserve_project={scratch}")
    started = time.monotonic()
    recap = cluster.playbook("site.yml", "-e", f"modelserve_project={scratch}").strip().splitlines()[-1]
    changed = recap.split("changed=")[1].split()[0]
    return "second `site.yml`", f"{time.monotonic() - started:.1f} s, changed={changed}", "under 20 s"


def changes(scratch: Path) -> list[Row]:
    """Measure changes, from the command to the answer over HTTP; return the rows."""
    rows = [
        ("`modelserve plan`", f"{cluster.timed('modelserve', 'plan'):.2f} s", "under 1 s"),
        ("`modelserve apply`, nothing to do", f"{cluster.timed('modelserve', 'apply'):.2f} s", "under 2 s"),
        ("50 sections planned", f"{fifty_planned(scratch):.2f} s", "under 2 s"),
    ]
    for change in live_changes(scratch):
        rows.append(change.measure(scratch))
        print(*rows[-1], sep=": ", flush=True)
    return rows


@dataclass(frozen=True)
class Change:
    """A change of the running project.

    Attributes:
        title: of the row.
        edit: writes the change to the scratch project.
        is_live: returns whether the answer is the new one; None where no answer shows the change.
        aim: the duration aimed at.
        command: of modelserve.
    """

    title: str
    edit: Callable[[], object]
    is_live: Callable[[], bool] | None
    aim: str = "under 5 s"
    command: str = "apply"

    def measure(self, scratch: Path) -> Row:
        """Execute the change; return the row of the time until it is live.

        Raises:
            SystemExit: the command fails, or the answer stays the old one.
        """
        self.edit()
        cluster.upload(scratch)
        started = time.monotonic()
        docker = ["docker", "exec", cluster.HEAD, "modelserve", self.command]
        with subprocess.Popen(docker, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None and not (self.is_live and self.is_live()):
                time.sleep(0.02)
            live_s = time.monotonic() - started
            output = process.communicate()[0]
            ended_s = time.monotonic() - started
        if process.returncode != 0 or (self.is_live and not self.is_live()):
            raise SystemExit(f"error: {self.title}: {' '.join(docker)} ended with {process.returncode}:\n{output}")
        if self.is_live is None:
            return self.title, f"{ended_s:.1f} s", self.aim
        built = "built" if "building" in output else "not built"
        figures = f"{live_s:.1f} s; environment {built}, `{self.command}` ends after {ended_s:.1f} s"
        return self.title, figures, self.aim


def live_changes(scratch: Path) -> Iterator[Change]:
    """Yield the changes in order; the project is the original one again after the last."""
    conf, code = scratch / "conf.ini", scratch / "algopkg/Echo/backend.py"
    requirements = code.with_name("requirements.txt")
    on, source = conf.read_text(), code.read_text()
    off = on.replace(cluster.SECTION, "")
    scaled = on.replace(cluster.SECTION, cluster.SECTION.replace("replicas = 1", "replicas = 2"))
    edited = source.replace("return param_dict", 'return {"new": True}')

    def result() -> object:
        answer = cluster.ask("echo", {"x": 1})[1]
        return answer and answer["result"]

    def is_new() -> bool:
        return result() == {"new": True}

    def is_old() -> bool:
        return result() == {"x": 1}

    def restore() -> None:
        code.write_text(source)
        requirements.unlink()

    yield Change("replicas 1 to 2", lambda: conf.write_text(scaled), None, "under 3 s")
    yield Change("replicas 2 to 1", lambda: conf.write_text(on), None)
    yield Change("code edited, to the new answer", lambda: code.write_text(edited), is_new)
    yield Change("rollback, to the old answer", lambda: None, is_old, command="rollback")
    yield Change("the new code again", lambda: None, is_new)
    yield Change(
        "section commented out, to 404", lambda: conf.write_text(off), lambda: cluster.ask("echo", {})[0] == 404
    )
    yield Change("section restored", lambda: conf.write_text(on), is_new)
    yield Change(
        "a dependency added (built, unless an earlier run did)",
        lambda: requirements.write_text("tabulate==0.9.0\n"),
        is_new,
        "reported",
    )
    yield Change("original code and environment", restore, is_old)


def fifty_planned(scratch: Path) -> float:
    """Return the seconds of a plan with 50 new algorithms, each with a package of its own."""
    conf = scratch / "conf.ini"
    text = conf.read_text()
    names = [f"Echo{number}" for number in range(50)]
    for name in names:
        shutil.copytree(scratch / "algopkg/Echo", scratch / "algopkg" / name)
    sections = [f"\n[algopkg.{name}]\nbackend = Echo\nroute = {name.lower()}\n" for name in names]
    conf.write_text(text + "".join(sections))
    cluster.upload(scratch)
    seconds = cluster.timed("modelserve", "plan")
    for name in names:
        shutil.rmtree(scratch / "algopkg" / name)
    conf.write_text(text)
    cluster.upload(scratch)
    return seconds


# Needs an empty machine, which the benchmark does not make; measured by hand, see the text.
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


def _batches() -> str:
    section = (cluster.ROOT / "conf.ini").read_text().partition("[algopkg.TextEmbedding]")[2]
    settings = [line.replace(" ", "") for line in section.splitlines() if line.startswith("batch")]
    return "; " + ", ".join(f"`{line}`" for line in settings) if settings else ""


def _memory_gib() -> float:
    return int(Path("/proc/meminfo").read_text().split()[1]) / 2**20


if __name__ == "__main__":
    raise SystemExit(main())
