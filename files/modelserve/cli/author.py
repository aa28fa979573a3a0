"""The commands of an algorithm's author: from a new package to its logs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from modelserve.author.benchmark import MAX_CONNECTIONS, MAX_SECONDS
from modelserve.author.logs import MAX_LINES
from modelserve.cli.options import Command, Run, between, json_object
from modelserve.cli.output import DONE, FAILED, emit, progress_of
from modelserve.errors import UserError
from modelserve.settings import Settings

if TYPE_CHECKING:
    from modelserve.author.benchmark import Load
    from modelserve.author.trial import Trial


PORT = 8001
MAX_RESULT_CHARACTERS = 4000


def register(command: Command) -> None:
    """Add the commands."""

    def of_package(name: str, run: Run, summary: str) -> argparse.ArgumentParser:
        sub = command(name, run, summary)
        sub.add_argument("name", help="the package under algopkg/")
        sub.add_argument("--project", type=Path, help="directory of conf.ini, algopkg/ and Model_ZOO/")
        return sub

    def of_trial(name: str, run: Run, summary: str) -> argparse.ArgumentParser:
        sub = of_package(name, run, summary)
        sub.add_argument("--backend", help="the class (default: as in conf.ini, or the only one)")
        sub.add_argument("--model", help="models, comma separated (default: as in conf.ini)")
        return sub

    of_package("new", _new, "Make a package that works, and its section in conf.ini.")
    test = of_trial("test", _test, "Load a package in its own environment and run one request; deploys nothing.")
    test.add_argument("--params", type=json_object, help="the request, as JSON (default: the section's warmup)")
    serve = of_trial("serve", _serve, "Serve a package on this machine alone until Ctrl-C; deploys nothing.")
    serve.add_argument("--port", type=between(1, 65535, int), default=PORT, help=f"on 127.0.0.1 (default: {PORT})")
    shell = of_package("shell", _shell, "Open a shell in a package's environment.")
    shell.add_argument("-c", dest="run_command", metavar="COMMAND", help="run this command there instead")
    bench = command("bench", _bench, "Load a served algorithm for a bounded time, and show its throughput and latency.")
    bench.add_argument("name", help="the algorithm")
    bench.add_argument("--params", type=json_object, help="the request, as JSON (default: the section's warmup)")
    seconds, connections = between(0.1, MAX_SECONDS, float), between(1, MAX_CONNECTIONS, int)
    bench.add_argument("--seconds", type=seconds, default=10, help="duration, at most 300 (default: 10)")
    bench.add_argument(
        "--connections", type=connections, default=8, help="concurrent connections, at most 256 (default: 8)"
    )
    logs = command("logs", _logs, "Show the logs of an algorithm's replicas from all nodes.")
    logs.add_argument("name", help="the algorithm")
    logs.add_argument("-f", "--follow", action="store_true", help="continue until Ctrl-C")
    logs.add_argument(
        "--lines", type=between(1, MAX_LINES, int), default=50, metavar="N", help="of each replica (default: 50)"
    )
    logs.add_argument("--request", default="", metavar="ID", help="only the lines of one request")
    logs.add_argument("--past", action="store_true", help="also of replicas that no longer exist")


def _new(options: argparse.Namespace) -> None:
    from modelserve.author import scaffold

    root = options.project or Path.cwd()
    directory = scaffold.make(root, options.name)
    section = scaffold.section_of(options.name)
    text = (
        f"made {directory}, and added to {root / 'conf.ini'}:\n\n{section}\n"
        f"Try it:    scripts/modelserve test {options.name}\nServe it:  ansible-playbook playbooks/deploy.yml"
    )
    emit(options, {"package": str(directory), "section": section}, text)


def _test(options: argparse.Namespace) -> int:
    from modelserve.author import trial

    settings, package = _prepared(options)
    params = options.params if options.params is not None else package.section.warmup or {}
    result = trial.test(settings, package, params, progress_of(options))
    emit(options, result, json.dumps(result, indent=1)[:MAX_RESULT_CHARACTERS], result["ok"])
    return DONE if result["ok"] else FAILED


def _serve(options: argparse.Namespace) -> None:
    from modelserve.author import trial

    settings, package = _prepared(options)
    trial.serve(settings, package, options.port, progress_of(options), options.json)


def _prepared(options: argparse.Namespace) -> tuple[Settings, Trial]:
    from modelserve.author import trial

    settings = Settings.load()
    overrides = {"backend": options.backend, "model": options.model}
    return settings, trial.prepare(settings, options.name, options.project, **overrides)


def _shell(options: argparse.Namespace) -> None:
    from modelserve.author import trial

    trial.shell(Settings.load(), options.name, options.project, options.run_command, progress_of(options))


def _bench(options: argparse.Namespace) -> int:
    from modelserve.author.benchmark import measure
    from modelserve.cli.tables import bench_text

    measurement = measure(_load_of(options), options.connections, options.seconds)
    ok = not measurement.failures
    emit(options, measurement.as_dict(), lambda: bench_text(measurement), ok)
    return DONE if ok else FAILED


def _load_of(options: argparse.Namespace) -> Load:
    """Return the request of a benchmark, with the controller's own key.

    Raises:
        UserError: the algorithm is not served, or there is no request, or it names a file that does not exist.
    """
    from modelserve.author.benchmark import Load
    from modelserve.cli.smoke import request_body
    from modelserve.config.routes import picking
    from modelserve.deploy.controller import Controller

    settings = Settings.load()
    controller = Controller(settings, progress_of(options))
    conf, _ = controller.read()
    section = next((section for section in conf.sections if section.name == options.name), None)
    row = next((row for row in controller.status() if row["name"] == options.name), None)
    if section is None or row is None:
        raise UserError(f"{options.name} is not served", "See 'modelserve status'")
    params = options.params if options.params is not None else section.warmup
    if params is None:
        raise UserError(f"[algopkg.{options.name}] has no warmup to send", "Give --params")
    headers = {**picking(options.name), **controller.gateway.headers()}
    try:
        body, content_type, _ = request_body(row["url"], params, headers, settings.algopkg / options.name)
    except ValueError as error:
        raise UserError(f"[algopkg.{options.name}] {error}", "Give --params, or name a file of the package") from error
    return Load(row["url"], section.method[0], body, {"Content-Type": content_type, **headers})


def _logs(options: argparse.Namespace) -> None:
    from modelserve.author.logs import Logs

    logs = Logs(Settings.load(), options.name, options.past)
    read = logs.follow if options.follow else logs.last
    for line in read(options.lines, options.request):
        document = {"node": line.node, "replica": line.replica, **line.content}
        print(json.dumps(document) if options.json else line.text(), flush=True)
