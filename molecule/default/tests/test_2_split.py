"""Two versions share a route: by weight, changed without a restart or a lost request, and told apart."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from conftest import HEAD, Cluster, run

ASKED = 400
HEADER = "X-Modelserve-Algorithm"
SECTION = """
[algopkg.NewExample]
backend = algo_backend
model = example_words.json
route = extract
method = GET, POST
weight = 10
"""


@pytest.fixture
def split(cluster: Cluster, project: Path) -> Path:
    """A second version of AlgoExample, which marks its answers, at 10 % of its route."""
    new = project / "algopkg/NewExample"
    shutil.copytree(project / "algopkg/AlgoExample", new)
    cluster.edit("algopkg/NewExample/backend.py", r'return \{"score": sum', 'return {"new": 1, "score": sum')
    conf = project / "conf.ini"
    conf.write_text(conf.read_text() + SECTION)
    with cluster.load("extract", {"text": "good"}) as counts:
        text = cluster.apply().stdout
    assert set(counts) == {200}, counts
    assert "+ NewExample" in text and "weight: 1 -> 90 (in place)" in text
    return conf


def ask(cluster: Cluster, algorithm: str = "", route: str = "extract", method: str = "GET") -> tuple[str, int]:
    """Ask once; returns the algorithm the answer names, and how it shows in the answer itself (1: the new one), or the
    answer's status where it is an error."""
    headers = {"Content-Type": "application/json"} | ({HEADER: algorithm} if algorithm else {})
    url = f"http://127.0.0.1:{cluster.port}/{route}"
    request = urllib.request.Request(url, b'{"text": "good"}', headers, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
            return response.headers[HEADER], json.loads(response.read())["result"].get("new", 0)
    except urllib.error.HTTPError as error:
        return json.loads(error.read())["info"], error.code


def shares(cluster: Cluster) -> dict[tuple[str, int], float]:
    """The share of each who answers, as measured."""
    counts = Counter(ask(cluster) for _ in range(ASKED))
    return {who: count / ASKED for who, count in counts.items()}


def test_a_split_route(cluster: Cluster, split: Path) -> None:
    replicas = cluster.replicas()
    measured = shares(cluster)
    assert set(measured) == {("AlgoExample", 0), ("NewExample", 1)}
    assert 0.04 < measured["NewExample", 1] < 0.18, measured  # 10 %: beyond is a chance of less than 1 in 10,000

    # One is picked on purpose, below the route too; one that is not there is named.
    assert Counter(ask(cluster, "NewExample") for _ in range(20)) == {("NewExample", 1): 20}
    assert Counter(ask(cluster, "AlgoExample") for _ in range(20)) == {("AlgoExample", 0): 20}
    assert ask(cluster, "Nobody") == ("Nobody does not answer /extract; /docs lists what does", 404)
    status, schema = cluster.ask("extract/schema")
    assert status == 200 and schema["name"] in ("AlgoExample", "NewExample")

    # The weight changes without a restart, and nobody notices.
    with cluster.load("extract", {"text": "good"}) as counts:
        cluster.edit("conf.ini", "^weight = 10$", "weight = 60")
        text = cluster.apply().stdout
        assert "weight: 10 -> 60 (in place)" in text and "weight: 90 -> 40 (in place)" in text
        assert 0.48 < shares(cluster)["NewExample", 1] < 0.72
        cluster.edit("conf.ini", "^weight = 60$", "weight = 0")
        cluster.apply()
        assert shares(cluster) == {("AlgoExample", 0): 1}, "a standby"
        assert ask(cluster, "NewExample") == ("NewExample", 1)
        cluster.head("modelserve", "rollback")
        assert 0.48 < shares(cluster)["NewExample", 1] < 0.72
    assert set(counts) == {200}, counts
    assert cluster.replicas() == replicas
    table = cluster.head("modelserve", "status").stdout
    rows = [line for line in table.splitlines() if line.startswith("  ")]  # notes on replicas that died follow
    assert "40%" in table and "60%" in table and max(map(len, rows)) <= 80

    # The metrics tell them apart.
    counted = json.loads(run("docker", "exec", HEAD, "modelserve", "status", "--json").stdout)
    assert {row["name"]: row["weight"] for row in counted["algorithms"]}["NewExample"] == 60


def test_the_new_takes_the_place_of_the_old(cluster: Cluster, split: Path) -> None:
    before = cluster.replicas()["NewExample"]
    with cluster.load("extract", {"text": "good"}) as counts:
        cluster.edit("conf.ini", r"\[algopkg.AlgoExample\]", "[algopkg.AlgoExample]\nenabled = false")
        cluster.apply()
        assert shares(cluster) == {("NewExample", 1): 1}
    assert set(counts) == {200}, counts
    assert cluster.replicas()["NewExample"] == before
    # At once the other way round, and the new one has replicas of its own to start.
    with cluster.load("extract", {"text": "good"}) as counts:
        cluster.edit("conf.ini", r"enabled = false", "enabled = true")
        cluster.edit("conf.ini", r"(?<=NewExample\]\n)", "enabled = false\n")
        cluster.apply()
        assert shares(cluster) == {("AlgoExample", 0): 1}
    assert set(counts) == {200}, counts


def test_weights_that_do_not_add_up_are_named(cluster: Cluster, split: Path) -> None:
    cluster.edit("conf.ini", "^weight = 10$", "weight = 100")
    result = cluster.apply(check=False)
    assert result.returncode == 1
    assert "[algopkg.NewExample] weight: the weights of 'extract' add up to 100 and leave nothing" in result.stderr
    assert ask(cluster)[0] in ("AlgoExample", "NewExample")


def test_a_method_a_client_cannot_send_is_named_in_a_header(cluster: Cluster) -> None:
    headers = {"Content-Type": "application/json", "X-HTTP-Method-Override": "GET"}
    url = f"http://127.0.0.1:{cluster.port}/numpy/old"  # answers GET alone
    request = urllib.request.Request(url, b"{}", headers, method="POST")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
        assert response.status == 200
    assert cluster.ask("numpy/old", {}, "POST")[0] == 405
