"""Who gets in, and what gets out: the gateway's keys and limits, and where secrets must not show."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import tarfile
import threading
import time
import urllib.error
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bed
import pytest
from conftest import HOME, PORT, WORKERS, Cluster

GOOD = {"text": "good"}
ON_HEAD = ("docker", "exec", "-i", bed.container(bed.HEAD))
# Prints the status that Ray's API gives to the token on standard input.
ASK_RAY = """
import sys, urllib.error, urllib.request
headers = {"Authorization": "Bearer " + sys.stdin.read()}
try:
    request = urllib.request.Request("http://127.0.0.1:8265/api/serve/applications/", headers=headers)
    print(urllib.request.urlopen(request).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""
# Below secrets/ on the head.
SECRETS = ("gateway_key", "ray_token", "ca_key.pem", "gateway.pem")


@contextlib.contextmanager
def key(cluster: Cluster, client: str, *options: str) -> Iterator[str]:
    """A client's key, for as long as the ``with`` block runs."""
    yield json.loads(cluster.ctl("keys", "add", client, *options, "--json"))["key"]
    cluster.ctl("keys", "revoke", client)


def status(cluster: Cluster, route: str = "extract", params: object = GOOD, **headers: str) -> tuple[int, str]:
    """The status of an answer and what it says."""
    try:
        with cluster.open(route, params, **headers) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["info"]


@pytest.mark.essential
def test_without_a_key_of_its_own_nobody_gets_in(cluster: Cluster) -> None:
    assert status(cluster)[0] == 200
    for wrong in ("", "wrong", "ms_" + "x" * 43):
        assert status(cluster, **{"X-API-Key": wrong}) == (
            401,
            "a key is needed, as the header X-API-Key; whoever runs the cluster makes one: modelserve keys add",
        )
    with key(cluster, "phone") as phone:
        assert status(cluster, **{"X-API-Key": phone})[0] == 200
        assert status(cluster, **{"X-API-Key": "", "Authorization": f"Bearer {phone}"})[0] == 401, (
            "the first one counts"
        )
        assert "phone" in cluster.ctl("keys")
    assert status(cluster, **{"X-API-Key": phone})[0] == 401, "revoked"


def test_a_key_may_be_for_some_algorithms_alone(cluster: Cluster) -> None:
    with key(cluster, "phone", "--algorithms", "TextEmbedding") as phone:
        assert status(cluster, "embed", {"sentence": "a"}, **{"X-API-Key": phone})[0] == 200
        assert status(cluster, **{"X-API-Key": phone}) == (403, "the key of phone is not for AlgoExample")


def test_a_greedy_client_gets_its_rate_and_starves_nobody(cluster: Cluster) -> None:
    with key(cluster, "greedy", "--rate", "10", "--max-concurrent", "2") as greedy:

        def ask(_: int) -> int:
            return status(cluster, **{"X-API-Key": greedy})[0]

        with cluster.load() as others, ThreadPoolExecutor(8) as pool:
            started = time.monotonic()
            counts = Counter(pool.map(ask, range(200)))
            seconds = time.monotonic() - started
    assert set(counts) == {200, 429} and counts[200] <= 10 * (seconds + 1) + 2, (counts, seconds)
    assert others.answers and not others.failed(), others.kinds()


def test_what_is_malformed_or_too_long_ends_at_the_gateway(cluster: Cluster) -> None:
    context, headers = cluster.credentials()

    def ask(**sent: str) -> int:
        connection = http.client.HTTPSConnection(bed.address(bed.HEAD), PORT, timeout=30, context=context)
        connection.request("GET", "/extract", None, {**headers, **sent})
        code = connection.getresponse().status
        connection.close()
        return code

    assert ask(**{"Content-Length": str(1 << 40)}) == 413
    assert ask(**{"Transfer-Encoding": "chunked"}) == 408, "its body does not come"
    assert status(cluster, params=[1])[0] == 400
    for raw in (b"GET /extract\r\n\r\n", b"\x16\x03 no request\r\n\r\n", b"GET /" + b"a" * 100_000):
        plain = socket.create_connection((bed.address(bed.HEAD), PORT), 30)
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_hostname=bed.address(bed.HEAD)) as tls:
            tls.sendall(raw)
            answer = tls.recv(1000)
            assert not answer or b" 40" in answer.split(b"\r\n")[0] or b" 414 " in answer, answer
    assert status(cluster)[0] == 200


def test_slow_senders_are_cut_off_and_in_nobody_s_way(cluster: Cluster) -> None:
    ended: list[float] = []

    def dribble() -> None:
        started = time.monotonic()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = socket.create_connection((bed.address(bed.HEAD), PORT), 30)
        with contextlib.suppress(OSError), context.wrap_socket(plain) as tls:
            tls.sendall(b"GET /extract HTTP/1.1\r\nHost: x\r\n")
            while time.monotonic() - started < 60:
                tls.sendall(b"X-A: b\r\n")
                time.sleep(1)
        ended.append(time.monotonic() - started)

    threads = [threading.Thread(target=dribble) for _ in range(40)]
    with cluster.load() as load:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(ended) == 40 and max(ended) < 40
    assert load.answers and not load.failed(), load.kinds()


def test_every_answer_and_log_line_has_the_request_s_id(cluster: Cluster) -> None:
    with cluster.open("extract", GOOD, **{"X-Request-Id": "mine-42"}) as response:
        assert response.headers["X-Request-Id"] == "mine-42"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Strict-Transport-Security"]
    assert status(cluster, "nowhere", **{"X-Request-Id": "mine-43"})[0] == 404
    log = bed.on(bed.HEAD, "sh", "-c", "docker logs --tail 200 modelserve_gateway 2>&1")
    (line,) = [json.loads(line) for line in log.splitlines() if '"mine-43"' in line]
    assert (line["status"], line["url"]) == (404, "/nowhere") and line["client"].startswith("test-")


def test_the_jobs_of_ray_are_not_for_the_world(cluster: Cluster) -> None:
    for host in (bed.HEAD, *WORKERS):
        with pytest.raises(OSError, match=r"timed out|refused|unreachable|No route"):
            socket.create_connection((bed.address(host), 8265), 3)


def test_another_token_takes_the_old_one_s_place(cluster: Cluster) -> None:
    before = bed.on(bed.HEAD, "cat", f"{HOME}/secrets/ray_token").strip()
    releases = cluster.ctl("releases")
    with cluster.load() as load:
        started = time.monotonic()
        text = cluster.playbook("playbooks/rotate_token.yml")
        seconds = time.monotonic() - started
    gap = [answer.at for answer in load.failed()]
    print(f"\na token rotated in {seconds:.0f} s: without answers for {max(gap) - min(gap) if gap else 0:.0f} s")
    after = bed.on(bed.HEAD, "cat", f"{HOME}/secrets/ray_token").strip()
    assert after != before and after not in text
    codes = [bed.run(*ON_HEAD, "python3", "-c", ASK_RAY, stdin=token).strip() for token in (before, after)]
    assert codes[0] in ("401", "403") and codes[1] == "200"
    assert cluster.ctl("releases") == releases and not cluster.ctl("plan").startswith("error")
    assert {bed.on(host, "cat", f"{HOME}/secrets/ray_token").strip() for host in WORKERS} == {after}
    cluster.wait_for(*WORKERS)
    assert {status(cluster)[0], status(cluster, "embed", {"sentence": "a"})[0]} == {200}


def private_part(pem: str) -> str:
    """A line of a private key that no other key has."""
    begin = pem.index("PRIVATE KEY-----")
    return max(pem[begin:].splitlines()[1:-1], key=len)


def test_no_secret_shows(cluster: Cluster, archive: tuple[str, Path]) -> None:
    _, headers = cluster.credentials()
    with key(cluster, "secretive") as made:
        text = cluster.playbook("playbooks/deploy.yml", "-vv")
        kept = {name: bed.on(bed.HEAD, "cat", f"{HOME}/secrets/{name}").strip() for name in SECRETS}
        # What a section is given under a name that says it is a secret: planted by the scenario's conf.ini.
        (planted,) = re.findall(r"^env\.HUB_TOKEN = (\S+)$", bed.on(bed.HEAD, "cat", f"{HOME}/conf.ini"), re.M)
        secrets = {"a key": made, "test key": headers["X-API-Key"], "a section's variable": planted}
        secrets |= {name: private_part(kept[name]) if name.endswith(".pem") else kept[name] for name in SECRETS}
        assert min(map(len, secrets.values())) > 20
        told, packed = archive
        places = {"Ansible's output": text, "diagnose's output": told}
        with tarfile.open(packed) as files:
            for member in files.getmembers():
                if (stream := files.extractfile(member)) is not None:
                    places[f"diagnosis: {member.name}"] = stream.read().decode(errors="replace")
        assert any(place.endswith("conf.ini") for place in places), "the archive has what could tell"
        for host in (bed.HEAD, *WORKERS):
            names = bed.on(host, "docker", "ps", "-a", "--format", "{{.Names}}").split()
            places[f"{host}: processes"] = bed.on(host, "sh", "-c", "ps -eo args")
            for name in names:
                places[f"{host}: docker inspect {name}"] = bed.on(host, "docker", "inspect", name)
                places[f"{host}: docker logs {name}"] = bed.on(host, "sh", "-c", f"docker logs {name} 2>&1")
        for host, name in ((bed.HEAD, "modelserve_head"),):
            image = bed.on(host, "docker", "inspect", "-f", "{{.Image}}", name).strip()
            places["the image's history"] = bed.on(host, "docker", "history", "--no-trunc", image)
    found = [
        f"{what} in {place}" for place, text in places.items() for what, secret in secrets.items() if secret in text
    ]
    assert len(places) > 40 and not found
