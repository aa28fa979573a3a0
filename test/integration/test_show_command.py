"""The action show_command: it follows a command, ends one that hangs, and says what a lost connection leaves behind."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from replicas import wait_until

ROOT = Path(__file__).resolve().parents[2]


def run(directory: Path, *argv: str, **options: Any) -> str:
    """Run the action on this machine and return what Ansible printed, on one line."""
    task = {"show_command": {"argv": list(argv), **options}}
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [task]}
    (directory / "play.yml").write_text(json.dumps([play]))
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    command = [program, "-i", "localhost,", "-c", "local", "play.yml"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=directory, timeout=60
    )
    return " ".join((done.stdout + done.stderr).split())


def test_lines_are_shown_and_the_rest_is_not(tmp_path: Path) -> None:
    script = 'echo "step: $WORD"; echo other; pwd >&2; exit 3'
    text = run(tmp_path, "sh", "-c", script, show="^(step|/)", environment_vars={"WORD": "a b"})
    assert "step: a b" in text and str(tmp_path) in text
    assert "failed=1" in text


def test_a_command_that_hangs_is_stopped(tmp_path: Path) -> None:
    started = time.monotonic()
    text = run(tmp_path, "sh", "-c", f"echo $$ >{tmp_path}/pid; sleep 300; true", timeout_s=1)
    assert "'sh -c" in text and "did not end in time and was stopped. Look at the host" in text
    assert time.monotonic() - started < 30
    wait_until(lambda: not runs((tmp_path / "pid").read_text().strip()))


def runs(pid: str) -> bool:
    """Return whether a process runs; one that has ended is there until its parent takes note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.long
def test_a_command_that_somebody_ends_is_missed(tmp_path: Path) -> None:
    assert "ended without a result: somebody ended it, or the host restarted" in run(
        tmp_path, "sh", "-c", "sleep 1; kill -9 0"
    )


@pytest.fixture
def action(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("show_command", ROOT / "plugins" / "action" / "show_command.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RECONNECT_POLL_S", 0.0)
    return module


class Line:
    """A connection that is lost for some calls."""

    def __init__(self, lost: float) -> None:
        self.lost, self.resets = lost, 0

    def execute(self, command: str) -> str:
        if self.lost > 0:
            self.lost -= 1
            raise AnsibleConnectionFailure("lost")
        return command

    def reset(self) -> None:
        self.resets += 1


def connected(action: ModuleType, line: Line) -> Any:
    made = action.ActionModule.__new__(action.ActionModule)
    made._host, made._command, made._directory = "worker_1: ", "docker exec modelserve_head modelserve", "/tmp/it"
    made._connection = SimpleNamespace(reset=line.reset)
    made._execute = line.execute
    return made


def test_a_connection_that_comes_back_is_used_again(action: ModuleType) -> None:
    line = Line(lost=2)
    assert connected(action, line)._ask("cat rc") == "cd /tmp/it && { cat rc\n}"
    assert line.resets == 2


def test_a_lost_connection_says_what_goes_on(action: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action, "RECONNECT_S", 0.01)
    with pytest.raises(action._LostError) as caught:
        connected(action, Line(lost=float("inf")))._ask("cat rc")
    message = str(caught.value)
    assert message.startswith(
        "worker_1: the connection was lost. 'docker exec modelserve_head modelserve ...' goes on there"
    )
    assert "/tmp/it/out" in message and "\n" not in message
