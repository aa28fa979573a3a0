"""The role docker: what it installs on a host, as Ansible itself evaluates the role's variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

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


INSTALLERS = ("ansible.builtin.package", "ansible.builtin.apt", "ansible.builtin.dnf", "ansible.builtin.yum")


def tasks_in(document: Any) -> list[dict[str, Any]]:
    """Return all tasks of a file, those in blocks too."""
    tasks = [task for task in document or [] if isinstance(task, dict)]
    nested = [inner for task in tasks for part in ("block", "rescue", "always") for inner in tasks_in(task.get(part))]
    return tasks + nested


def test_no_installation_removes_a_package_of_the_host() -> None:
    """One file installs, and tells apt to remove nothing. GPU drivers, which one asks for, replace each other."""
    for path in sorted((ROOT / "roles").glob("*/tasks/*.yml")):
        for task in tasks_in(yaml.safe_load(path.read_text())):
            options = next((task[module] for module in INSTALLERS if module in task), None)
            if options is not None and path.parts[-3] != "nvidia":
                assert path.relative_to(ROOT / "roles").as_posix() == "modelserve/tasks/install_packages.yml", path
                if "ansible.builtin.apt" in task:
                    assert options["fail_on_autoremove"] is options["force_apt_get"] is True


@pytest.mark.parametrize("kind", ["podman", "snap", "rootless", "userns-remap"])
def test_a_docker_that_cannot_be_used_is_refused_before_anything_is_installed(tmp_path: Path, kind: str) -> None:
    facts = {"docker": {"reachable": True, "unsuitable": kind}}
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "roles": ["modelserve"],
        "tasks": [
            {"ansible.builtin.set_fact": {"modelserve_host": facts, "cacheable": True}},
            {"ansible.builtin.import_role": {"name": "docker"}},
        ],
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    ansible = str(Path(sys.executable).with_name("ansible-playbook"))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_ROLES_PATH": str(ROOT / "roles")}
    command = [ansible, "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    said = " ".join(result.stdout.split())
    assert result.returncode == 2 and f"localhost: Docker is {kind}. " in said, said
    assert "Install what is missing" not in said
