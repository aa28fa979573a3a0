"""The servers of the running HAProxy, kept equal to the algorithms' replicas without a reload.

A replica is added once it answers its algorithm's name itself. One that stops gets no new request as soon as another is
up. One is removed when two witnesses agree: Serve does not list it, and HAProxy's own check fails. So a head that is
down, or that finds its replicas again after a restart, takes nothing away.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from modelserve.gateway.haproxy import BACKEND_PREFIX, VERSIONS_FILE, Proxy
from modelserve.gateway.targets import FILE, Target, Targets, version_of
from modelserve.util.files import write_atomically
from modelserve.util.http import direct_opener

PROBE_TIMEOUT_S = 2.0
_PARALLEL = 16
_OPENER = direct_opener()
BACKUP = "serve"  # the template's server for an algorithm without replicas
SHOW = "show stat -1 4 -1"  # servers alone

Probe = Callable[[str, Target], bool]


@dataclass(frozen=True)
class Server:
    """A server of the running HAProxy.

    Attributes:
        algorithm: the algorithm of its backend.
        name: its name, a replica's id.
        status: HAProxy's word, such as ``UP``, ``DOWN``, ``DRAIN`` and ``MAINT``.
        failing: whether its last health check failed.
    """

    algorithm: str
    name: str
    status: str
    failing: bool = False

    @property
    def path(self) -> str:
        """Its name in HAProxy's commands."""
        return f"{BACKEND_PREFIX}{self.algorithm}/{self.name}"

    @property
    def up(self) -> bool:
        """Whether HAProxy sends it requests."""
        return self.status.startswith(("UP", "no check"))


def servers_of(text: str) -> list[Server]:
    """Return the servers in HAProxy's answer to ``show stat``, without the backups."""
    rows = csv.DictReader(io.StringIO(text.removeprefix("# ")))
    return [
        Server(
            row["pxname"].removeprefix(BACKEND_PREFIX),
            row["svname"],
            row["status"],
            row["status"].startswith("DOWN") or not row["check_status"].startswith(("L7OK", "INI", "*", "UNK")),
        )
        for row in rows
        if row["pxname"].startswith(BACKEND_PREFIX) and row["svname"] != BACKUP
    ]


@dataclass(frozen=True)
class Step:
    """A change of the running HAProxy: its commands, and the replica that it removes."""

    commands: tuple[str, ...]
    removed: tuple[str, str] | None = None


def additions(algorithms: Iterable[str], targets: Targets, servers: Iterable[Server]) -> list[tuple[str, Target]]:
    """Return the replicas that Serve sends requests to and HAProxy does not have."""
    present = {(server.algorithm, server.name) for server in servers}
    return [
        (algorithm, target)
        for algorithm in algorithms
        for target in targets.of(algorithm)
        if target.serving and (algorithm, target.replica) not in present
    ]


def addition(algorithm: str, target: Target, options: str) -> Step:
    """Return the step that adds a replica. It gets requests at once: HAProxy's first check comes later."""
    path = f"{BACKEND_PREFIX}{algorithm}/{target.replica}"
    add = f"add server {path} {target.endpoint} {options}"
    return Step((add, f"enable health {path}", f"set server {path} state ready"))


def adjustments(targets: Targets, servers: Iterable[Server], added: Iterable[tuple[str, str]]) -> Iterator[Step]:
    """Yield the steps for the servers that HAProxy has.

    Args:
        targets: the replicas.
        servers: the servers.
        added: algorithm and replica of each that was just added.
    """
    by_algorithm: dict[str, list[Server]] = {}
    for server in servers:
        by_algorithm.setdefault(server.algorithm, []).append(server)
    fresh = {algorithm for algorithm, _ in added}
    for algorithm, group in by_algorithm.items():
        known = {target.replica: target for target in targets.of(algorithm)}
        serving = {replica for replica, target in known.items() if target.serving}
        successor = algorithm in fresh or any(server.up for server in group if server.name in serving)
        for server in group:
            step = _adjustment(server, known.get(server.name), successor)
            if step is not None:
                yield step


def _adjustment(server: Server, target: Target | None, successor: bool) -> Step | None:
    if target is not None and target.serving:
        idle = server.status.startswith(("DRAIN", "MAINT"))
        return Step((f"set server {server.path} state ready",)) if idle else None
    if server.failing or server.status.startswith("MAINT"):
        removal = (f"set server {server.path} state maint", f"del server {server.path}")
        return Step(removal, (server.algorithm, server.name))
    if successor and server.up and (target is None or target.stopping):
        return Step((f"set server {server.path} state drain",))
    return None


def probe(algorithm: str, target: Target) -> bool:
    """Return whether a replica answers, and is the algorithm's: its port may have been another's."""
    try:
        with _OPENER.open(f"http://{target.endpoint}/-/routes", timeout=PROBE_TIMEOUT_S) as response:
            return f'"/{algorithm}":'.encode() in response.read(65536)
    except OSError:
        return False


class Servers:
    """The servers of this host's HAProxy.

    Args:
        proxy: the HAProxy.
        report: takes a line for each command that HAProxy refuses.
        ask: returns whether a replica answers.
    """

    def __init__(self, proxy: Proxy, report: Callable[[str], None], ask: Probe = probe) -> None:
        self._proxy = proxy
        self._report = report
        self._ask = ask
        self._pool = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="probe")
        self._versions: Mapping[str, str] = {}
        self._refused: set[str] = set()

    def reconcile(self, targets: Targets) -> set[tuple[str, str]]:
        """Bring HAProxy's servers to the replicas, and write the replicas for its next start.

        Args:
            targets: the replicas.

        Returns:
            Algorithm and replica of those that no longer answer and that Serve does not list.
        """
        with self._proxy.lock():
            loaded = self._proxy.loaded()
            text = self._proxy.command(SHOW) if loaded else ""
            servers = servers_of(text)
            # A backend is there once HAProxy has loaded the configuration that names it.
            options = loaded.backends() if loaded and text else {}
            new = additions(options, targets, servers)
            answering = list(self._pool.map(lambda item: self._ask(*item), new))
            added = [item for item, answers in zip(new, answering, strict=True) if answers]
            accepted = {
                (algorithm, target.replica)
                for algorithm, target in added
                if self._execute(addition(algorithm, target, options[algorithm]))
            }
            steps = list(adjustments(targets, servers, accepted))
            removed = {step.removed for step in steps if self._execute(step) and step.removed}
            present = ({(server.algorithm, server.name) for server in servers} | accepted) - removed
            forgotten = removed | self._silent(targets, present)
            remaining = targets.without(forgotten)
            self._write(remaining)
            self._set_versions(targets, present)
            return forgotten

    def _execute(self, step: Step) -> bool:
        """Return whether HAProxy has done all of a step; a refusal is reported once."""
        for command in step.commands:
            answer = self._proxy.command(command)
            if answer and not any(word in answer for word in ("registered", "deleted", "enabled")):
                if answer not in self._refused:
                    self._refused.add(answer)
                    self._report(f"HAProxy refuses '{' '.join(command.split()[:4])}': {answer}")
                return False
        return True

    def _silent(self, targets: Targets, present: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Return the replicas that Serve does not list, HAProxy does not have, and that do not answer."""
        items = [
            (algorithm, target)
            for algorithm, group in targets.algorithms.items()
            for target in group
            if not target.serving and (algorithm, target.replica) not in present
        ]
        answers = self._pool.map(lambda item: self._ask(*item), items)
        return {
            (algorithm, target.replica)
            for (algorithm, target), ok in zip(items, answers, strict=True)
            if target.stopping or not ok
        }

    def _write(self, targets: Targets) -> None:
        file = self._proxy.directory / FILE
        if Targets.load(self._proxy.directory) != targets or not file.exists():
            write_atomically(file, targets.model_dump_json(indent=1) + "\n")
        self._proxy.write_servers(targets)

    def _set_versions(self, targets: Targets, present: set[tuple[str, str]]) -> None:
        versions = {
            algorithm: version_of(t.replica for t in group if t.serving and (algorithm, t.replica) in present)
            for algorithm, group in targets.algorithms.items()
        }
        if versions == self._versions:
            return
        file = self._proxy.directory / VERSIONS_FILE
        write_atomically(file, "".join(f"{algorithm} {version}\n" for algorithm, version in versions.items()))
        # HAProxy looks a version up when it is asked: a running one needs no reload.
        self._proxy.command(f"clear map {file}")
        for algorithm, version in versions.items():
            self._proxy.command(f"add map {file} {algorithm} {version}")
        self._versions = versions
