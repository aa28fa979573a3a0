"""Exits: a process that ends itself says with which code, and a fork of it says nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from modelserve.replica import exits

FILES = Path(exits.__file__).parents[2]
REPLICA = """
import os
from modelserve.replica import exits
exits.report_exits(lambda line: print(line, flush=True))
"""
FORK = "child = os.fork()\nif child == 0:\n    os._exit(7)\nprint(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"


@pytest.mark.parametrize(
    ("code", "written", "exit_code"),
    [("os._exit(3)", "replica ends itself with exit code 3\n", 3), (FORK, "7\n", 0), ("", "", 0)],
    ids=["os._exit", "a fork", "a normal end"],
)
def test_a_process_that_ends_itself_says_so(code: str, written: str, exit_code: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", REPLICA + code],
        env={**os.environ, "PYTHONPATH": str(FILES)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.stdout, ended.returncode) == (written, exit_code), ended.stderr
