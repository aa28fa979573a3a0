"""The ``modelserve`` command."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from modelserve import __version__
from modelserve.cli import access, author
from modelserve.cli.author import json_object
from modelserve.errors import UserError
from modelserve.ports import HEAD_PORTS, PORTS, SERVICE_PORTS
from modelserve.settings import Settings

# Exit codes: 0 done, 1 what was asked for failed, 2 the request itself was wrong (argparse's own).
FAILED, WRONG = 1, 2
# Written when the image is built.
SBOM = Path("/opt/sbom.cdx.json")
DOWNTIME = "where new replicas find no room beside the old ones, stop the old ones first"


def entry(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process with its exit code."""
    code = main(arguments)
    if "rattler" in sys.modules:
        # py-rattler 0.28's threads outlive the interpreter: an ordinary exit crashes once in forty times.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except UserError as error:
        if getattr(options, "json", False):
            print(json.dumps({"ok": False, "problems": [problem.as_dict() for problem in error.problems]}))
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who reads the output has enough, as `head` does; Python would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("modelserve", description="Serve the algorithms of conf.ini on a Ray cluster.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int | None], summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print one JSON document instead of text")
        return sub

    command("plan", _plan, "Show what an apply would change; change nothing.")
    apply = command("apply", _apply, "Make the cluster serve what conf.ini says.")
    apply.add_argument("--keep-going", action="store_true", help="apply the good changes though others fail")
    apply.add_argument("--allow-downtime", action="store_true", help=DOWNTIME)
    releases = command("releases", _releases, "List the releases, show one, or show what differs between two.")
    releases.add_argument("action", nargs="?", choices=("list", "show", "diff"), default="list")
    releases.add_argument("numbers", nargs="*", type=int, metavar="N", help="one for show, two for diff")
    rollback = command("rollback", _rollback, "Return to a release: its code, environments, models, configuration.")
    rollback.add_argument("number", nargs="?", type=int, help="the release (default: the one before the last)")
    rollback.add_argument("--allow-downtime", action="store_true", help=DOWNTIME)
    status = command("status", _status, "Show what is served.")
    status.add_argument("--wait", type=float, default=0, metavar="S", help="seconds to wait until all of it runs")
    check = command("check", _check, "Check conf.ini, algopkg and Model_ZOO; needs no cluster.")
    check.add_argument("--project", type=Path, help="directory that holds them (default: modelserve_home)")
    check.add_argument("--conf", help="conf.ini to check; '-' reads standard input")
    command("nodes", _nodes, "Show the nodes and what runs on them.")
    drain = command("drain", _drain, "Move a worker's replicas to other nodes; returns when it has none.")
    drain.add_argument("name", help="the worker's name in the inventory")
    drain.add_argument("--timeout", type=float, default=300, metavar="S", help="seconds it may take (default: 300)")
    drain.add_argument("--force", action="store_true", help="though replicas find no room elsewhere, or stay")
    forget = command("forget", _forget, "Take a worker that is gone out of the list of workers.")
    forget.add_argument("name", help="the worker's name in the inventory")
    command("smoke", _smoke, "Ask each served algorithm its warm-up request over HTTP.")
    command("sbom", _sbom, "Print the image's bill of materials: what is in it, as CycloneDX JSON.")
    author.register(command)
    access.register(command)
    models = command("models", _models, "Fetch and verify what Model_ZOO/models.yml describes.")
    models.add_argument("directory", type=Path)

    node = command("node", _node, "Run Ray in this container (what the containers do).")
    node.add_argument("action", choices=("head", "worker", "health", "sync"))
    node.add_argument("--role", choices=("head", "worker"), default="head", help="for health: what runs here")
    node.add_argument("--wait", type=float, default=0, metavar="S", help="for health: seconds to wait for it")
    node.add_argument("--options", type=json_object, default={}, help="options of the node, as JSON")
    gateway = command("gateway", _gateway, "Run the gateway in this container (what its container does).")
    gateway.add_argument("action", choices=("run", "health", "refresh", "sync"))
    gateway.add_argument("--head", default="", help="for sync: follow this head (default: this is the head)")
    gateway.add_argument("--name", default="", help="for sync: what this host is called in the inventory")
    gateway.add_argument("--wait", type=float, default=0, metavar="S", help="for health: seconds to wait for it")
    catalog = command("catalog", _catalog, "Say what is served and whether it is ready (what its container does).")
    catalog.add_argument("action", choices=("run", "health"))
    catalog.add_argument(
        "--serve-port", type=int, metavar="PORT", help="for run: Serve's ingress, if not the settings'"
    )
    catalog.add_argument("--address", help="for run: where it listens (default: loopback)")
    catalog.add_argument("--wait", type=float, default=0, metavar="S", help="for health: seconds to wait for it")
    store = command("store", _store, "Serve the store to the workers (what the head's container does).")
    store.add_argument("action", choices=("serve",))
    return parser


def _controller(options: argparse.Namespace) -> Any:
    from modelserve.deploy.controller import Controller

    # Progress goes to standard error where standard output carries the document.
    stream = sys.stderr if options.json else sys.stdout
    return Controller(Settings.load(), lambda line: print(line, file=stream, flush=True))


def _plan(options: argparse.Namespace) -> None:
    from modelserve.cli.output import plan_text

    plan, _ = _controller(options).plan()
    print(json.dumps({"ok": True, **plan.as_dict()}) if options.json else plan_text(plan))


def _apply(options: argparse.Namespace) -> None:
    applied = _controller(options).apply(options.keep_going, options.allow_downtime)
    _show_applied(options, applied, "nothing to do: what conf.ini says is served")


def _rollback(options: argparse.Namespace) -> None:
    applied = _controller(options).rollback(options.number, options.allow_downtime)
    _show_applied(options, applied, f"nothing to do: what release {applied.rollback_of} served is served")
    if applied.release is not None and not options.json:
        print("conf.ini was left alone: 'modelserve plan' shows what the next apply would change")


def _show_applied(options: argparse.Namespace, applied: Any, nothing: str) -> None:
    from modelserve.cli.output import plan_text

    if options.json:
        result = {"changed": applied.changed, "release": applied.release, "seconds": applied.seconds}
        result["rollback_of"] = applied.rollback_of
        print(json.dumps({"ok": True, **applied.plan.as_dict(), **result}))
    elif not applied.plan:
        print(nothing)
    else:
        print(plan_text(applied.plan))
        what = "" if applied.rollback_of is None else f", which is release {applied.rollback_of} again,"
        print(f"release {applied.release}{what} is served after {applied.seconds:.1f} s")


def _releases(options: argparse.Namespace) -> int:
    from modelserve.cli.output import plan_text, release_text, releases_table
    from modelserve.deploy.plan import compare
    from modelserve.deploy.releases import Releases

    settings = Settings.load()
    kept = Releases(settings.home / "releases", settings.keep_releases)
    expected = {"list": 0, "show": 1, "diff": 2}[options.action]
    if len(options.numbers) != expected:
        print(
            f"error: 'releases {options.action}' takes {expected or 'no'} number{'s' * (expected != 1)}",
            file=sys.stderr,
        )
        return WRONG
    chosen = [kept.read(number) for number in options.numbers]
    if options.action == "list":
        newest = list(kept)[::-1]
        documents = [{**release.as_dict(), "serve": None, "conf": None} for release in newest]
        print(json.dumps({"ok": True, "releases": documents}) if options.json else releases_table(newest))
    elif options.action == "show":
        (release,) = chosen
        print(json.dumps({"ok": True, **release.as_dict()}) if options.json else release_text(release))
    else:
        old, new = (release.target for release in chosen)
        plan = compare(new.applications, old.applications, new.served, old.served)
        nothing = f"releases {options.numbers[0]} and {options.numbers[1]} serve the same"
        print(json.dumps({"ok": True, **plan.as_dict()}) if options.json else plan_text(plan) if plan else nothing)
    return 0


def _status(options: argparse.Namespace) -> int:
    from modelserve.cli.output import status_table

    controller = _controller(options)
    deadline = time.monotonic() + options.wait
    while True:
        rows = controller.status()
        well = all(row["status"] == "STOPPING" or _runs(row) for row in rows)
        if well or time.monotonic() >= deadline:
            break
        time.sleep(0.5)
    print(json.dumps({"ok": True, "algorithms": rows}) if options.json else status_table(rows))
    return 0 if well or all(row["status"] in ("RUNNING", "STOPPING") for row in rows) and not options.wait else FAILED


def _runs(row: dict[str, Any]) -> bool:
    return bool(row["status"] == "RUNNING" and row["replicas"] >= row["wanted"])


def _check(options: argparse.Namespace) -> None:
    from modelserve.config import parser as conf
    from modelserve.config import project
    from modelserve.models import zoo as models

    root = options.project or Settings.load().home
    shown = "conf.ini" if options.conf in (None, "-") else options.conf
    if options.conf == "-":
        parsed = conf.parse(sys.stdin.read(), shown)
    else:
        parsed, _ = conf.load(Path(options.conf or root / "conf.ini"), shown)
    zoo = root / "Model_ZOO"
    there = {path.name for path in zoo.glob("*") if path.is_file()} | {model.file for model in models.read(zoo)}
    problems = project.check(parsed, root / "algopkg", there, shown)
    if problems:
        raise UserError(problems)
    # What a section sets as environment variables may be secret, and Ansible shows this document with -v.
    sections = {section.name: section.model_dump(exclude={"env"}) for section in parsed.sections}
    worker = list(PORTS.values())
    ports = {"worker": worker, "head": [*worker, *HEAD_PORTS.values(), *SERVICE_PORTS.values()]}
    document = {"ok": True, "port": parsed.port, "sections": sections, "ports": ports}
    print(json.dumps(document) if options.json else f"{shown}: {len(parsed.sections)} algorithms, no problem found")


def _smoke(options: argparse.Namespace) -> int:
    from modelserve.cli.smoke import ask_all

    rows = ask_all(_controller(options))
    if options.json:
        print(json.dumps({"ok": all(row["ok"] for row in rows), "answers": rows}))
    else:
        for row in rows:
            print(f"{'ok  ' if row['ok'] else 'FAIL'} {row['name']}: {row['text']}")
    return 0 if all(row["ok"] for row in rows) else FAILED


def _sbom(options: argparse.Namespace) -> None:
    try:
        print(SBOM.read_text(), end="")
    except FileNotFoundError:
        raise UserError(
            f"{SBOM} is not here", "Run it in the image: docker exec modelserve_head modelserve sbom"
        ) from None


def _models(options: argparse.Namespace) -> None:
    from modelserve.models import zoo as models

    fetched = models.fetch(options.directory, lambda line: print(line, file=sys.stderr, flush=True))
    print(
        json.dumps({"ok": True, "fetched": fetched}) if options.json else f"fetched: {', '.join(fetched) or 'nothing'}"
    )


def _nodes(options: argparse.Namespace) -> int:
    from modelserve.cli.output import nodes_table
    from modelserve.cluster.nodes import Nodes

    rows = Nodes(Settings.load(), print).table()
    print(json.dumps({"ok": True, "nodes": rows}) if options.json else nodes_table(rows))
    return 0 if all(row["state"] != "DOWN" for row in rows) else FAILED


def _drain(options: argparse.Namespace) -> None:
    from modelserve.cluster.nodes import Nodes

    stream = sys.stderr if options.json else sys.stdout
    nodes = Nodes(Settings.load(), lambda line: print(line, file=stream, flush=True))
    there = nodes.drain(options.name, options.timeout, options.force)
    text = f"{options.name} is drained" if there else f"{options.name} is off: there is nothing to drain"
    print(json.dumps({"ok": True, "drained": there}) if options.json else text)


def _forget(options: argparse.Namespace) -> None:
    from modelserve.cluster.nodes import Nodes
    from modelserve.gateway.gateway import Gateway

    Nodes(Settings.load(), print).forget(options.name)
    Gateway(Settings.load(), print).refresh()  # the lists are read again: without the worker
    print(json.dumps({"ok": True}) if options.json else f"{options.name} is forgotten")


def _store(options: argparse.Namespace) -> None:
    from modelserve.store import rsync_server

    rsync_server.run(Settings.load())


def _node(options: argparse.Namespace) -> None:
    from modelserve.cluster import health, join, node

    settings = Settings.load()
    if options.action == "health":
        _within(options.wait, lambda: health.health(options.role, settings), lambda: health.join_progress(settings))
    elif options.action == "sync":
        join.sync_after_joining(settings, options.options["head_address"])
    else:
        node.run(options.action, settings, **options.options)


def _gateway(options: argparse.Namespace) -> None:
    from modelserve.gateway import sync_agent
    from modelserve.gateway.gateway import Gateway
    from modelserve.gateway.haproxy import Proxy

    settings = Settings.load()
    if options.action == "health":
        _within(options.wait, Proxy(settings.home).health)
    elif options.action == "run":
        Proxy(settings.home).run()
    elif options.action == "sync":
        sync_agent.run(settings.home, options.head, options.name)
    else:
        changed = Gateway(settings, lambda line: print(line, file=sys.stderr)).refresh()
        text = "the gateway knows the nodes" + ("" if changed else " already")
        print(json.dumps({"ok": True, "changed": changed}) if options.json else text)


def _catalog(options: argparse.Namespace) -> None:
    from modelserve.catalog import app

    settings = Settings.load()
    if options.action == "health":
        _within(options.wait, app.health)
    else:
        port = {} if options.serve_port is None else {"serve_port": options.serve_port}
        app.run(settings.model_copy(update=port), options.address or app.ADDRESS)


def _within(seconds: float, check: Callable[[], None], state: Callable[[], str] = str) -> None:
    """Repeat a health check until it passes, or fail as it failed last.

    Args:
        seconds: how long it may fail with nothing new in ``state``.
        check: the check.
        state: what is being done meanwhile, in words; printed when it changes.
    """
    deadline = time.monotonic() + seconds
    said = ""
    while True:
        try:
            return check()
        except UserError:
            now = state()
            if now and now != said:
                said = now
                print(now, flush=True)
                deadline = time.monotonic() + seconds
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.25)


if __name__ == "__main__":
    entry()
