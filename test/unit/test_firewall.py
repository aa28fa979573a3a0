"""The firewall's rules: who is let in, and how the set of the cluster's hosts changes in place."""

from __future__ import annotations

import importlib.util
import multiprocessing
import re
import shutil
import subprocess
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "roles/firewall/templates/firewall.nft.j2"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "modelserve_firewall", ROOT / "plugins/modules/modelserve_firewall.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULE = load()


class ModuleError(Exception):
    """What the module said when it gave up."""


class Ansible:
    """As much of AnsibleModule as making the rules needs."""

    check_mode = False

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def fail_json(self, msg: str) -> None:
        raise ModuleError(msg)

    def warn(self, warning: str) -> None:
        self.warnings.append(warning)


def template(**variables: Any) -> str:
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["comment"] = lambda text: f"# {text}"
    environment.tests["search"] = lambda text, pattern: re.search(pattern, text) is not None
    values = {
        "ansible_managed": "managed",
        "firewall_enabled": True,
        "firewall_own_ports": [8000, "30000-30999"],
        "firewall_ssh_ports": [22],
        "firewall_ssh_from": [],
        "firewall_gateway_ports": [],
        "firewall_open_ports": [],
        "firewall_docker_bridges": ["docker0", "br-0123456789ab"],
        "firewall_trusted_interfaces": [],
    }
    return environment.from_string(TEMPLATE.read_text()).render({**values, **variables})


def rules(peers: list[str], **variables: Any) -> str:
    return str(MODULE.Firewall(Ansible()).rules(template(**variables), peers))


def elements(text: str, name: str) -> list[str]:
    found = re.search(rf"set {name} \{{[^}}]*elements = \{{ ([^}}]*) \}}", text)
    return found[1].split(", ") if found else []


def test_the_worlds_ports_are_one_list() -> None:
    text = rules([], firewall_ssh_ports=[22, 2222], firewall_gateway_ports=[666], firewall_open_ports=[9100, 22])
    assert re.findall(r"tcp dport \{ (.*) \} accept", text) == ["22, 666, 2222, 9100"]
    assert "policy drop" in text and 'iifname "br-0123456789ab" accept' in text and "br-*" not in text
    assert "elements" not in text, "nft knows no empty list"


def test_ports_can_be_opened_for_sources_and_for_udp() -> None:
    openings = [
        9101,
        {"port": 9100, "from": ["10.0.5.7", "fd00::/8", "10.1.0.0/16"]},
        {"port": 51820, "protocol": "udp"},
        {"port": "5000-5010"},
    ]
    text = rules([], firewall_open_ports=openings, firewall_trusted_interfaces=["wg0", "docker0"])
    accepted = [line.strip() for line in text.splitlines() if "dport" in line and "DHCP" not in line]
    assert accepted == [
        "tcp dport { 22, 9101 } accept",
        "ip saddr { 10.0.5.7, 10.1.0.0/16 } tcp dport { 9100 } accept",
        "ip6 saddr { fd00::/8 } tcp dport { 9100 } accept",
        "udp dport { 51820 } accept",
        "tcp dport { 5000-5010 } accept",
    ]
    assert re.findall(r'iifname "(.*)" accept', text) == ["docker0", "br-0123456789ab", "wg0"]


def test_ssh_can_be_limited_to_sources() -> None:
    text = rules([], firewall_ssh_from=["10.0.0.0/8"], firewall_gateway_ports=[666])
    accepted = [line.strip() for line in text.splitlines() if "tcp dport" in line]
    assert accepted == ["tcp dport { 666 } accept", "ip saddr { 10.0.0.0/8 } tcp dport { 22 } accept"]


def test_without_the_firewall_modelserve_s_own_ports_alone_are_closed_also_to_docker_s_bridges() -> None:
    text = rules(["10.0.0.2"], firewall_enabled=False)
    assert "policy accept" in text
    assert re.findall(r"tcp dport \{ (.*) \} counter drop", text) == ["8000, 30000-30999"]
    assert elements(text, "cluster4") == ["10.0.0.2"] and "docker0" not in text


def test_the_clusters_hosts_are_told_apart_by_family() -> None:
    text = rules(["10.0.0.2", "fd00::1", "10.0.0.1", "localhost"])
    assert elements(text, "cluster4")[:2] == ["10.0.0.1", "10.0.0.2"] and "127.0.0.1" in elements(text, "cluster4")
    assert "fd00::1" in elements(text, "cluster6")


def test_a_host_without_an_address_is_named() -> None:
    with pytest.raises(ModuleError, match=r"no-such-host.invalid has no address here .*set its modelserve_node_ip"):
        rules(["no-such-host.invalid"])


def roll_back(directory: Path, pending: str | None, nonce: str) -> str:
    """Run a timer's script at once, in a directory in place of the host's; return what nft was called with."""
    (directory / "firewall.nft").write_text("unconfirmed")
    (directory / "firewall.before").write_text("before")
    if pending is not None:
        (directory / "firewall.pending").write_text(pending)
    nft = directory / "nft"
    nft.write_text(f'#!/bin/sh\necho "$@" >> {directory}/calls\n')
    nft.chmod(0o755)
    script = MODULE.ROLL_BACK.replace(MODULE.DIRECTORY, str(directory))
    path = {"PATH": f"{directory}:/usr/bin:/bin"}
    subprocess.run(["sh", "-c", script, "roll-back", "0", nonce], check=True, env=path, timeout=10)
    calls = directory / "calls"
    return calls.read_text() if calls.exists() else ""


def test_a_timer_takes_back_the_rules_that_it_was_started_for(tmp_path: Path) -> None:
    assert roll_back(tmp_path, "mine", "mine") == f"-f {tmp_path}/firewall.nft\n"
    assert (tmp_path / "firewall.nft").read_text() == "before"
    assert not (tmp_path / "firewall.pending").exists()


@pytest.mark.parametrize("pending", ["of the next run", None])
def test_the_timer_of_an_aborted_run_leaves_the_next_run_s_rules(tmp_path: Path, pending: str | None) -> None:
    assert roll_back(tmp_path, pending, "of the aborted run") == ""
    assert (tmp_path / "firewall.nft").read_text() == "unconfirmed"
    assert (tmp_path / "firewall.pending").exists() == (pending is not None)


ADDRESSES = st.lists(st.ip_addresses(v=4).map(str), unique=True, max_size=4)


@given(ADDRESSES, ADDRESSES)
def test_admitting_and_dismissing_end_where_loading_does(there: list[str], more: list[str]) -> None:
    both = MODULE.with_elements(rules(there), "cluster4", more, True)
    assert both == rules(list({*there, *more}))
    assert MODULE.with_elements(both, "cluster4", more, False) == rules([one for one in there if one not in more])


@pytest.mark.skipif(shutil.which("nft") is None, reason="no nft here; the cluster scenario loads the real rules")
def test_nft_accepts_the_rules(tmp_path: Path) -> None:
    file = tmp_path / "firewall.nft"
    openings = [{"port": "5000-5010", "protocol": "udp", "from": ["10.0.5.7", "fd00::/8"]}]
    ssh_from = ["10.0.0.0/8", "fd00::/8"]
    file.write_text(
        rules(
            ["10.0.0.1", "fd00::1"],
            firewall_gateway_ports=[666],
            firewall_open_ports=openings,
            firewall_ssh_from=ssh_from,
        )
    )
    checked = subprocess.run(["nft", "-c", "-f", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0 or "Operation not permitted" in checked.stderr, checked.stderr


def test_hosts_admitted_at_the_same_time_are_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "firewall.nft"
    file.write_text(rules([]))
    for name, path in (("DIRECTORY", tmp_path), ("FILE", file), ("LOCK", tmp_path / "lock")):
        monkeypatch.setattr(MODULE, name, str(path))
    monkeypatch.setattr(MODULE.Firewall, "require_nft", lambda _: "nft")
    monkeypatch.setattr(MODULE.Firewall, "run", lambda *_: time.sleep(0.01))
    addresses = [f"10.0.0.{number}" for number in range(1, 9)]
    context = multiprocessing.get_context("fork")
    admitting = [
        context.Process(target=MODULE.Firewall(Ansible()).change_addresses, args=([address], True))
        for address in addresses
    ]
    for process in admitting:
        process.start()
    for process in admitting:
        process.join(60)
    assert [process.exitcode for process in admitting] == [0] * len(addresses)
    assert file.read_text() == rules(addresses)


def test_a_host_that_has_no_address_any_more_can_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "firewall.nft"
    file.write_text(rules(["10.0.0.1", "10.0.0.2"]))
    monkeypatch.setattr(MODULE, "FILE", str(file))
    ansible = Ansible()
    ansible.check_mode = True
    firewall = MODULE.Firewall(ansible)
    assert firewall.change_addresses(["no-such-host.invalid", "10.0.0.2"], admit=False) is True
    (warning,) = ansible.warnings
    assert "no-such-host.invalid has no address here any more" in warning and "site.yml" in warning
    with pytest.raises(ModuleError, match="has no address here"):
        firewall.change_addresses(["no-such-host.invalid"], admit=True)
