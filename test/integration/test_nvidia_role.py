"""The role nvidia, run by Ansible on this machine, with stand-ins for the commands and the files of a GPU host."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GPU = ROOT / "plugins" / "module_utils" / "modelserve_gpu.py"
# What the helper reads on a real host, and where it is in a made-up one.
PATHS = {
    'SYS = "/sys"': 'SYS = os.environ["TEST_FOLDER"] + "/sys"',
    'CDI_DIRECTORIES = ("/etc/cdi", "/var/run/cdi")': 'CDI_DIRECTORIES = (os.environ["TEST_FOLDER"] + "/etc/cdi",)',
}
RUNTIME = [{"driver": "", "count": -1, "capabilities": [["gpu"]]}]
CDI = [{"driver": "cdi", "count": 0, "device_ids": ["nvidia.com/gpu=all"]}]
NODE = {"gpus": "{{ __ray_node_gpus | string }}", "devices": "{{ __ray_node_gpu_devices }}"}
# As 'nvidia-ctk cdi generate' writes it.
SPECIFICATION = """---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
    - name: all
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
containerEdits:
    deviceNodes:
        - path: /dev/nvidiactl
"""
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"
NVIDIA_RUNTIME = {"runc": {"path": "runc"}, "nvidia": {"path": "nvidia-container-runtime"}}


@dataclass(frozen=True)
class Host:
    """A made-up host: what it has, what its inventory says, and what the role must say to it (nothing: it is well)."""

    gpus: int | None = None  # what nvidia-smi shows; None: there is no nvidia-smi
    error: str = ""  # what nvidia-smi says instead
    pci: int = 0
    driver: str = ""
    toolkit: str = ""
    docker: str = "28.0.0"
    persistent: bool = True
    mig: tuple[int | None, ...] = ()  # of each GPU: the number of its MIG instances; None: it is not in MIG mode
    runtimes: dict[str, object] = field(default_factory=lambda: {"runc": {"path": "runc"}})
    cdi: bool = False  # Docker reads a directory with a CDI specification
    unread: bool = False  # there is one in a directory that Docker does not read
    variables: dict[str, object] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    node: tuple[str, list[dict[str, object]]] | None = None  # GPUs of the Ray node, and what its container requests


HOSTS = {
    "cpu": Host(),
    "cpu_stand_ins": Host(variables={"modelserve_gpus": 2}),
    "cpu_with_tools": Host(gpus=0, error="couldn't communicate with the NVIDIA driver"),
    "unused": Host(pci=1, variables={"modelserve_gpus": "none", "nvidia_expected_gpus": 1}),
    "display_only": Host(pci=1, variables={"nvidia_expected_gpus": 0}),
    "well": Host(
        gpus=2,
        pci=2,
        driver="550.1",
        runtimes=NVIDIA_RUNTIME,
        variables={"nvidia_expected_gpus": 2, "modelserve_gpus": 2},
    ),
    "well_unasked": Host(gpus=1, pci=1, driver="550.1", runtimes=NVIDIA_RUNTIME, node=("1", RUNTIME)),
    "well_cdi": Host(
        gpus=1, pci=1, driver="550.1", cdi=True, variables={"nvidia_install_toolkit": True}, node=("1", CDI)
    ),
    "well_cdi_asked": Host(
        gpus=1,
        pci=1,
        driver="550.1",
        runtimes=NVIDIA_RUNTIME,
        cdi=True,
        variables={"modelserve_gpu_access": "cdi"},
        node=("1", CDI),
    ),
    "cold": Host(gpus=1, pci=1, driver="550.1", persistent=False, runtimes=NVIDIA_RUNTIME, node=("1", RUNTIME)),
    "mig": Host(
        gpus=3,
        pci=3,
        driver="550.1",
        runtimes=NVIDIA_RUNTIME,
        mig=(2, None, 0),
        variables={"nvidia_expected_gpus": 3},
        node=("3", RUNTIME),
    ),
    "mig_limited": Host(
        gpus=1,
        pci=1,
        driver="550.1",
        runtimes=NVIDIA_RUNTIME,
        mig=(7,),
        variables={"modelserve_gpus": 4},
        node=("4", RUNTIME),
    ),
    "absent": Host(
        variables={"nvidia_expected_gpus": 2},
        says=("nvidia_expected_gpus is 2", "shows 0", "no nvidia-smi", "nvidia_install_driver"),
    ),
    "absent_on_bus": Host(pci=3, says=("nvidia_expected_gpus is empty", "shows 3", "no nvidia-smi", "modelserve_gpus")),
    "unloaded": Host(
        gpus=0, pci=1, error="couldn't communicate with the NVIDIA driver", says=("no driver is loaded", "communicate")
    ),
    "mismatch": Host(gpus=0, pci=1, driver="550.1", error=MISMATCH, says=(MISMATCH, "550.1", "reboot", "reload")),
    "broken": Host(gpus=0, pci=1, driver="550.1", error="GPU is lost", says=("GPU is lost", "550.1", "dmesg")),
    "count": Host(
        gpus=1,
        pci=2,
        driver="550.1",
        runtimes=NVIDIA_RUNTIME,
        variables={"nvidia_expected_gpus": "2"},
        says=("nvidia_expected_gpus is 2", "nvidia-smi shows 1"),
    ),
    "more_than_none": Host(
        gpus=1, pci=1, driver="550.1", variables={"nvidia_expected_gpus": 0}, says=("is 0", "nvidia-smi shows 1")
    ),
    "not_a_number": Host(variables={"nvidia_expected_gpus": "two"}, says=("'two'", "Give a number")),
    "toolkit_missing": Host(gpus=2, pci=2, driver="550.1", says=("toolkit is not installed", "nvidia_install_toolkit")),
    "not_configured": Host(
        gpus=2,
        pci=2,
        driver="550.1",
        toolkit="1.17.8",
        says=(
            "neither the runtime nvidia nor a CDI",
            "1.17.8",
            "nvidia_install_toolkit",
            "nvidia-ctk runtime configure",
        ),
    ),
    "cdi_unread": Host(
        gpus=1,
        pci=1,
        driver="550.1",
        docker="27.5.1",
        unread=True,
        says=("/etc/cdi/nvidia.yaml", '"features": {"cdi": true} into /etc/docker/daemon.json', "restart Docker"),
    ),
    "cdi_unknown": Host(
        gpus=1, pci=1, driver="550.1", docker="24.0.7", unread=True, says=("Docker 24.0.7 has no CDI", "25 or later")
    ),
    "cdi_asked": Host(
        gpus=1,
        pci=1,
        driver="550.1",
        toolkit="1.17.8",
        runtimes=NVIDIA_RUNTIME,
        variables={"modelserve_gpu_access": "cdi"},
        says=("by CDI", "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml", "modelserve_gpu_access to auto"),
    ),
    "runtime_asked": Host(
        gpus=1,
        pci=1,
        driver="550.1",
        toolkit="1.17.8",
        cdi=True,
        variables={"modelserve_gpu_access": "runtime"},
        says=("it has no runtime nvidia", "nvidia-ctk runtime configure --runtime=docker"),
    ),
    "no_repository": Host(
        gpus=1,
        pci=1,
        driver="550.1",
        variables={"nvidia_install_toolkit": True},
        says=("nvidia_toolkit_repository and nvidia_toolkit_repository_key",),
    ),
}
GOOD = sorted(name for name, host in HOSTS.items() if not host.says)
BAD = sorted(name for name, host in HOSTS.items() if host.says)


def command(path: Path, lines: str) -> None:
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


def write_specification(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(SPECIFICATION)


def write_smi(path: Path, host: Host) -> None:
    """Write a stub that answers the queries of the facts as nvidia-smi does."""
    if host.error:
        command(path, f'echo "{host.error}"; exit 18')
        return
    rows, listed = [], []
    for index in range(host.gpus or 0):
        instances = host.mig[index] if host.mig else None
        name = "NVIDIA A100-SXM4-40GB" if host.mig else "NVIDIA L4"
        mode = "[N/A]" if not host.mig else "Disabled" if instances is None else "Enabled"
        rows.append(f"{index}, {mode}, {'Enabled' if host.persistent else 'Disabled'}, {name}")
        listed.append(f"GPU {index}: {name} (UUID: GPU-8eaaebb8-bb64-8489-fda2-62256e82198{index})")
        listed += [
            f"  MIG 1g.5gb      Device  {number}: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb{index}{number})"
            for number in range(instances or 0)
        ]
    asked = path.parents[1] / "smi.asked"
    query = "--query-gpu=index,mig.mode.current,persistence_mode,name --format=csv,noheader"
    answers = {query: rows, "-L": listed}
    cases = [f'"{arguments}") printf "%s\\n" {shlex.join(lines)};;' for arguments, lines in answers.items()]
    cases.append('"--persistence-mode=1") ;;')
    command(path, f'echo "$*" >>"{asked}"; case "$*" in {" ".join(cases)} *) echo "Invalid: $*"; exit 2;; esac')


def build(folder: Path, host: Host) -> None:
    """A directory ``bin`` to put first on PATH, and one to read in place of /sys."""
    commands, system = folder / "bin", folder / "sys"
    commands.mkdir(parents=True)
    for number in range(host.pci):
        device = system / "bus" / "pci" / "devices" / f"0000:0{number}:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text("0x030200\n")
    if host.driver:
        (system / "module" / "nvidia").mkdir(parents=True)
        (system / "module" / "nvidia" / "version").write_text(host.driver + "\n")
    if host.gpus is not None:
        write_smi(commands / "nvidia-smi", host)
    if host.toolkit:
        command(commands / "nvidia-ctk", f"echo NVIDIA Container Toolkit CLI version {host.toolkit}")
    info: dict[str, object] = {"ServerVersion": host.docker, "Runtimes": host.runtimes, "CDISpecDirs": None}
    if host.cdi:
        write_specification(folder / "cdi" / "nvidia.yaml")
        info["CDISpecDirs"] = [str(folder / "none"), str(folder / "cdi")]
    if host.unread:
        write_specification(folder / "etc" / "cdi" / "nvidia.yaml")
    (folder / "info.json").write_text(json.dumps(info))
    command(
        commands / "docker",
        f'echo "$1" >>"{folder}/docker.asked"\ncase "$1" in info) cat "{folder}/info.json";; ps) ;; *) exit 1;; esac',
    )


@dataclass(frozen=True)
class Ran:
    """What Ansible left: its exit status, each host's counters, what failed tasks said, and what a node would get."""

    code: int
    folder: Path
    stats: dict[str, dict[str, int]]
    messages: dict[str, str]
    nodes: dict[str, dict[str, object]]


def play(folder: Path, names: list[str], **variables: object) -> Ran:
    """Run the role on the hosts called ``names``, all at once, with ``variables``."""
    text = GPU.read_text()
    for line, replacement in PATHS.items():
        assert f"\n{line}\n" in text
        text = text.replace(f"\n{line}\n", f"\n{replacement}\n")
    (folder / "helpers").mkdir()
    (folder / "helpers" / GPU.name).write_text(text)
    inventory = {}
    for name in names:
        build(folder / name, HOSTS[name])
        inventory[name] = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory[name] |= {"test_folder": str(folder / name)} | HOSTS[name].variables
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": inventory}}))
    playbook = {
        "hosts": "all",
        "roles": ["modelserve", "host_facts", "nvidia"],
        "vars": {"modelserve_home": str(folder / "home")} | variables,
        "environment": {"PATH": "{{ test_folder }}/bin:/usr/bin:/bin", "TEST_FOLDER": "{{ test_folder }}"},
        "tasks": [
            {"ansible.builtin.include_vars": str(ROOT / "roles" / "ray_node" / "vars" / "main.yml")},
            {"name": "Node", "ansible.builtin.debug": {"msg": NODE}},
        ],
    }
    (folder / "play.yml").write_text(json.dumps([playbook]))
    program = shutil.which("ansible-playbook") or str(Path(sys.executable).with_name("ansible-playbook"))
    settings = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
        "ANSIBLE_MODULE_UTILS": f"{folder / 'helpers'}:{GPU.parent}",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_FORKS": "4",
    }
    ran = subprocess.run(
        [program, "-i", str(folder / "hosts.json"), str(folder / "play.yml")],
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.stdout.startswith("{"), ran.stdout + ran.stderr
    report = json.loads(ran.stdout)
    messages = {
        name: result["msg"]
        for task in report["plays"][0]["tasks"]
        for name, result in task["hosts"].items()
        if result.get("failed")
    }
    nodes = {
        name: result["msg"]
        for task in report["plays"][0]["tasks"]
        for name, result in task["hosts"].items()
        if task["task"]["name"] == "Node"
    }
    return Ran(ran.returncode, folder, report["stats"], messages, nodes)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return play(tmp_path_factory.mktemp("good"), GOOD)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return play(tmp_path_factory.mktemp("bad"), BAD)


def test_hosts_that_can_do_what_their_inventory_says_pass(good: Ran) -> None:
    assert good.messages == {}
    assert good.code == 0


@pytest.mark.parametrize("name", GOOD)
def test_a_host_that_is_well_is_not_changed(good: Ran, name: str) -> None:
    assert (good.stats[name]["failures"], good.stats[name]["changed"]) == (0, 0)


@pytest.mark.parametrize("name", ["cpu", "cpu_stand_ins", "cpu_with_tools", "unused", "display_only"])
def test_a_host_that_is_to_use_no_gpu_skips_one_task(good: Ran, name: str) -> None:
    assert good.stats[name]["skipped"] == 1


def test_docker_is_asked_no_more_on_a_host_with_gpus(good: Ran) -> None:
    asked = [(good.folder / name / "docker.asked").read_text().split() for name in ("cpu", "well")]
    assert asked[0] == asked[1]
    assert asked[0][0] == "info"


@pytest.mark.parametrize("name", [name for name in GOOD if HOSTS[name].node])
def test_the_node_gets_what_ray_can_hand_out_in_the_host_s_way(good: Ran, name: str) -> None:
    gpus, devices = HOSTS[name].node or ("", [])
    assert good.nodes[name] == {"gpus": gpus, "devices": devices}


@pytest.mark.long
def test_persistence_mode_is_switched_on_where_it_is_asked_for(tmp_path: Path) -> None:
    ran = play(tmp_path, ["cold"], nvidia_persistence=True)
    assert (ran.code, ran.stats["cold"]["changed"]) == (0, 1)
    assert (tmp_path / "cold" / "smi.asked").read_text().splitlines()[-1] == "--persistence-mode=1"


@pytest.mark.long
def test_hosts_that_cannot_stop_the_play(bad: Ran) -> None:
    assert bad.code == 2
    assert sorted(bad.messages) == BAD


@pytest.mark.long
@pytest.mark.parametrize("name", BAD)
def test_a_host_that_cannot_says_why_in_one_line_and_is_not_changed(bad: Ran, name: str) -> None:
    message = bad.messages[name]
    assert message.startswith(f"{name}: ")
    assert [part for part in HOSTS[name].says if part not in message] == [], message
    assert "\n" not in message and "{{" not in message
    assert bad.stats[name]["changed"] == 0
