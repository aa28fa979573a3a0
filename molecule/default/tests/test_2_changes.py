"""Changes of conf.ini and packages: they take effect at once, on what changed and on nothing else."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import HEAD, HOME, Cluster, run


@pytest.mark.essential
def test_an_unchanged_apply_does_nothing(cluster: Cluster) -> None:
    before = cluster.replicas()
    started = time.monotonic()
    assert "nothing to do" in cluster.apply().stdout
    assert time.monotonic() - started < 30
    assert cluster.replicas() == before


def test_commenting_a_section_out_stops_that_algorithm_alone(cluster: Cluster, project: Path) -> None:
    before = cluster.replicas()
    conf = (project / "conf.ini").read_text()
    head, section = conf.split("[algopkg.OriginalStyle]")
    (project / "conf.ini").write_text(head + "\n".join("# " + line for line in f"[x]{section}".splitlines()))
    with cluster.load("extract", {"text": "good"}) as others:
        assert "OriginalStyle" in cluster.apply().stdout
        assert cluster.ask("original", {"word": "good"})[0] == 404
        (project / "conf.ini").write_text(conf)
        cluster.apply()
        assert cluster.ask("original", {"word": "good"})[1]["result"] == "v1:1"
    assert set(others) == {200} and others[200] > 20
    after = cluster.replicas()
    assert {name for name in before if before[name] != after[name]} == {"OriginalStyle"}


def test_controller_py_applies_from_any_directory(cluster: Cluster, project: Path) -> None:
    conf = (project / "conf.ini").read_text().replace("route = original", "route = renamed")
    (HOME / "conf.ini").write_text(conf)
    result = run("docker", "exec", "--workdir", "/tmp", HEAD, "python", str(HOME / "controller.py"))
    assert "route: /original -> /renamed" in result.stdout
    assert cluster.ask("renamed", {"word": "good"})[1]["result"] == "v1:1"
    assert cluster.ask("original", {"word": "good"})[0] == 404


@pytest.mark.essential
def test_edited_code_redeploys_that_algorithm_without_a_lost_request(cluster: Cluster, project: Path) -> None:
    before = cluster.replicas()
    cluster.edit("algopkg/AlgoExample/backend.py", r'"score": sum\(known.values\(\)\)', '"score": 42')
    with cluster.load("extract", {"text": "good"}) as counts:
        result = cluster.apply()
        cluster.eventually("extract", {"text": "good"}, {"score": 42, "words": {"good": 1}})
    assert "code (new replicas)" in result.stdout and "TextEmbedding (unchanged)" in result.stdout
    assert set(counts) == {200} and counts[200] > 20
    after = cluster.replicas()
    assert {name for name in before if before[name] != after[name]} == {"AlgoExample"}


def test_an_edited_model_redeploys_its_algorithms(cluster: Cluster, project: Path) -> None:
    words = project / "Model_ZOO" / "example_words.json"
    words.write_text(json.dumps({**json.loads(words.read_text()), "good": 7}))
    assert "model (new replicas)" in cluster.apply().stdout
    cluster.eventually("extract", {"text": "good"}, {"score": 7, "words": {"good": 7}})
    cluster.eventually("original", {"word": "good"}, "v1:7")


def test_replicas_scale_in_place(cluster: Cluster, project: Path) -> None:
    before = cluster.replicas()["AlgoExample"]
    cluster.edit("conf.ini", r"^replicas = 1$", "replicas = 2")
    assert "replicas: 1 -> 2 (in place)" in cluster.apply().stdout
    after = cluster.replicas()["AlgoExample"]
    assert before < after and len(after) == 2


def test_user_configuration_changes_in_place(cluster: Cluster, project: Path) -> None:
    before = cluster.replicas()
    cluster.edit("conf.ini", '"v1"', '"v2"')
    assert "(in place)" in cluster.apply().stdout
    cluster.eventually("original", {"word": "good"}, "v2:1")
    deadline = time.monotonic() + 10
    while (after := cluster.replicas()) != before:  # a replica counts as running again a moment after it answers
        assert time.monotonic() < deadline, f"{after} instead of {before}"
        time.sleep(0.2)


def test_the_port_changes_without_a_restart(cluster: Cluster, project: Path) -> None:
    before = cluster.replicas()
    cluster.edit("conf.ini", "port = 6660", "port = 6661")
    assert "port 6660 -> 6661" in cluster.apply().stdout
    assert cluster.ask("extract", {"text": "good"}, port=6661)[0] == 200
    assert cluster.replicas() == before


def test_a_gpu_is_shared_by_fractions_and_not_overbooked(cluster: Cluster, project: Path) -> None:
    cluster.edit("conf.ini", r"gpu_cost = 0\.5", "gpu_cost = 1.5")
    result = cluster.apply(check=False)
    assert result.returncode == 1 and "neither a fraction below 1 nor a whole number" in result.stderr
    assert result.stderr.count("gpu_cost") == 2  # both sections, at once


@pytest.mark.essential
def test_every_release_is_recorded(cluster: Cluster) -> None:
    releases = sorted((HOME / "releases").glob("*.json"), key=lambda path: int(path.stem))
    assert 2 <= len(releases) <= 10
    last: dict[str, Any] = json.loads(releases[-1].read_text())
    assert last["served"]["port"] == 6660 and "[algopkg.AlgoExample]" in last["conf"]
    assert {application["name"] for application in last["serve"]["applications"]} >= {"AlgoExample", "NumpyOld"}
