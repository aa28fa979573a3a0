"""Another value of a secret starts new replicas; a deploy that fails leaves the old ones theirs."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from conftest import HEAD, HOME, Cluster

VARIABLE = {"kind": "variable", "name": "OF_FILE"}


def set_secret(value: str) -> None:
    command = ["docker", "exec", "-i", HEAD, "modelserve", "secrets", "set", "of_file"]
    subprocess.run(command, input=value, text=True, check=True, timeout=60)


def sha256(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def test_another_value_is_a_change_and_a_rollback_keeps_the_present_one(cluster: Cluster, project: Path) -> None:
    cluster.edit("conf.ini", r"^secret\.PLANTED = planted$", "secret.PLANTED = planted\nsecret.OF_FILE = of_file")
    missing = cluster.apply(check=False)
    assert missing.returncode == 1
    assert "[algopkg.Anything] secret.OF_FILE: the cluster has no secret 'of_file'" in missing.stderr
    set_secret("first-value-1\n")
    try:
        assert "secret of_file added (new replicas)" in cluster.head("modelserve", "plan").stdout
        cluster.apply()
        cluster.eventually("any/thing", VARIABLE, sha256("first-value-1"))
        before = cluster.replicas()["Anything"]
        set_secret("second-value-2")
        assert "secret of_file changed (new replicas)" in cluster.head("modelserve", "plan").stdout
        cluster.apply()
        cluster.eventually("any/thing", VARIABLE, sha256("second-value-2"))
        assert not before & cluster.replicas()["Anything"]
        # The release before has the same reference, and this value.
        assert "of_file changed since release" in cluster.head("modelserve", "rollback").stdout
        assert cluster.ask("any/thing", VARIABLE)[1]["result"] == sha256("second-value-2")
        for file in (HOME / "releases").glob("*.json"):
            assert "value-1" not in file.read_text()
    finally:
        cluster.edit("conf.ini", r"^secret\.OF_FILE = of_file\n", "")
        cluster.apply()
        cluster.head("modelserve", "secrets", "remove", "of_file")
