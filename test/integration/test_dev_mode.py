"""modelserve_dev: the image's name does not depend on the package, and the containers mount the checkout's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
# Whether the package was edited, whether the Dockerfile was; each with and without modelserve_dev.
TREES = {"plain": (), "package": ("modelserve/__init__.py",), "dockerfile": ("image/Dockerfile",)}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What Ansible makes of each tree: the image's name, and what the containers mount beside their data."""
    directory = tmp_path_factory.mktemp("dev")
    inventory: dict[str, Any] = {}
    for tree, edited in TREES.items():
        source = directory / tree
        shutil.copytree(ROOT / "files", source / "files", ignore=shutil.ignore_patterns("__pycache__"))
        for name in edited:
            with (source / "files" / name).open("a") as stream:
                stream.write("# edited\n")
        for mode in (True, False):
            inventory[f"{tree}_{'dev' if mode else 'usual'}"] = {
                "modelserve_source": str(source),
                "modelserve_dev": mode,
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
            }
    inventory["remote"] = {"modelserve_dev": True}
    play(directory, inventory)
    return {name: json.loads((directory / f"{name}.json").read_text()) for name in inventory}


def play(directory: Path, inventory: dict[str, dict[str, Any]]) -> None:
    """Have Ansible write what it makes of each host into a file of the host's name."""
    (directory / "hosts.json").write_text(json.dumps({"all": {"hosts": inventory}}))
    facts = {"images": [], "certificates": {}, "commands": {"mmdebstrap": "/usr/bin/mmdebstrap"}}
    result = "{{ {'image': modelserve_image_tag | default(''), 'mounts': modelserve_package_mounts} }}"
    write = {
        "content": "{{ result | to_json }}",
        "dest": f"{directory}/{{{{ inventory_hostname }}}}.json",
        "mode": "0600",
    }
    tasks = {
        "hosts": "all",
        "gather_facts": False,
        "roles": ["modelserve"],
        "tasks": [
            {"ansible.builtin.set_fact": {"modelserve_host": facts, "cacheable": True}},
            {"ansible.builtin.include_role": {"name": "image"}, "when": "modelserve_is_local"},
            {"ansible.builtin.set_fact": {"result": result}},
            {
                "ansible.builtin.copy": write,
                "check_mode": False,
                "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
                "delegate_to": "localhost",
            },
        ],
    }
    (directory / "play.yml").write_text(json.dumps([tasks]))
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "--check", "-i", str(directory / "hosts.json"), str(directory / "play.yml")]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=directory, timeout=120
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_an_edited_package_gives_a_new_image_but_in_development(hosts: dict[str, dict[str, Any]]) -> None:
    image = {name: host["image"] for name, host in hosts.items()}
    assert image["plain_usual"] != image["package_usual"]
    assert image["plain_dev"] == image["package_dev"]
    assert image["plain_dev"] != image["dockerfile_dev"]
    assert image["plain_dev"] != image["plain_usual"]


def test_the_containers_mount_the_package_read_only_in_development(hosts: dict[str, dict[str, Any]]) -> None:
    assert hosts["plain_usual"]["mounts"] == []
    (mount,) = hosts["plain_dev"]["mounts"]
    assert mount.endswith("/plain/files/modelserve:/opt/lib/modelserve:ro")


def test_another_host_mounts_the_copy_that_it_gets(hosts: dict[str, dict[str, Any]]) -> None:
    assert hosts["remote"]["mounts"] == ["/opt/modelserve/dev/modelserve:/opt/lib/modelserve:ro"]


@pytest.mark.parametrize("role", ["ray_node", "gateway", "catalog", "store"])
def test_every_container_of_modelserve_can_mount_it(role: str) -> None:
    runs = [path for path in sorted((ROOT / "roles" / role / "tasks").glob("*.yml")) if "image: " in path.read_text()]
    variables = (ROOT / "roles" / role / "vars" / "main.yml").read_text()
    assert runs
    for path in runs:
        assert "modelserve_package_mounts" in path.read_text() or "modelserve_package_mounts" in variables, path
