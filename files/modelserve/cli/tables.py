"""Results of commands as text: readable at 80 columns, plain where the output is not a terminal."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from modelserve.config.routes import FULL_WEIGHT
from modelserve.deploy.plan import SIGNS, Difference, Plan
from modelserve.deploy.releases import Release
from modelserve.security.keys import Key
from modelserve.util import clock

if TYPE_CHECKING:
    from modelserve.author.benchmark import Measurement
    from modelserve.deploy.controller import Applied
    from modelserve.deploy.events import Event


def plan_text(plan: Plan) -> str:
    """Return a plan as a diff: a line per algorithm, and one per difference."""
    lines = []
    if plan.port is not None:
        old, new = plan.port
        lines.append(f"~ port {new}" if old is None else f"~ port {old} -> {new}")
    for change in plan.changes:
        lines.append(f"{SIGNS[change.action]} {change.name}")
        if change.action == "change":
            lines += [f"    {_difference(difference)}" for difference in change.differences]
    lines += [f"  {name} (unchanged)" for name in plan.unchanged]
    return "\n".join(lines) if plan else "nothing to do: what conf.ini says is served"


def _difference(difference: Difference) -> str:
    how = "new replicas" if difference.new_replicas else "in place"
    if difference.details:
        return f"{difference.what}: {'; '.join(difference.details)} ({how})"
    if difference.what in ("code", "environment", "model", "env"):
        return f"{difference.what} ({how})"
    if difference.concerns_secret:
        return f"{difference.what} {_verb(difference)} ({how})"
    return f"{difference.what}: {_short(difference.old)} -> {_short(difference.new)} ({how})"


def _verb(difference: Difference) -> str:
    if difference.old is None or difference.new is None:
        return "added" if difference.old is None else "removed"
    return "changed"


def _short(value: Any) -> str:
    if isinstance(value, dict) and "max_replicas" in value:
        numbers = f"{value.get('min_replicas', 1)} to {value['max_replicas']}"
        start = f", {value['initial_replicas']} at first" if "initial_replicas" in value else ""
        return f"{numbers} at {value.get('target_ongoing_requests', 2):g} requests each{start}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def applied_text(applied: Applied) -> str:
    """Return the executed plan and the release that is served now."""
    again = "" if applied.rollback_of is None else f", which is release {applied.rollback_of} again,"
    return f"{plan_text(applied.plan)}\nrelease {applied.release}{again} is served after {applied.seconds:.1f} s"


def bench_text(measurement: Measurement) -> str:
    """Return the result of a benchmark."""
    failures = ", ".join(f"{count} {kind}" for kind, count in measurement.failures.items()) or "none"
    lines = [
        f"{measurement.url}: {measurement.connections} connections, {measurement.seconds:.2f} s",
        f"answered   {measurement.per_second} a second ({measurement.requests} requests)",
    ]
    if measurement.latencies_s:
        shares = [f"p{share} {measurement.percentile_ms(share)} ms" for share in (50, 90, 99)]
        lines.append(f"latency    {', '.join(shares)}, max {measurement.percentile_ms(100)} ms")
    return "\n".join([*lines, f"failed     {failures}"])


def status_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows of :meth:`modelserve.deploy.controller.Controller.status` as a table."""
    if not rows:
        return "nothing is served: conf.ini has no section, or was not applied yet"
    url = Column("url", no_wrap=True, min_width=max(len(row["url"]) for row in rows))  # people copy it: never cut
    weighted = any(row["url"] and row["weight"] != FULL_WEIGHT for row in rows)
    columns = ("algorithm", "status", "replicas", "threads", *(["weight"] if weighted else []))
    table = Table(*columns, url, box=box.SIMPLE_HEAD)
    for row in rows:
        weight = [f"{row['weight']:.3g}%" if row["url"] else ""] if weighted else []
        numbers = row.get("cpu_threads")
        threads = "-".join(dict.fromkeys(map(str, (numbers[0], numbers[-1])))) if numbers else ""
        table.add_row(row["name"], row["status"], f"{row['replicas']}/{row['wanted']}", threads, *weight, row["url"])
    messages = [f"{row['name']}: {row['message']}" for row in rows if row["status"] != "RUNNING" and row["message"]]
    return "\n".join([*_lines(table), *messages, *filter(None, map(_deaths_text, rows))])


def _deaths_text(row: dict[str, Any]) -> str:
    """Return the note on an algorithm's replicas that died; empty where none did."""
    deaths = row.get("deaths") or {"count": 0}
    if not deaths["count"]:
        return ""
    ago, place = duration_text(deaths["seconds_ago"]), f"on {deaths['node']}: {deaths['reason']}"
    if deaths["count"] == 1:
        return f"{row['name']}: a replica died {ago} ago {place}"
    return f"{row['name']}: {deaths['count']} replicas died in the last hour, the last {ago} ago {place}"


def duration_text(seconds: float) -> str:
    """Return a duration in its largest unit: ``40 s``, ``3 min``, ``2 h``, ``4 d``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def events_table(events: list[Event]) -> str:
    """Return what happened as a table.

    Args:
        events: the oldest first.
    """
    if not events:
        return "nothing happened in that time"
    table = Table(Column("time (UTC)", no_wrap=True), "algorithm", "node", "event", box=box.SIMPLE_HEAD)
    for event in events:
        moment = clock.utc(event.time).replace("T", " ").rstrip("Z") if event.time else "-"
        table.add_row(moment, event.algorithm or "-", event.node or "-", event.text)
    return "\n".join(_lines(table))


def releases_table(releases: list[Release]) -> str:
    """Return the kept releases as a table.

    Args:
        releases: the newest first.
    """
    if not releases:
        return "nothing was released yet"
    table = Table("release", "time (UTC)", "by", "changes", box=box.SIMPLE_HEAD)
    for release in releases:
        changes = [f"rollback to {release.rollback_of}"] if release.rollback_of else []
        time = release.time.replace("T", " ").rstrip("Z")
        table.add_row(str(release.number), time, release.by, "\n".join([*changes, *release.changes]) or "-")
    return "\n".join(_lines(table))


def release_text(release: Release) -> str:
    """Return a release: the content of each algorithm, and conf.ini."""
    head = f"release {release.number}, {release.time}, by {release.by}"
    lines = [head + (f", a rollback to {release.rollback_of}" if release.rollback_of else ""), ""]
    for name, app in release.target.applications.items():
        lines += [name, f"  code         {app.package.path.name}", f"  environment  {app.environment.path.name}"]
        lines += [f"  model        {model.path.name} ({model.hash[:12]})" for model in app.models]
    return "\n".join([*lines, "", "conf.ini:", *(f"  {line}".rstrip() for line in release.target.conf.splitlines())])


def nodes_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows of :meth:`modelserve.cluster.nodes.Nodes.table` as a table."""
    table = Table("node", "address", "state", "GPUs", "replicas", "algorithms", box=box.SIMPLE_HEAD)
    for row in rows:
        algorithms = ", ".join(row["algorithms"])
        gpus = f"{row['gpus']:g}{' (MIG)' if row['mig'] else ''}"
        table.add_row(row["name"], row["address"], row["state"], gpus, str(row["replicas"]), algorithms)
    down = [
        f"{row['name']} is down: is the host on? 'docker logs' there says more"
        for row in rows
        if row["state"] == "DOWN"
    ]
    return "\n".join([*_lines(table), *down])


def keys_table(keys: list[Key], of_inventory: set[str]) -> str:
    """Return the clients' keys as a table.

    Args:
        keys: the keys.
        of_inventory: clients whose keys are in the inventory.
    """
    if not keys:
        return "there is no key yet: modelserve keys add NAME"
    table = Table("client", "algorithms", "requests/s", "max concurrent", "from", box=box.SIMPLE_HEAD)
    for key in keys:
        limits = ["default" if value is None else str(value or "any") for value in (key.rate, key.max_concurrent)]
        source = "inventory" if key.client in of_inventory else key.created.partition("T")[0]
        table.add_row(key.client, ", ".join(key.algorithms) or "all", *limits, source)
    return "\n".join(_lines(table))


def secrets_table(rows: list[dict[str, Any]]) -> str:
    """Return the secrets as a table: their names, where they come from, and what refers to them."""
    if not rows:
        return "there is no secret yet: modelserve secrets set NAME"
    table = Table("secret", "from", "used by", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(row["name"], row["from"], Text("\n".join(row["used_by"]) or "-"))
    return "\n".join(_lines(table))


def _lines(table: Table) -> list[str]:
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 80)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines() if line.strip()]
