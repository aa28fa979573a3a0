"""What the cluster says of itself: readiness, the OpenAPI document, the page."""

from __future__ import annotations

import re
import time
import urllib.request
from typing import Any

import pytest
from conftest import HOME, Cluster, run
from openapi_spec_validator import OpenAPIV31SpecValidator

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def until(cluster: Cluster, route: str, status: int, seconds: float) -> Any:
    """Ask until the answer has the status; returns it."""
    deadline = time.monotonic() + seconds
    while (found := cluster.ask(route))[0] != status:
        assert time.monotonic() < deadline, f"{route} still answers {found}"
        time.sleep(0.2)
    return found[1]


@pytest.mark.essential
def test_all_that_is_served_is_ready(cluster: Cluster) -> None:
    answer = until(cluster, "readyz", 200, 20)
    made_for_tests = {"NumpyOld", "NumpyNew", "OriginalStyle", "Anything", "Socket"}
    assert set(answer["algorithms"]) == {"AlgoExample", "TextEmbedding"} | made_for_tests
    assert all(one["ready"] and one["replicas"] >= 1 for one in answer["algorithms"].values())
    assert cluster.ask("readyz/AlgoExample")[0] == 200
    status, answer = cluster.ask("readyz/Nobody")
    assert status == 404 and "Nobody" in answer["info"]


def test_it_is_reached_through_the_gateway_alone(host: Any) -> None:
    listening = host.run("cat /proc/net/tcp /proc/net/tcp6").stdout
    assert re.findall(rf"^\s*\d+: (\w+):{6392:04X} \S+ 0A ", listening, re.M) == ["0100007F"]
    details = host.docker("modelserve_catalog").inspect()
    assert details["HostConfig"]["ReadonlyRootfs"]
    assert {mount["Source"]: mount["RW"] for mount in details["Mounts"]} == {
        str(HOME / "gateway"): False,
        str(HOME / "secrets"): False,
    }


def test_one_document_describes_all(cluster: Cluster) -> None:
    status, document = cluster.ask("openapi.json")
    assert status == 200
    OpenAPIV31SpecValidator(document).validate()
    routes = {"/extract", "/embed", "/numpy/old", "/numpy/new", "/original", "/any/thing", "/socket"}
    assert set(document["paths"]) == routes | {f"{route}/schema" for route in routes}
    assert set(document["paths"]["/extract"]) == {"get", "post"}
    body = document["paths"]["/extract"]["get"]["requestBody"]["content"]["application/json"]
    assert body["example"] == {"text": "good morning"}
    assert cluster.ask("extract", body["example"])[1]["status"] == 1


def test_the_page_and_all_it_loads_is_there(cluster: Cluster) -> None:
    url = f"http://127.0.0.1:{cluster.port}"
    with OPENER.open(f"{url}/docs", timeout=30) as response:
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        page = response.read().decode()
    loaded = re.findall(r'(?:src|href)="(/docs/[^"]+)"', page)
    assert len(loaded) >= 4
    for path in loaded:
        with OPENER.open(url + path, timeout=30) as response:
            assert response.status == 200 and response.read(), path


def test_what_the_page_sends_instead_of_get_is_answered_as_get(cluster: Cluster) -> None:
    headers = {"Content-Type": "application/json", "X-HTTP-Method-Override": "GET"}
    request = urllib.request.Request(f"http://127.0.0.1:{cluster.port}/numpy/old", b"{}", headers, method="POST")
    with OPENER.open(request, timeout=30) as response:
        assert response.status == 200


@pytest.mark.essential
def test_a_dead_replica_s_algorithm_is_not_ready_until_the_next_runs(cluster: Cluster) -> None:
    assert cluster.ask("readyz/TextEmbedding")[0] == 200
    found = cluster.head("pgrep", "-f", "^ray::ServeReplica:TextEmbedding").stdout.split()
    cluster.head("kill", "-9", *found)
    answer = until(cluster, "readyz", 503, 8)
    # Until Serve has noticed, the algorithm is asked directly.
    assert (
        re.search("TextEmbedding: (no replica runs|asked directly, it)", answer["info"])
        and answer["algorithms"]["AlgoExample"]["ready"]
    )
    until(cluster, "readyz", 200, 60)
    assert cluster.ask("embed", {"sentence": "a cat sits on the mat"})[0] == 200


def test_while_the_head_restarts_nothing_is_called_ready_that_does_not_answer(cluster: Cluster) -> None:
    run("docker", "kill", "modelserve_head")
    try:
        answer = until(cluster, "readyz", 503, 10)
        assert not any(one["ready"] for one in answer["algorithms"].values()) and "Ray" in answer["info"]
    finally:
        run("docker", "start", "modelserve_head")
    until(cluster, "readyz", 200, 120)
    cluster.eventually("extract", {"text": "good"}, {"score": 1, "words": {"good": 1}})
