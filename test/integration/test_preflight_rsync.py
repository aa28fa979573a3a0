"""Preflight names an rsync that cannot send content with owners: macOS's, an old one, none."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
OPENRSYNC = "openrsync: protocol version 29\nrsync version 2.6.9 compatible\n"
APPLE = "rsync  version 2.6.9  protocol version 29\nCopyright (C) 1996-2006 by Andrew Tridgell\n"


@pytest.fixture(scope="module")
def lookup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rsync_version", ROOT / "plugins" / "lookup" / "rsync_version.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (OPENRSYNC, "other"),
        (APPLE, "2.6.9"),
        ("rsync  version 3.4.1  protocol version 32\n", "3.4.1"),
        ("rsync  version v3.2.7  protocol version 31\n", "3.2.7"),
        ("", "other"),
    ],
)
def test_a_version_is_read(lookup: ModuleType, text: str, version: str) -> None:
    assert lookup.parse(text) == version


def test_no_rsync_is_an_empty_version(lookup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lookup.LookupModule().run([]) == [""]


def preflight(tmp_path: Path, version: str) -> str:
    """Run preflight with an rsync that says this; returns what Ansible printed, each run of spaces as one."""
    rsync = tmp_path / "bin" / "rsync"
    rsync.parent.mkdir()
    rsync.write_text(f"#!/bin/sh\ncat <<'END'\n{version}END\n")
    rsync.chmod(0o755)
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (tmp_path / "hosts.json").write_text(json.dumps({"head": {"hosts": {"h": host}}}))
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    environment = {
        **os.environ,
        "PATH": f"{rsync.parent}:{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }
    command = [program, "-i", str(tmp_path / "hosts.json"), str(ROOT / "playbooks" / "preflight.yml")]
    command += ["-e", f"modelserve_home={tmp_path}/home"]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT, timeout=120
    )
    return re.sub(r"\s+", " ", result.stdout + result.stderr)


@pytest.mark.parametrize(("version", "found"), [(OPENRSYNC, "not GNU's rsync"), (APPLE, "2.6.9")])
def test_an_rsync_that_will_not_do_is_refused(tmp_path: Path, version: str, found: str) -> None:
    text = preflight(tmp_path, version)
    assert f"rsync where Ansible runs: found {found}. GNU's rsync 3.1 or later is needed" in text
    assert "'brew install rsync'" in text


def test_a_present_rsync_will_do(tmp_path: Path) -> None:
    text = preflight(tmp_path, "rsync  version 3.2.7  protocol version 31\n")
    assert re.search(r"rsync where Ansible runs \W*3\.2\.7 \W*ok", text), text
    assert "rsync where Ansible runs: found" not in text
