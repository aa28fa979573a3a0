"""The path of a request under load: what is replaced, ended, hung or reloaded costs no other request."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from conftest import HOME, Cluster

ROUTE = f"http://127.0.0.1:{Cluster.port}/any/thing"
CONNECTIONS = 4
NOTES = "/tmp/anything.notes"
EXPORTED_EVERY_S = 12  # and two more: Ray passes metrics on every 10 s


@contextmanager
def load(params: dict[str, object] | None = None) -> Iterator[Counter[int]]:
    """Send requests over kept connections all the while, without retries; yields the counts of statuses (0: none)."""
    counts: Counter[int] = Counter()
    stop = threading.Event()
    body = json.dumps(params or {"a": 1})

    def go() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", Cluster.port, timeout=30)
        while not stop.is_set():
            try:
                connection.request("POST", "/any/thing", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
                counts[response.status] += 1
            except (OSError, http.client.HTTPException):
                counts[0] += 1
                connection.close()
        connection.close()

    threads = [threading.Thread(target=go) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def lost(counts: Counter[int]) -> int:
    return counts.total() - counts[200]


def ask(params: dict[str, object], timeout: float = 120) -> requests.Response:
    return requests.post(ROUTE, json=params, timeout=timeout)


def until(condition: Callable[[], bool], seconds: float = 90) -> float:
    """Wait until something is so; returns the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.1)
    return time.monotonic() - started


def replicas(cluster: Cluster) -> set[str]:
    return cluster.replicas()["Anything"]


def replaced(cluster: Cluster, before: set[str]) -> bool:
    running = replicas(cluster)
    return len(running) == 2 and not before <= running


def servers() -> set[str]:
    targets = json.loads((HOME / "gateway" / "targets.json").read_text())["algorithms"]
    return {target["replica"] for target in targets["Anything"] if target["serving"]}


def counted(cluster: Cluster) -> float:
    """Return how many requests Serve's metrics have of the running replicas."""
    ids = replicas(cluster)
    total = 0.0
    for target in (target for group in cluster.ray("/api/prometheus/sd") for target in group["targets"]):
        for line in requests.get(f"http://{target}/metrics", timeout=30).text.splitlines():
            if line.startswith("ray_serve_deployment_request_counter_total{") and any(name in line for name in ids):
                total += float(line.rpartition(" ")[2])
    return total


def test_serve_s_metrics_count_every_request(cluster: Cluster) -> None:
    before = -1.0
    while before != (before := counted(cluster)):
        time.sleep(EXPORTED_EVERY_S)
    assert all(ask({"a": 1}).status_code == 200 for _ in range(30))
    until(lambda: counted(cluster) == before + 30, 60)


def test_rolling_updates_lose_no_request(cluster: Cluster, project: Path) -> None:
    before = replicas(cluster)
    with load() as counts:
        for turn in range(20):
            cluster.edit("algopkg/Anything/backend.py", r"\Z", f"# {turn}\n")
            cluster.apply()
    assert len(cluster.replicas()["Anything"] - before) == 2, "new code has new replicas"
    assert counts.total() > 20_000 and not lost(counts), counts


def test_changes_in_place_lose_no_request_and_no_replica(cluster: Cluster, project: Path) -> None:
    before = replicas(cluster)
    seen = []
    with load() as counts:
        for turn in range(20):
            cluster.edit("conf.ini", r"^request_timeout = \d+", f"request_timeout = {21 + turn}")
            cluster.apply()
            seen.append(servers())
    assert counts.total() > 10_000 and not lost(counts), counts
    assert replicas(cluster) == before and all(names == before for names in seen)


def test_scaling_up_and_down_loses_no_request(cluster: Cluster, project: Path) -> None:
    with load() as counts:
        for number in (*(4, 1) * 5, 2):
            cluster.edit("conf.ini", r"(route = any/thing\nreplicas = )\d", rf"\g<1>{number}")
            cluster.apply()
    assert counts.total() > 10_000 and not lost(counts), counts


def test_a_long_request_outlives_the_update_of_its_own_section_and_of_another(cluster: Cluster, project: Path) -> None:
    cluster.edit("conf.ini", r"^request_timeout = \d+", "request_timeout = 200")
    cluster.apply()
    cluster.head("rm", "-f", NOTES)
    answers = []
    params = {"kind": "sleep", "seconds": 90, "note": "long"}
    thread = threading.Thread(target=lambda: answers.append(ask(params)))
    thread.start()
    until(lambda: cluster.head("cat", NOTES, check=False).stdout == "long\n")
    cluster.edit("algopkg/Anything/backend.py", r"\Z", "# long\n")
    cluster.edit("algopkg/AlgoExample/backend.py", r"\Z", "# long\n")
    cluster.apply()
    assert thread.is_alive(), "the update took as long as the request: nothing is proven"
    thread.join()
    assert [answer.status_code for answer in answers] == [200]
    assert cluster.head("cat", NOTES).stdout == "long\n", "it ran once"


def test_a_killed_replica_costs_what_it_had_in_flight(cluster: Cluster) -> None:
    for _ in range(20):
        before = replicas(cluster)
        with load() as counts:
            cluster.head("kill", "-9", cluster.process("Anything"))
            until(lambda before=before: replaced(cluster, before))
        # And what is sent again before the kernel has closed the sockets of the process.
        assert lost(counts) <= 2 * CONNECTIONS, counts


def test_with_retry_unanswered_it_costs_nothing_and_a_request_that_ends_replicas_ends_two(
    cluster: Cluster, project: Path
) -> None:
    cluster.edit(
        "conf.ini", r"^route = any/thing\nreplicas = 2", "route = any/thing\nreplicas = 3\nretry_unanswered = true"
    )
    cluster.apply()
    for _ in range(20):
        before = replicas(cluster)
        with load() as counts:
            cluster.head("kill", "-9", cluster.process("Anything"))
            until(lambda before=before: len(replicas(cluster)) == 3 and replicas(cluster) != before)
        assert not lost(counts), counts
    before = replicas(cluster)
    answer = ask({"kind": "end"})
    assert (answer.status_code, answer.json()["code"]) == (502, "replica_died")
    until(lambda: len(replicas(cluster)) == 3 and len(replicas(cluster) & before) == 1)


def test_an_inference_that_hangs_has_its_replica_replaced_and_the_other_answers(
    cluster: Cluster, project: Path
) -> None:
    cluster.edit("conf.ini", r"^request_timeout = \d+", "request_timeout = 2")
    cluster.apply()
    before = replicas(cluster)
    hung = ask({"kind": "sleep", "seconds": 1000})
    assert (hung.status_code, hung.json()["code"]) == (504, "inference_timeout")
    # With one connection: requests that wait behind the hung one get 504 until the replica is out.
    seconds = until(lambda: replaced(cluster, before), 40)
    assert seconds < 30
    assert all(ask({"a": 1}).status_code == 200 for _ in range(20))
    assert "has run for" in cluster.head("modelserve", "events", "Anything").stdout


def test_a_class_that_calls_itself_sick_is_replaced(cluster: Cluster) -> None:
    before = replicas(cluster)
    cluster.head("sh", "-c", f"echo {cluster.process('Anything')} >/tmp/anything.sick")
    try:
        until(lambda: not before <= replicas(cluster))
    finally:
        cluster.head("rm", "/tmp/anything.sick")
    until(lambda: len(replicas(cluster)) == 2)
    assert "the file says so" in cluster.head("modelserve", "events", "Anything").stdout


def test_a_queue_that_is_full_refuses_at_once(cluster: Cluster, project: Path) -> None:
    cluster.edit("conf.ini", r"^max_ongoing_requests = 4", "max_ongoing_requests = 1\nmax_queued_requests = 2")
    cluster.apply()
    statuses: list[int] = []
    slowest: list[float] = []

    def one() -> None:
        answer = ask({"kind": "sleep", "seconds": 1})
        statuses.append(answer.status_code)
        if answer.status_code == 429:
            slowest.append(answer.elapsed.total_seconds())
            assert (answer.json()["code"], answer.headers["Retry-After"]) == ("queue_full", "1")

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Two replicas work on one each, and two wait for each.
    assert Counter(statuses) == {200: 6, 429: 14}
    assert max(slowest) < 1


def test_reloads_of_the_gateway_cut_neither_requests_nor_streams(cluster: Cluster) -> None:
    lines: list[bytes] = []

    def stream() -> None:
        with requests.post(ROUTE, json={"kind": "text", "count": 150}, stream=True, timeout=60) as answer:
            lines.extend(answer.iter_lines())

    thread = threading.Thread(target=stream)
    thread.start()
    until(lambda: bool(lines) or not thread.is_alive())
    with load() as counts:
        for _ in range(50):
            with socket.socket(socket.AF_UNIX) as master:
                master.settimeout(30)
                master.connect(str(HOME / "gateway" / "master.sock"))
                master.sendall(b"reload\n")
                master.shutdown(socket.SHUT_WR)
                while master.recv(4096):
                    pass
    thread.join()
    # The stream keeps one replica busy, and requests that wait for it, for less than the request_timeout of 20 s.
    assert counts.total() > 20 and not lost(counts), counts
    assert lines == [str(number).encode() for number in range(150)]


@pytest.mark.parametrize("size", [1, 100_000, 63 * 2**20])
def test_a_body_in_chunks_of_any_size_below_the_limit_arrives(size: int) -> None:
    parts = (b"x" * min(2**20, size - at) for at in range(0, size, 2**20))
    headers = {"Content-Type": "text/plain"}
    body = (part for parts_ in (iter([b'{"a": "']), parts, iter([b'"}'])) for part in parts_)
    answer = requests.post(ROUTE, data=body, headers=headers, timeout=120)
    assert answer.status_code == 200 and len(answer.json()["result"]["a"]) == size
