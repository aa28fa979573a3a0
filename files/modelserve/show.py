"""Plans and states as text: readable at 80 columns, plain where the output is not a terminal."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

from modelserve.plan import Difference, Plan

_SIGNS = {"add": "+", "change": "~", "remove": "-"}


def plan_text(plan: Plan) -> str:
    """A plan as a diff: a line per algorithm, and one per thing that changes in it."""
    lines = []
    if plan.port is not None:
        old, new = plan.port
        lines.append(f"~ port {new}" if old is None else f"~ port {old} -> {new}")
    for change in plan.changes:
        lines.append(f"{_SIGNS[change.action]} {change.name}")
        if change.action == "change":
            lines += [f"    {_difference(difference)}" for difference in change.differences]
    lines += [f"  {name} (unchanged)" for name in plan.unchanged]
    return "\n".join(lines) if plan else "nothing to do: what conf.ini says is served"


def _difference(difference: Difference) -> str:
    how = "new replicas" if difference.new_replicas else "in place"
    if difference.what in ("code", "environment", "model", "env"):
        return f"{difference.what} ({how})"
    return f"{difference.what}: {_short(difference.old)} -> {_short(difference.new)} ({how})"


def _short(value: Any) -> str:
    if isinstance(value, dict) and "max_replicas" in value:
        numbers = f"{value.get('min_replicas', 1)} to {value['max_replicas']}"
        start = f", {value['initial_replicas']} at first" if "initial_replicas" in value else ""
        return f"{numbers} at {value.get('target_ongoing_requests', 2):g} requests each{start}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def status_table(rows: list[dict[str, Any]]) -> str:
    """The rows of :meth:`modelserve.deploy.Controller.status` as a table."""
    if not rows:
        return "nothing is served: conf.ini has no section, or was not applied yet"
    url = Column("url", no_wrap=True, min_width=max(len(row["url"]) for row in rows))  # to be copied: never cut
    table = Table("algorithm", "status", "replicas", url, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(row["name"], row["status"], f"{row['replicas']}/{row['wanted']}", row["url"])
    messages = [f"{row['name']}: {row['message']}" for row in rows if row["status"] != "RUNNING" and row["message"]]
    return "\n".join([*_lines(table), *messages])


def nodes_table(rows: list[dict[str, Any]]) -> str:
    """The rows of :meth:`modelserve.nodes.Nodes.table` as a table."""
    table = Table("node", "address", "state", "GPUs", "replicas", "algorithms", box=box.SIMPLE_HEAD)
    for row in rows:
        algorithms = ", ".join(row["algorithms"])
        table.add_row(row["name"], row["address"], row["state"], f"{row['gpus']:g}", str(row["replicas"]), algorithms)
    away = [
        f"{row['name']} is away: is the host on? 'docker logs' there says more"
        for row in rows
        if row["state"] == "AWAY"
    ]
    return "\n".join([*_lines(table), *away])


def _lines(table: Table) -> list[str]:
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 80)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines() if line.strip()]
