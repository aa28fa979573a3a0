"""The playbook status.yml on stub hosts: a node that is up in Ray and unhealthy is named, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from stub_inventory import Stubs, words

pytestmark = pytest.mark.long

LOST = "this container lost its GPUs: /dev/nvidiactl is not permitted any more"


def run(directory: Path, unhealthy: str) -> str:
    """Return what the playbook prints where a container is unhealthy."""
    (directory / "bin").mkdir()
    (directory / "bin" / "docker").write_text(
        "#!/bin/sh\n"
        f'case "$*" in "exec {unhealthy} modelserve node health"*) echo "error: {LOST}" >&2; exit 1;;\n'
        '*nodes|*status) echo "table of $4";; esac\n'
    )
    (directory / "bin" / "docker").chmod(0o755)
    stubs = Stubs(directory, {"head": ["h"], "workers": ["worker_1", "worker_2"]})
    result = stubs.run("status.yml")
    assert result.returncode == 0, words(result)
    return words(result)


def test_an_unhealthy_node_is_named_with_the_reason(tmp_path: Path) -> None:
    text = run(tmp_path, "modelserve_worker_2")
    assert f"Unhealthy nodes node reason -------- {'-' * len(LOST)} worker_2 {LOST}" in text
    assert "changed=0" in text


def test_healthy_nodes_are_not_shown(tmp_path: Path) -> None:
    text = run(tmp_path, "none")
    assert "Unhealthy" not in text
