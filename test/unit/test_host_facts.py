"""What is known of a host before anything is changed on it: whose the data directory is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import ansible.module_utils
import pytest

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
