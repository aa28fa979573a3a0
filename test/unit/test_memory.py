"""The memory limit: a process that uses more writes one line and ends; children count, shared pages once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from modelserve.replica import memory
from modelserve.replica.node_memory import NodeMemory, node_memory

FILES = Path(memory.__file__).parents[2]
MIB = 2**20
GIB = 2**30
LIMIT = 300 * MIB
REPLICA = f"""
import os, subprocess, sys, time
from modelserve.replica import memory
memory.start({LIMIT}, lambda line: print(line, flush=True))
"""
ALLOCATE = "block = bytearray(os.urandom(1)) * (400 * 2**20)\ntime.sleep(30)\n"
CHILD = f"subprocess.run([sys.executable, '-c', {'import os, time' + chr(10) + ALLOCATE!r}])"
FORK = f"""
block = bytearray(os.urandom(1)) * (200 * 2**20)
if os.fork() == 0:
    time.sleep(4)
    os._exit(0)
time.sleep(4)
print(memory.used_by(memory.family(os.getpid())) < {LIMIT})
"""


def replica(*lines: str) -> subprocess.CompletedProcess[str]:
    code = REPLICA + "\n".join(lines)
    environment = {**os.environ, "PYTHONPATH": str(FILES)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("code", [ALLOCATE, CHILD], ids=["itself", "its child"])
def test_a_process_above_its_limit_says_so_and_ends(code: str) -> None:
    started = time.monotonic()
    ended = replica(code)
    assert ended.returncode == memory.EXIT_CODE, ended.stderr
    line = re.fullmatch(r"replica is unhealthy: uses (\d+) MiB of memory, its memory_limit is 300 MiB\n", ended.stdout)
    assert line
    assert 300 < int(line[1]) < 500
    assert time.monotonic() - started < 10


def test_pages_that_a_child_shares_count_once() -> None:
    ended = replica(FORK)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr


def test_without_a_limit_nothing_ends() -> None:
    ended = replica("memory.start(0, print)", "block = bytearray(10)", "time.sleep(1)")
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr


@pytest.mark.parametrize(
    ("used", "node", "text"),
    [
        (
            9,
            NodeMemory(15 * GIB, 16 * GIB),
            "the node's memory is nearly full: it uses 15 GiB of 16 GiB, this replica 9 GiB",
        ),
        (1, NodeMemory(15 * GIB, 16 * GIB), ""),
        (9, NodeMemory(12 * GIB, 16 * GIB), ""),
        (9, None, ""),
    ],
    ids=["nearly full", "uses little", "not full", "not known"],
)
def test_a_node_that_is_nearly_full_is_named(used: int, node: NodeMemory | None, text: str) -> None:
    assert memory.pressure_text(used * GIB, node) == text


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"memory.max": "5000000", "memory.current": "3000", "memory.stat": "anon 1\ninactive_file 1000\n"},
            (2000, 5000000),
        ),
        (
            {
                "memory/memory.limit_in_bytes": "5000000",
                "memory/memory.usage_in_bytes": "3000",
                "memory/memory.stat": "inactive_file 7\ntotal_inactive_file 1000\n",
            },
            (2000, 5000000),
        ),
        ({"memory.max": "max", "memory.current": "3000"}, (6 * MIB, 8 * MIB)),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/memory.usage_in_bytes": "1"}, (6 * MIB, 8 * MIB)),
        ({}, (6 * MIB, 8 * MIB)),
    ],
    ids=["cgroup 2", "cgroup 1", "cgroup 2 without a limit", "cgroup 1 without a limit", "no cgroup"],
)
def test_a_node_s_memory_is_its_container_s_or_the_host_s(
    tmp_path: Path, files: dict[str, str], expected: tuple[int, int]
) -> None:
    assert node_memory(tmp_path) is None
    meminfo = tmp_path / "proc/meminfo"
    meminfo.parent.mkdir()
    meminfo.write_text(f"MemTotal: {8 * 1024} kB\nMemFree: 1 kB\nMemAvailable: {2 * 1024} kB\n")
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert node_memory(tmp_path) == NodeMemory(*expected)


def test_a_process_that_ended_uses_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert memory.used_by([process.pid]) == 0
    assert memory.used_by([process.pid, process.pid]) == 0


@pytest.mark.parametrize(
    ("size", "text"),
    [(900 * MIB, "900 MiB"), (2**30, "1 GiB"), (2**31, "2 GiB"), (int(2.34 * 2**30), "2.3 GiB")],
)
def test_a_size_is_written_for_people(size: int, text: str) -> None:
    assert memory.gibibytes(size) == text
