"""The firewall follows what is served: both ports are open while the gateways move, on all of them, also back again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stub_inventory import ROOT, Stubs, facts

pytestmark = pytest.mark.long

PLAYS = ("groups.yml", "deploy.yml")
OLD, NEW = 666, 667
# Each host has a port of its own, which identifies its rules.
OF_HOSTS = {"h": {"firewall_open_ports": [1]}, "g": {"firewall_open_ports": [2]}, "w": {"firewall_open_ports": [3]}}
DOCKER = """#!/bin/sh
case "$*" in
    *" releases --json") echo '{releases}' ;;
    *" rollback --json"*) echo '{{"changed": true}}'; exit {code} ;;
esac
"""


def open_ports(host: int, *ports: int) -> str:
    return ", ".join(map(str, sorted((host, 22, *ports))))


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    groups = {"head": ["h"], "workers": ["w"], "gateway": ["h", "g"]}
    stubs = Stubs(tmp_path, groups, {"modelserve_firewall": True, "modelserve_gateway_bind": ["*"]})
    for name in ("h", "g", "w"):
        stubs.write_facts(name, facts(home__served_port=0 if name == "w" else OLD))
    return stubs


def deploy(stubs: Stubs, port: int, fails: bool = False) -> int:
    """Run the plays of a deploy whose apply succeeds or fails; return Ansible's exit code."""
    tasks = stubs.directory / "roles" / "serve_deploy" / "tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    task = {"ansible.builtin.fail": {"msg": "refused"}} if fails else {"ansible.builtin.debug": {"msg": "applied"}}
    (tasks / "main.yml").write_text(json.dumps([{"name": "Apply", **task}]))
    plays = [{"ansible.builtin.import_playbook": str(ROOT / "playbooks" / "plays" / name)} for name in PLAYS]
    (stubs.directory / "deploy.yml").write_text(json.dumps(plays))
    extra = json.dumps({"modelserve_project_facts": {"port": port, "secrets": []}})  # in place of the project's check
    return stubs.run(str(stubs.directory / "deploy.yml"), "-e", extra, of_hosts=OF_HOSTS).returncode


def rollback(stubs: Stubs, *options: str, code: int = 0) -> int:
    """Roll back, from release 8 on the new port to release 7 on the old one; return Ansible's exit code."""
    releases = [{"number": 8, "served": {"port": OLD}}, {"number": 7, "served": {"port": NEW}}]
    docker = stubs.directory / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER.format(releases=json.dumps({"releases": releases}), code=code))
    docker.chmod(0o755)
    return stubs.run("rollback.yml", *options, of_hosts=OF_HOSTS).returncode


BOTH = {open_ports(1, OLD, NEW), open_ports(2, OLD, NEW)}
ONLY_NEW = {open_ports(1, NEW), open_ports(2, NEW)}


def test_a_deploy_opens_the_new_port_on_all_gateways_and_closes_the_old_one_after_it(stubs: Stubs) -> None:
    assert deploy(stubs, NEW) == 0
    loads = stubs.loaded()
    assert (set(loads[:2]), set(loads[2:])) == (BOTH, ONLY_NEW)


def test_a_failed_deploy_leaves_the_served_port_open(stubs: Stubs) -> None:
    assert deploy(stubs, NEW, fails=True) != 0
    assert len(stubs.loaded()) == 2 and set(stubs.loaded()) == BOTH


def test_a_deploy_without_another_port_loads_rules_once(stubs: Stubs) -> None:
    assert deploy(stubs, OLD) == 0
    assert sorted(stubs.loaded()) == sorted([open_ports(1, OLD), open_ports(2, OLD)])


@pytest.mark.parametrize("options", [[], ["-e", "release=7"]])
def test_a_rollback_opens_the_release_s_port_and_closes_the_other_after_it(stubs: Stubs, options: list[str]) -> None:
    assert rollback(stubs, *options) == 0
    loads = stubs.loaded()
    assert (set(loads[:2]), set(loads[2:])) == (BOTH, ONLY_NEW)


def test_a_failed_rollback_leaves_the_served_port_open(stubs: Stubs) -> None:
    assert rollback(stubs, code=1) != 0
    assert len(stubs.loaded()) == 2 and set(stubs.loaded()) == BOTH


def test_a_rollback_to_the_same_port_leaves_the_firewall_alone(stubs: Stubs) -> None:
    assert rollback(stubs, "-e", "release=8") == 0
    assert stubs.loaded() == []
