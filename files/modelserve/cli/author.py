"""The commands of who writes an algorithm: from a new package to its logs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelserve.author.benchmark import MAX_CONNECTIONS, MAX_SECONDS
from modelserve.author.logs import MAX_LINES
from modelserve.errors import UserError
from modelserve.settings import Settings

Command = Callable[[str, Callable[[argparse.Namespace], Any], str], argparse.ArgumentParser]
PORT = 8001


def json_object(text: str) -> dict[str, Any]:
    """An option's value that is a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value


def between(least: float, most: float, kind: Callable[[str], float]) -> Callable[[str], float]:
    """An option's type: a number, ``int`` or ``float``, within bounds."""

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value

    return number


def register(command: Command) -> None:
    """Add the commands; ``command`` takes a name, what runs it, and a summary, and returns the command's parser."""

    def of_package(name: str, run: Callable[[argparse.Namespace], Any], summary: str) -> argparse.ArgumentParser:
        sub = command(name, run, summary)
        sub.add_argument("name", help="the package under algopkg/")
        sub.add_argument("--project", type=Path, help="directory of conf.ini, algopkg/ and Model_ZOO/")
        return sub

    def of_trial(name: str, run: Callable[[argparse.Namespace], Any], summary: str) -> argparse.ArgumentParser:
        sub = of_package(name, run, summary)
        sub.add_argument("--backend", help="the class (default: as in conf.ini, or the only one)")
        sub.add_argument("--model", help="model files, comma separated (default: as in conf.ini)")
        return sub

    of_package("new", _new, "Make a package that works, and its section in conf.ini.")
    test = of_trial("test", _test, "Load a package in its own environment and ask it one request; deploys nothing.")
    test.add_argument("--params", type=json_object, help="the request, as JSON (default: the section's warmup)")
    serve = of_trial(
        "serve", _serve, "Answer a package's requests on this machine alone, until Ctrl-C; deploys nothing."
    )
    serve.add_argument("--port", type=between(1, 65535, int), default=PORT, help=f"on 127.0.0.1 (default: {PORT})")
    shell = of_package("shell", _shell, "Open a shell in a package's environment.")
    shell.add_argument("-c", dest="run_command", metavar="COMMAND", help="run this there instead")
    bench = command("bench", _bench, "Load a served algorithm for a bounded time, and say how much it answers.")
    bench.add_argument("name", help="the algorithm")
    bench.add_argument("--params", type=json_object, help="the request, as JSON (default: the section's warmup)")
    seconds, connections = between(0.1, MAX_SECONDS, float), between(1, MAX_CONNECTIONS, int)
    bench.add_argument("--seconds", type=seconds, default=10, help="for how long, at most 300 (default: 10)")
    bench.add_argument("--connections", type=connections, default=8, help="that ask at once, at most 256 (default: 8)")
    logs = command("logs", _logs, "Show what an algorithm's replicas logged, on all nodes.")
    logs.add_argument("name", help="the algorithm")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    logs.add_argument(
        "--lines", type=between(1, MAX_LINES, int), default=50, metavar="N", help="of each replica (default: 50)"
    )
    logs.add_argument("--request", default="", metavar="ID", help="only those of one request")
    logs.add_argument("--past", action="store_true", help="of replicas that are gone, too")


def _say(options: argparse.Namespace) -> Callable[[str], None]:
    stream = sys.stderr if options.json else sys.stdout
    return lambda line: print(line, file=stream, flush=True)


def _new(options: argparse.Namespace) -> None:
    from modelserve.author import scaffold

    root = options.project or Path.cwd()
    directory = scaffold.make(root, options.name)
    section = scaffold.section_of(options.name)
    if options.json:
        print(json.dumps({"ok": True, "package": str(directory), "section": section}))
    else:
        print(f"made {directory}, and added to {root / 'conf.ini'}:\n\n{section}")
        print(f"Try it:    scripts/modelserve test {options.name}\nServe it:  ansible-playbook playbooks/deploy.yml")


def _test(options: argparse.Namespace) -> int:
    from modelserve.author import trial

    settings = Settings.load()
    tried = trial.prepare(settings, options.name, options.project, backend=options.backend, model=options.model)
    params = options.params if options.params is not None else tried.section.warmup or {}
    result = trial.test(settings, tried, params, _say(options))
    print(json.dumps(result) if options.json else json.dumps(result, indent=1)[:4000])
    return 0 if result["ok"] else 1


def _serve(options: argparse.Namespace) -> None:
    from modelserve.author import trial

    settings = Settings.load()
    tried = trial.prepare(settings, options.name, options.project, backend=options.backend, model=options.model)
    trial.serve(settings, tried, options.port, _say(options), options.json)


def _shell(options: argparse.Namespace) -> None:
    from modelserve.author import trial

    trial.shell(Settings.load(), options.name, options.project, options.run_command, _say(options))


def _bench(options: argparse.Namespace) -> int:
    from modelserve.author.benchmark import measure
    from modelserve.config.routes import picking
    from modelserve.deploy.controller import Controller

    controller = Controller(Settings.load(), _say(options))
    parsed, _ = controller.read()
    section = next((section for section in parsed.sections if section.name == options.name), None)
    row = next((row for row in controller.status() if row["name"] == options.name), None)
    if section is None or row is None:
        raise UserError(f"{options.name} is not served", "See 'modelserve status'")
    params = options.params if options.params is not None else section.warmup
    if params is None:
        raise UserError(f"[algopkg.{options.name}] has no warmup to ask", "Give --params")
    mine = {**picking(options.name), **controller.gateway.headers()}
    result = measure(row["url"], section.method[0], params, options.connections, options.seconds, mine)
    if options.json:
        print(json.dumps({"ok": not result["failures"], **result}))
    else:
        failures = ", ".join(f"{count} {kind}" for kind, count in result["failures"].items()) or "none"
        print(f"{result['url']}: {result['connections']} connections, {result['seconds']} s")
        print(f"answered   {result['per_second']} a second ({result['requests']} requests)")
        if result["p50_ms"] is not None:
            print(
                f"latency    p50 {result['p50_ms']} ms, p90 {result['p90_ms']} ms, p99 {result['p99_ms']} ms, ", end=""
            )
            print(f"max {result['max_ms']} ms")
        print(f"failed     {failures}")
    return 1 if result["failures"] else 0


def _logs(options: argparse.Namespace) -> None:
    from modelserve.author.logs import Logs

    logs = Logs(Settings.load(), options.name, options.past)
    if options.follow:
        lines = logs.follow(options.lines, options.request)
    else:
        lines = iter(logs.last(options.lines, options.request))
    for line in lines:
        document = {"node": line.node, "replica": line.replica, **line.content}
        print(json.dumps(document) if options.json else line.text(), flush=True)
