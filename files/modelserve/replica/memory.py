"""The memory of a replica: a thread ends the process when it uses more than its limit.

The memory of a process and its children counts: what the kernel cannot take back, without file pages. A model that is
mapped from its file counts as far as it was written to.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from modelserve.replica.exits import flush_logs
from modelserve.replica.node_memory import NodeMemory, node_memory
from modelserve.serve.contract import MEMORY_LINE, UNHEALTHY_LINE

# As the kernel's own kill looks from outside: 128 and SIGKILL.
EXIT_CODE = 137
POLL_S = 0.2
# Processes are scanned for children every two seconds: a scan reads a file per process of the node.
POLLS_PER_SCAN = 10
# Where children share their parent's pages, the exact reading costs 10 ms per GiB.
SHARING_POLL_S = 2.0
# The node's memory is read once a second.
POLLS_PER_NODE = 5
REPORT_AGAIN_S = 60
# A node is nearly full, and a process uses much, from these parts of the node's memory on.
NEARLY_FULL = 0.85
MUCH = 0.1
_KIB = 1024


def start(limit_bytes: int, log: Callable[[str], object]) -> threading.Thread:
    """Watch the memory of this process from now on.

    A process that uses more than the limit writes one line and ends at once with its children, with code 137: the
    gateway answers its clients, and Serve starts another replica. A process that uses much of a node whose memory is
    nearly full says so once a minute: if the kernel kills it, nothing else tells why.

    Args:
        limit_bytes: largest memory of the process and its children in bytes; 0: no limit.
        log: writes an error line.

    Returns:
        The thread that watches.
    """

    def watch() -> None:
        used, limit = gibibytes(_wait_until_above(limit_bytes, log)), gibibytes(limit_bytes)
        log(f"{UNHEALTHY_LINE}uses {used} of memory, its memory_limit is {limit}")
        flush_logs()
        _end()

    thread = threading.Thread(target=watch, name="modelserve-memory", daemon=True)
    thread.start()
    return thread


def used_by(pids: list[int]) -> int:
    """Return the memory that processes use together in bytes; those that ended count nothing.

    A page that a child shares with its parent counts once.
    """
    return _resident(pids[0]) if len(pids) == 1 else sum(map(_proportional, pids))


def family(pid: int) -> list[int]:
    """Return a process and its descendants, also those that left its process group."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            children.setdefault(_parent(entry.name), []).append(int(entry.name))
    pids = [pid]
    for parent in pids:
        pids.extend(children.get(parent, ()))
    return pids


def gibibytes(size: int) -> str:
    """Return a size as text: ``2.3 GiB``; ``900 MiB`` below one GiB."""
    if size < 2**30:
        return f"{size / 2**20:.0f} MiB"
    return f"{size / 2**30:.1f}".removesuffix(".0") + " GiB"


def _wait_until_above(limit_bytes: int, log: Callable[[str], object]) -> int:
    polls, reported = 0, float("-inf")
    pids = [os.getpid()]
    while True:
        if polls % POLLS_PER_SCAN == 0:
            pids = family(os.getpid())
        resident = sum(map(_resident, pids))
        if 0 < limit_bytes < resident:
            used = used_by(pids)
            if used > limit_bytes:
                return used
            time.sleep(SHARING_POLL_S)
        if polls % POLLS_PER_NODE == 0 and time.monotonic() - reported > REPORT_AGAIN_S:
            pressure = pressure_text(resident, node_memory())
            if pressure:
                reported = time.monotonic()
                log(pressure)
        polls += 1
        time.sleep(POLL_S)


def pressure_text(used: int, node: NodeMemory | None) -> str:
    """Return the line of a process that uses much of a node whose memory is nearly full; else empty.

    Args:
        used: the memory of the process in bytes.
        node: the node's memory.
    """
    if node is None or node.used < NEARLY_FULL * node.limit or used < MUCH * node.limit:
        return ""
    return f"{MEMORY_LINE}it uses {gibibytes(node.used)} of {gibibytes(node.limit)}, this replica {gibibytes(used)}"


def _end() -> None:
    # The memory may be that of a child, which would live on.
    for pid in family(os.getpid())[1:]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    os._exit(EXIT_CODE)


def _parent(pid: str) -> int:
    try:
        # The second field, the name, may hold blanks and parentheses.
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:  # it has ended
        return 0


def _resident(pid: int) -> int:
    """Return the resident memory of a process in bytes, pages of files left out."""
    return _sum_of(f"/proc/{pid}/status", ("RssAnon:", "RssShmem:"))


def _proportional(pid: int) -> int:
    """Return the same with the pages that it shares divided by the number of processes that share them."""
    return _sum_of(f"/proc/{pid}/smaps_rollup", ("Pss_Anon:", "Pss_Shmem:"))


def _sum_of(file: str, keys: tuple[str, ...]) -> int:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(keys)) * _KIB
