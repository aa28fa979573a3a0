"""Odd hosts of the test beds: what their traits put on them, and what the inventory has of them."""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "test" / "bed"))

import bed
import traits

ROOT = Path(__file__).resolve().parents[2]
NONE: dict[str, tuple[str, ...]] = {}


def members(*names: str, host: str = "worker_1", of_hosts: Any = NONE) -> dict[str, tuple[tarfile.TarInfo, str]]:
    """Return what the archive of traits holds, by path."""
    data = traits.archive(names, bed.values(host, of_hosts))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {
            "/" + entry.name: (entry, stream.read().decode() if (stream := tar.extractfile(entry)) else "")
            for entry in tar.getmembers()
        }


def test_the_settings_of_docker_are_one_file() -> None:
    files = members("containerd-store", "docker-root")
    assert list(files) == [traits.DAEMON_FILE]
    expected = {"features": {"containerd-snapshotter": True}, "data-root": "/srv/docker"}
    assert json.loads(files[traits.DAEMON_FILE][1]) == expected
    assert traits.volumes(["containerd-store", "docker-root"]) == [
        "/var/lib/docker",
        "/var/lib/containerd",
        "/srv/docker",
    ]


def test_a_plain_host_gets_nothing() -> None:
    assert traits.archive((), bed.values("worker_1", NONE)) == b""
    assert traits.commands((), bed.values("worker_1", NONE)) == []
    assert bed.inventory_variables("worker_1", NONE) == {"ansible_host": bed.address("worker_1")}


def test_somebodys_directory_is_somebodys() -> None:
    files = members("foreign-directory")
    directory, photo = files["/opt/modelserve"][0], files["/opt/modelserve/photos/1.jpg"][0]
    assert directory.isdir() and {directory.uid, photo.uid} == {traits.OWNER} and photo.mode == 0o600


def test_a_bastion_is_the_heads_address_and_port() -> None:
    of_hosts = {bed.HEAD: ("ssh-port",), "worker_1": ("bastion", "ssh-port")}
    assert f"AllowUsers ops@{bed.SUBNET}.10\n" in members("bastion")["/etc/ssh/sshd_config.d/bastion.conf"][1]
    settings = bed.inventory_variables("worker_1", of_hosts)
    assert settings["ansible_port"] == 2222
    assert settings["ansible_ssh_common_args"].endswith(f" -o ProxyJump=ops@{bed.SUBNET}.10:2222")
    settings = bed.inventory_variables("worker_1", {"worker_1": ("bastion",)})
    assert settings["ansible_ssh_common_args"].endswith(":22") and "ansible_port" not in settings


def test_the_address_of_ansible_and_that_of_the_cluster_differ_with_two_networks() -> None:
    settings = bed.inventory_variables("worker_2", {"worker_2": ("two-networks",)})
    assert settings == {"ansible_host": f"{bed.ADMIN_SUBNET}.12", "modelserve_node_ip": f"{bed.SUBNET}.12"}


def test_a_password_is_set_once_and_is_that_of_the_inventory() -> None:
    names = ("sudo-password", "ssh-password")
    assert traits.commands(names, bed.values("worker_1", NONE)) == [f"echo 'ops:{traits.PASSWORD}' | chpasswd"]
    settings = bed.inventory_variables("worker_1", {"worker_1": names})
    assert {settings["ansible_become_password"], settings["ansible_password"]} == {traits.PASSWORD}


def test_a_trait_may_choose_the_release() -> None:
    assert [bed.release(name) for name in (bed.HEAD, "worker_1", "worker_2")] == ["trixie", "trixie", "bookworm"]
    assert bed.release("worker_1", ("service", "debian-11")) == "bullseye"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("ufv", "unknown trait 'ufv'. Did you mean 'ufw'?"),
        ("service,moon-base", "unknown trait 'moon-base'. There are:"),
    ],
)
def test_an_unknown_trait_is_named_with_the_closest(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice.replace("?", r"\?")):
        traits.parse(text)


def test_traits_are_read_as_they_are_written() -> None:
    assert traits.parse("") == () and traits.parse("ufw,ipv6") == ("ufw", "ipv6")


@pytest.mark.parametrize(("scenario", "name"), [("cluster", "test"), ("odd", "odd")])
def test_the_inventory_of_a_scenario_is_that_of_its_bed(
    monkeypatch: pytest.MonkeyPatch, scenario: str, name: str
) -> None:
    monkeypatch.setenv("MODELSERVE_BED", name)
    spec = importlib.util.spec_from_file_location(f"bed_{name}", str(bed.__file__))
    assert spec and spec.loader
    of_scenario = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(of_scenario)
    file = ROOT / "molecule" / scenario / "molecule.yml"
    inventory = yaml.safe_load(file.read_text())["provisioner"]["inventory"]
    options = inventory["group_vars"]["all"]["bed_options"]
    entries = [value for option, value in itertools.pairwise(options) if option == "--with"]
    of_hosts = of_scenario.odd_hosts(entries)
    for host, settings in inventory["host_vars"].items():
        expected = of_scenario.inventory_variables(host, of_hosts)
        assert {key: settings.get(key) for key in expected} == expected, f"{host} in {file}"
