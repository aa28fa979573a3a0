"""A secret of a section reaches its replicas, and nothing that is shown or recorded."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import pytest
from conftest import HOME, Cluster, run

VALUE = "planted-7c1e5a90d2b34f68"  # of modelserve_secrets in molecule.yml
STATES = ("actors", "workers", "runtime_envs")


def processes() -> bytes:
    """The command lines of all processes, and the environments that they started with."""
    content = b""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended
            content += (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    return content


@pytest.mark.essential
def test_a_secret_reaches_the_replicas_and_no_record(cluster: Cluster) -> None:
    digest = hashlib.sha256(VALUE.encode()).hexdigest()
    assert cluster.ask("any/thing", {"kind": "variable", "name": "PLANTED"})[1]["result"] == digest
    excluded = [f"--exclude-dir={name}" for name in ("secrets", "env", "model", "cache", "image")]
    # Releases, conf.ini, the gateway's and Ray's files and logs.
    assert run("grep", "-rlF", *excluded, VALUE, str(HOME), check=False).stdout == ""
    # What workers fetch is encrypted.
    published = [path for path in (HOME / "store" / "secrets").iterdir() if not path.name.startswith(".")]
    assert len(published) == 1
    assert VALUE not in published[0].read_text()
    documents = [cluster.ray("/api/serve/applications/")]
    documents += [cluster.ray(f"/api/v0/{state}?detail=1&limit=10000") for state in STATES]
    assert '"planted"' in json.dumps(documents[0])
    assert VALUE not in json.dumps(documents)
    names = run("docker", "ps", "--all", "--quiet", "--filter", "label=modelserve.role").stdout.split()
    assert VALUE not in run("docker", "inspect", *names).stdout
    for name in names:
        log = run("docker", "logs", name)
        assert VALUE not in log.stdout + log.stderr
    assert VALUE.encode() not in processes()
    # Where it is allowed to be, the same search finds it.
    files = run("grep", "-rlF", VALUE, str(HOME / "secrets")).stdout.split()
    assert str(HOME / "secrets" / "inventory.json") in files
    assert all(Path(file).stat().st_mode & 0o777 == 0o600 for file in files)


def test_commands_show_names_alone(cluster: Cluster) -> None:
    shown = cluster.head("modelserve", "secrets").stdout + cluster.head("modelserve", "plan", "--json").stdout
    assert "planted" in shown
    assert VALUE not in shown
