"""The table of preflight, as Ansible makes it from facts of stub hosts: what stops a run, and what is only shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stub_inventory import ROOT, Stubs, facts, words

PLAYS = ("groups.yml", "preflight.yml")


def preflight(directory: Path, of_hosts: dict[str, dict[str, Any]], **variables: Any) -> tuple[bool, str]:
    """Return whether a cluster of a head ``h`` and a worker ``w`` passes, and what Ansible printed."""
    stubs = Stubs(directory, {"head": ["h"], "workers": ["w"]}, {"modelserve_firewall": True, **variables})
    for name in ("h", "w"):
        stubs.write_facts(name, facts(**of_hosts.get(name, {})))
    plays = [{"ansible.builtin.import_playbook": str(ROOT / "playbooks" / "plays" / name)} for name in PLAYS]
    (directory / "preflight.yml").write_text(json.dumps(plays))
    addresses = {name: {"modelserve_node_ip": f"10.0.0.{number}"} for number, name in enumerate(("h", "w"), 5)}
    extra = {"modelserve_project": str(ROOT), "modelserve_source": str(ROOT), "modelserve_gpus": 4}
    result = stubs.run(str(directory / "preflight.yml"), "-e", json.dumps(extra), of_hosts=addresses)
    assert "Checks of" in result.stdout, words(result)
    return result.returncode == 0, words(result)


def test_a_good_cluster_passes(tmp_path: Path) -> None:
    passes, text = preflight(tmp_path, {})
    assert passes, text
    assert "address 10.0.0.5 ok" in text and "address 10.0.0.6 ok" in text
    assert "CLOSED" not in text and "reaches" not in text


def test_an_address_must_be_on_its_host_and_hosts_must_reach_each_other(tmp_path: Path) -> None:
    worker = {"network__address_is_here": False, "network__addresses": ["10.1.0.6"], "network__unreachable": ["h"]}
    passes, text = preflight(tmp_path, {"w": worker})
    assert not passes
    assert "w: address: found 10.0.0.6, not on this host, which has 10.1.0.6. Set modelserve_node_ip of w" in text
    assert "w: reaches h: found no answer from 10.0.0.5. Let w reach h" in text


def test_services_that_the_firewall_closes_are_listed_with_how_to_keep_each_open(tmp_path: Path) -> None:
    services = [
        {"protocol": "tcp", "port": 22, "by": "sshd"},
        {"protocol": "tcp", "port": 5432, "by": "postgres"},
        {"protocol": "udp", "port": 161, "by": "snmpd"},
        {"protocol": "tcp", "port": 9100, "by": "node_exporter"},
        {"protocol": "udp", "port": 5005, "by": "ours"},
    ]
    opened = [9100, {"port": "5000-5010", "protocol": "udp"}]
    head = {"network__services": services, "network__firewalls": ["ufw"]}
    passes, text = preflight(tmp_path, {"h": head}, firewall_open_ports=opened)
    assert passes, text
    assert text.count("CLOSED") == 2
    assert "service postgres on 5432/tcp" in text and "firewall_open_ports: [5432]" in text
    assert "service snmpd on 161/udp" in text and "firewall_open_ports: [{port: 161, protocol: udp}]" in text
    assert "ufw is active" in text and "ACTIVE" in text


def test_without_the_firewall_no_service_is_closed(tmp_path: Path) -> None:
    head = {"network__services": [{"protocol": "tcp", "port": 5432, "by": "postgres"}]}
    passes, text = preflight(tmp_path, {"h": head}, modelserve_firewall=False)
    assert passes and "postgres" not in text


FIRST = {"images": [], "home__token_sha256": ""}


@pytest.mark.parametrize(
    ("host", "passes", "line"),
    [
        (
            {**FIRST, "disk_free_mb": 5900},
            False,
            "h: disk at {home}: found 5900 MiB free. At least 6000 MiB are needed",
        ),
        (
            {**FIRST, "docker__root_free_mb": 2000},
            False,
            "h: disk at /var/lib/docker: found 2000 MiB free. At least 3000",
        ),
        ({**FIRST, "docker__root_free_mb": 2000, "docker__root_on_home_disk": True}, True, ""),
        ({"disk_free_mb": 5900}, True, "5900 MiB free ok"),
        ({"disk_free_mb": 10}, True, "10 MiB free: builds and deploys may fail for want of space LOW"),
        ({"docker__root_free_mb": 0}, True, "0 MiB free: builds and deploys may fail for want of space LOW"),
    ],
)
def test_the_space_of_a_first_run_stops_no_later_run(
    tmp_path: Path, host: dict[str, Any], passes: bool, line: str
) -> None:
    passed, text = preflight(tmp_path, {"h": host})
    assert passed == passes, text
    assert line.format(home=tmp_path / "h") in text, text
