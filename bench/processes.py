"""The processes that take part in a request, and the resources that they use."""

from __future__ import annotations

import os
from pathlib import Path

import cluster

REPLICA = "Echo's replica"
GATEWAY = "the gateway"
SYNC_AGENT = "the gateway's sync agent"
_STARTS = {
    "ray::ServeReplica:Echo": REPLICA,
    "ray::ServeReplica:Slow": "Slow's replica",
    "ray::ServeController": "Serve's controller",
    "ray::ProxyActor": "Serve's proxy",
}
_PROGRAMS = {"raylet": "raylet", "gcs_server": "Ray's control service"}
_CONTAINERS = (cluster.HEAD, "modelserve_gateway", "modelserve_gateway_sync")
Sizes = dict[str, tuple[float, int]]  # by a process's part: resident MiB, open files


def by_part() -> dict[str, list[int]]:
    """Return process ids by the process's part in a request."""
    pids: dict[str, list[int]] = {}
    for container in _CONTAINERS:
        for line in cluster.run("docker", "top", container, "-eo", "pid,args").splitlines()[1:]:
            pid, _, command = line.strip().partition(" ")
            if part := _part(container, command.strip()):
                pids.setdefault(part, []).append(int(pid))
    return pids


def sizes() -> Sizes:
    """Return memory and open files, summed over the processes of a part."""
    totals: Sizes = {}
    for part, ids in by_part().items():
        for pid in ids:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                open_files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            except OSError:  # the process has just ended
                continue
            resident = next((line for line in status.splitlines() if line.startswith("VmRSS")), "VmRSS: 0")
            mib, files = totals.get(part, (0.0, 0))
            totals[part] = (mib + int(resident.split()[1]) / 1024, files + open_files)
    return totals


def cpu_seconds() -> dict[str, float]:
    """Return user and system time since the start, in seconds, summed over the processes of a part."""
    return {part: sum(map(_cpu_seconds, ids)) for part, ids in by_part().items()}


def _cpu_seconds(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    user, system = text.rpartition(")")[2].split()[11:13]  # proc_pid_stat(5): utime and stime
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _part(container: str, command: str) -> str:
    program = command.split()[0].rpartition("/")[2]
    if container == "modelserve_gateway":
        return GATEWAY if program == "haproxy" else ""
    if container == "modelserve_gateway_sync":
        return SYNC_AGENT if program.startswith("python") else ""
    return _PROGRAMS.get(program) or next((part for start, part in _STARTS.items() if command.startswith(start)), "")
