"""The image's name with Debian packages: one more part for each layer, and without any the name of before."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from modelserve import hashing

ROOT = Path(__file__).resolve().parents[2]
NO_PACKAGES = ROOT / "test" / "unit" / "data"  # no directory algopkg
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "variable": {"modelserve_debian_packages": ["ffmpeg", "libgl1"]},
    "twice": {"modelserve_debian_packages": ["libgl1", "ffmpeg", "libgl1"]},
    "build": {"modelserve_build_packages": ["build-essential"]},
    "both": {"modelserve_debian_packages": ["ffmpeg", "libgl1"], "modelserve_build_packages": ["build-essential"]},
    "mirror": {"modelserve_python": "3.12", "modelserve_python_mirror": "https://mirror.example"},
}
RESULT = {
    "image": "{{ modelserve_image_tag }}",
    "head": "{{ modelserve_head_image_tag }}",
    "container": "{{ __ray_node_from.image }}",
    "named": "{{ __ray_node_from.env.MODELSERVE_IMAGE }}",
}


pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What each host's settings make of the names."""
    directory = tmp_path_factory.mktemp("names")
    project = directory / "project" / "algopkg" / "OCR"
    project.mkdir(parents=True)
    (project / "packages.txt").write_text("libgl1 # for cv2\nffmpeg\n")
    local = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "modelserve_source": str(ROOT),
        "modelserve_project": str(NO_PACKAGES),
    }
    hosts = {name: {**local, "modelserve_head": name, **settings} for name, settings in SETTINGS.items()}
    hosts["package"] = {**local, "modelserve_head": "package", "modelserve_project": str(project.parents[1])}
    hosts["wrong"] = {**local, "modelserve_head": "wrong", "modelserve_debian_packages": ["libgl1=1"]}
    (directory / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    facts = {"images": [], "certificates": {}, "commands": {"mmdebstrap": "/usr/bin/mmdebstrap"}, "containers": {}}
    facts |= {"gpus": [], "nvidia": {}, "home": {}}
    variables = f"{ROOT}/roles/ray_node/vars/main.yml"
    defaults = f"{ROOT}/roles/ray_node/defaults/main.yml"
    tasks = [
        {"ansible.builtin.set_fact": {"modelserve_host": facts, "cacheable": True}},
        {"ansible.builtin.include_role": {"name": "image"}},
        {"ansible.builtin.include_vars": defaults},
        {"ansible.builtin.include_vars": variables},
        {
            "ansible.builtin.copy": {
                "content": "{{ result | to_json }}",
                "dest": f"{directory}/{{{{ inventory_hostname }}}}.json",
                "mode": "0600",
            },
            "vars": {"result": RESULT},
            "check_mode": False,
        },
    ]
    play = {"hosts": "all", "gather_facts": False, "roles": ["modelserve"], "tasks": tasks}
    (directory / "play.yml").write_text(json.dumps([play]))
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "--check", "-i", str(directory / "hosts.json"), str(directory / "play.yml")]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=directory, timeout=120
    )
    assert "'libgl1=1' names more than a package" in ran.stdout, ran.stdout + ran.stderr
    return {name: json.loads((directory / f"{name}.json").read_text()) for name in hosts if name != "wrong"}


def test_without_packages_the_name_is_made_as_before(names: dict[str, dict[str, str]]) -> None:
    content = {
        "files": hashing.of_tree(ROOT / "files"),
        "base": ["trixie", "", ""],
        "python": ["", []],
        "certificates": [],
    }
    expected = "modelserve:" + hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
    assert set(names["plain"].values()) == {expected}


def test_the_order_and_the_place_of_the_names_make_no_other_image(names: dict[str, dict[str, str]]) -> None:
    image = names["variable"]["image"]
    assert image.startswith(names["plain"]["image"] + "-")
    assert names["twice"] == names["variable"] == names["package"]
    assert set(names["variable"].values()) == {image}


def test_the_head_alone_runs_the_layer_for_builds(names: dict[str, dict[str, str]]) -> None:
    for name, below in (("build", "plain"), ("both", "variable")):
        host = names[name]
        assert host["image"] == host["named"] == names[below]["image"], (
            "the workers', and the name by which they compare"
        )
        assert host["head"] == host["container"]
        assert host["head"].startswith(f"{host['image']}-build-")
    assert names["mirror"]["image"] != names["plain"]["image"]
