"""The servers of the running HAProxy follow the replicas without a reload."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from modelserve.config.routes import Routes, Share
from modelserve.errors import UserError
from modelserve.gateway import gateway
from modelserve.gateway.servers import SHOW, Server, Servers, Step, additions, adjustments, servers_of
from modelserve.gateway.targets import FILE, Target, Targets
from modelserve.serve.api import RayAPI
from modelserve.settings import Settings
from replicas import Front, Replica, front, wait_until

if TYPE_CHECKING:
    from conftest import Site

ROUTES: Routes = {"echo": (Share(name="Echo", prefix="/Echo"),)}
STAT = """# pxname,svname,qcur,status,check_status,
algorithm:Echo,a,0,UP,L7OK,
algorithm:Echo,b,0,UP 1/2,L7RSP,
algorithm:Echo,c,0,DOWN,L4CON,
algorithm:Echo,d,0,DRAIN,* L7OK,
algorithm:Echo,e,0,no check,,
algorithm:Echo,f,0,MAINT,L7OK,
algorithm:Echo,serve,0,no check,,
catalog,catalog,0,no check,,
"""
SERVERS = servers_of(STAT)


def target(replica: str, *, serving: bool = True, stopping: bool = False) -> Target:
    return Target(replica=replica, address="10.0.0.2", port=30000, serving=serving, stopping=stopping)


def of(*targets: Target) -> Targets:
    return Targets(algorithms={"Echo": targets})


def commands(targets: Targets, *servers: Server, added: str = "") -> list[str]:
    """The commands for HAProxy's servers, without the backend in them."""
    steps = adjustments(targets, servers, [("Echo", added)] if added else [])
    return [command.replace("algorithm:Echo/", "") for step in steps for command in step.commands]


def server(name: str, status: str = "UP", *, failing: bool = False) -> Server:
    return Server("Echo", name, status, failing)


def test_servers_are_read_without_backups_and_other_backends() -> None:
    assert {one.algorithm for one in SERVERS} == {"Echo"}
    assert [one.name for one in SERVERS] == [*"abcdef"]
    assert [one.name for one in SERVERS if one.up] == [*"abe"]
    assert servers_of("") == []


def test_a_failed_check_is_seen_before_the_server_is_down() -> None:
    failing = {one.name: one.failing for one in SERVERS}
    assert (failing["a"], failing["b"], failing["c"], failing["d"]) == (False, True, True, False)


def test_only_replicas_with_requests_are_added_and_only_once() -> None:
    targets = of(target("a"), target("x"), target("y", serving=False))
    assert additions(["Echo", "Other"], targets, SERVERS) == [("Echo", target("x"))]
    assert additions([], targets, []) == [], "a backend that HAProxy does not have yet"


def test_what_serves_is_left_alone_and_comes_back_from_a_drain() -> None:
    assert commands(of(target("a")), server("a"), server("serve2", "UP")) == ["set server serve2 state drain"]
    for status in ("DRAIN", "MAINT"):
        assert commands(of(target("a")), server("a", status)) == ["set server a state ready"]
    assert commands(of(target("a")), server("a", "DOWN", failing=True)) == [], "Serve decides about it"


def test_a_stopping_replica_gets_requests_until_a_successor_is_up() -> None:
    stops = target("a", serving=False, stopping=True)
    assert commands(of(stops), server("a")) == []
    assert commands(of(stops, target("b")), server("a"), server("b", "DOWN", failing=True)) == []
    assert commands(of(stops, target("b")), server("a"), server("b")) == ["set server a state drain"]
    assert commands(of(stops, target("b")), server("a"), added="b") == ["set server a state drain"]
    assert commands(of(stops, target("b")), server("a", "DRAIN"), server("b")) == []


def test_a_replica_that_serve_has_lost_sight_of_keeps_its_requests_beside_others() -> None:
    unlisted = target("a", serving=False)
    assert commands(of(unlisted, target("b")), server("a"), server("b")) == []


@pytest.mark.parametrize("known", [of(target("a", serving=False)), of(target("a", serving=False, stopping=True)), of()])
def test_what_serve_does_not_list_and_does_not_answer_is_removed(known: Targets) -> None:
    step = Step(("set server algorithm:Echo/a state maint", "del server algorithm:Echo/a"), ("Echo", "a"))
    for status in ("DOWN", "DRAIN", "MAINT"):
        assert [*adjustments(known, [server("a", status, failing=True)], [])] == [step]


def test_one_algorithm_s_successor_is_no_other_s() -> None:
    stops = target("a", serving=False, stopping=True)
    servers = [server("a"), Server("Other", "b", "UP")]
    targets = Targets(algorithms={"Echo": (stops,), "Other": (target("b"),)})
    assert [*adjustments(targets, servers, [("Other", "c")])] == []


Start = Callable[..., Replica]


class World:
    """A running HAProxy, what keeps its servers, and the replicas."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.reports: list[str] = []
        self.servers = Servers(front.proxy, self.reports.append)

    def reconcile(self, *targets: Target) -> set[tuple[str, str]]:
        return self.servers.reconcile(of(*targets))

    def forgotten(self, *targets: Target) -> set[tuple[str, str]]:
        """Reconcile until something is forgotten, and return it."""
        gone: set[tuple[str, str]] = set()

        def reconcile() -> bool:
            gone.update(self.reconcile(*targets))
            return bool(gone)

        wait_until(reconcile)
        return gone

    def statuses(self) -> dict[str, str]:
        return {one.name: one.status for one in servers_of(self.front.proxy.command(SHOW))}

    def answering(self) -> set[str]:
        """The replicas that answer some requests."""
        answers = [self.front.ask("/echo") for _ in range(6)]
        assert {answer.status for answer in answers} == {200}
        return {answer.json()["replica"] for answer in answers}

    def configured(self) -> list[str]:
        """The replicas with which HAProxy would start."""
        lines = (self.front.proxy.directory / "haproxy.cfg").read_text().splitlines()
        return [line.split()[1] for line in lines if " check inter " in line]


@pytest.fixture
def world(tmp_path: Path, closed_port: int, start: Start) -> Iterator[World]:
    serve = start("serve")
    with front(tmp_path / "home", closed_port, ROUTES, serve_port=serve.port) as running:
        yield World(running)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a replica."""
    started = []

    def new(name: str = "a", algorithm: str = "Echo") -> Replica:
        started.append(Replica(algorithm, name))
        return started[-1]

    yield new
    for replica in started:
        replica.close()


def test_a_new_replica_answers_without_a_reload(world: World, start: Start) -> None:
    workers = world.front.workers()
    assert world.answering() == {"serve"}, "Serve's proxy starts the first one"
    a = start()
    assert world.reconcile(a.target()) == set()
    assert world.front.ask("/echo").json()["replica"] == "a"
    b = start("b")
    world.reconcile(a.target(), b.target())
    world.reconcile(a.target(), b.target())
    assert world.answering() == {"a", "b"}
    assert world.front.workers() == workers
    assert world.configured() == ["a", "b"]
    assert world.reports == []


def test_a_port_that_is_another_algorithm_s_gets_no_requests(world: World, start: Start) -> None:
    other = start(algorithm="Echo2").target()
    assert world.reconcile(other) == set()
    assert world.statuses() == {}
    assert world.front.version("Echo") == "-" != of(other).version("Echo")


def test_a_replica_that_does_not_answer_yet_is_added_when_it_does(world: World, start: Start) -> None:
    a = start()
    a.state = "UNHEALTHY"
    world.reconcile(a.target())
    assert world.statuses() == {}
    a.state = ""
    world.reconcile(a.target())
    assert world.answering() == {"a"}


def test_healthz_has_the_version_of_the_replicas(world: World, start: Start) -> None:
    a, b = start().target(), start("b").target()
    assert world.front.version("Echo") == "-"
    for targets in ((a,), (a, b), (b,)):
        world.reconcile(*targets)
        assert world.front.version("Echo") == of(*targets).version("Echo")
    assert world.front.version("Other") == "-"


def test_a_stopping_replica_answers_what_it_has_and_goes_when_it_is_gone(world: World, start: Start) -> None:
    a, b = start(), start("b")
    world.reconcile(a.target())
    with ThreadPoolExecutor() as pool:
        in_flight = pool.submit(world.front.ask, "/echo?hold=1")
        wait_until(lambda: a.requests)
        a.state = "DRAINING"
        stops = a.target(serving=False, stopping=True)
        assert world.reconcile(stops) == set()
        assert world.answering() == {"a"}, "until there is another"
        world.reconcile(stops, b.target())
        assert world.statuses()["a"].startswith("DRAIN")
        assert world.answering() == {"b"}
        assert world.configured() == ["b"]
        assert not in_flight.done()
        a.let_go()
        assert in_flight.result().json()["replica"] == "a"
    a.close()
    assert world.forgotten(stops, b.target()) == {("Echo", "a")}
    assert [*world.statuses()] == ["b"]
    assert world.reports == []


def test_a_replica_that_serve_does_not_list_stays_while_it_answers(world: World, start: Start) -> None:
    a, b = start(), start("b")
    world.reconcile(a.target(), b.target())
    for _ in range(3):
        assert world.reconcile(a.target(serving=False), b.target()) == set()
    assert world.answering() == {"a", "b"}
    assert world.configured() == ["a", "b"]
    assert world.front.version("Echo") == of(b.target()).version("Echo")


def test_a_replica_that_serve_does_not_list_and_that_is_dead_goes(world: World, start: Start) -> None:
    a = start()
    world.reconcile(a.target())
    a.close()
    assert world.forgotten(a.target(serving=False)) == {("Echo", "a")}
    assert world.statuses() == {}
    assert world.configured() == []
    assert Targets.load(world.front.proxy.directory) == Targets()


def test_a_dead_replica_that_serve_lists_stays_for_serve_to_replace(world: World, start: Start) -> None:
    a, b = start(), start("b")
    world.reconcile(a.target(), b.target())
    a.close()
    wait_until(lambda: world.statuses()["a"] == "DOWN")
    assert world.reconcile(a.target(), b.target()) == set()
    assert world.answering() == {"b"}


def test_a_dead_replica_that_haproxy_never_had_is_forgotten(world: World, start: Start) -> None:
    a, b = start(), start("b")
    a.close()
    unlisted = [replica.target(serving=False) for replica in (a, b)]
    assert world.reconcile(*unlisted) == {("Echo", "a")}
    assert world.statuses() == {}


def test_an_unhealthy_replica_gets_no_request_within_a_second(world: World, start: Start) -> None:
    a, b = start(), start("b")
    world.reconcile(a.target(), b.target())
    wait_until(lambda: world.statuses() == {"a": "UP", "b": "UP"})
    a.state = "UNHEALTHY"
    took_s = wait_until(lambda: world.statuses()["a"] == "DOWN")
    assert took_s < 2, "twice the second, for a busy machine"
    assert world.answering() == {"b"}
    a.state = ""
    wait_until(lambda: world.statuses()["a"] == "UP")
    assert world.answering() == {"a", "b"}


def test_a_draining_replica_is_left_to_the_sync_agent(world: World, start: Start) -> None:
    a, b = start(), start("b")
    world.reconcile(a.target(), b.target())
    a.state = b.state = "DRAINING"
    b.state = "UNHEALTHY"
    wait_until(lambda: world.statuses()["b"] == "DOWN")
    wait_until(lambda: world.statuses()["a"] == "UP")
    assert world.answering() == {"a"}


def test_after_a_restart_haproxy_has_the_same_replicas(world: World, start: Start) -> None:
    a, b = start().target(), start("b").target()
    world.reconcile(a, b)
    version = world.front.version("Echo")
    world.front.stop()
    world.front.start()
    assert world.answering() == {"a", "b"}
    assert world.front.version("Echo") == version == of(a, b).version("Echo")
    assert world.reconcile(a, b) == set()
    assert world.reports == []


def test_without_haproxy_its_next_start_has_the_replicas(world: World, start: Start) -> None:
    world.front.stop()
    a = start().target()
    world.reconcile(a)
    assert (world.front.proxy.directory / FILE).exists()
    assert world.configured() == ["a"]
    world.front.start()
    assert world.answering() == {"a"}


def test_a_command_that_haproxy_refuses_is_reported_once(world: World, start: Start) -> None:
    bad = start("a b").target()
    for _ in range(2):
        world.reconcile(bad)
    (line,) = world.reports
    assert line.startswith("HAProxy refuses 'add server algorithm:Echo/a")


def listing(*replicas: Replica) -> tuple[int, bytes]:
    """Serve's answer that lists replicas of Echo."""
    listed = [
        {"ip": "127.0.0.1", "port": one.port, "instance_id": "", "name": f"SERVE_REPLICA::Echo#Echo#{one.name}"}
        for one in replicas
    ]
    group = {"targets": listed, "route_prefix": "/Echo", "protocol": "HTTP"}
    return 200, json.dumps({"applications": {}, "target_groups": [group]}).encode()


def test_an_apply_waits_until_the_gateway_has_the_replicas(
    world: World, start: Start, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = start(), start("b")
    ray = RayAPI(Settings(home=world.front.settings.home, dashboard_url=site.url))
    site.answers["/api/serve/applications/"] = listing()
    world.front.gateway.wait_for_replicas(ray, ["/Echo"])
    site.answers["/api/serve/applications/"] = listing(a, b)
    monkeypatch.setattr(gateway, "TARGETS_TIMEOUT_S", 0.2)
    world.reconcile(a.target())
    with pytest.raises(UserError, match="the gateway on the head does not send requests to the replicas of Echo"):
        world.front.gateway.wait_for_replicas(ray, ["/Echo", "/Other"])
    monkeypatch.setattr(gateway, "TARGETS_TIMEOUT_S", 20)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(world.front.gateway.wait_for_replicas, ray, ["/Echo", "/Other"])
        world.reconcile(a.target(), b.target())
        waiting.result()
