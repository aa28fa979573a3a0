"""Any request, any answer, and failures that a client can act on, with the clients that users have."""

from __future__ import annotations

import gzip
import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from conftest import HEAD, HOME, Cluster, run

ROUTE = f"http://127.0.0.1:{Cluster.port}/any/thing"
SOCKET = f"http://127.0.0.1:{Cluster.port}/socket"
TALK = """
import sys, websockets.sync.client
with websockets.sync.client.connect(sys.argv[1]) as socket:
    for text in sys.argv[2:]:
        socket.send(text)
        print(socket.recv(timeout=20))
"""
PNG_START = b"\x89PNG"


def ask(**options: Any) -> requests.Response:
    return requests.post(ROUTE, timeout=60, **options)


def result(answer: requests.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


def chunked(document: dict[str, Any]) -> http.client.HTTPResponse:
    """Send JSON in chunks without a length, as .NET's JsonContent does."""
    connection = http.client.HTTPConnection("127.0.0.1", Cluster.port, timeout=60)
    parts = iter([json.dumps(document).encode()])
    headers = {"Content-Type": "application/json; charset=utf-8"}
    connection.request("POST", "/any/thing", parts, headers, encode_chunked=True)
    return connection.getresponse()


@pytest.mark.essential
@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ({"json": {"a": [1, "ä"]}}, {"a": [1, "ä"]}),
        ({"data": b'\xef\xbb\xbf{"a": 18446744073709551617}'}, {"a": 18446744073709551617}),
        ({"data": gzip.compress(b'{"a": 1}'), "headers": {"Content-Encoding": "gzip"}}, {"a": 1}),
        ({"data": {"a": "1", "b": "two"}}, {"a": "1", "b": "two"}),
        (
            {"files": {"image": ("cat.png", b"\x89PNG", "image/png")}, "data": {"top": "3"}},
            {"image": {"name": "cat.png", "type": "image/png", "size": 4}, "top": "3"},
        ),
        ({"params": {"a": "1", "b": ["x", "y"]}}, {"a": "1", "b": ["x", "y"]}),
    ],
    ids=["json", "bom-and-big-integer", "gzip", "form", "multipart", "query"],
)
def test_a_request_of_each_kind_is_taken(sent: dict[str, Any], received: dict[str, Any]) -> None:
    assert result(ask(**sent)) == received


@pytest.mark.essential
def test_a_body_in_chunks_is_taken_up_to_the_limit() -> None:
    answer = chunked({"a": 1})
    assert (answer.status, json.loads(answer.read())["result"]) == (200, {"a": 1})
    long = iter([b'{"a": "', *(b"x" * 2**20 for _ in range(65)), b'"}'])
    refused = ask(data=long)
    assert (refused.status_code, refused.json()["code"]) == (413, "content_too_large")


@pytest.mark.essential
def test_a_file_sent_with_curl_arrives(cluster: Cluster) -> None:
    output = run("curl", "-sS", "-F", f"file=@{HOME}/conf.ini", "-F", "kind=", ROUTE).stdout
    assert json.loads(output)["result"]["file"]["size"] == (HOME / "conf.ini").stat().st_size


@pytest.mark.essential
@pytest.mark.parametrize(
    ("kind", "status", "media_type", "check"),
    [
        ("bytes", 200, "application/octet-stream", lambda answer: answer.content.startswith(PNG_START)),
        ("file", 200, "text/x-python", lambda answer: "class Anything" in answer.text),
        ("html", 201, "text/html", lambda answer: answer.text == "<p>hello</p>" and answer.headers["X-Own"] == "yes"),
        ("text", 200, "text/plain", lambda answer: answer.text == "0\n1\n2\n"),
        ("lines", 200, "application/x-ndjson", lambda answer: json.loads(answer.text.splitlines()[2]) == {"item": 2}),
        ("events", 200, "text/event-stream", lambda answer: answer.text.startswith("event: n\ndata: 0\n\n")),
        ("values", 200, "application/json", lambda answer: answer.json()["result"]["big"] == 2**70),
        ("thread", 200, "application/json", lambda answer: answer.json()["result"]["same"] is True),
    ],
)
def test_an_answer_of_each_kind_is_given(
    kind: str, status: int, media_type: str, check: Callable[[requests.Response], bool]
) -> None:
    answer = ask(json={"kind": kind, "count": 3})
    assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (status, media_type)
    assert check(answer), answer.text
    assert answer.headers["X-Modelserve-Algorithm"] == "Anything"


@pytest.mark.essential
def test_a_stream_arrives_item_by_item_and_ends_when_the_client_leaves(cluster: Cluster) -> None:
    cluster.head("rm", "-f", "/tmp/anything.closed")
    with ask(json={"kind": "text", "count": 600}, stream=True) as answer:
        lines = answer.iter_lines()
        first, started = next(lines), time.monotonic()
        assert (first, next(lines)) == (b"0", b"1")
        assert time.monotonic() - started < 30, "not after all 600"
    deadline = time.monotonic() + 30
    while cluster.head("cat", "/tmp/anything.closed", check=False).returncode:
        assert time.monotonic() < deadline, "the generator was not closed"
        time.sleep(0.2)


@pytest.mark.essential
def test_a_class_s_own_application_answers_its_paths_and_a_websocket(cluster: Cluster) -> None:
    assert requests.get(f"{SOCKET}/page/one?q=two", timeout=60).text == "one two"
    url = f"{SOCKET.replace('http', 'ws')}/echo"
    assert cluster.head("python", "-c", TALK, url, "hello", "again").stdout.split() == ["HELLO", "AGAIN"]


@pytest.mark.essential
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"json": {"kind": "teapot"}}, 418, "teapot"),
        ({"data": b"{not json"}, 400, "invalid_body"),
        ({"data": b"{}", "headers": {"Content-Encoding": "br"}}, 415, "unsupported_media_type"),
        ({"data": b"x", "headers": {"Content-Type": "image/png"}}, 415, "unsupported_media_type"),
        ({"json": {"kind": "text"}}, 500, "inference_failed"),
        ({"json": {}, "headers": {"X-Modelserve-Algorithm": "Nobody"}}, 404, "unknown_algorithm"),
    ],
)
def test_a_failure_has_a_code_and_an_id(sent: dict[str, Any], status: int, code: str) -> None:
    answer = ask(**sent)
    document = answer.json()
    assert (answer.status_code, document["status"], document["code"]) == (status, 0, code)
    assert document["request_id"] == answer.headers["X-Request-Id"] and document["info"]


@pytest.fixture
def replicas_back(cluster: Cluster) -> Iterator[None]:
    yield
    wait_for_replicas(cluster)


def wait_for_replicas(cluster: Cluster) -> set[str]:
    deadline = time.monotonic() + 90
    while len(running := cluster.replicas()["Anything"]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return running


def wait_until_one_has_gone(cluster: Cluster, before: set[str]) -> None:
    deadline = time.monotonic() + 60
    while before <= cluster.replicas()["Anything"]:
        assert time.monotonic() < deadline, "all are still there"
        time.sleep(0.2)


@pytest.mark.essential
@pytest.mark.usefixtures("replicas_back")
def test_a_request_that_ends_its_replica_ends_no_other(cluster: Cluster) -> None:
    before = cluster.replicas()["Anything"]
    answer = ask(json={"kind": "end"})
    assert (answer.status_code, answer.json()["code"]) == (502, "replica_died")
    assert all(ask(json={"a": 1}).status_code == 200 for _ in range(10)), "the other one answers"
    wait_until_one_has_gone(cluster, before)
    assert len(before & wait_for_replicas(cluster)) == 1
    assert "exit code 3" in cluster.head("modelserve", "events", "Anything").stdout


@pytest.mark.essential
@pytest.mark.usefixtures("replicas_back")
def test_a_replica_that_failed_for_good_is_replaced(cluster: Cluster) -> None:
    before = cluster.replicas()["Anything"]
    answer = ask(json={"kind": "fatal"})
    assert (answer.status_code, answer.json()["code"]) == (500, "replica_failed")
    time.sleep(1)
    assert all(ask(json={"a": 1}).status_code == 200 for _ in range(10)), "the gateway no longer asks it"
    wait_until_one_has_gone(cluster, before)
    assert "the device is lost" in cluster.head("modelserve", "events", "Anything").stdout


@pytest.mark.essential
def test_modelserve_s_own_ports_are_closed_to_other_hosts(host: Any) -> None:
    """A container on Docker's bridge comes from another address, as a host of the network does."""
    image = host.docker(HEAD).inspect()["Config"]["Image"]
    script = (
        "import socket, sys\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "def knock(port):\n"
        "    try: socket.create_connection((sys.argv[1], port), 5).close(); print(port)\n"
        "    except OSError: pass\n"
        "with ThreadPoolExecutor(64) as pool: list(pool.map(knock, map(int, sys.argv[2:])))\n"
    )
    listening = {int(line.split()[3].rpartition(":")[2]) for line in host.run("ss -Hltn").stdout.splitlines()}
    ports = sorted(port for port in listening if port == 8000 or 30000 <= port < 32000 or 6370 <= port <= 6392)
    assert len(ports) >= 4, "Ray and the replicas listen"
    bridge = host.run("docker network inspect bridge -f '{{(index .IPAM.Config 0).Gateway}}'").stdout.strip()
    command = ["docker", "run", "--rm", "--entrypoint", "python", image, "-c", script, bridge, *map(str, ports)]
    assert run(*command).stdout.split() == []
