"""What is fetched goes through an HTTP proxy, what is in the cluster does not: with a real one and no other way out."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import forward_proxy
import pytest
from forward_proxy import PASSWORD, Network

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PYTHON = {"PYTHONPATH": str(ROOT / "files"), "UV_SYSTEM_CERTS": "1", "UV_HTTP_RETRIES": "0"}
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or None in (forward_proxy.IP, forward_proxy.TINYPROXY),
    reason="needs root, ip and tinyproxy",
)
# Runs uv as the controller does, with the settings of a data directory.
UV = """\
import pathlib, sys
from modelserve.environments import failures, uv
from modelserve.settings import Settings
from modelserve.store.store import Store
uv.IMAGE_PREFIX = pathlib.Path(sys.argv[1])
settings = Settings.load(sys.argv[2])
result = uv.run(sys.argv[3:], settings, Store(settings.home / "store"))
if result.returncode:
    sys.exit(str(failures.resolution_problem("Echo", result.stderr, {}, settings)))
print(result.stdout)
"""
# Requests by the environment's proxies: to stubs on the host's own addresses, then to one beyond it.
REQUESTS = """\
import http.server, subprocess, sys, threading, urllib.request
inside, beyond = sys.argv[1:]
urls = []
for address in ("127.0.0.1", inside):
    server = http.server.ThreadingHTTPServer((address, 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    urls.append(f"http://{address}:{server.server_port}/")
for url in [*urls, beyond]:
    assert urllib.request.urlopen(url).status == 200
    subprocess.run(["curl", "--silent", "--fail", "--output", "/dev/null", url], check=True)
"""
RATTLER = """\
import asyncio, sys
import rattler
from modelserve.settings import Settings
from modelserve.util.proxies import proxied
with proxied(Settings.load(sys.argv[1]).proxy_environment):
    try:
        asyncio.run(rattler.solve([sys.argv[2]], ["anything"]))
    except Exception as error:
        print(error)
"""
PROBLEMS = """\
import sys
sys.path.insert(0, sys.argv[1])
import modelserve_network
print([modelserve_network.proxy_problem(url) for url in sys.argv[2:]])
"""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "plugins" / "lookup" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with forward_proxy.network(tmp_path_factory.mktemp("proxy")) as made:
        yield made


@pytest.fixture
def beyond(network: Network, tmp_path: Path) -> Iterator[str]:
    """The URL of a site at the proxy's end, which is no address of the cluster."""
    (tmp_path / "site").mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "site"))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((network.outside, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{network.outside}:{server.server_port}/"
    server.shutdown()
    server.server_close()


def write_settings(home: Path, network: Network, url: str) -> dict[str, str]:
    """Write settings with a proxy as the role serve_deploy does, and return the variables."""
    variables: dict[str, str] = load("proxy_environment").environment(url, url, [network.inside])
    pip = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    index = load("pip_index").index_url(pip.stdout)
    home.mkdir()
    (home / "settings.json").write_text(json.dumps({"proxy_environment": variables, "index_url": index}))
    return variables


def test_a_package_is_installed_through_the_proxy(network: Network, tmp_path: Path) -> None:
    write_settings(tmp_path / "home", network, network.url)
    command = [sys.executable, "-c", UV, str(BIN.parent), str(tmp_path / "home")]
    result = network.run([*command, "pip", "install", "--target", str(tmp_path / "site"), "six"], **PYTHON)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "site" / "six.py").exists()
    assert any(request.startswith(("CONNECT ", "GET http")) for request in network.requests())


@pytest.mark.long
def test_a_proxy_that_refuses_is_one_line_without_its_password(network: Network, tmp_path: Path) -> None:
    write_settings(tmp_path / "home", network, network.url.replace(PASSWORD, "another-password"))
    (tmp_path / "requirements.txt").write_text("six\n")
    command = [sys.executable, "-c", UV, str(BIN.parent), str(tmp_path / "home")]
    result = network.run([*command, "pip", "compile", str(tmp_path / "requirements.txt")], **PYTHON)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    place = f"{network.outside}:{network.port}"
    assert f"the package index is not reachable through the proxy {place}: " in line
    assert line.endswith("or let the head reach it") and "another-password" not in line


def test_requests_within_the_cluster_do_not_reach_the_proxy(network: Network, tmp_path: Path, beyond: str) -> None:
    variables = write_settings(tmp_path / "home", network, network.url)
    network.requests()
    result = network.run([sys.executable, "-c", REQUESTS, network.inside, beyond], **variables)
    assert result.returncode == 0, result.stderr
    assert network.requests() == [f"GET {beyond} HTTP/1.1"] * 2


@pytest.mark.long
def test_conda_channels_are_read_through_the_proxy(network: Network, tmp_path: Path, beyond: str) -> None:
    write_settings(tmp_path / "home", network, network.url)
    network.requests()
    result = network.run([sys.executable, "-c", RATTLER, str(tmp_path / "home"), f"{beyond}channel"], **PYTHON)
    assert result.returncode == 0, result.stderr
    assert any(f"{beyond}channel/noarch/repodata" in request for request in network.requests()), result.stdout


def test_preflight_tells_proxies_apart(network: Network) -> None:
    closed = f"http://{network.outside}:{forward_proxy.free_port(network.outside)}"
    urls = [network.url, network.url.replace(PASSWORD, "another-password"), closed]
    modules = str(ROOT / "plugins" / "module_utils")
    result = network.run([sys.executable, "-c", PROBLEMS, modules, *urls])
    assert result.stdout.strip() == str(["", "wants another user or password", "does not answer: Connection refused"])


class CommandLines:
    """The command lines of this machine's processes, as long as this is watched."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> CommandLines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue


def remove_hello() -> None:
    subprocess.run(["dpkg", "--purge", "hello"], capture_output=True, check=False)
    for archive in Path("/var/cache/apt/archives").glob("hello_*.deb"):
        archive.unlink()


@pytest.fixture
def packages(tmp_path: Path) -> Iterator[Path]:
    """A playbook that installs Debian's package hello as the roles install theirs, on a host without it."""
    remove_hello()
    facts = {"distribution": {"id": "debian", "like": [], "version": "12"}, "certificates": {}}
    role = {"name": "modelserve", "tasks_from": "packages.yml"}
    tasks = [
        {"ansible.builtin.set_fact": {"modelserve_host": facts, "cacheable": True}},
        {"ansible.builtin.include_role": role, "vars": {"modelserve_packages": ["hello"]}},
    ]
    (tmp_path / "play.yml").write_text(
        json.dumps([{"hosts": "h", "gather_facts": False, "roles": ["modelserve"], "tasks": tasks}])
    )
    yield tmp_path
    remove_hello()


def play(network: Network, directory: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Run the playbook in the namespace, as if its host had no other way out."""
    host = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "/usr/bin/python3",
        "modelserve_http_proxy": url,
        "modelserve_node_ip": network.inside,
    }
    (directory / "hosts.json").write_text(json.dumps({"all": {"hosts": {"h": host}}}))
    command = [str(BIN / "ansible-playbook"), "-vvv", "-i", str(directory / "hosts.json"), str(directory / "play.yml")]
    return network.run(
        command, ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"), ANSIBLE_ROLES_PATH=str(ROOT / "roles"), ANSIBLE_NOCOLOR="1"
    )


@pytest.mark.long
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")
def test_a_host_s_packages_come_through_the_proxy_and_nobody_sees_its_password(
    network: Network, packages: Path
) -> None:
    network.requests()
    with CommandLines() as command_lines:
        result = play(network, packages, network.url)
    assert result.returncode == 0, result.stdout
    requests = network.requests()
    assert any("/InRelease" in request for request in requests), "the lists of packages"
    assert any("/hello_" in request for request in requests)
    assert any("ansible-playbook" in line for line in command_lines.seen)
    assert not [line for line in command_lines.seen if PASSWORD in line]
    assert PASSWORD not in result.stdout + result.stderr
    assert not Path("/usr/local/sbin/modelserve-python").exists()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")
def test_a_proxy_that_refuses_a_host_s_packages_is_named(network: Network, packages: Path) -> None:
    result = play(network, packages, network.url.replace(PASSWORD, "another-password"))
    words = " ".join(result.stdout.split())
    assert result.returncode == 2
    assert "h: hello cannot be installed" in words and "HTTP proxy" in words
    assert "another-password" not in words
    assert not Path("/usr/local/sbin/modelserve-python").exists()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap")
def test_the_base_image_is_made_through_the_proxy(network: Network, tmp_path: Path) -> None:
    variables = write_settings(tmp_path / "home", network, network.url)
    network.requests()
    command = ["mmdebstrap", "--quiet", "--simulate", "--variant=minbase", "trixie", "/dev/null"]
    result = network.run(command, **variables)
    assert result.returncode == 0, result.stderr
    assert any("/trixie/InRelease" in request for request in network.requests())
