"""The table of preflight, as Ansible makes it from facts of stub hosts: what stops a run, and what is only shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from stub_inventory import OTHER_CONNECTION, ROOT, Stubs, facts, words

pytestmark = pytest.mark.long

PLAYS = ("groups.yml", "preflight.yml")
HEAD, WORKER = "10.0.0.5", "10.0.0.6"
SERVICES = [
    {"protocol": "tcp", "port": 22, "by": "sshd"},
    {"protocol": "tcp", "port": 5432, "by": "postgres"},
    {"protocol": "udp", "port": 161, "by": "snmpd"},
    {"protocol": "tcp", "port": 9100, "by": "node_exporter"},
    {"protocol": "udp", "port": 5005, "by": "ours"},
]
FIRST = {"images": [], "home__token_sha256": ""}
# Each host has facts, and what its rows and the messages of its failures must hold.
GOOD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "h": (
        {"network__proxy_problems": [""], "gpus": ["A100 MIG 1g.5gb"] * 2, "nvidia__mig_instances": 2},
        (
            f"address {HEAD} ok",
            "GPUs 0.0 asked for, 3 there (2 of them MIG instances) ok",
            "HTTP proxy http://proxy.example:3128 answers ok",
            "dockerd pulls",
            "DIRECT",
            "Debian packages libgl1: the image gets a layer with them, and every node restarts NEW",
            "packages for builds git: the head's image gets a layer with them, and the head restarts NEW",
        ),
    ),
    "serving": (
        {"network__services": SERVICES},
        (
            "service postgres on 5432/tcp the firewall closes it",
            "firewall_open_ports: [5432] CLOSED",
            "service snmpd on 161/udp the firewall closes it",
            "firewall_open_ports: [{port: 161, protocol: udp}] CLOSED",
        ),
    ),
    "walled": ({"network__firewalls": ["ufw"]}, ("other firewall ufw is active", "ACTIVE")),
    "later": ({"disk_free_mb": 5900}, ("5900 MiB free ok",)),
    "full": ({"disk_free_mb": 10}, ("10 MiB free: builds and deploys may fail for want of space LOW",)),
    "full_docker": ({"docker__root_free_mb": 0}, ("disk at /var/lib/docker 0 MiB free: builds and deploys",)),
    "unwalled": (
        {},
        ("firewall not on the host that Ansible runs on (modelserve_firewall: true): modelserve's own ports are",),
    ),
    "bare": ({}, ("anybody who reaches the host reaches Ray, the replicas and their metrics OPEN",)),
    "one_disk": ({**FIRST, "docker__root_free_mb": 2000, "docker__root_on_home_disk": True}, ("50000 MiB free ok",)),
    "cold": (
        {"nvidia__persistence_off": [0, 1]},
        ("persistence mode off on GPU 0, 1: the first use", "enable --now nvidia-persistenced' switches it on", "OFF"),
    ),
    "limited": ({"nvidia__mig_empty": [1]}, ("GPU 1 in MIG mode without an instance: Ray cannot hand it out UNUSED",)),
}
PROXY = "http://site:hidden@proxy.example:3128"
SETTINGS: dict[str, dict[str, Any]] = {
    "limited": {"modelserve_gpus": 1},
    "unwalled": {"modelserve_firewall": False},
    "bare": {"modelserve_firewall": False, "modelserve_guard_ports": False},
}
BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "h": (
        {
            "distribution__id": "rocky",
            "distribution__like": ["rhel"],
            "commands__mmdebstrap": None,
            "network__proxy_problems": ["wants another user or password"],
        },
        (
            "h: base image: found mmdebstrap is missing. Only Debian and its kin have it",
            "h: HTTP proxy http://proxy.example:3128: found wants another user or password. "
            "Correct modelserve_http_proxy, or let h reach it",
            "h: Debian packages: found 1 not as they must be. modelserve_debian_packages: 'libgl1=1' names more than",
        ),
    ),
    "elsewhere": (
        {"network__address_is_here": False, "network__addresses": ["10.1.0.6"]},
        (f"elsewhere: address: found {WORKER}, not on this host, which has 10.1.0.6. Set modelserve_node_ip",),
    ),
    "apart": ({"network__unreachable": ["h"]}, (f"apart: reaches h: found no answer from {HEAD}. Let apart reach h",)),
    "mig": (
        {"nvidia__mig_empty": [1]},
        (
            "mig: GPU 1: found in MIG mode without an instance",
            "'nvidia-smi mig -i 1 -cgi PROFILES -C'",
            "'nvidia-smi -i 1 -mig 0'",
        ),
    ),
    "first": ({**FIRST, "disk_free_mb": 5900}, ("found 5900 MiB free. At least 6000 MiB are needed",)),
    "first_docker": (
        {**FIRST, "docker__root_free_mb": 2000},
        ("first_docker: disk at /var/lib/docker: found 2000 MiB free. At least 3000 MiB are needed for images",),
    ),
}


def preflight(directory: Path, hosts: dict[str, tuple[dict[str, Any], tuple[str, ...]]]) -> tuple[bool, str]:
    """Return whether a cluster passes, and what Ansible printed."""
    groups = {"head": ["h"], "workers": [name for name in hosts if name != "h"]}
    variables = {
        "modelserve_firewall": True,
        "firewall_open_ports": [9100, {"port": "5000-5010", "protocol": "udp"}],
        "modelserve_http_proxy": PROXY,
        "modelserve_base_image": "" if hosts is BAD else "debian:13",
        "modelserve_debian_packages": ["libgl1=1"] if hosts is BAD else ["libgl1"],
        "modelserve_build_packages": ["git"],
    }
    stubs = Stubs(directory, groups, variables)
    for name, (changes, _) in hosts.items():
        stubs.write_facts(name, facts(**changes))
    plays = [{"ansible.builtin.import_playbook": str(ROOT / "playbooks" / "plays" / name)} for name in PLAYS]
    (directory / "preflight.yml").write_text(json.dumps(plays))
    addresses = {
        name: {"modelserve_node_ip": HEAD if name == "h" else WORKER, **SETTINGS.get(name, {})} for name in hosts
    }
    extra = {"modelserve_project": str(ROOT), "modelserve_source": str(ROOT)}
    result = stubs.run(str(directory / "preflight.yml"), "-e", json.dumps(extra), of_hosts=addresses)
    assert "Checks of" in result.stdout, words(result)
    return result.returncode == 0, result.stdout


def rows(text: str, name: str) -> str:
    """Return the rows of a host, with single spaces."""
    return " ".join(re.sub(r"\s+", " ", line) for line in re.findall(rf"^  {name} .*$", text, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[bool, str]:
    return preflight(tmp_path_factory.mktemp("good"), GOOD)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[bool, str]:
    return preflight(tmp_path_factory.mktemp("bad"), BAD)


def test_what_is_only_shown_stops_no_run(good: tuple[bool, str]) -> None:
    passes, text = good
    assert passes, text
    assert text.count("CLOSED") == 2 and text.count("LOW") == 2 and text.count("ACTIVE") == 1
    assert text.count("OPEN") == 2
    assert not re.search(r"reaches \w+ +no answer", text)
    assert "hidden" not in text


@pytest.mark.parametrize("name", GOOD)
def test_a_host_s_rows_say_what_it_has(good: tuple[bool, str], name: str) -> None:
    for line in GOOD[name][1]:
        assert line in rows(good[1], name)


@pytest.mark.parametrize("name", BAD)
def test_a_host_that_cannot_serve_stops_the_run_with_the_fix(bad: tuple[bool, str], name: str) -> None:
    passes, text = bad
    assert not passes
    for line in BAD[name][1]:
        assert line in re.sub(r"\s+", " ", text)


def test_a_head_whose_connection_cannot_send_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = tmp_path / "connection"
    plugins.mkdir()
    (plugins / "other.py").write_text(OTHER_CONNECTION)
    monkeypatch.setenv("ANSIBLE_CONNECTION_PLUGINS", str(plugins))
    stubs = Stubs(tmp_path, {"head": ["h"]}, {"ansible_connection": "other"})
    stubs.write_facts("h", facts())
    result = stubs.run("preflight.yml", "-e", json.dumps({"modelserve_project": str(ROOT), "modelserve_gpus": 4}))
    assert "connection: found other. Files are sent over ssh" in words(result), words(result)
