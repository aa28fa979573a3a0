"""Why replicas died: read from Ray's documents of actors, workers and nodes, and from logs. Nothing here asks Ray.

Source: ``ActorState``, ``WorkerState`` and ``NodeState`` of Ray's state API, and Serve's controller log
(``ray/serve/_private/deployment_state.py``), Ray 2.60. Ray does not know the signal or the exit code of most processes:
its worker writes the signals of a crash to its error file, and a replica writes to its log why it ends itself.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelserve.serve.contract import EXIT_LINE, MEMORY_LINE, UNHEALTHY_LINE
from modelserve.serve.log_records import record_of, traceback_of
from modelserve.serve.status import cause
from modelserve.util import clock

NODE_DIED = "its node died"
NODE_STOPPED = "its node was stopped"
UNKNOWN = "its process ended; why is not known, since its log was not read"
CRASHED = "crashed"
# A replica repeats once a minute that the node's memory is nearly full.
MEMORY_REPORT_S = 90
KILLED = "killed by signal 9: most likely by the kernel, for memory, or by a person"
_REPLICA_NAME = re.compile(r"SERVE_REPLICA::([^#]+)#([^#]+)#([^#]+)")
_REPLICA_ID = re.compile(r"Replica\(id='([^']+)'")
_EXIT_CODE = re.compile(r"exit code (-?\d+)")
_NODE_ID = re.compile(r"Node Id: (\w+)")
_MEMORY_BYTES = re.compile(r"Memory usage (\d+)B exceeded threshold of \d+B \([\d.]+% of (\d+)B limit\)")
_SIGNAL = re.compile(r"\*\*\* (SIG[A-Z]+) received")
_FRAME = re.compile(r'  File "([^"]+)", line (\d+) in (\S+)')
# Frames of these are not the author's.
_FOREIGN = re.compile(r"/site-packages/|/lib/python3[^/]*/|/modelserve/replica/")
_HEALTH_CHECK_FAILED = re.compile(r"Health check for Replica\(id='[^']+'[^)]*\) failed: ")
_HEALTH_CHECK_TIMEOUT = re.compile(r"Didn't receive health check response .* after ([\d.]+)s")
_CRASHED = re.compile(r"Actor for Replica\(id='[^']+'[^)]*\) crashed")
_STOPPED_UNHEALTHY = "failed health check, stopping it"
_FAILED_START = re.compile(r"Exception in Replica\(id='[^']+'[^)]*\), the replica will be stopped")


@dataclass(frozen=True)
class Death:
    """A replica that died, other than by an update, a scale-down or a removal.

    Attributes:
        algorithm: the section's name.
        replica_id: the replica.
        node: name of its node.
        time: seconds since the epoch; 0 where Ray does not tell.
        reason: why, in one line.
        last_line: what it wrote last, in one line; empty where that is not known.
    """

    algorithm: str
    replica_id: str
    node: str
    time: float
    reason: str
    last_line: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the death as a JSON document."""
        return {**vars(self), "time": clock.utc(self.time)}


@dataclass(frozen=True)
class DeadReplica:
    """An actor of a replica that is dead, for whatever reason.

    Attributes:
        algorithm: the section's name.
        deployment: the name of its deployment.
        replica_id: the replica.
        node_id: its node in Ray; empty for one that was placed nowhere.
        node: name of its node.
        time: seconds since the epoch; 0 where Ray does not tell.
        reason: why it died, as far as Ray tells; empty where a log has to tell.
        stopped: whether Serve ended it: stopped it, or found it unhealthy.
        node_died: whether it died with its node.
        error_file: file of what it wrote to standard error, relative to Ray's directory of logs.
    """

    algorithm: str
    deployment: str
    replica_id: str
    node_id: str
    node: str
    time: float
    reason: str
    stopped: bool
    node_died: bool
    error_file: str

    @property
    def log_file(self) -> str:
        """The replica's log, relative to Ray's directory of logs."""
        return f"serve/replica_{self.algorithm}_{self.deployment}_{self.replica_id}.log"


@dataclass(frozen=True)
class Evidence:
    """The ends of logs that may tell why a replica died.

    Attributes:
        controller: why Serve's controller stopped the replica, ``crashed`` where it found it dead; empty: no reason.
        log: the last lines of the replica's log.
        errors: the last lines that its process wrote to standard error.
        complete: whether the logs were read; they are out of reach where the node is gone.
    """

    controller: str = ""
    log: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    complete: bool = True


def dead_replicas(
    actors: Iterable[Mapping[str, Any]], workers: Iterable[Mapping[str, Any]], nodes: Iterable[Mapping[str, Any]]
) -> list[DeadReplica]:
    """Return the dead actors that are replicas, in the order of their deaths.

    Args:
        actors: ``ActorState`` documents of dead actors.
        workers: ``WorkerState`` documents of dead workers.
        nodes: ``NodeState`` documents of all nodes, dead ones too, with their ``name`` in the inventory.
    """
    by_process = {(worker["node_id"], worker["pid"]): worker for worker in workers}
    by_id = {node["node_id"]: node for node in nodes}
    dead = []
    for actor in actors:
        name = _REPLICA_NAME.fullmatch(actor.get("name") or "")
        kind, context = _death_cause(actor)
        if name is None or (kind == "actor_died_error_context" and context.get("never_started")):
            continue  # no process ever ran
        text = context.get("error_message") or ""
        written = _NODE_ID.search(text)
        node_id = actor.get("node_id") or (written[1] if written else "")
        node, worker = by_id.get(node_id, {}), by_process.get((node_id, actor.get("pid")), {})
        node_ended, ended = (int(found.get("end_time_ms") or 0) / 1000 for found in (node, worker))
        dead.append(
            DeadReplica(
                algorithm=name[1],
                deployment=name[2],
                replica_id=name[3],
                node_id=node_id,
                node=node.get("name") or node_id[:8],
                time=ended or node_ended,
                reason=_reason_of_ray(kind, context, text, actor.get("pid")),
                stopped=context.get("reason") == "RAY_KILL",
                # A node that lives reports the end of a process.
                node_died=bool(node_ended and not ended),
                error_file=f"worker-{worker.get('worker_id')}-{actor.get('job_id')}-{actor.get('pid')}.err",
            )
        )
    return sorted(dead, key=lambda replica: replica.time)


def death_of(replica: DeadReplica, evidence: Evidence) -> Death | None:
    """Return the death of a replica; None where it was stopped by an update, a scale-down or a removal."""
    if replica.stopped and not evidence.controller:
        return None
    reason = replica.reason or _reason_of_logs(replica, evidence)
    last = _last_line(evidence.log)
    last_line = "" if last in reason else last
    return Death(replica.algorithm, replica.replica_id, replica.node, replica.time, reason, last_line)


def controller_reasons(lines: Iterable[str]) -> dict[str, str]:
    """Return why Serve's controller stopped replicas, by replica id.

    Replicas that it stopped for an update, a scale-down or a removal are left out.

    Args:
        lines: lines of the controller's log, in its JSON form.
    """
    reasons: dict[str, str] = {}
    failures: dict[str, str] = {}
    for message, traceback in _records(lines):
        replica = _REPLICA_ID.search(message)
        if replica is None:
            continue
        if _FAILED_START.match(message):
            failure = cause(traceback)
            reasons[replica[1]] = CRASHED if "ActorDiedError" in failure else f"failed to start: {failure}"
        elif _STOPPED_UNHEALTHY in message:
            reasons[replica[1]] = failures.get(replica[1], "unhealthy: its health checks failed")
        elif timeout := _HEALTH_CHECK_TIMEOUT.match(message):
            failures[replica[1]] = f"unhealthy: it did not answer a health check within {float(timeout[1]):g} s"
        elif _HEALTH_CHECK_FAILED.match(message):
            failures[replica[1]] = f"unhealthy: {cause(message)}"
        elif _CRASHED.match(message):
            failures[replica[1]] = CRASHED
    return reasons


def _reason_of_logs(replica: DeadReplica, evidence: Evidence) -> str:
    crashed = not replica.stopped or evidence.controller == CRASHED
    if replica.node_died and (crashed or evidence.controller.startswith("unhealthy")):
        return NODE_DIED
    unhealthy = _last_after(UNHEALTHY_LINE, evidence.log)
    if unhealthy and not evidence.controller.startswith("failed to start"):
        return f"unhealthy: {unhealthy}"
    if not crashed:
        return evidence.controller
    exit_code = _last_after(EXIT_LINE, evidence.log)
    if exit_code:
        return f"ended itself with exit code {exit_code}"
    if not evidence.complete:
        return UNKNOWN
    return _signal(evidence.errors) or _killed_by_kernel(replica, evidence) or KILLED


def _killed_by_kernel(replica: DeadReplica, evidence: Evidence) -> str:
    """Return that the kernel killed a replica for memory, where the node's was nearly full just before."""
    for line in reversed(evidence.log):
        record = record_of(line)
        if record["message"].startswith(MEMORY_LINE):
            written = float(record.get("timestamp_ns") or 0) / 1e9
            recent = replica.time - written < MEMORY_REPORT_S
            memory = record["message"].removeprefix(MEMORY_LINE + "it uses ").strip()
            return f"killed by signal 9, by the kernel for memory most likely: the node used {memory}" if recent else ""
    return ""


def _death_cause(actor: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    contexts = actor.get("death_cause") or {}
    return next(((kind, context or {}) for kind, context in contexts.items()), ("", {}))


def _reason_of_ray(kind: str, context: Mapping[str, Any], text: str, pid: Any) -> str:
    if kind == "oom_context":
        return _out_of_memory(text, pid)
    if kind == "runtime_env_failed_context":
        return f"its environment could not be set up: {cause(text)}"
    if context.get("reason") == "NODE_DIED":
        how = str((context.get("node_death_info") or {}).get("reason"))
        return NODE_STOPPED if how.startswith(("EXPECTED_TERMINATION", "AUTOSCALER_DRAIN")) else NODE_DIED
    exit_code = _EXIT_CODE.search(text)
    return f"ended itself with exit code {exit_code[1]}" if exit_code else ""


def _out_of_memory(text: str, pid: Any) -> str:
    node = _MEMORY_BYTES.search(text)
    replica = re.search(rf"pid={pid}, actual memory used=([\d.]+)GB", text)  # Ray's GB are GiB
    parts = []
    if node:
        used, limit = (int(size) / 2**30 for size in node.groups())
        parts.append(f"the node used {used:.1f} of {limit:.1f} GiB")
    if replica:
        parts.append(f"this replica {float(replica[1]):.1f} GiB")
    return ": ".join(filter(None, ["killed for memory", ", ".join(parts)]))


def _signal(errors: Iterable[str]) -> str:
    """Return the signal of a crash and where the code was, from what a process wrote to standard error."""
    lines = list(errors)
    found = [(number, crash[1]) for number, line in enumerate(lines) if (crash := _SIGNAL.match(line))]
    if not found:
        return ""
    number, name = found[-1]
    try:
        crash_signal = signal.Signals[name]
    except KeyError:
        return f"killed by {name}"
    description = (signal.strsignal(crash_signal) or name).lower()
    return f"killed by signal {crash_signal.value} ({description}){_place(lines[number:])}"


def _place(lines: Iterable[str]) -> str:
    """Return the author's innermost frame of the thread that crashed, in Python's own fault report."""
    frames: list[tuple[str, ...]] = []
    for line in lines:
        if line.startswith(("Current thread", "Stack (most recent call first)")):
            frames = []
        elif line.startswith("Thread ") and frames:
            break
        elif frame := _FRAME.match(line):
            frames.append(frame.groups())
    own = [frame for frame in frames if not _FOREIGN.search(frame[0])] or frames
    return f" in {own[0][2]}, {own[0][0].rpartition('/')[2]} line {own[0][1]}" if own else ""


def _last_after(prefix: str, log: Iterable[str]) -> str:
    """Return what follows a prefix in the last message of a log that begins with it."""
    messages = [message.removeprefix(prefix) for message, _ in _records(log) if message.startswith(prefix)]
    return messages[-1].strip() if messages else ""


def _last_line(log: Iterable[str]) -> str:
    """Return the last line of a replica's log that is neither Serve's own nor one that its reason is read from."""
    lines = []
    for line in log:
        record = record_of(line)
        own = record["message"].startswith((UNHEALTHY_LINE, EXIT_LINE, MEMORY_LINE))
        if not own and record.get("filename") != "replica.py":
            lines.append(traceback_of(record) or record["message"])
    texts = [text.strip().splitlines()[-1].strip() for text in lines if text.strip()]
    return texts[-1][:300] if texts else ""


def _records(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        record = record_of(line)
        yield record["message"], traceback_of(record)
