"""The replicas of Serve's details: which ones get requests, and which ones are remembered without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from modelserve.errors import UserError
from modelserve.gateway.targets import FILE, Target, Targets, observe, version_of

PROXY = "SERVE_CONTROLLER_ACTOR::SERVE_PROXY_ACTOR-9f0c"
NOTHING = Targets()


def actor(replica: str, algorithm: str = "Echo") -> str:
    return f"SERVE_REPLICA::{algorithm}#{algorithm}#{replica}"


def group(*targets: tuple[str, int], algorithm: str = "Echo", protocol: str = "HTTP") -> dict[str, Any]:
    """A target group, by each target's actor and port."""
    return {
        "targets": [{"ip": "10.0.0.2", "port": port, "instance_id": "", "name": name} for name, port in targets],
        "route_prefix": f"/{algorithm}",
        "protocol": protocol,
        "app_name": algorithm,
        "ingress_request_router_targets": [],
        "ingress_deployment_name": algorithm,
    }


def details(*groups: dict[str, Any], **states: str) -> dict[str, Any]:
    """Serve's details: the target groups, and the states of Echo's replicas by their ids."""
    replicas = [
        {
            "replica_id": replica,
            "state": state,
            "actor_name": actor(replica),
            "node_ip": "10.0.0.2",
            "start_time_s": 1.5,
        }
        for replica, state in states.items()
    ]
    application = {
        "name": "Echo",
        "route_prefix": "/Echo",
        "status": "RUNNING",
        "message": "",
        "deployments": {"Echo": {"name": "Echo", "status": "HEALTHY", "target_num_replicas": 1, "replicas": replicas}},
    }
    return {"proxy_location": "HeadOnly", "target_groups": [*groups], "applications": {"Echo": application}}


def echo(**ports: int) -> dict[str, Any]:
    """Echo's target group, by the replicas' ids and ports."""
    return group(*((actor(replica), port) for replica, port in ports.items()))


def known(**ports: int) -> Targets:
    """What is known after Serve listed these replicas of Echo, by their ids and ports."""
    return observe(details(echo(**ports)), NOTHING)


def target(replica: str, port: int, **flags: bool) -> Target:
    return Target(replica=replica, address="10.0.0.2", port=port, **flags)


def test_a_replica_that_serve_lists_gets_requests() -> None:
    observed = observe(details(echo(b=30001, a=30000), a="RUNNING", b="RUNNING"), NOTHING)
    assert observed == Targets(algorithms={"Echo": (target("a", 30000), target("b", 30001))})


def test_the_proxy_of_an_algorithm_without_replicas_is_no_replica() -> None:
    assert observe(details(group((PROXY, 8000))), NOTHING) == NOTHING
    scaled_to_zero = observe(details(group((PROXY, 8000))), known(a=30000))
    assert [one.replica for one in scaled_to_zero.of("Echo")] == ["a"]


def test_ports_of_grpc_are_not_called() -> None:
    grpc = group((actor("a"), 40000), protocol="gRPC")
    assert observe(details(grpc), NOTHING) == NOTHING
    assert observe(details(grpc, echo(a=30000), grpc), NOTHING).of("Echo") == (target("a", 30000),)


def test_an_algorithm_is_named_by_its_prefix() -> None:
    observed = observe(details(group(("SERVE_REPLICA::Größe#Größe#a", 30000), algorithm="xn--Gre-6ka8i")), NOTHING)
    assert [*observed.algorithms] == ["xn--Gre-6ka8i"]
    assert observed.of("xn--Gre-6ka8i") == (target("a", 30000),)


def test_a_stopping_replica_is_remembered_with_its_port() -> None:
    observed = observe(details(echo(b=30001), a="STOPPING", b="RUNNING"), known(a=30000))
    assert observed.of("Echo") == (target("a", 30000, serving=False, stopping=True), target("b", 30001))


def test_a_replica_that_stopped_once_stops_though_serve_no_longer_knows_it() -> None:
    stopping = observe(details(echo(b=30001), a="STOPPING"), known(a=30000))
    assert observe(details(echo(b=30001)), stopping) == stopping


@pytest.mark.parametrize("states", [{"a": "UPDATING"}, {"a": "RECOVERING"}, {"a": "RUNNING"}, {}])
def test_a_replica_that_is_not_listed_is_remembered_and_does_not_count(states: dict[str, str]) -> None:
    observed = observe(details(**states), known(a=30000))
    assert observed.of("Echo") == (target("a", 30000, serving=False),)
    assert observed.version("Echo") == "-"


def test_a_remembered_replica_that_is_listed_again_gets_requests() -> None:
    remembered = observe(details(a="UPDATING"), known(a=30000))
    assert observe(details(echo(a=30000)), remembered) == known(a=30000)


def test_a_partial_list_after_a_restart_of_the_head_forgets_nothing() -> None:
    before = observe(details(echo(a=30000, b=30001), group((actor("x", "Other"), 30002), algorithm="Other")), NOTHING)
    partial = observe(details(echo(b=30001), a="RECOVERING", b="RUNNING"), before)
    assert partial.of("Echo") == (target("a", 30000, serving=False), target("b", 30001))
    assert partial.of("Other") == (target("x", 30002, serving=False),)
    empty = observe({}, before)
    assert [one.serving for group in empty.algorithms.values() for one in group] == [False] * 3
    assert observe({"target_groups": None, "applications": None}, before) == empty


@pytest.mark.parametrize(
    "document",
    [
        {"target_groups": [{"route_prefix": "/Echo", "protocol": "HTTP"}]},
        {"target_groups": [{**group(), "targets": [{"ip": "10.0.0.2", "port": "none", "name": "a"}]}]},
        {"target_groups": ["Echo"]},
        {"target_groups": 5},
        {"applications": {"Echo": {"state": "RUNNING"}}},
    ],
)
def test_another_document_is_one_line(document: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"not what Ray 2\.60 writes") as caught:
        observe(document, NOTHING)
    assert "\n" not in str(caught.value)


def test_the_version_is_that_of_the_replicas_whatever_their_order() -> None:
    assert version_of(["a", "b"]) == version_of(iter("ba")) != version_of(["a"])
    assert version_of([]) == "-"
    assert len({version_of(names) for names in (["ab"], ["a", "b"], ["a"], ["b"])}) == 4


def test_the_version_of_an_algorithm_is_that_of_the_replicas_with_requests() -> None:
    observed = observe(details(echo(b=30001), a="STOPPING"), known(a=30000))
    assert observed.version("Echo") == version_of(["b"])
    assert observed.version("Other") == "-"


def test_only_what_serve_does_not_list_is_forgotten() -> None:
    observed = observe(details(echo(b=30001), a="STOPPING"), known(a=30000))
    assert observed.without([("Echo", "a"), ("Echo", "b"), ("Other", "c")]).of("Echo") == (target("b", 30001),)
    gone = observe(details(), known(a=30000))
    assert gone.without([("Echo", "a")]) == NOTHING


def test_the_file_is_read_back_and_a_damaged_one_is_as_good_as_none(tmp_path: Path) -> None:
    assert Targets.load(tmp_path) == NOTHING
    observed = observe(details(a="UPDATING"), known(a=30000))
    (tmp_path / FILE).write_text(observed.model_dump_json())
    assert Targets.load(tmp_path) == observed
    (tmp_path / FILE).write_text('{"algorithms": {"Echo": [{"replica": "a"}]}}')
    assert Targets.load(tmp_path) == NOTHING


@pytest.mark.parametrize(("address", "endpoint"), [("10.0.0.2", "10.0.0.2:30000"), ("fd00::2", "[fd00::2]:30000")])
def test_an_address_is_as_haproxy_and_urls_write_it(address: str, endpoint: str) -> None:
    assert Target(replica="a", address=address, port=30000).endpoint == endpoint
