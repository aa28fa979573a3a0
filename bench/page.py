"""The page and the plot of the measurements, for docs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

from wrk import Load

OURS = "modelserve"
WORKS = {"echo": "Echo of a small JSON", "embed": "MiniLM embedding of a sentence"}
# Ratio to a peer's requests per second, at 32 connections.
AIMS = {
    ("echo", "stock Ray Serve"): 15.0,
    ("echo", "LitServe"): 1.8,
    ("echo", "BentoML"): 4.0,
    ("echo", "MLServer"): 1.2,
    ("echo", "FastAPI + uvicorn"): 1.0,
}
AIMED_AT = 32  # connections
ROWS = ("changes", "pressure", "soak", "profile")
Loads = dict[str, list[Load]]  # by a side's title, a load per round
Row = tuple[str, str, str]


@dataclass
class Results:
    """The results of a benchmark.

    Attributes:
        machine: its description, in lines.
        sides: by title, a side's version and settings, in the order of the tables.
        missing: by title, the reason why a side was not measured.
        runs: by kind of work and number of connections.
        steady: by kind of work and requests per second.
        changes: rows of change, duration, aim.
        pressure: rows of load, outcome, aim.
        soak: rows of the long run: process, growth, aim.
        profile: rows of part or kind of work, processor time or share, unit.
        taken: by the part of the benchmark, modelserve's version and the day.
    """

    machine: list[str] = field(default_factory=list)
    sides: dict[str, tuple[str, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    runs: dict[tuple[str, int], Loads] = field(default_factory=dict)
    steady: dict[tuple[str, int], Loads] = field(default_factory=dict)
    changes: list[Row] = field(default_factory=list)
    pressure: list[Row] = field(default_factory=list)
    soak: list[Row] = field(default_factory=list)
    profile: list[Row] = field(default_factory=list)
    taken: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the results as JSON can hold them."""
        plain = {name: getattr(self, name) for name in ("machine", "sides", "missing", "taken", *ROWS)}
        for name in ("runs", "steady"):
            loads: dict[tuple[str, int], Loads] = getattr(self, name)
            plain[name] = [
                [*key, {side: [asdict(load) for load in rounds] for side, rounds in sides.items()}]
                for key, sides in loads.items()
            ]
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Results:
        """Return the results that ``to_json`` gave."""
        loads = {
            name: {
                (work, number): {side: [Load(**load) for load in rounds] for side, rounds in sides.items()}
                for work, number, sides in plain[name]
            }
            for name in ("runs", "steady")
        }
        sides = {title: (version, settings) for title, (version, settings) in plain["sides"].items()}
        rows = {name: [(a, b, c) for a, b, c in plain[name]] for name in ROWS}
        fields: dict[str, Any] = {**rows, **loads}
        return cls(plain["machine"], sides, plain["missing"], taken=plain["taken"], **fields)


def median(loads: list[Load], key: str) -> float:
    """Return the median of one figure over the rounds."""
    return float(statistics.median(getattr(load, key) for load in loads))


def ratio(ours: list[Load], theirs: list[Load], key: str = "rate") -> float:
    """Return the median, over the rounds, of our figure divided by theirs in the same round."""
    both = zip(ours, theirs, strict=False)
    return float(statistics.median(getattr(a, key) / getattr(b, key) for a, b in both))


def page(results: Results, seconds: int) -> str:
    """Return the page in Markdown, without the parts that are measured by hand.

    Args:
        results: of the benchmark.
        seconds: duration of a run.
    """
    lines = [
        INTRODUCTION.strip(),
        "",
        *results.machine,
        "",
        "![Requests per second at 32 connections](benchmark.svg)",
        "",
    ]
    lines += ["| | version | set up as |", "|---|---|---|"]
    lines += [f"| {title} | {version} | {settings} |" for title, (version, settings) in results.sides.items()]
    lines += [f"| {title} | | not measured: {why} |" for title, why in results.missing.items()]
    for work, title in WORKS.items():
        numbers = [number for kind, number in results.runs if kind == work]
        if not numbers:
            continue
        rounds = max(len(loads) for loads in results.runs[work, numbers[0]].values())
        lines += [
            "",
            f"## {title}",
            "",
            f"wrk, {rounds} runs of {seconds} s for each number of connections; medians.",
            "",
        ]
        lines += _table([(f"{number} conn.", results.runs[work, number]) for number in numbers], _load_cells)
        rates = [rate for kind, rate in results.steady if kind == work]
        for rate in rates:
            lines += ["", f"At a steady {rate} requests/s, latency counted from when each was due:", ""]
            lines += _table([("", results.steady[work, rate])], _steady_cells)
        lines += ["", *aims(results, work)]
    for part, text in SECTIONS.items():
        rows: list[Row] = getattr(results, part)
        if rows:
            lines += ["", *text.strip().format(taken=results.taken.get(part, "unknown")).splitlines()]
            lines += [f"| {what} | {value} | {aim} |" for what, value, aim in rows]
    return "\n".join(lines) + "\n"


def aims(results: Results, work: str) -> list[str]:
    """Return the table of our ratio to each peer at 32 connections, with the aims."""
    sides = results.runs.get((work, AIMED_AT), {})
    if OURS not in sides:
        return []
    lines = [f"modelserve beside each at {AIMED_AT} connections, median of the rounds' ratios:", ""]
    lines += ["| | requests/s | aim | p99 | aim |", "|---|---|---|---|---|"]
    for title, loads in sides.items():
        if title == OURS:
            continue
        rate, p99 = (ratio(sides[OURS], loads, key) for key in ("rate", "p99_ms"))
        aim = AIMS.get((work, title)) if work == "echo" else 1.0
        rate_aim = f"at least {aim:g}: {'met' if rate >= aim else 'missed'}" if aim else "reported"
        p99_aim = f"below 1: {'met' if p99 < 1 else 'missed'}" if work == "embed" else "reported"
        lines.append(f"| {title} | {rate:.2f} times | {rate_aim} | {p99:.2f} times | {p99_aim} |")
    return lines


def _table(columns: list[tuple[str, Loads]], cells: Callable[[list[Load]], dict[str, str]]) -> list[str]:
    sides = list(dict.fromkeys(title for _, loads in columns for title in loads))
    heads = [f"{head} {what}".strip() for head, loads in columns for what in cells(next(iter(loads.values())))]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for title in sides:
        values = [value for _, loads in columns for value in cells(loads[title]).values()]
        lines.append(f"| {title} | " + " | ".join(values) + " |")
    return lines


def _load_cells(loads: list[Load]) -> dict[str, str]:
    failed = sum(load.failed for load in loads)
    rate = f"{median(loads, 'rate'):,.0f}" + (f" ({failed} failed)" if failed else "")
    return {"requests/s": rate, "p50 / p99, ms": f"{median(loads, 'p50_ms'):.1f} / {median(loads, 'p99_ms'):.1f}"}


def _steady_cells(loads: list[Load]) -> dict[str, str]:
    cells = {"p50": f"{median(loads, 'p50_ms'):.1f} ms", "p99": f"{median(loads, 'p99_ms'):.1f} ms"}
    return {**cells, "failed": str(sum(load.failed for load in loads))}


def plot(results: Results) -> str:
    """Return an SVG with bars of the requests per second at 32 connections."""
    parts: list[str] = []
    top = 10
    for work, title in WORKS.items():
        sides = results.runs.get((work, AIMED_AT), {})
        rates = {name: median(loads, "rate") for name, loads in sides.items()}
        if not rates:
            continue
        parts.append(_text(10, top + 16, f"{title}: requests/s, {AIMED_AT} connections", "bold"))
        top += 28
        for name, rate in rates.items():
            width = max(1.0, 420 * rate / max(rates.values()))
            colour = "#1f6feb" if name == OURS else "#8b949e"
            parts.append(_text(10, top + 14, name))
            parts.append(f'<rect x="150" y="{top}" width="{width:.1f}" height="18" rx="2" fill="{colour}"/>')
            parts.append(_text(156 + width, top + 14, f"{rate:,.0f}"))
            top += 24
        top += 14
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="660" height="{top}" viewBox="0 0 660 {top}" role="img">'
    style = "<style>text{font:13px sans-serif;fill:#24292f}</style>"
    back = f'<rect width="660" height="{top}" fill="#ffffff"/>'
    return "\n".join([head, style, back, *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-weight="{weight}">{escape(text)}</text>'


SECTIONS = {
    "pressure": """
## Under pressure

modelserve alone; taken at {taken}.

| | measured | aim |
|---|---|---|
""",
    "soak": """
## Soak test

The echo at a moderate rate, modelserve alone; memory and open files from the second fifth of the time to the last, by
their medians. Taken at {taken}.

| | measured | aim |
|---|---|---|
""",
    "changes": """
## Changes

From the command on the head to the answer over HTTP. Echo has no model to load. Taken at {taken}.

| | measured | aim |
|---|---|---|
""",
    "profile": """
## Processor time of a request

The echo at 32 connections: what each process takes for a request, and what the replica's event loop does while it
works, as py-spy samples it. Taken at {taken}.

| | | |
|---|---|---|
""",
}

INTRODUCTION = """
# Benchmark

Written by `make bench`, which anybody can run after `make up`. Absolute figures are this machine's; what
carries over is the ratio within one run.

modelserve is measured as it comes, through its gateway. Each peer runs in a virtual environment of its own on
modelserve's image (the same interpreter), written as its own documentation has it, with what was found best for it
here. All use the same model, tokenizer and code between them (`algopkg/TextEmbedding/minilm.py`), and ONNX Runtime with
one thread a run; sentences are of 4 to 36 tokens. The sides take turns, and a peer runs during its turn alone;
modelserve's cluster stays up, idle, during the others'. wrk and the servers share the machine and its loopback.
"""
