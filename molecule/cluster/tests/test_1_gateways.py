"""Two gateways: each answers what the head says, at once, and alone when it has to."""

from __future__ import annotations

import json
import ssl
import urllib.error

import bed
import pytest
from conftest import GATEWAYS, HOME, PORT, Cluster

GOOD = {"text": "good"}


def status(cluster: Cluster, host: str, route: str = "extract", **headers: str) -> int:
    try:
        with cluster.open(route, GOOD, host, **headers) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def certificate(host: str) -> str:
    """The certificate that a gateway shows."""
    return ssl.get_server_certificate((bed.address(host), PORT))


@pytest.mark.essential
def test_a_key_opens_and_closes_both_at_once(cluster: Cluster) -> None:
    made = json.loads(cluster.ctl("keys", "add", "tablet", "--json"))["key"]
    assert {status(cluster, host, **{"X-API-Key": made}) for host in GATEWAYS} == {200}
    cluster.ctl("keys", "revoke", "tablet")
    assert {status(cluster, host, **{"X-API-Key": made}) for host in GATEWAYS} == {401}


def test_both_know_what_is_served(cluster: Cluster) -> None:
    for path in ("readyz", "openapi.json"):
        assert {status(cluster, host, path) for host in GATEWAYS} == {200}
    assert {status(cluster, host, "nowhere") for host in GATEWAYS} == {404}


def test_a_renewed_certificate_is_shown_by_both_and_nobody_notices(cluster: Cluster) -> None:
    before = {certificate(host) for host in GATEWAYS}
    assert len(before) == 1
    with cluster.load() as here, cluster.load("worker_2") as there:
        bed.on(bed.HEAD, "rm", f"{HOME}/secrets/gateway.pem")
        # What it does by itself, once a minute.
        bed.on(bed.HEAD, "docker", "exec", "modelserve_gateway_sync", "modelserve", "gateway", "refresh")
        after = {certificate(host) for host in GATEWAYS}
    assert len(after) == 1 and after != before
    for load in (here, there):
        assert load.answers and not load.failed(), load.kinds()


def test_the_log_says_which_release_answered(cluster: Cluster) -> None:
    number = json.loads(cluster.ctl("releases", "--json"))["releases"][0]["number"]
    for host in GATEWAYS:
        assert status(cluster, host, **{"X-Request-Id": "release"}) == 200
        log = bed.on(host, "sh", "-c", "docker logs --tail 50 modelserve_gateway 2>&1")
        (line,) = [json.loads(line) for line in log.splitlines() if '"id":"release"' in line]
        assert (line["release"], line["algorithm"]) == (str(number), "AlgoExample")


def test_a_gateway_that_does_not_follow_stops_an_apply(cluster: Cluster) -> None:
    bed.on("worker_2", "docker", "stop", "modelserve_gateway_sync")
    try:
        text = cluster.ctl_all("keys", "add", "tablet")
        assert "error: the gateway on worker_2 answers, but not with its new configuration" in text
    finally:
        bed.on("worker_2", "docker", "start", "modelserve_gateway_sync")
    cluster.ctl("keys", "revoke", "tablet")
    assert cluster.ctl("gateway", "refresh").startswith("the gateway knows the nodes")


def test_a_host_that_leaves_the_gateways_answers_no_more(cluster: Cluster) -> None:
    made = json.loads(cluster.ctl("keys", "add", "tablet", "--json"))["key"]
    assert status(cluster, "worker_2", **{"X-API-Key": made}) == 200
    before = cluster.containers(bed.HEAD)
    cluster.playbook("site.yml", "-e", json.dumps({"modelserve_gateways": [bed.HEAD]}))
    try:
        assert not {"modelserve_gateway", "modelserve_gateway_sync"} & {*cluster.containers("worker_2")}
        assert "gateway" not in bed.on("worker_2", "ls", HOME).split()
        with pytest.raises(urllib.error.URLError, match=r"refused|timed out"):
            status(cluster, "worker_2", **{"X-API-Key": made})
        after = cluster.containers(bed.HEAD)
        # Without other gateways, the catalog listens on loopback alone.
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        assert changed <= {"modelserve_catalog"}, "the others are left alone"
    finally:
        cluster.playbook("site.yml")
    assert status(cluster, "worker_2", **{"X-API-Key": made}) == 200
    cluster.ctl("keys", "revoke", "tablet")
