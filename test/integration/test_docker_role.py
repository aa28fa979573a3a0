"""The role docker: what it installs on a host, as Ansible itself evaluates the role's variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEBIAN_13 = {"id": "debian", "like": [], "version": "13"}
DEBIAN_12 = {"id": "debian", "like": [], "version": "12"}
UBUNTU = {"id": "ubuntu", "like": ["debian"], "version": "24.04"}
TOOLS = ["python3-requests", "rsync"]
# distribution, engine answers, dockerd is there, Python has requests, rsync is there; what is installed
HOSTS: dict[str, tuple[dict[str, Any], bool, bool, bool, bool, list[str]]] = {
    "bare_debian_13": (DEBIAN_13, False, False, False, False, ["docker.io", "iptables", "docker-cli", *TOOLS]),
    "bare_debian_12": (DEBIAN_12, False, False, False, False, ["docker.io", "iptables", *TOOLS]),
    "docker_answers": (UBUNTU, True, True, True, True, []),
    "docker_answers_without_rsync": (UBUNTU, True, True, True, False, ["rsync"]),
    "docker_answers_without_requests": (UBUNTU, True, True, False, True, ["python3-requests"]),
    "client_of_another_host_answers": (UBUNTU, True, False, False, False, TOOLS),
    "stopped": (UBUNTU, False, True, True, False, ["rsync"]),
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The packages that the role would install, by host."""
    directory = tmp_path_factory.mktemp("docker")
    inventory: dict[str, Any] = {}
    for name, (distribution, answers, dockerd, requests, rsync, _) in HOSTS.items():
        facts = {
            "distribution": distribution,
            "docker": {"reachable": answers},
            "commands": {
                "dockerd": "/usr/bin/dockerd" if dockerd else None,
                "rsync": "/usr/bin/rsync" if rsync else None,
            },
            "python_requests": requests,
        }
        inventory[name] = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "host": facts}
    (directory / "hosts.json").write_text(json.dumps({"all": {"hosts": inventory}}))
    kin = "{{ 'debian' if 'debian' in [host.distribution.id] + host.distribution.like else 'rhel' }}"
    play = {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.set_fact": {"modelserve_host": "{{ host }}", "cacheable": True}},
            {"ansible.builtin.include_vars": f"{ROOT}/roles/docker/vars/{kin}.yml"},
            {"ansible.builtin.include_vars": f"{ROOT}/roles/docker/vars/main.yml"},
            {
                "ansible.builtin.copy": {
                    "content": "{{ __docker_missing | to_json }}",
                    "dest": f"{directory}/{{{{ inventory_hostname }}}}",
                    "mode": "0600",
                }
            },
        ],
    }
    (directory / "play.yml").write_text(json.dumps([play]))
    ansible = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [ansible, "-i", str(directory / "hosts.json"), str(directory / "play.yml")]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=directory)
    assert result.returncode == 0, result.stdout + result.stderr
    return {name: json.loads((directory / name).read_text()) for name in HOSTS}


@pytest.mark.parametrize("name", HOSTS)
def test_only_what_is_missing_is_installed(installed: dict[str, list[str]], name: str) -> None:
    assert installed[name] == HOSTS[name][-1]
