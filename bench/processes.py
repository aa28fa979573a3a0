"""Which processes are on a request's way and beside it, and what do they use?"""

from __future__ import annotations

import os
from pathlib import Path

import cluster

REPLICA = "Echo's replica"
SERVE_HAPROXY = "Serve's HAProxy"
GATEWAY = "the gateway"
_STARTS = {
    "ray::ServeReplica:Echo": REPLICA,
    "ray::ServeReplica:Slow": "Slow's replica",
    "ray::ServeController": "Serve's controller",
    "ray::ProxyActor": "Serve's proxy",
    "ray::HAProxyManager": "Serve's manager of its HAProxy",
}
_PROGRAMS = {"raylet": "raylet", "gcs_server": "Ray's control service", "haproxy": SERVE_HAPROXY}
Sizes = dict[str, tuple[float, int]]  # by a process's part: resident MiB, open files


def by_part() -> dict[str, list[int]]:
    """Process ids by what the processes are."""
    found: dict[str, list[int]] = {}
    for container in (cluster.HEAD, "modelserve_gateway"):
        for line in cluster.run("docker", "top", container, "-eo", "pid,args").splitlines()[1:]:
            pid, _, command = line.strip().partition(" ")
            if part := _part(container, command.strip()):
                found.setdefault(part, []).append(int(pid))
    return found


def sizes() -> Sizes:
    """Memory and open files, of the processes of one part together."""
    found: Sizes = {}
    for part, pids in by_part().items():
        for pid in pids:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                opened = len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:  # it has just ended
                continue
            resident = next((line for line in status.splitlines() if line.startswith("VmRSS")), "VmRSS: 0")
            mib, files = found.get(part, (0.0, 0))
            found[part] = (mib + int(resident.split()[1]) / 1024, files + opened)
    return found


def cpu_seconds() -> dict[str, float]:
    """Processor time since they started, in user's and in kernel's code, of the processes of one part together."""
    return {part: sum(map(_cpu_seconds, pids)) for part, pids in by_part().items()}


def _cpu_seconds(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    user, system = text.rpartition(")")[2].split()[11:13]  # proc_pid_stat(5): utime and stime, counted from the name
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _part(container: str, command: str) -> str:
    program = command.split()[0].rpartition("/")[2]
    if container != cluster.HEAD:
        return GATEWAY if program == "haproxy" else ""
    return _PROGRAMS.get(program) or next((part for start, part in _STARTS.items() if command.startswith(start)), "")
