"""The commands of the cluster's operators: from a plan to the release that is served, and the nodes below."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelserve.cli.options import Command, add_wait, duration
from modelserve.cli.output import DONE, FAILED, WRONG, emit, progress_of, to_stderr
from modelserve.errors import UserError
from modelserve.ports import HEAD_PORTS, PORTS, SERVICE_PORTS
from modelserve.settings import Settings

if TYPE_CHECKING:  # each command imports what it needs: `modelserve --help` does not load the controller
    from modelserve.config.section import Conf
    from modelserve.deploy.controller import Applied, Controller
    from modelserve.deploy.releases import Release

# The build of the image writes it.
SBOM = Path("/opt/sbom.cdx.json")
STATUS_POLL_S = 0.5
ALLOW_DOWNTIME = "where new replicas have no capacity beside the old ones, stop the old ones first"
PLACES = ("operator", "head")  # where models are fetched
RELEASES_ARGUMENTS = {"list": 0, "show": 1, "diff": 2}


def register(command: Command) -> None:
    """Add the commands."""
    command("plan", _plan, "Show what an apply would change; change nothing.")
    apply = command("apply", _apply, "Make the cluster serve what conf.ini says.")
    apply.add_argument("--keep-going", action="store_true", help="apply the good changes though others fail")
    apply.add_argument("--allow-downtime", action="store_true", help=ALLOW_DOWNTIME)
    releases = command("releases", _releases, "List the releases, show one, or show the differences of two.")
    releases.add_argument("action", nargs="?", choices=tuple(RELEASES_ARGUMENTS), default="list")
    releases.add_argument("numbers", nargs="*", type=int, metavar="N", help="one for show, two for diff")
    rollback = command("rollback", _rollback, "Return to a release: its code, environments, models, configuration.")
    rollback.add_argument("number", nargs="?", type=int, help="the release (default: the one before the last)")
    rollback.add_argument("--allow-downtime", action="store_true", help=ALLOW_DOWNTIME)
    status = command("status", _status, "Show what is served.")
    add_wait(status, "seconds to wait until every algorithm runs")
    events = command("events", _events, "Show what happened: replicas that died and why, releases, nodes.")
    events.add_argument("name", nargs="?", default="", help="only what concerns this algorithm")
    events.add_argument(
        "--since", type=duration, default="24h", metavar="TIME", help="90s, 15min, 2h, 1d (default: 24h)"
    )
    check = command("check", _check, "Check conf.ini, algopkg and Model_ZOO; needs no cluster.")
    check.add_argument("--project", type=Path, help="directory that holds them (default: modelserve_home)")
    check.add_argument("--conf", help="conf.ini to check; '-' reads standard input")
    _register_nodes(command)
    command("smoke", _smoke, "Send each served algorithm its warm-up request over HTTP.")
    command("sbom", _sbom, "Print the image's bill of materials: its contents as CycloneDX JSON.")
    models = command("models", _models, "Fetch and verify the models of Model_ZOO/models.yml.")
    models.add_argument("directory", type=Path, nargs="?", help="(default: Model_ZOO in modelserve_home)")
    models.add_argument(
        "--pin", metavar="NAME", help="fetch this model and write its hash and revision into models.yml"
    )
    models.add_argument("--on", choices=PLACES, help="fetch only what is fetched there (default: everything)")
    models.add_argument("--default", choices=PLACES, default="operator", help="the place of entries without fetch_on")


def _register_nodes(command: Command) -> None:
    command("nodes", _nodes, "Show the nodes and the algorithms that run on them.")
    drain = command("drain", _drain, "Move a worker's replicas to other nodes; returns when it has none.")
    drain.add_argument("name", help="the worker's name in the inventory")
    drain.add_argument("--timeout", type=float, default=300, metavar="S", help="time limit in seconds (default: 300)")
    drain.add_argument("--force", action="store_true", help="though replicas have no capacity elsewhere, or stay")
    forget = command("forget", _forget, "Remove a worker that no longer exists from the list of workers.")
    forget.add_argument("name", help="the worker's name in the inventory")


def _controller(options: argparse.Namespace) -> Controller:
    from modelserve.deploy.controller import Controller

    return Controller(Settings.load(), progress_of(options))


def _plan(options: argparse.Namespace) -> None:
    from modelserve.cli.tables import plan_text

    plan, _ = _controller(options).plan()
    emit(options, plan.as_dict(), lambda: plan_text(plan))


def _apply(options: argparse.Namespace) -> None:
    applied = _controller(options).apply(options.keep_going, options.allow_downtime)
    _emit_applied(options, applied, "nothing to do: what conf.ini says is served")


def _rollback(options: argparse.Namespace) -> None:
    applied = _controller(options).rollback(options.number, options.allow_downtime)
    _emit_applied(options, applied, f"nothing to do: what release {applied.rollback_of} served is served")
    if applied.release is not None and not options.json:
        print("conf.ini is unchanged: 'modelserve plan' shows what the next apply would change")


def _emit_applied(options: argparse.Namespace, applied: Applied, nothing: str) -> None:
    from modelserve.cli.tables import applied_text

    document = {
        **applied.plan.as_dict(),
        "changed": applied.changed,
        "release": applied.release,
        "seconds": applied.seconds,
        "rollback_of": applied.rollback_of,
    }
    emit(options, document, lambda: applied_text(applied) if applied.plan else nothing)


def _releases(options: argparse.Namespace) -> int:
    from modelserve.cli.tables import release_text, releases_table
    from modelserve.deploy.releases import Releases

    settings = Settings.load()
    kept = Releases(settings.home / "releases", settings.keep_releases)
    expected = RELEASES_ARGUMENTS[options.action]
    if len(options.numbers) != expected:
        to_stderr(f"error: 'releases {options.action}' takes {expected or 'no'} number{'s' * (expected != 1)}")
        return WRONG
    releases = [kept.read(number) for number in options.numbers]
    if options.action == "list":
        newest = list(kept)[::-1]
        documents = [{**release.as_dict(), "serve": None, "conf": None} for release in newest]
        emit(options, {"releases": documents}, lambda: releases_table(newest))
    elif options.action == "show":
        (release,) = releases
        emit(options, release.as_dict(), lambda: release_text(release))
    else:
        _emit_difference(options, releases)
    return DONE


def _emit_difference(options: argparse.Namespace, releases: Sequence[Release]) -> None:
    from modelserve.cli.tables import plan_text
    from modelserve.deploy.model_changes import described
    from modelserve.deploy.plan import compare

    old, new = (release.target for release in releases)
    plan = described(compare(new.applications, old.applications, new.served, old.served), {})
    nothing = "releases {} and {} serve the same".format(*options.numbers)
    emit(options, plan.as_dict(), lambda: plan_text(plan) if plan else nothing)


def _status(options: argparse.Namespace) -> int:
    from modelserve.cli.tables import status_table

    controller = _controller(options)
    deadline = time.monotonic() + options.wait
    rows = controller.status()
    while not _all_run(rows) and time.monotonic() < deadline:
        time.sleep(STATUS_POLL_S)
        rows = controller.status()
    rows = _with_deaths(rows)
    emit(options, {"algorithms": rows}, lambda: status_table(rows))
    # Without --wait, an algorithm whose replicas still start is no failure.
    started = not options.wait and all(row["status"] in ("RUNNING", "STOPPING") for row in rows)
    return DONE if started or _all_run(rows) else FAILED


def _with_deaths(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from modelserve.deploy.status import DEATHS_WITHIN_S, with_deaths
    from modelserve.serve.api import RayAPI
    from modelserve.serve.death_records import read_deaths

    now = time.time()
    try:
        deaths = read_deaths(RayAPI(Settings.load()), since=now - DEATHS_WITHIN_S)
    except UserError as error:  # what is served matters more
        to_stderr(f"warning: Ray does not tell which replicas died: {error}")
        return rows
    return with_deaths(rows, deaths, now)


def _events(options: argparse.Namespace) -> None:
    from modelserve.cli.tables import events_table
    from modelserve.deploy.events import events_of
    from modelserve.deploy.releases import Releases
    from modelserve.serve.api import RayAPI
    from modelserve.serve.death_records import read_deaths

    settings, since = Settings.load(), time.time() - options.since
    ray = RayAPI(settings)
    releases = Releases(settings.home / "releases", settings.keep_releases, to_stderr)
    deaths = read_deaths(ray, options.name, since)
    events = events_of(deaths, releases, ray.nodes(dead=True), since, options.name)
    emit(options, {"events": [event.as_dict() for event in events]}, lambda: events_table(events))


def _all_run(rows: list[dict[str, Any]]) -> bool:
    return all(
        row["status"] == "STOPPING" or (row["status"] == "RUNNING" and row["replicas"] >= row["wanted"]) for row in rows
    )


def _check(options: argparse.Namespace) -> None:
    from modelserve.config import project
    from modelserve.config.ini import Lines
    from modelserve.models import directory as model_directory
    from modelserve.models import zoo
    from modelserve.security.section_secrets import SectionSecrets, missing, uses

    settings = Settings.load()
    root = options.project or settings.home
    file = "conf.ini" if options.conf in (None, "-") else options.conf
    conf, source, unknown = _conf_to_check(options, root, file)
    directory = root / "Model_ZOO"
    described = zoo.read(directory)
    models = {*model_directory.names(directory), *(model.name for model in described)}
    lines = Lines(source)
    problems = lines.locate(project.check(conf, root / "algopkg", models, file), file)
    problems += model_directory.link_problems(directory)
    references = [(name, lines.locate([missing(name, location)], file)[0]) for name, location in uses(conf, file)]
    if references and (options.project, options.conf) == (None, None):  # the head's own files
        names = SectionSecrets(settings).names()
        problems += [problem for name, problem in references if name not in names]
    if problems:
        raise UserError(problems)
    # The environment variables of a section may be secret, and Ansible shows this document with -v.
    sections = {section.name: section.model_dump(exclude={"env"}) for section in conf.sections}
    worker = list(PORTS.values())
    ports = {"worker": worker, "head": [*worker, *HEAD_PORTS.values(), *SERVICE_PORTS.values()]}
    # Ansible compares them with the secrets that the head has, or gets.
    secrets = [{"name": name, "missing": str(problem)} for name, problem in references]
    document = {
        **{"port": conf.port, "sections": sections, "ports": ports, "secrets": secrets, "unchecked": unknown},
        "models": {model.name: model.fetch_on for model in described},
    }
    text = f"{file}: {len(conf.sections)} algorithms, no problem found"
    notes = [f"not checked, since only the inventory has it: {place}" for place in unknown]
    emit(options, document, "\n".join([text, *notes]))


def _conf_to_check(options: argparse.Namespace, root: Path, file: str) -> tuple[Conf, str, list[str]]:
    """Return the configuration, the text whose lines problems name, and what only the inventory has."""
    from modelserve.config import parser, template

    path = root / "conf.ini" if options.conf in (None, "-") else Path(options.conf)
    if options.conf == "-":  # rendered by Ansible, from the project's file
        text = parser.decode(sys.stdin.buffer.read(), file)
        source = parser.read(path, file) if options.project and path.is_file() else text
        return parser.parse(text, file, source), source, []
    text = parser.read(path, file)
    is_rendered = (options.project, options.conf) == (None, None)  # the head's own file
    if is_rendered or not template.is_template(text):
        return parser.parse(text, file), text, []
    partial = template.check(text, file)
    if partial.problems:
        raise UserError(partial.problems)
    return partial.conf, text, partial.unknown


def _smoke(options: argparse.Namespace) -> int:
    from modelserve.cli.smoke import ask_all

    answers = ask_all(_controller(options), Settings.load().algopkg)
    ok = all(answer.ok for answer in answers)
    emit(
        options,
        {"answers": [answer.as_dict() for answer in answers]},
        "\n".join(map(str, answers)) or "conf.ini has no algorithm",
        ok,
    )
    return DONE if ok else FAILED


def _sbom(_: argparse.Namespace) -> None:
    try:
        print(SBOM.read_text(), end="")
    except FileNotFoundError:
        fix = "Run it in the image: docker exec modelserve_head modelserve sbom"
        raise UserError(f"{SBOM} does not exist on this machine", fix) from None


def _models(options: argparse.Namespace) -> None:
    from modelserve.models import zoo

    directory = options.directory or Settings.load().model_zoo
    if options.pin:
        written = zoo.pin(directory, options.pin, to_stderr)
        emit(options, {"written": written}, "\n".join(f"{key}: {value}" for key, value in written.items()))
        return
    with _variables_of_sources() if options.on == "head" else nullcontext():
        fetched = zoo.fetch(directory, to_stderr, options.on, options.default)
    emit(options, {"fetched": fetched}, f"fetched: {', '.join(fetched) or 'nothing'}")


@contextmanager
def _variables_of_sources() -> Iterator[None]:
    """Set what the head's settings have for the sources of models; elsewhere the caller's environment has it."""
    from modelserve.security.section_secrets import SectionSecrets
    from modelserve.util.proxies import proxied
    from modelserve.util.variables import with_variables

    settings = Settings.load()
    secrets = SectionSecrets(settings)
    values = {name: secrets.value(secret) for name, secret in settings.models_secrets.items()}
    with proxied(settings.proxy_environment), with_variables(settings.models_environment | values):
        yield


def _nodes(options: argparse.Namespace) -> int:
    from modelserve.cli.tables import nodes_table
    from modelserve.cluster.nodes import Nodes

    rows = Nodes(Settings.load(), print).table()
    emit(options, {"nodes": rows}, lambda: nodes_table(rows))
    return FAILED if any(row["state"] == "DOWN" for row in rows) else DONE


def _drain(options: argparse.Namespace) -> None:
    from modelserve.cluster.nodes import Nodes

    nodes = Nodes(Settings.load(), progress_of(options))
    drained = nodes.drain(options.name, options.timeout, options.force)
    text = f"{options.name} is drained" if drained else f"{options.name} is off: there is nothing to drain"
    emit(options, {"drained": drained}, text)


def _forget(options: argparse.Namespace) -> None:
    from modelserve.cluster.nodes import Nodes
    from modelserve.gateway.gateway import Gateway

    Nodes(Settings.load(), print).forget(options.name)
    Gateway(Settings.load(), print).refresh()  # its lists of nodes still have the worker
    emit(options, {}, f"{options.name} is forgotten")
