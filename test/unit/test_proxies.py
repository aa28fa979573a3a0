"""HTTP proxies: which variables name them, who gets these, who does not, and what preflight reports of a proxy."""

from __future__ import annotations

import importlib.util
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from modelserve.environments import failures, uv
from modelserve.settings import Settings
from modelserve.store.store import Store
from modelserve.util.proxies import proxied, without_proxies

ROOT = Path(__file__).resolve().parents[2]
PROXY = "http://site:p%40ss@proxy.example:3128"


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "plugins" / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOOKUP = load("lookup/proxy_environment.py")
NETWORK = load("module_utils/modelserve_network.py")


def test_programs_find_the_proxy_in_either_spelling() -> None:
    variables = LOOKUP.environment(PROXY, "http://other:80", ["h", "10.0.0.5", "", "fd00::5", "h", ".corp.example"])
    assert set(variables) == {"http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"}
    assert variables["http_proxy"] == variables["HTTP_PROXY"] == PROXY
    assert variables["https_proxy"] == variables["HTTPS_PROXY"] == "http://other:80"
    assert variables["NO_PROXY"] == "localhost,127.0.0.1,::1,h,10.0.0.5,fd00::5,.corp.example"


def test_one_kind_of_address_may_have_no_proxy() -> None:
    assert set(LOOKUP.environment("", PROXY, [])) == {"https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"}
    assert LOOKUP.environment("", "", ["h"]) == {}


def test_python_reaches_the_cluster_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LOOKUP.environment(PROXY, PROXY, ["head_node", "10.0.0.5", ".corp.example"]).items():
        monkeypatch.setenv(name, value)
    bypassed = ("127.0.0.1:8265", "localhost", "head_node:666", "10.0.0.5:6390", "index.corp.example")
    assert all(urllib.request.proxy_bypass(host) for host in bypassed)
    assert not any(urllib.request.proxy_bypass(host) for host in ("pypi.org", "10.0.0.55", "notcorp.example"))


def test_what_talks_within_the_cluster_has_no_proxy() -> None:
    names = ("http_proxy", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy", "no_grpc_proxy", "RSYNC_PROXY", "No_Proxy")
    assert without_proxies({**dict.fromkeys(names, PROXY), "HOME": "/h"}) == {"HOME": "/h"}


def test_a_library_has_the_proxy_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://of-the-image:1")
    monkeypatch.delenv("http_proxy", raising=False)
    before = dict(os.environ)
    with proxied({"http_proxy": PROXY}):
        assert os.environ["http_proxy"] == PROXY and "ALL_PROXY" not in os.environ
    assert dict(os.environ) == before
    with pytest.raises(ValueError, match="broken"), proxied({"http_proxy": PROXY}):
        raise ValueError("broken")
    assert dict(os.environ) == before
    with proxied({}):
        assert dict(os.environ) == before


def test_uv_gets_the_proxy_by_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "uv"
    stub.write_text('#!/bin/sh\necho "$*"; env\n')
    stub.chmod(0o755)
    monkeypatch.setattr(uv, "IMAGE_PREFIX", tmp_path)
    monkeypatch.setenv("https_proxy", "http://of-the-image:1")
    variables = LOOKUP.environment(PROXY, "", [])
    run = uv.run(["pip", "compile"], Settings(home=tmp_path, proxy_environment=variables), Store(tmp_path / "store"))
    arguments, *environment = run.stdout.splitlines()
    assert arguments == "pip compile"
    assert {f"http_proxy={PROXY}", f"HTTP_PROXY={PROXY}"} <= set(environment)
    assert not [line for line in environment if line.startswith("https_proxy=")]


REFUSED = """\
error: Request failed after 3 retries in 9.6s
  cause: Failed to fetch: https://pypi.example/simple/six/
  cause: error sending request for url (https://pypi.example/simple/six/)
  cause: tunnel error: failed to create underlying connection
  cause: tcp connect error
  cause: Connection refused (os error 111)
"""


def test_an_index_behind_a_proxy_that_fails_is_one_line_without_the_password() -> None:
    settings = Settings(proxy_environment=LOOKUP.environment("", PROXY, []))
    problem = failures.resolution_problem("Echo", REFUSED, {"ray": "2.60.0"}, settings)
    (line,) = str(problem).splitlines()
    assert line == (
        "algopkg/Echo/requirements.txt: the package index is not reachable through the proxy proxy.example:3128: "
        "Failed to fetch: https://pypi.example/simple/six/: Connection refused (os error 111). "
        "Correct modelserve_https_proxy, or let the head reach it"
    )
    direct = failures.resolution_problem("Echo", REFUSED, {"ray": "2.60.0"}, Settings())
    assert "the package index is not reachable: Failed to fetch" in str(direct)
    assert "modelserve_http_proxy" in direct.fix


@contextmanager
def server(answer: bytes | None) -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers one request, or reads it and closes the connection later."""
    seen: list[bytes] = []
    release = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                seen.append(connection.recv(4096))
                if answer is None:
                    release.wait(10)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1], seen
        release.set()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 200 Connection established\r\n\r\n", ""),
        (b"HTTP/1.0 500 Unable to connect\r\n\r\n", ""),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", ""),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "wants another user or password"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "answers, but not as an HTTP proxy"),
        (None, ""),
    ],
)
def test_preflight_reports_a_proxy_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | None, problem: str
) -> None:
    monkeypatch.setattr(NETWORK, "PROXY_TIMEOUT_S", 0.2)
    with server(answer) as (port, seen):
        assert NETWORK.proxy_problem(f"http://site:p%40ss@127.0.0.1:{port}") == problem
    assert b"Proxy-Authorization: Basic c2l0ZTpwQHNz\r\n" in seen[0]  # site:p@ss


def test_preflight_reports_a_proxy_that_does_not_answer(closed_port: int) -> None:
    assert NETWORK.proxy_problem(f"http://127.0.0.1:{closed_port}") == "does not answer: Connection refused"
    assert "does not answer: " in NETWORK.proxy_problem("http://proxy.invalid:3128")


def test_no_task_has_a_proxy_in_its_own_environment() -> None:
    """Ansible writes a task's environment on the command line of the host's shell."""
    for path in (*(ROOT / "roles").rglob("tasks/*.yml"), *(ROOT / "playbooks").rglob("*.yml")):
        for line in path.read_text().splitlines():
            assert not (line.strip().startswith("environment:") and "proxy" in line), path
