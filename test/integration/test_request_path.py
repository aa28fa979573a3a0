"""The path of a request: a real HAProxy before replicas, with routes, queues, limits, retries, errors and CORS."""

from __future__ import annotations

import itertools
import math
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from conftest import unused_port
from modelserve.config.routes import ALGORITHM_HEADER, Limits, Routes, Share
from modelserve.gateway.config import MAX_BODY_HEADER
from modelserve.gateway.servers import SHOW, servers_of
from modelserve.gateway.targets import Targets
from modelserve.security.keys import Keys
from replicas import Answer, Front, Replica, front, wait_until

ROOT = Path(__file__).resolve().parents[2]
MAX_BODY = 100_000
ORIGIN = "https://app.example"
QUEUE = Limits(max_ongoing_requests=2, max_queued_requests=4)
SHORT = Limits(max_ongoing_requests=1, request_timeout=0.3)
# Each test that ends a replica has an algorithm of its own.
ROUTES: Routes = {
    "a": (Share(name="A", prefix="/A"),),
    "a/deep": (Share(name="Deep", prefix="/Deep"),),
    "split": (
        Share(name="B", prefix="/B", weight=90),
        Share(name="C", prefix="/C", weight=10),
        Share(name="D", prefix="/D", weight=0),
    ),
    "queue": (Share(name="Queue", prefix="/Queue", limits=QUEUE),),
    "short": (Share(name="Short", prefix="/Short", limits=SHORT),),
    "once": (Share(name="Once", prefix="/Once"),),
    "twice": (Share(name="Twice", prefix="/Twice", limits=Limits(retry_unanswered=True)),),
    "refused": (Share(name="Refused", prefix="/Refused"),),
    "nothing": (Share(name="Nothing", prefix="/Nothing"),),
}
REPLICAS = {"Once": 3, "Twice": 3, "Refused": 2, "Nothing": 0}


class Site:
    """A gateway and its replicas, by algorithm."""

    def __init__(self, front: Front, replicas: dict[str, list[Replica]]) -> None:
        self.front, self.replicas = front, replicas
        self.ask, self.ask_many = front.ask, front.ask_many

    def down(self, algorithm: str) -> int:
        servers = servers_of(self.front.proxy.command(SHOW))
        return sum(server.algorithm == algorithm and not server.up for server in servers)

    def died(self, algorithm: str) -> int:
        return sum(replica.died for replica in self.replicas[algorithm])


def started(routes: Routes) -> dict[str, list[Replica]]:
    names = [share.backend for shares in routes.values() for share in shares]
    return {name: [Replica(name, f"r{number}") for number in range(REPLICAS.get(name, 1))] for name in names}


def targets(replicas: dict[str, list[Replica]]) -> Targets:
    return Targets(algorithms={name: tuple(one.target() for one in group) for name, group in replicas.items() if group})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    replicas, serve = started(ROUTES), Replica("Serve", "serve")
    settings = {"max_body": MAX_BODY, "serve_port": serve.port}
    home = tmp_path_factory.mktemp("site") / "home"
    with front(home, unused_port(), ROUTES, targets(replicas), **settings) as running:
        yield Site(running, replicas)
    for replica in itertools.chain([serve], *replicas.values()):
        replica.close()


def failure(answer: Answer, status: int, code: str) -> None:
    """Check that an answer is one of the gateway's own failures."""
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    document = answer.json()
    assert set(document) == {"status", "info", "code", "request_id"}
    assert (document["status"], document["code"]) == (0, code)
    assert document["info"]
    assert document["request_id"] == answer.headers["X-Request-Id"] != ""


@pytest.mark.parametrize(
    ("path", "algorithm", "replica_s"),
    [
        ("/a", "A", "/A"),
        ("/a/", "A", "/A/"),
        ("/a/b/c?x=1&y=%2F", "A", "/A/b/c?x=1&y=%2F"),
        ("/a?x=/a/deep", "A", "/A?x=/a/deep"),
        ("/a/deep", "Deep", "/Deep"),
        ("/a/deep/er?q", "Deep", "/Deep/er?q"),
        ("/a/deeper", "A", "/A/deeper"),
        ("/a/a|b/|/a", "A", "/A/a|b/|/a"),
        ("/a/%7C|/a", "A", "/A/%7C|/a"),
        ("/a//a", "A", "/A//a"),
    ],
)
def test_the_longest_route_answers_and_the_rest_of_the_path_stays(
    site: Site, path: str, algorithm: str, replica_s: str
) -> None:
    answer = site.ask(path)
    assert answer.status == 200
    assert (answer.json()["algorithm"], answer.json()["path"]) == (algorithm, replica_s)
    assert answer.headers[ALGORITHM_HEADER] == algorithm


@pytest.mark.parametrize("path", ["/", "/abc", "/A", "/Deep", "/A/a", "/b/a", "/a|b", "/queu"])
def test_another_path_is_not_found(site: Site, path: str) -> None:
    failure(site.ask(path), 404, "not_found")


def test_every_method_and_body_reaches_the_replica(site: Site) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        answer = site.ask("/a", method, b'{"x": 1}').json()
        assert (answer["method"], answer["length"]) == (method, 8)
    override = site.ask("/a", "POST", b"{}", headers={"X-HTTP-Method-Override": "GET"})
    assert override.json()["method"] == "GET"
    invalid = site.ask("/a", "POST", b"{}", headers={"X-HTTP-Method-Override": "GET, FOO /b"})
    assert invalid.json()["method"] == "POST"


def test_requests_are_split_by_weight(site: Site) -> None:
    count = 300
    answers = itertools.chain(*(site.ask_many(["/split"] * 20) for _ in range(count // 20)))
    split = Counter(answer.headers[ALGORITHM_HEADER] for answer in answers)
    assert set(split) == {"B", "C"}, "a weight of 0 gets none"
    deviation = math.sqrt(count * 0.1 * 0.9)
    assert abs(split["C"] - count * 0.1) < 5 * deviation


@pytest.mark.parametrize("algorithm", ["B", "C", "D"])
def test_a_request_may_name_its_algorithm(site: Site, algorithm: str) -> None:
    answers = [site.ask("/split/x", headers={ALGORITHM_HEADER: algorithm}) for _ in range(5)]
    assert {answer.json()["path"] for answer in answers} == {f"/{algorithm}/x"}


@pytest.mark.parametrize("algorithm", ["A", "E", "B C", "?", "3", ""])
def test_an_algorithm_of_another_route_is_not_found(site: Site, algorithm: str) -> None:
    failure(site.ask("/split", headers={ALGORITHM_HEADER: algorithm}), 404, "unknown_algorithm")


def test_a_full_queue_refuses_what_it_cannot_hold(site: Site) -> None:
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(site.ask, "/queue?hold=1") for _ in range(20)]
        wait_until(lambda: sum(request.done() for request in asked) == 14)
        site.replicas["Queue"][0].let_go()
        answers = [request.result() for request in asked]
    statuses = Counter(answer.status for answer in answers)
    assert statuses == {200: 6, 429: 14}
    for answer in answers:
        if answer.status == 429:
            failure(answer, 429, "queue_full")
            assert (answer.headers["Retry-After"], answer.headers[ALGORITHM_HEADER]) == ("1", "Queue")
    assert site.ask("/queue").status == 200


def test_a_request_waits_for_a_replica_as_long_as_its_timeout(site: Site) -> None:
    with ThreadPoolExecutor() as pool:
        first = pool.submit(site.ask, "/short?hold=1")
        wait_until(lambda: site.replicas["Short"][0].requests)
        started_at = time.monotonic()
        failure(site.ask("/short"), 503, "unavailable")
        assert time.monotonic() - started_at > 0.25
        assert not first.done()
        site.replicas["Short"][0].let_go()
        assert first.result().status == 200


@pytest.mark.parametrize(("route", "deaths"), [("once", 1), ("twice", 2)])
def test_a_request_that_ends_its_replica_ends_no_more_than_it_may(site: Site, route: str, deaths: int) -> None:
    algorithm = route.title()
    failure(site.ask(f"/{route}?die=1"), 502, "replica_died")
    assert site.died(algorithm) == deaths
    # With one retry, a request that meets two dead replicas before HAProxy's checks do is answered 503.
    wait_until(lambda: site.down(algorithm) == deaths, limit_s=3)
    assert {site.ask(f"/{route}").status for _ in range(6)} == {200}
    assert site.died(algorithm) == deaths


def test_a_refused_connection_is_tried_elsewhere(site: Site) -> None:
    first, second = site.replicas["Refused"]
    first.close()
    answers = site.ask_many(["/refused"] * 20) + [site.ask("/refused") for _ in range(5)]
    assert [answer.status for answer in answers] == [200] * 25
    assert {answer.json()["replica"] for answer in answers} == {second.name}


def test_serve_s_proxy_answers_for_an_algorithm_without_replicas(site: Site) -> None:
    answer = site.ask("/nothing/x?y=1").json()
    assert (answer["replica"], answer["path"]) == ("serve", "/Nothing/x?y=1")


def test_a_reload_answers_what_is_in_flight(site: Site) -> None:
    seen = len(site.replicas["A"][0].requests)
    workers = site.front.workers()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(site.ask, "/a?hold=1")
        wait_until(lambda: len(site.replicas["A"][0].requests) > seen)
        more = site.front.served.model_copy(update={"routes": {**ROUTES, "more": ROUTES["a"]}})
        assert site.front.gateway.configure(more)
        wait_until(lambda: site.ask("/more").status == 200)
        assert site.front.workers() != workers
        assert not answer.done()
        assert site.ask("/a").status == 200
        site.replicas["A"][0].let_go()
        assert answer.result().status == 200


def test_a_body_without_a_length_passes_and_the_replica_learns_the_limit(site: Site) -> None:
    forged = {MAX_BODY_HEADER: "999999999"}
    answer = site.ask("/a", "POST", [b"x" * 1000] * 20, headers=forged).json()
    assert answer["length"] == 20_000
    assert answer["headers"][MAX_BODY_HEADER.lower()] == str(MAX_BODY)
    unpacked = site.ask("/a", "POST", b"x", headers={**forged, "Content-Encoding": "gzip"}).json()
    assert unpacked["headers"][MAX_BODY_HEADER.lower()] == str(MAX_BODY)


def test_a_client_sets_none_of_the_gateway_s_headers(site: Site) -> None:
    forged = {
        MAX_BODY_HEADER: "1",
        "X-Request-Timeout-Seconds": "1",
        "serve_multiplexed_model_id": "x",
        "X-Forwarded-For": "10.1.2.3",
        "X-Forwarded-Proto": "https",
    }
    headers = site.ask("/a", "POST", b"x", headers=forged).json()["headers"]
    assert not {MAX_BODY_HEADER.lower(), "x-request-timeout-seconds", "serve_multiplexed_model_id"} & {*headers}
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.1", "http")


def test_a_body_over_the_limit_is_refused(site: Site) -> None:
    assert site.ask("/a", "POST", b"x" * MAX_BODY).json()["length"] == MAX_BODY
    seen = len(site.replicas["A"][0].requests)
    failure(site.ask("/a", "POST", headers={"Content-Length": str(MAX_BODY + 1)}), 413, "content_too_large")
    assert len(site.replicas["A"][0].requests) == seen


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("a-1.b:c_D", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ('a,"}', False), ('",a', False)],
)
def test_a_request_has_the_client_s_id_or_a_new_one(site: Site, sent: str, kept: bool) -> None:
    answer = site.ask("/a", headers={"X-Request-Id": sent})
    assert answer.headers["X-Request-Id"] == answer.json()["headers"]["x-request-id"] != ""
    assert (answer.headers["X-Request-Id"] == sent) is kept


def test_the_log_s_line_has_the_algorithm_and_the_replica(site: Site) -> None:
    site.ask("/split", headers={ALGORITHM_HEADER: "D", "X-Request-Id": "logged"})
    wait_until(lambda: [line for line in site.front.lines() if line["id"] == "logged"])
    (line,) = (line for line in site.front.lines() if line["id"] == "logged")
    assert (line["algorithm"], line["server"], line["retries"]) == ("D", "r0", "0")


def test_without_cors_a_preflight_is_the_replica_s(site: Site) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    answer = site.ask("/a", "OPTIONS", headers=headers)
    assert answer.json()["method"] == "OPTIONS"
    assert "Access-Control-Allow-Origin" not in answer.headers


GUARDED: Routes = {
    "a": (Share(name="A", prefix="/A"),),
    "one": (Share(name="One", prefix="/One", limits=Limits(max_ongoing_requests=1)),),
}


class Guarded:
    """A gateway that asks for keys, and two clients."""

    def __init__(self, front: Front, keys: dict[str, str]) -> None:
        self.front, self._keys = front, keys
        self.ask = front.ask

    def key(self, name: str) -> dict[str, str]:
        return {"X-API-Key": self._keys[name]}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    replicas = started(GUARDED)
    settings = {"gateway_keys": True, "cors_origins": (ORIGIN, "https://other.example")}
    home = tmp_path_factory.mktemp("guarded") / "home"
    with front(home, unused_port(), GUARDED, targets(replicas), **settings) as running:
        keys = {name: Keys(running.settings).add(name) for name in ("big", "small")}
        running.gateway.refresh()
        wait_until(lambda: running.ask("/a", headers={"X-API-Key": keys["small"]}).status == 200)
        yield Guarded(running, keys)
    for replica in itertools.chain(*replicas.values()):
        replica.close()


@pytest.mark.parametrize("origin", [ORIGIN, "https://other.example"])
def test_a_preflight_needs_no_key(guarded: Guarded, origin: str) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"}
    answer = guarded.ask("/a", "OPTIONS", headers={"Origin": origin, **asked})
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert answer.headers["Access-Control-Allow-Headers"] == "x-api-key,content-type"
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"{ORIGIN}.evil", "null", f"{ORIGIN} x", f"{ORIGIN},https://evil.example"]
)
def test_a_page_of_another_origin_is_not_let_in(guarded: Guarded, origin: str) -> None:
    preflight = guarded.ask("/a", "OPTIONS", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    failure(preflight, 401, "unauthorized")
    answer = guarded.ask("/a", headers={"Origin": origin, **guarded.key("small")})
    assert answer.status == 200
    for one in (preflight, answer):
        assert "Access-Control-Allow-Origin" not in one.headers


def test_a_page_reads_answers_and_failures(guarded: Guarded) -> None:
    for headers in ({}, guarded.key("small")):
        answer = guarded.ask("/a", headers={"Origin": ORIGIN, **headers})
        assert answer.status == (200 if headers else 401)
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert ALGORITHM_HEADER in answer.headers["Access-Control-Expose-Headers"]


def test_an_options_request_that_is_no_preflight_needs_a_key(guarded: Guarded) -> None:
    failure(guarded.ask("/a", "OPTIONS", headers={"Origin": ORIGIN}), 401, "unauthorized")


def test_a_replica_never_sees_a_key(guarded: Guarded) -> None:
    headers = guarded.ask("/a", headers=guarded.key("small")).json()["headers"]
    assert "x-api-key" not in headers


def test_a_key_with_many_requests_does_not_hold_up_another_s(guarded: Guarded) -> None:
    """The replica has one request of 40 ms at a time."""

    def ask(name: str) -> float:
        started_at = time.monotonic()
        assert guarded.ask("/one?sleep=0.04", headers=guarded.key(name)).status == 200
        return time.monotonic() - started_at

    with ThreadPoolExecutor(40) as pool:
        requests = [pool.submit(ask, "big") for _ in range(50)]
        wait_until(lambda: sum(request.done() for request in requests) > 3)
        small = [ask("small") for _ in range(3)]
        assert sum(not request.done() for request in requests) > 10, "the others were there all the time"
        big = [request.result() for request in requests]
    assert statistics.median(small) < statistics.median(big) / 3


def test_every_origin_may_be_allowed(tmp_path_factory: pytest.TempPathFactory) -> None:
    replicas = started({"a": GUARDED["a"]})
    home = tmp_path_factory.mktemp("open") / "home"
    with front(home, unused_port(), {"a": GUARDED["a"]}, targets(replicas), cors_origins=("*",)) as running:
        answer = running.ask("/a", headers={"Origin": "https://any.example"})
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
        preflight = {"Origin": "https://any.example", "Access-Control-Request-Method": "PUT"}
        assert running.ask("/a", "OPTIONS", headers=preflight).status == 204
        assert "Access-Control-Allow-Origin" not in running.ask("/a").headers
    replicas["A"][0].close()


def test_a_gateway_that_is_replaced_finishes_its_requests(tmp_path: Path) -> None:
    """The signal that stops its container: HAProxy refuses new connections, and ends with its last request."""
    options = yaml.safe_load((ROOT / "roles/gateway/vars/main.yml").read_text())["__gateway_from"]
    replica = Replica("A")
    routes: Routes = {"a": ROUTES["a"]}
    listed = Targets(algorithms={"A": (replica.target(),)})
    with front(tmp_path / "home", unused_port(), routes, listed) as running, ThreadPoolExecutor() as pool:
        answer = pool.submit(running.ask, "/a?hold=1")
        wait_until(lambda: replica.requests)
        running.signal(signal.Signals[options["stop_signal"]])
        with pytest.raises(ConnectionRefusedError):
            while True:
                running.ask("/healthz")
        assert not answer.done()
        replica.let_go()
        assert answer.result().status == 200
        wait_until(lambda: running.ended)
    replica.close()
