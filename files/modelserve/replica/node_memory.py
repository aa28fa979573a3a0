"""How much memory the node of a replica uses: that of its container where that is limited, else of the host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NodeMemory:
    """The memory that cannot be taken back, and what there is, in bytes."""

    used: int
    limit: int


def node_memory(root: Path = Path("/")) -> NodeMemory | None:
    """Return the memory of the node; None where the kernel does not tell.

    Args:
        root: directory that holds ``proc`` and ``sys``.
    """
    host = _host(root / "proc/meminfo")
    for limit_file, used_file, inactive in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        directory = root / "sys/fs/cgroup"
        limit, used = _number(directory / limit_file), _number(directory / used_file)
        if limit is not None and used is not None and (host is None or limit < host.limit):
            statistics = (directory / limit_file).parent / "memory.stat"
            return NodeMemory(max(0, used - _fields(statistics).get(inactive, 0)), limit)
    return host


def _host(file: Path) -> NodeMemory | None:
    fields = {key.rstrip(":"): value * 1024 for key, value in _fields(file).items()}
    if "MemTotal" not in fields or "MemAvailable" not in fields:
        return None
    return NodeMemory(fields["MemTotal"] - fields["MemAvailable"], fields["MemTotal"])


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max": no limit
        return None


def _fields(file: Path) -> dict[str, int]:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}
