"""What the playbooks reach and accept, as Ansible itself reads them: groups, order of hosts, validated settings."""

from __future__ import annotations

import json
import os
import re
import shlex
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
    path: str = "/usr/bin",
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
    environment["PATH"] = f"{path}:{environment['PATH']}"
    command = [program, "-i", str(directory / "hosts.json"), str(directory / "play.yml"), *options]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=directory, timeout=120
    )
    return result.stdout + result.stderr


@pytest.mark.parametrize(
    "name",
    [
        "limited_to_a_worker",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("one_machine", "gateways_elsewhere")),
    ],
)
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


@pytest.mark.parametrize(
    ("groups", "order"),
    [
        (CLUSTERS["limited_to_a_worker"][0], ["w2", "w1", "h"]),
        ({"workers": ["a", "z"], "head": ["m"]}, ["z", "a", "m"]),
    ],
)
def test_the_head_is_restarted_last(tmp_path: Path, groups: dict[str, list[str]], order: list[str]) -> None:
    plays = yaml.safe_load((ROOT / "playbooks" / "restart.yml").read_text())
    restart = next(play for play in plays if play["name"] == "Restart")
    play = {key: restart[key] for key in ("hosts", "order", "serial")}
    play |= {"gather_facts": False, "tasks": [{"ansible.builtin.debug": {"msg": "restarted"}}]}
    text = ansible(tmp_path, groups, [play])
    assert re.findall(r"ok: \[(\w+)\] => \n\s+msg: restarted", text) == order, text


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


PULL = """\
#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(argument_spec={"retries": {"type": "int"}})
module.exit_json(changed=True, fetched=3 << 20, retries=module.params["retries"])
"""


def test_image_pulls_are_counted(tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "modelserve_image_load.py").write_text(PULL)
    task = {"modelserve_image_load": {"retries": "{{ 2 if inventory_hostname == 'w1' else 0 }}"}}
    play = {"hosts": "w*", "gather_facts": False, "tasks": [task, {"ansible.builtin.meta": "noop"}]}
    text = ansible(tmp_path, {"head": ["h"], "workers": ["w1", "w2", "w3"]}, [play])
    counts = re.findall(r"^  (\d of 3) hosts have the image \((.*)\)$", text, flags=re.MULTILINE)
    assert [count for count, _ in counts] == ["1 of 3", "2 of 3", "3 of 3"], text
    assert sorted(details for _, details in counts) == [
        "3.0 MiB fetched",
        "3.0 MiB fetched",
        "3.0 MiB fetched, the store asked again 2 times",
    ]


NOWHERE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


def failed(text: str) -> dict[str, tuple[str, str]]:
    """Return each host's counts of failed tasks and of attempts to reach it in vain."""
    rows = re.findall(r"^(\w+) +: ok=\d+ .* unreachable=(\d) .*failed=(\d)", text, flags=re.MULTILINE)
    return {name: (failures, unreachable) for name, unreachable, failures in rows}


@pytest.mark.parametrize(
    ("off", "counts"), [("h", {"h": ("0", "1"), "w1": ("1", "0")}), ("w1", {"h": ("0", "0"), "w1": ("0", "1")})]
)
def test_a_head_that_is_off_stops_the_run_and_a_worker_does_not(
    tmp_path: Path, off: str, counts: dict[str, tuple[str, str]]
) -> None:
    head = {"name": "Head", "ansible.builtin.import_role": {"name": "modelserve", "tasks_from": "require_head.yml"}}
    change = {"name": "Change the host", "ansible.builtin.debug": {"msg": "changed"}}
    tasks = [{"name": "Look", "ansible.builtin.ping": {}}, head, change]
    play = {"hosts": "modelserve_all", "gather_facts": False, "roles": ["modelserve"], "tasks": tasks}
    text = ansible(tmp_path, {"head": ["h"], "workers": ["w1"]}, [play], variables={off: NOWHERE})
    assert failed(text) == counts, text
    assert ("h, the head, does not answer" in text) is (off == "h")
    assert ("Change the host" in text) is (off != "h")


def test_nothing_is_changed_before_the_head_is_known_to_answer() -> None:
    preflight = yaml.safe_load((ROOT / "roles/preflight/tasks/main.yml").read_text())
    (hosts,) = yaml.safe_load((ROOT / "playbooks/plays/hosts.yml").read_text())
    for tasks in (preflight, hosts["tasks"]):
        keys = ("ansible.builtin.import_role", "ansible.builtin.include_role")
        included = [task.get(keys[0], task.get(keys[1], {})) for task in tasks]
        asked = next(number for number, role in enumerate(included) if role.get("tasks_from") == "require_head.yml")
        assert {role["name"] for role in included[:asked] if role} <= {"host_facts", "preflight"}


def stub(directory: Path, name: str, lines: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{lines}\n")
    (directory / name).chmod(0o755)


def test_docker_is_restarted_on_one_host_at_a_time_and_drained(tmp_path: Path) -> None:
    log = shlex.quote(str(tmp_path / "log"))
    stub(tmp_path / "bin", "systemctl", f"echo restart >>{log}; sleep 0.3")
    stub(tmp_path / "bin", "docker", f'[ "$1" = inspect ] && echo true || echo "$*" >>{log}')
    stub(tmp_path / "bin", "nvidia-ctk", "true")
    tasks = yaml.safe_load((ROOT / "roles/nvidia/tasks/toolkit.yml").read_text())
    configure = [task for task in tasks if task["name"].startswith(("Configure Docker", "Note what"))]
    facts = {"systemd": True, "containers": {"modelserve_worker_w1": {"running": True}}, "nvidia": {"ways": []}}
    load = {"ansible.builtin.import_role": {"name": "nvidia"}, "vars": {"modelserve_gpus": "none"}}
    play = with_facts(load, "{{ host }}")
    play["tasks"] += [{"ansible.builtin.include_vars": str(ROOT / "roles/nvidia/vars/main.yml")}, *configure]
    groups = {"head": ["h"], "workers": ["w1", "w2", "w3"]}
    variables = {name: {"host": facts} for name in ("h", "w1", "w2")}
    variables["w3"] = {"host": facts | {"nvidia": {"ways": ["runtime"]}}}  # Docker knows the runtime there
    text = ansible(tmp_path, groups, [play], variables=variables, path=f"{tmp_path}/bin")
    wait = "modelserve node health --role"
    assert (tmp_path / "log").read_text().splitlines() == [
        "exec modelserve_head modelserve drain w1 --timeout 300",
        "restart",
        f"exec modelserve_worker_w1 {wait} worker --wait 120",
        "exec modelserve_head modelserve status --wait 120",
        "restart",
        f"exec modelserve_worker_w2 {wait} worker --wait 120",
        "restart",
        f"exec modelserve_head {wait} head --wait 120",
    ], text


def with_facts(task: dict[str, Any], facts: str) -> dict[str, Any]:
    """Return a play of one task on hosts whose facts are a variable of theirs."""
    first = {"ansible.builtin.set_fact": {"modelserve_host": facts, "cacheable": True}}
    return {"hosts": "modelserve_all", "gather_facts": False, "roles": ["modelserve"], "tasks": [first, task]}


def test_a_host_that_is_no_gateway_any_more_loses_its_gateway(tmp_path: Path) -> None:
    plays = yaml.safe_load((ROOT / "playbooks/plays/gateway.yml").read_text())
    without = next(play for play in plays if play["name"] == "Hosts without a gateway")
    (remove,) = [task for task in without["tasks"] if "ansible.builtin.include_role" in task]
    assert remove["ansible.builtin.include_role"] == {"name": "gateway", "tasks_from": "absent.yml"}
    play = with_facts({"ansible.builtin.debug": {"msg": "removed"}, "when": remove["when"]}, "{{ host }}")
    play["hosts"] = without["hosts"]
    container = {"modelserve_gateway": {"running": True}}
    states = {
        "h": {"containers": container, "home": {"gateway": True}},
        "member": {"containers": container, "home": {"gateway": True}},
        "former": {"containers": container, "home": {"gateway": True}},
        "its_files": {"containers": {}, "home": {"gateway": True}},
        "never": {"containers": {"modelserve_worker_never": {"running": True}}, "home": {"gateway": False}},
    }
    groups = {"head": ["h"], "workers": ["member", "former", "its_files", "never"], "gateway": ["member"]}
    text = ansible(tmp_path, groups, [play], variables={name: {"host": state} for name, state in states.items()})
    assert sorted(re.findall(r"ok: \[(\w+)\] => \n\s+msg: removed", text)) == ["former", "its_files"], text


def test_a_gateway_is_replaced_after_its_requests_and_after_the_one_before() -> None:
    tasks = yaml.safe_load((ROOT / "roles/gateway/tasks/main.yml").read_text())
    replace = next(task for task in tasks if task["name"].startswith("Replace the gateway"))
    assert replace["ansible.builtin.include_tasks"]["apply"] == {"throttle": 1}
    assert replace["vars"] == {"__gateway_state": "healthy"}
    (run,) = yaml.safe_load((ROOT / "roles/gateway/tasks/run.yml").read_text())
    options = run["community.docker.docker_container"]
    variables = yaml.safe_load((ROOT / "roles/gateway/vars/main.yml").read_text())
    assert options["stop_signal"] == "{{ __gateway_from.stop_signal }}"
    assert variables["__gateway_from"]["stop_signal"] == "SIGUSR1"
    assert "gateway_stop_timeout" in options["stop_timeout"]


def test_containers_with_a_former_token_are_restarted(tmp_path: Path) -> None:
    stub(tmp_path / "bin", "docker", f'echo "$*" >>{shlex.quote(str(tmp_path))}/asked')
    task = {"ansible.builtin.import_role": {"name": "cluster_secrets", "tasks_from": "former.yml"}}
    play = with_facts(task, "{{ host }}")
    former = {
        "h": [],
        "w1": ["foreign", "modelserve_worker_w1"],
        "w2": ["modelserve_gateway", "modelserve_gateway_sync"],
    }
    variables = {name: {"host": {"former_token": names}} for name, names in former.items()}
    groups = {"head": ["h"], "workers": ["w1", "w2"]}
    text = ansible(tmp_path, groups, [play], variables=variables, path=f"{tmp_path}/bin")
    assert sorted((tmp_path / "asked").read_text().splitlines()) == [
        "exec modelserve_worker_w1 modelserve node health --role worker --wait 120",
        "restart --time 10 modelserve_gateway_sync",
        "restart --time 10 modelserve_worker_w1",
    ], text


# files of modelserve_home, the check; what the run says
KEPT: dict[str, tuple[dict[str, str], str, str]] = {
    "of_another_inventory": (
        {".modelserve": "head: head_node\n"},
        "check",
        "belongs to the cluster of head_node, and in this inventory the head is h",
    ),
    "down": ({".modelserve": "head: head_node\n"}, "inventory", "Give the inventory that installed it"),
    "foreign": ({"photos": "x"}, "check", "holds files that modelserve did not make"),
    "unmarked": ({"image/files/modelserve/__init__.py": ""}, "check", "has no marker"),
    "own": ({".modelserve": "head: h\n"}, "check", ""),
    "of_a_version_before": ({".modelserve": "Made by modelserve\n"}, "check", ""),
}


@pytest.mark.parametrize("name", KEPT)
def test_only_what_this_inventory_installed_is_removed(tmp_path: Path, name: str) -> None:
    files, check, message = KEPT[name]
    for file, content in files.items():
        path = tmp_path / "home" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    stub(tmp_path / "bin", "docker", "exit 1")
    play = {
        "hosts": "modelserve_all",
        "gather_facts": False,
        "roles": ["modelserve"],
        "vars": {"modelserve_home": str(tmp_path / "home")},
        "tasks": [
            {"ansible.builtin.import_role": {"name": "host_facts", "tasks_from": "read.yml"}},
            {"ansible.builtin.import_role": {"name": "remove", "tasks_from": f"{check}.yml"}},
        ],
        "environment": {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"},
    }
    text = ansible(tmp_path, {"head": ["h"]}, [play])
    assert failed(text)["h"] == ("1" if message else "0", "0"), text
    assert message in re.sub(r"\s+", " ", text), text


@pytest.mark.parametrize(("playbook", "check", "before"), [("purge", "check", "Ask"), ("down", "inventory", "Remove")])
def test_a_removal_is_checked_before_anything_goes(playbook: str, check: str, before: str) -> None:
    plays = yaml.safe_load((ROOT / "playbooks" / f"{playbook}.yml").read_text())
    (tasks,) = [play["tasks"] for play in plays if "tasks" in play]
    names = [task.get("ansible.builtin.import_role", {}).get("tasks_from") for task in tasks]
    first = next(number for number, task in enumerate(tasks) if task["name"].startswith(before))
    assert f"{check}.yml" in names[:first]


def test_a_removal_stops_on_every_host_when_one_is_not_this_cluster_s() -> None:
    for file in ("check", "inventory"):
        for task in yaml.safe_load((ROOT / f"roles/remove/tasks/{file}.yml").read_text()):
            assert "ansible.builtin.assert" not in task or task["any_errors_fatal"] is True


def test_preflight_refuses_a_docker_that_modelserve_cannot_use(tmp_path: Path) -> None:
    stub(tmp_path / "bin", "docker", 'exec podman "$@"')
    play = {"ansible.builtin.import_playbook": str(ROOT / "playbooks" / "plays" / "preflight.yml")}
    variables = {"h": {"modelserve_home": str(tmp_path / "home"), "ansible_become": False}}
    text = ansible(tmp_path, {"head": ["h"]}, [play], variables=variables, path=f"{tmp_path}/bin")
    assert re.search(r"Docker +podman +FAILED", text), text
    assert "Remove the package podman-docker and install Docker Engine" in re.sub(r"\s+", " ", text), text


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


@pytest.mark.long
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


def run_secrets(directory: Path, secrets: Any, *options: str, uses: str = "hf_token") -> str:
    """Run the check of a project's secrets and the task that brings them, on a head at ``directory``."""
    tasks = yaml.safe_load((ROOT / "roles" / "serve_deploy" / "tasks" / "main.yml").read_text())
    task = next(task for task in tasks if task["name"] == "Bring the values of the inventory's secrets")
    names = [path.name for path in (directory / "secrets" / "values").glob("*")]
    home = {"secrets": names, "inventory_secrets": (directory / "secrets" / "inventory.json").exists()}
    facts = {"modelserve_host": {"home": home}}
    settings = {
        "modelserve_home": str(directory),
        "modelserve_user": str(os.geteuid()),
        "modelserve_secrets": secrets,
        "modelserve_project_facts": {"secrets": [{"name": uses, "missing": f"secret.X: the cluster has no {uses}"}]},
        "__serve_deploy_secrets": yaml.safe_load((ROOT / "roles" / "serve_deploy" / "vars" / "main.yml").read_text())[
            "__serve_deploy_secrets"
        ],
    }
    check = {"ansible.builtin.import_tasks": str(ROOT / "roles" / "preflight" / "tasks" / "secrets.yml")}
    stub = directory / "library" / "modelserve_stub_facts.py"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text(
        "#!/usr/bin/python\nfrom ansible.module_utils.basic import AnsibleModule\n"
        "module = AnsibleModule({}, supports_check_mode=True)\n"
        f"module.exit_json(changed=False, ansible_facts={facts!r})\n"
    )
    play = {
        "hosts": "modelserve_all",
        "gather_facts": False,
        "roles": ["modelserve"],
        "vars": settings,
        "tasks": [{"modelserve_stub_facts": {}}, check, task],
    }
    return re.sub(r"\s+", " ", ansible(directory, {"head": ["h"]}, [play], *options))


def test_secrets_of_the_inventory_reach_the_head_and_no_output(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    file = tmp_path / "secrets" / "inventory.json"
    secrets = {"hf_token": "planted-4f9c1d7e", "number": 12345678, "empty": "", "none": None}
    dry = run_secrets(tmp_path, secrets, "--check", "--diff", "-vvv")
    assert "changed=1" in dry, dry
    assert not file.exists()
    text = run_secrets(tmp_path, secrets, "--diff", "-vvv")
    assert json.loads(file.read_text()) == {"hf_token": "planted-4f9c1d7e", "number": "12345678"}
    assert file.stat().st_mode & 0o777 == 0o600
    for output in (dry, text):
        assert "planted" not in output
        assert "12345678" not in output


@pytest.mark.long
def test_the_inventory_s_secrets_are_brought_once_and_follow_it(tmp_path: Path) -> None:
    values = tmp_path / "secrets" / "values"
    values.mkdir(parents=True)
    (values / "of_operator").write_text("operator-5a5a5a")
    file = tmp_path / "secrets" / "inventory.json"
    assert "changed=1" in run_secrets(tmp_path, {"hf_token": "planted-4f9c1d7e"})
    assert "changed=0" in run_secrets(tmp_path, {"hf_token": "planted-4f9c1d7e"})
    # What the inventory no longer has is removed; what the operator wrote stays.
    assert "changed=1" in run_secrets(tmp_path, {}, uses="of_operator")
    assert json.loads(file.read_text()) == {}
    assert (values / "of_operator").read_text() == "operator-5a5a5a"


@pytest.mark.parametrize(
    "secrets",
    [
        {"hf_token": "", "other": "planted-4f9c1d7e"},
        pytest.param({}, marks=pytest.mark.long),
        pytest.param({"hf_token": None}, marks=pytest.mark.long),
    ],
)
def test_a_secret_that_the_head_lacks_stops_the_run_before_it_changes_anything(tmp_path: Path, secrets: Any) -> None:
    (tmp_path / "secrets").mkdir()
    text = run_secrets(tmp_path, secrets)
    assert "Before anything was changed:" in text and "secret.X: the cluster has no hf_token" in text, text
    assert "planted" not in text
    assert not (tmp_path / "secrets" / "inventory.json").exists()


@pytest.mark.long
def test_a_secret_that_the_sources_of_models_need_is_missed_before_anything_changes(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    option = ("-e", json.dumps({"modelserve_models_secrets": {"HF_TOKEN": "hub"}}))
    text = run_secrets(tmp_path, {"hf_token": "planted-4f9c1d7e"}, *option)
    assert "modelserve_models_secrets names a secret that the cluster does not have" in text and ": hub" in text, text
    assert "changed=1" in run_secrets(tmp_path, {"hf_token": "planted-4f9c1d7e", "hub": "planted-4f9c1d7e"}, *option)


@pytest.mark.long
def test_a_wrong_kind_of_secrets_is_refused_without_its_value(tmp_path: Path) -> None:
    play = {"ansible.builtin.import_playbook": str(ROOT / "playbooks" / "plays" / "settings.yml")}
    text = ansible(tmp_path, {"head": ["h"]}, [play], variables={"h": {"modelserve_secrets": ["planted-4f9c1d7e"]}})
    assert "modelserve_secrets" in text and "failed=1" in text, text
    assert "planted" not in text
