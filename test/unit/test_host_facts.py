"""What is known of a host before anything is changed on it: whose the data directory is."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import ansible.module_utils
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))


@pytest.fixture(scope="module")
def facts() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "modelserve_host_facts", ROOT / "plugins" / "modules" / "modelserve_host_facts.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("files", "content"),
    [
        ([], "empty"),
        (["lost+found/"], "empty"),
        ([".modelserve", "secrets/ray_token"], "marked"),
        (["secrets/ray_token", "user/", "tmp/", "store/env/"], "unmarked"),
        (["image/files/modelserve/__init__.py"], "unmarked"),
        (["photos/cat.jpg"], "foreign"),
        (["secrets/", "user/", "tmp/"], "foreign"),
        (["image/cat.jpg"], "foreign"),
    ],
)
def test_a_directory_that_modelserve_did_not_make_is_foreign(
    facts: ModuleType, tmp_path: Path, files: list[str], content: str
) -> None:
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if name.endswith("/") else path.touch()
    assert facts.home_content(str(tmp_path)) == content


def test_a_directory_that_is_not_there_is_absent(facts: ModuleType, tmp_path: Path) -> None:
    assert facts.home_content(str(tmp_path / "modelserve")) == "absent"


class Commands:
    """As much of AnsibleModule as running commands needs."""

    def run_command(self, argv: list[str]) -> tuple[int, str, str]:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr


def command(path: Path, lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("lines", "version", "reason"),
    [
        ('echo \'{"ServerVersion": "28.0.0", "Driver": "overlay2"}\'', "28.0.0", ""),
        ('echo \'{"ID": "", "ServerErrors": ["Cannot connect"]}\'', "", "Cannot connect"),  # Docker 20.10
        ("echo warning >&2; echo 'Cannot connect' >&2; exit 1", "", "Cannot connect"),
        ("exit 3", "", "exit status 3"),
    ],
)
def test_an_engine_answers_or_says_why_not(
    facts: ModuleType, tmp_path: Path, lines: str, version: str, reason: str
) -> None:
    info, said = facts.docker_info(Commands(), command(tmp_path / "docker", lines))
    assert (info.get("ServerVersion", ""), said) == (version, reason)


def test_a_host_without_docker_says_so(facts: ModuleType) -> None:
    assert facts.docker_info(Commands(), None) == ({}, "not installed")


# what the engine says, whether there is a dockerd, files of the host; what kind it is
DOCKERS: dict[str, tuple[dict[str, Any], bool, list[str], str]] = {
    "usual": ({"ServerVersion": "28", "SecurityOptions": ["name=seccomp,profile=builtin"]}, True, [], ""),
    "stopped": ({}, True, [], ""),
    "none": ({}, False, [], ""),
    "podman_s_socket": ({"ServerVersion": "5.4", "BuildahVersion": "1.39"}, False, [], "podman"),
    "snap": ({"ServerVersion": "28", "DockerRootDir": "/var/snap/docker/common/var-lib-docker"}, True, [], "snap"),
    "snap_stopped": ({}, False, ["snap/docker/current/x"], "snap"),
    "snap_unused": ({"ServerVersion": "28"}, True, ["snap/docker/current/x"], ""),
    "rootless": ({"ServerVersion": "28", "SecurityOptions": ["name=seccomp", "name=rootless"]}, True, [], "rootless"),
    "rootless_of_a_user": ({}, True, ["run/user/1000/docker.sock"], "rootless"),
    "rootless_beside_it": ({"ServerVersion": "28"}, True, ["run/user/1000/docker.sock"], ""),
    "remapped": ({"ServerVersion": "28", "SecurityOptions": ["name=userns"]}, True, [], "userns-remap"),
}


@pytest.mark.parametrize("name", DOCKERS)
def test_a_docker_that_modelserve_cannot_use_is_named(
    facts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    info, has_engine, files, kind = DOCKERS[name]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    monkeypatch.setattr(facts, "ROOT", f"{tmp_path}/")
    assert facts.unsuitable_docker(command(tmp_path / "bin" / "docker", "true"), info, has_engine) == kind


@pytest.mark.parametrize(
    ("proxies", "has_proxy"),
    [({}, False), ({"HttpProxy": "", "HttpsProxy": ""}, False), ({"HttpsProxy": "http://p:3128"}, True)],
)
def test_the_proxy_of_docker_s_own_pulls_is_seen(
    facts: ModuleType, tmp_path: Path, proxies: dict[str, str], has_proxy: bool
) -> None:
    client = command(tmp_path / "docker", "true")
    assert facts.docker(client, {"ServerVersion": "28", **proxies}, "")["has_proxy"] is has_proxy


def test_podman_s_docker_command_is_no_docker(facts: ModuleType, tmp_path: Path) -> None:
    script = command(tmp_path / "docker", '[ -e /etc/containers/nodocker ] || echo "Emulate"\nexec podman "$@"')
    assert facts.unsuitable_docker(script, {}, False) == "podman"
    (tmp_path / "podman").touch()
    (tmp_path / "link").symlink_to("podman")
    assert facts.unsuitable_docker(str(tmp_path / "link"), {}, False) == "podman"


def test_each_unsuitable_docker_has_a_way_out() -> None:
    texts = yaml.safe_load((ROOT / "roles/modelserve/vars/main.yml").read_text())["modelserve_docker_advice"]
    assert {*texts} == {kind for *_, kind in DOCKERS.values()} - {""}
    assert all("\n" not in text.strip() for text in texts.values())


def test_containers_that_started_before_the_token_are_named(facts: ModuleType, tmp_path: Path) -> None:
    token = tmp_path / "secrets" / "ray_token"
    token.parent.mkdir()
    made = {name: {"running": name != "stopped"} for name in ("before", "after", "stopped")}
    rows = "/before\\t2026-05-01T10:00:00.25Z\\n/after\\t2026-05-01T10:00:00.75Z\\n"
    docker = command(tmp_path / "docker", f'printf "{rows}"; echo "$*" >{tmp_path}/asked')
    assert facts.with_former_token(Commands(), docker, made, str(tmp_path)) == []
    token.write_text("secret")
    os.utime(token, (1777629600.5, 1777629600.5))  # 2026-05-01 10:00:00.5 UTC
    assert facts.with_former_token(Commands(), docker, made, str(tmp_path)) == ["before"]
    assert (tmp_path / "asked").read_text().split()[-2:] == ["before", "after"]


@pytest.mark.parametrize(("text", "head"), [("Made by modelserve.\nhead: head_node\n", "head_node"), ("Made\n", "")])
def test_the_marker_names_the_cluster(facts: ModuleType, tmp_path: Path, text: str, head: str) -> None:
    (tmp_path / ".modelserve").write_text(text)
    assert facts.home_state(str(tmp_path))["head"] == head
    assert json.loads(json.dumps(facts.home_state(str(tmp_path))))["gateway"] is False


@pytest.mark.parametrize(("text", "port"), [('{"port": 666, "routes": {}}', 666), ("{}", 0), ("damaged", 0), (None, 0)])
def test_the_served_port_is_the_gateway_s(facts: ModuleType, tmp_path: Path, text: str | None, port: int) -> None:
    if text is not None:
        (tmp_path / "gateway").mkdir()
        (tmp_path / "gateway" / "served.json").write_text(text)
    assert facts.home_state(str(tmp_path))["served_port"] == port


class Module:
    """Stands for Ansible's module: runs ``docker info``."""

    def run_command(self, command: list[str]) -> tuple[int, str, str]:
        return 0, "/srv/docker\n", ""


def test_docker_s_disk_is_looked_at_also_before_docker_is_there(facts: ModuleType, tmp_path: Path) -> None:
    engine = {"reachable": True, "client": "docker"}
    assert facts.docker_disk(Module(), engine, str(tmp_path))["root"] == "/srv/docker"
    absent = facts.docker_disk(Module(), {"reachable": False, "client": None}, "/var/lib/modelserve")
    assert absent["root"] == "/var/lib/docker" and absent["root_free_mb"] > 0
    same = facts.docker_disk(Module(), {"reachable": False, "client": None}, "/var/lib/docker")
    assert same["root_on_home_disk"]


def test_a_site_s_certificates_are_found_where_its_distribution_keeps_them(
    facts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "debian/a/site.crt": b"-----BEGIN CERTIFICATE-----",
        "rhel/site.pem": b"-----BEGIN TRUSTED",
        "rhel/der": b"0",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(facts, "CERTIFICATES", (f"{tmp_path}/debian/**/*.crt", f"{tmp_path}/rhel/*"))
    assert [Path(path).name for path in facts.certificates()] == ["site.crt", "site.pem"]


def test_the_names_of_an_operator_s_secrets_are_read_and_no_value(facts: ModuleType, tmp_path: Path) -> None:
    state = facts.home_state(str(tmp_path))
    assert (state["secrets"], state["inventory_secrets"]) == ([], False)
    (tmp_path / "secrets" / "values" / "directory").mkdir(parents=True)
    (tmp_path / "secrets" / "values" / "hf_token").write_text("planted-4f9c1d7e")
    (tmp_path / "secrets" / "inventory.json").write_text('{"other": "planted-4f9c1d7e"}')
    state = facts.home_state(str(tmp_path))
    assert (state["secrets"], state["inventory_secrets"]) == (["hf_token"], True)
    assert "planted" not in str(state)
