"""The role nvidia, run by Ansible on this machine, with stand-ins for the commands and the files of a GPU host."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import ansible.module_utils
import pytest

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))
FACTS = ROOT / "plugins" / "modules" / "modelserve_host_facts.py"
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
    runtimes: dict[str, object] = field(default_factory=lambda: {"runc": {"path": "runc"}})
    cdi: bool = False
    variables: dict[str, object] = field(default_factory=dict)
    says: tuple[str, ...] = ()


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
    "well_unasked": Host(gpus=1, pci=1, driver="550.1", runtimes=NVIDIA_RUNTIME),
    "well_cdi": Host(gpus=1, pci=1, driver="550.1", cdi=True, variables={"nvidia_install_toolkit": True}),
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
        rows = "\n".join(["echo 'NVIDIA L4'"] * host.gpus)
        command(commands / "nvidia-smi", f'echo "{host.error}"; exit 18' if host.error else rows)
    if host.toolkit:
        command(commands / "nvidia-ctk", f"echo NVIDIA Container Toolkit CLI version {host.toolkit}")
    info: dict[str, object] = {"ServerVersion": "28.0.0", "Runtimes": host.runtimes, "CDISpecDirs": None}
    if host.cdi:
        (folder / "cdi").mkdir()
        (folder / "cdi" / "nvidia.yaml").write_text("kind: nvidia.com/gpu\n")
        info["CDISpecDirs"] = [str(folder / "none"), str(folder / "cdi")]
    (folder / "info.json").write_text(json.dumps(info))
    command(
        commands / "docker",
        f'echo "$1" >>"{folder}/docker.asked"\ncase "$1" in info) cat "{folder}/info.json";; ps) ;; *) exit 1;; esac',
    )


@dataclass(frozen=True)
class Ran:
    """What Ansible left: its exit status, each host's counters, and what failed tasks said."""

    code: int
    folder: Path
    stats: dict[str, dict[str, int]]
    messages: dict[str, str]


def play(folder: Path, names: list[str]) -> Ran:
    """Run the role on the hosts called ``names``, all at once."""
    text = FACTS.read_text()
    assert '\nSYS = "/sys"\n' in text
    (folder / "library").mkdir()
    (folder / "library" / FACTS.name).write_text(text.replace('\nSYS = "/sys"\n', '\nSYS = os.environ["TEST_SYS"]\n'))
    inventory = {}
    for name in names:
        build(folder / name, HOSTS[name])
        inventory[name] = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory[name] |= {"test_folder": str(folder / name)} | HOSTS[name].variables
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": inventory}}))
    playbook = {
        "hosts": "all",
        "roles": ["modelserve", "host_facts", "nvidia"],
        "vars": {"modelserve_home": str(folder / "home")},
        "environment": {"PATH": "{{ test_folder }}/bin:/usr/bin:/bin", "TEST_SYS": "{{ test_folder }}/sys"},
    }
    (folder / "play.yml").write_text(json.dumps([playbook]))
    program = shutil.which("ansible-playbook") or str(Path(sys.executable).with_name("ansible-playbook"))
    settings = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
        "ANSIBLE_LIBRARY": str(folder / "library"),
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
    return Ran(ran.returncode, folder, report["stats"], messages)


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


@pytest.mark.parametrize("name", ["cpu", "well"])
def test_docker_is_asked_no_more_on_a_host_with_gpus(good: Ran, name: str) -> None:
    asked = (good.folder / name / "docker.asked").read_text().split()
    assert asked == ["info", "ps", "images"]


def test_hosts_that_cannot_stop_the_play(bad: Ran) -> None:
    assert bad.code == 2
    assert sorted(bad.messages) == BAD


@pytest.mark.parametrize("name", BAD)
def test_a_host_that_cannot_says_why_in_one_line_and_is_not_changed(bad: Ran, name: str) -> None:
    message = bad.messages[name]
    assert message.startswith(f"{name}: ")
    assert [part for part in HOSTS[name].says if part not in message] == [], message
    assert "\n" not in message and "{{" not in message
    assert bad.stats[name]["changed"] == 0


class Commands:
    """Stands in for AnsibleModule: runs commands for real."""

    def run_command(self, argv: list[str]) -> tuple[int, str, str]:
        ran = subprocess.run(argv, capture_output=True, text=True, check=False)
        return ran.returncode, ran.stdout, ran.stderr


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The facts' module, looking at an empty host."""
    spec = importlib.util.spec_from_file_location("modelserve_host_facts", FACTS)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SYS", str(tmp_path / "sys"))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return module


def info_of(facts: ModuleType, folder: Path) -> dict[str, object]:
    info, _ = facts.docker_info(Commands(), str(folder / "bin" / "docker"))
    return dict(info)


def look(facts: ModuleType, folder: Path, host: Host) -> dict[str, object]:
    build(folder, host)
    return facts.nvidia(Commands(), facts.gpus(Commands()), info_of(facts, folder))


def test_facts_of_a_gpu_host(facts: ModuleType, tmp_path: Path) -> None:
    host = Host(gpus=2, pci=2, driver="550.163.01", toolkit="1.17.8", runtimes=NVIDIA_RUNTIME)
    assert look(facts, tmp_path, host) == {
        "pci": 2,
        "smi": str(tmp_path / "bin" / "nvidia-smi"),
        "error": "",
        "gpus": 2,
        "driver": "550.163.01",
        "toolkit": "1.17.8",
        "runtime": True,
    }


def test_facts_of_a_host_without_gpus_are_empty(facts: ModuleType, tmp_path: Path) -> None:
    found = look(facts, tmp_path, Host(toolkit="1.17.8", runtimes=NVIDIA_RUNTIME))
    assert found == {"pci": 0, "smi": None, "error": "", "gpus": 0, "driver": "", "toolkit": "", "runtime": False}


def test_only_nvidia_s_displays_and_accelerators_of_this_host_count(facts: ModuleType, tmp_path: Path) -> None:
    build(tmp_path, Host(pci=4))
    devices = sorted((tmp_path / "sys" / "bus" / "pci" / "devices").iterdir())
    (devices[0] / "vendor").write_text("0x1002\n")
    (devices[1] / "class").write_text("0x040300\n")  # its sound
    (tmp_path / "drivers" / "vfio-pci").mkdir(parents=True)
    (devices[2] / "driver").symlink_to(tmp_path / "drivers" / "vfio-pci")
    assert facts.nvidia(Commands(), [], {})["pci"] == 1


def test_what_nvidia_smi_says_is_one_line(facts: ModuleType, tmp_path: Path) -> None:
    found = look(facts, tmp_path, Host(gpus=0, error=MISMATCH + "\nNVML library version: 550.2"))
    assert found["error"] == MISMATCH + " NVML library version: 550.2"


@pytest.mark.parametrize(
    ("specification", "usable"), [("kind: nvidia.com/gpu\n", True), ("kind: amd.com/gpu\n", False)]
)
def test_a_cdi_specification_counts_as_a_runtime(
    facts: ModuleType, tmp_path: Path, specification: str, usable: bool
) -> None:
    build(tmp_path, Host(gpus=1, cdi=True))
    (tmp_path / "cdi" / "nvidia.yaml").write_text(specification)
    assert facts.nvidia(Commands(), ["NVIDIA L4"], info_of(facts, tmp_path))["runtime"] is usable


def test_a_docker_that_does_not_answer_has_no_runtime(facts: ModuleType, tmp_path: Path) -> None:
    build(tmp_path, Host(gpus=1))
    command(tmp_path / "bin" / "docker", "exit 1")
    assert facts.nvidia(Commands(), ["NVIDIA L4"], info_of(facts, tmp_path))["runtime"] is False
