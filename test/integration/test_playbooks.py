"""What the playbooks reach and accept, as Ansible itself reads them: groups, order of hosts, validated settings."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("modelserve_all", "modelserve_head", "modelserve_nodes", "modelserve_gateways")
# groups of the inventory, --limit; members of GROUPS
CLUSTERS: dict[str, tuple[dict[str, list[str]], str, tuple[list[str], ...]]] = {
    "one_machine": ({"head": ["local"]}, "", (["local"], ["local"], ["local"], ["local"])),
    "limited_to_a_worker": (
        {"head": ["h"], "workers": ["w1", "w2"], "other": ["x"]},
        "w2",
        (["h", "w1", "w2"], ["h"], ["h", "w1", "w2"], ["h"]),
    ),
    "gateways_elsewhere": (
        {"head": ["h"], "workers": ["w1"], "gateway": ["g", "w1"]},
        "",
        (["h", "w1", "g"], ["h"], ["h", "w1"], ["w1", "g"]),
    ),
}
# a host's settings, and why they are refused
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "w1": ({"modelserve_keep_releases": "many"}, "argument 'modelserve_keep_releases' is of type str"),
    "w2": ({"modelserve_keys": [{"key": "x" * 32}]}, "missing required arguments: name found in modelserve_keys"),
    "w3": ({"docker_install": "perhaps"}, "argument 'docker_install' is of type str"),
    "w4": ({"ray_node_role": "leader"}, "value of ray_node_role must be one of: head, worker, got: leader"),
}


def ansible(
    directory: Path,
    groups: dict[str, list[str]],
    plays: list[dict[str, Any]],
    *options: str,
    variables: dict[str, dict[str, Any]] | None = None,
) -> str:
    """Run plays after those of ``plays/groups.yml``, on hosts that are this machine; returns what Ansible printed."""
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    children = {
        group: {"hosts": {name: host | (variables or {}).get(name, {}) for name in names}}
        for group, names in groups.items()
    }
    (directory / "hosts.json").write_text(json.dumps({"all": {"children": children}}))
    start = {"ansible.builtin.import_playbook": str(ROOT / "playbooks" / "plays" / "groups.yml")}
    (directory / "play.yml").write_text(json.dumps([start, *plays]))
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    command = [program, "-i", str(directory / "hosts.json"), str(directory / "play.yml"), *options]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=directory, timeout=120
    )
    return result.stdout + result.stderr


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_groups_hold_each_host_by_what_it_does(tmp_path: Path, name: str) -> None:
    groups, limit, members = CLUSTERS[name]
    write = {
        "content": f"{{{{ {list(GROUPS)} | map('extract', groups) | to_json }}}}",
        "dest": str(tmp_path / "groups.json"),
        "mode": "0600",
    }
    play = {
        "hosts": "modelserve_all",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.copy": write, "run_once": True}],
    }
    text = ansible(tmp_path, groups, [play], *(["--limit", limit] if limit else []))
    assert "WARNING" not in text, text
    assert tuple(json.loads((tmp_path / "groups.json").read_text())) == members


def test_the_head_is_restarted_last(tmp_path: Path) -> None:
    plays = yaml.safe_load((ROOT / "playbooks" / "restart.yml").read_text())
    restart = next(play for play in plays if play["name"] == "Restart")
    play = {key: restart[key] for key in ("hosts", "order", "serial")}
    play |= {"gather_facts": False, "tasks": [{"ansible.builtin.debug": {"msg": "restarted"}}]}
    text = ansible(tmp_path, CLUSTERS["limited_to_a_worker"][0], [play])
    assert re.findall(r"ok: \[(\w+)\] => \n\s+msg: restarted", text) == ["w2", "w1", "h"], text


def test_a_wrong_setting_of_any_role_stops_the_run(tmp_path: Path) -> None:
    play = {"ansible.builtin.import_playbook": str(ROOT / "playbooks" / "plays" / "settings.yml")}
    variables = {name: settings for name, (settings, _) in WRONG.items()}
    text = ansible(tmp_path, {"head": ["h"], "workers": list(WRONG)}, [play], variables=variables)
    recap = dict(re.findall(r"^(\w+) +: ok=\d+ .* failed=(\d)", text, flags=re.MULTILINE))
    assert recap == {"h": "0"} | dict.fromkeys(WRONG, "1"), text
    for _, message in WRONG.values():
        assert message in re.sub(r"\s+", " ", text), text


def test_one_task_validates_all_settings() -> None:
    plays = [play for path in sorted((ROOT / "playbooks").rglob("*.yml")) for play in yaml.safe_load(path.read_text())]
    listed = [role["role"] for play in plays for role in play.get("roles", [])]
    assert set(listed) == {"modelserve"}, "a role listed in a play is validated by a task of its own"
    main = yaml.safe_load((ROOT / "roles" / "modelserve" / "meta" / "argument_specs.yml").read_text())
    assert "main" not in main["argument_specs"]


def test_no_play_gathers_ansible_s_own_facts() -> None:
    """In a collection this project's ansible.cfg does not apply: a play that says nothing would gather them."""
    for path in sorted((ROOT / "playbooks").rglob("*.yml")):
        plays = [play for play in yaml.safe_load(path.read_text()) if "hosts" in play]
        assert all(play["gather_facts"] is False for play in plays), path


def test_an_inventory_with_problems_stops_the_run_and_all_are_named(tmp_path: Path) -> None:
    play = {"ansible.builtin.import_playbook": str(ROOT / "playbooks" / "plays" / "settings.yml")}
    groups = {"head": ["a", "b"], "workers": ["a", "w@1"]}
    variables = {"a": {"modelserve_image_tag": "site:1"}, "w@1": {"modelserve_gpus": "many"}}
    text = re.sub(r"\s+", " ", ansible(tmp_path, groups, [play], variables=variables))
    for line in (
        "The inventory has problems; nothing was changed",
        "the group head has 2 hosts (a, b)",
        "a is in the groups head and workers",
        "w@1 is no name for a host",
        "w@1: modelserve_gpus is 'many'",
        "a: modelserve_image_tag is set by each run itself",
    ):
        assert line in text, text


def test_a_group_head_without_a_host_is_explained(tmp_path: Path) -> None:
    play = {"ansible.builtin.import_playbook": str(ROOT / "playbooks" / "plays" / "settings.yml")}
    text = ansible(tmp_path, {"head": [], "workers": ["w1"]}, [play])
    assert "the group head has no host: put one host into it" in re.sub(r"\s+", " ", text), text


def test_a_dry_run_shows_no_secret_of_conf_ini(tmp_path: Path) -> None:
    tasks = yaml.safe_load((ROOT / "roles" / "serve_deploy" / "tasks" / "main.yml").read_text())
    task = next(task for task in tasks if task["name"] == "Write conf.ini")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "conf.ini").write_text("[algopkg.Echo]\nenv.TOKEN = new-secret\n")
    (tmp_path / "conf.ini").write_text("[algopkg.Echo]\nenv.TOKEN = old-secret\n")
    settings = {
        "modelserve_home": str(tmp_path),
        "modelserve_project": str(tmp_path / "project"),
        "modelserve_user": "0",
    }
    play = {"hosts": "modelserve_all", "gather_facts": False, "tasks": [task], "vars": settings}
    text = ansible(tmp_path, {"head": ["h"]}, [play], "--check", "--diff")
    assert "changed=1" in text, text
    assert "secret" not in text
