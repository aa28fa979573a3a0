"""Every change can be taken back, whatever became of the working files, and nobody notices."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import HEAD, HOME, Cluster


def latest() -> dict[str, Any]:
    """The last release."""
    number = max(int(path.stem) for path in (HOME / "releases").glob("*.json"))
    document: dict[str, Any] = json.loads((HOME / "releases" / f"{number}.json").read_text())
    return document


def test_a_rollback_brings_code_environment_model_and_configuration_back(cluster: Cluster, project: Path) -> None:
    was = latest()["number"]
    plan_before = json.loads(cluster.head("modelserve", "plan", "--json").stdout)
    before = cluster.ask("extract", {"text": "good"})[1]["result"]
    words = project / "Model_ZOO" / "example_words.json"
    words.write_text(json.dumps({"good": 5}))
    cluster.edit("algopkg/AlgoExample/backend.py", r'return \{"score": sum', 'return {"new": 1, "score": sum')
    requirements = project / "algopkg/AlgoExample/requirements.txt"
    requirements.write_text(requirements.read_text() + "tabulate==0.9.0\n")
    cluster.edit("conf.ini", r"^replicas = 1$", "replicas = 2")
    assert "release" in cluster.apply().stdout
    cluster.eventually("extract", {"text": "good"}, {"new": 1, "score": 5, "words": {"good": 5}})
    changed = latest()
    (change,) = [line for line in changed["changes"] if line.startswith("~ AlgoExample (")]
    assert all(what in change for what in ("code", "model", "environment", "replicas")), change

    with cluster.load("extract", {"text": "good"}) as counts:
        result = cluster.head("modelserve", "rollback")
        cluster.eventually("extract", {"text": "good"}, before)
    assert set(counts) == {200}, counts
    assert "building" not in result.stdout and f"which is release {was} again" in result.stdout
    assert (latest()["rollback_of"], latest()["number"]) == (was, changed["number"] + 1)
    assert len(cluster.replicas()["AlgoExample"]) == 1
    # The working files still say otherwise.
    plan = json.loads(cluster.head("modelserve", "plan", "--json").stdout)
    assert [change["name"] for change in plan["changes"]] == ["AlgoExample", "OriginalStyle"]  # they share the model
    text = cluster.playbook("playbooks/rollback.yml", "-e", f"release={was}").stdout
    assert "changed=0" in text, "it is there already"

    table = cluster.head("modelserve", "releases").stdout.splitlines()
    assert max(map(len, table)) <= 80 and f"rollback to {was}" in "\n".join(table)
    shown = cluster.head("modelserve", "releases", "show", str(changed["number"])).stdout
    assert "replicas = 2" in shown and "AlgoExample-" in shown and "example_words.json" in shown
    numbers = [str(was), str(changed["number"])]
    assert "code (new replicas)" in cluster.head("modelserve", "releases", "diff", *numbers).stdout
    same = cluster.head("modelserve", "releases", "diff", str(was), str(latest()["number"])).stdout
    assert "serve the same" in same
    assert plan_before["changed"] is False


@pytest.mark.essential
def test_a_release_that_is_not_there_is_named(cluster: Cluster) -> None:
    result = cluster.head("modelserve", "rollback", "9999", check=False)
    assert result.returncode == 1 and "there is no release 9999: kept are" in result.stderr


def test_the_good_part_of_an_apply_is_a_release_too(cluster: Cluster, project: Path) -> None:
    cluster.edit("algopkg/AlgoExample/backend.py", "^import json$", "import jsonn")
    cluster.edit("conf.ini", '"v1"', '"v7"')
    number = latest()["number"]
    result = cluster.apply("--keep-going", check=False)
    assert result.returncode == 1 and f"as release {number + 1}" in result.stderr
    cluster.eventually("original", {"word": "good"}, "v7:1")
    assert cluster.ask("extract", {"text": "good"})[1]["result"]["score"] == 1
    assert latest()["changes"] == ["~ OriginalStyle (user_config)", "! AlgoExample failed"]


def test_replicas_that_crash_after_their_start_are_taken_back(cluster: Cluster, project: Path) -> None:
    crash = "    def _model_init(self, paths=None):\n        threading.Timer(0.7, os._exit, [3]).start()\n\n"
    cluster.edit("algopkg/NumpyOld/backend.py", "^import os$", "import os\nimport threading")
    cluster.edit("algopkg/NumpyOld/backend.py", r"^(?=    def _model_inference)", crash)
    result = cluster.apply(check=False)
    assert result.returncode == 1, result.stdout
    assert "NumpyOld failed to start: its replicas crash soon after they start" in result.stderr
    assert cluster.head("modelserve", "status", "--wait", "60").returncode == 0


def test_without_room_for_the_new_the_old_goes_on_unless_a_gap_is_allowed(cluster: Cluster, project: Path) -> None:
    cluster.edit("conf.ini", r"(?<=WhichNumpy\n)gpu_cost = 0\.5", "gpu_cost = 1")  # both GPUs are taken then
    assert "no capacity for a new replica: it needs 1 GPU" in cluster.apply(check=False).stderr
    cluster.head("modelserve", "apply", "--allow-downtime")
    cluster.edit("algopkg/NumpyOld/backend.py", "^import ", "NEW = True\nimport ")
    before = cluster.replicas()
    deadline = time.monotonic() + 90  # replicas that drain keep their GPU: until then nothing is missing
    while True:
        with cluster.load("numpy/old", {}) as counts:
            result = cluster.apply(check=False)
        if result.returncode == 1 or time.monotonic() > deadline:
            break
    assert (
        "NumpyOld failed to start: no capacity for a new replica: it needs 1 GPU; free are head 0 GPU" in result.stderr
    )
    assert "--allow-downtime" in result.stderr
    assert set(counts) == {200} and cluster.replicas()["NumpyOld"] == before["NumpyOld"]
    text = cluster.head("modelserve", "apply", "--allow-downtime").stdout
    assert "the old replicas stop first" in text and "is served after" in text
    assert cluster.replicas()["NumpyOld"].isdisjoint(before["NumpyOld"])
    assert cluster.ask("numpy/old", {})[0] == 200


def test_an_apply_that_is_killed_is_gone_on_with(cluster: Cluster, project: Path) -> None:
    killed: Counter[str] = Counter()
    for turn, seconds in enumerate((0.3, 0.8, 1.5, 2.5)):
        cluster.edit("algopkg/AlgoExample/backend.py", "^import json$", f"TURN_{turn} = True\nimport json")
        run = ["docker", "exec", HEAD, "timeout", "--signal=KILL", str(seconds), "modelserve", "apply"]
        subprocess.run(["rsync", "-a", f"{project}/algopkg", f"{HOME}/"], check=True)
        killed[str(subprocess.run(run, capture_output=True, check=False).returncode)] += 1
        cluster.head("modelserve", "apply")
        package = latest()["serve"]["applications"][0]["args"]["package"]
        assert f"TURN_{turn} = True" in Path(package, "backend.py").read_text()
        assert json.loads(cluster.head("modelserve", "plan", "--json").stdout)["changed"] is False
        assert cluster.ask("extract", {"text": "good"})[0] == 200
    assert killed["137"] >= 2, killed
