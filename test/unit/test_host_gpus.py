"""The GPUs of a host: what nvidia-smi shows, what Ray hands out of it, and how Docker gives it to a container."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[2] / "plugins" / "module_utils" / "modelserve_gpu.py"
QUERY = "--query-gpu=index,mig.mode.current,persistence_mode,name"
OLD_QUERY = "--query-gpu=name"
# The formats of drivers 550 (A100: one card in MIG mode with instances of two sizes, one without, one not in MIG mode)
# and 460 (a driver's older names of MIG instances).
QUERIED = """0, Enabled, Disabled, NVIDIA A100-SXM4-40GB
1, Enabled, Enabled, NVIDIA A100-SXM4-40GB
2, Disabled, Enabled, NVIDIA A100-SXM4-40GB
"""
LISTED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-a75d-5afc-978f-d2f1294409fd)
  MIG 1c.3g.20gb  Device  1: (UUID: MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-8eaaebb8-bb64-8489-fda2-62256e821983)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-fcf41002-68b6-5900-d7d1-74026173bb44)
"""
OLD_LISTED = """GPU 0: A100-SXM4-40GB (UUID: GPU-8eaaebb8-bb64-8489-fda2-62256e821983)
  MIG 1g.5gb Device 0: (UUID: MIG-GPU-8eaaebb8-bb64-8489-fda2-62256e821983/7/0)
"""
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"
DOCUMENT = '{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{"name": "0"}, {"name": "all"}]}'


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The helper of the facts, on an empty host."""
    spec = importlib.util.spec_from_file_location("modelserve_gpu", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "modelserve_gpu", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SYS", str(tmp_path / "sys"))
    monkeypatch.setattr(module, "CDI_DIRECTORIES", (str(tmp_path / "etc"), str(tmp_path / "run")))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return module


class Smi:
    """Answers commands by their first argument; any other one fails."""

    def __init__(self, answers: dict[str, str], error: str = "") -> None:
        self.answers = answers
        self.error = error
        self.asked: list[str] = []

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        self.asked.append(argv[1])
        answer = self.answers.get(argv[1])
        return (2, self.error, "") if answer is None else (0, answer, "")


def program(directory: Path, name: str) -> None:
    (directory / "bin" / name).write_text("")
    (directory / "bin" / name).chmod(0o755)


def test_a_mig_instance_is_a_device_and_its_card_is_none(gpu: ModuleType) -> None:
    cards, error = gpu.cards(Smi({QUERY: QUERIED, "-L": LISTED}), "nvidia-smi")
    assert error == ""
    assert gpu.devices(cards) == [
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb",
        "NVIDIA A100-SXM4-40GB",
    ]
    values = gpu.facts(Smi({}), cards, "", {})
    assert (values["gpus"], values["mig_instances"], values["mig_empty"]) == (3, 2, [1])
    assert values["persistence_off"] == [0]


def test_the_instances_of_an_older_driver_are_found(gpu: ModuleType) -> None:
    smi = Smi({QUERY: "0, Enabled, Disabled, A100-SXM4-40GB\n", "-L": OLD_LISTED})
    assert gpu.devices(gpu.cards(smi, "nvidia-smi")[0]) == ["A100-SXM4-40GB MIG 1g.5gb"]


def test_cards_without_mig_are_queried_once(gpu: ModuleType) -> None:
    smi = Smi({QUERY: "0, [N/A], [N/A], NVIDIA L4\n1, [N/A], [N/A], NVIDIA L4\n"})
    cards, _ = gpu.cards(smi, "nvidia-smi")
    assert gpu.devices(cards) == ["NVIDIA L4", "NVIDIA L4"]
    assert gpu.facts(Smi({}), cards, "", {})["persistence_off"] == []
    assert smi.asked == [QUERY]


def test_a_driver_that_knows_no_mig_shows_its_cards(gpu: ModuleType) -> None:
    cards, error = gpu.cards(Smi({OLD_QUERY: "Tesla K80\nTesla K80\n"}), "nvidia-smi")
    assert (gpu.devices(cards), error) == (["Tesla K80", "Tesla K80"], "")


def test_the_error_of_nvidia_smi_is_one_line(gpu: ModuleType) -> None:
    cards, error = gpu.cards(Smi({}, MISMATCH + "\nNVML library version: 550.2\n"), "nvidia-smi")
    assert (cards, error) == ([], MISMATCH + " NVML library version: 550.2")


def test_a_host_without_gpus_is_not_asked(gpu: ModuleType) -> None:
    smi = Smi({})
    assert gpu.cards(smi, None) == ([], "")
    values = gpu.facts(smi, [], "", {"Runtimes": {"nvidia": {}}})
    assert (values["gpus"], values["pci"], values["ways"], smi.asked) == (0, 0, [], [])


def test_only_nvidia_s_displays_and_accelerators_of_this_host_count(gpu: ModuleType, tmp_path: Path) -> None:
    devices = [tmp_path / "sys" / "bus" / "pci" / "devices" / f"0000:0{number}:00.0" for number in range(4)]
    for device in devices:
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text("0x030200\n")
    (devices[0] / "vendor").write_text("0x1002\n")
    (devices[1] / "class").write_text("0x040300\n")  # its sound
    (tmp_path / "drivers" / "vfio-pci").mkdir(parents=True)
    (devices[2] / "driver").symlink_to(tmp_path / "drivers" / "vfio-pci")
    assert gpu.pci_devices() == 1


NVIDIA = {"runc": {"path": "runc"}, "nvidia": {"path": "nvidia-container-runtime"}}
FOUND = [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}, {"Source": "cdi", "ID": "nvidia.com/gpu=all"}]


@pytest.mark.parametrize(
    ("docker", "hook", "ways"),
    [
        ({}, True, []),
        ({"Runtimes": {"runc": {}}, "CDISpecDirs": None}, True, []),
        ({"Runtimes": NVIDIA}, True, ["runtime"]),
        ({"Runtimes": NVIDIA}, False, ["runtime"]),
        ({"Runtimes": NVIDIA, "CDISpecDirs": ["run"]}, True, ["runtime", "cdi"]),
        # The toolkit's base package has the runtime without the hook that Docker's own requests need.
        ({"Runtimes": NVIDIA, "CDISpecDirs": ["run"]}, False, ["cdi", "runtime"]),
        ({"CDISpecDirs": ["etc", "run"]}, False, ["cdi"]),
        ({"CDISpecDirs": ["etc"]}, False, []),
        ({"CDISpecDirs": ["etc"], "DiscoveredDevices": FOUND}, False, ["cdi"]),
        ({"CDISpecDirs": ["run"], "DiscoveredDevices": FOUND[:1]}, False, []),
    ],
)
def test_the_ways_into_a_container(
    gpu: ModuleType, tmp_path: Path, docker: dict[str, Any], hook: bool, ways: list[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "nvidia.json").write_text(DOCUMENT)
    if docker.get("CDISpecDirs"):
        docker = {**docker, "CDISpecDirs": [str(tmp_path / name) for name in docker["CDISpecDirs"]]}
    if hook:
        program(tmp_path, "nvidia-container-runtime-hook")
    assert gpu.ways(docker) == ways


@pytest.mark.parametrize(
    ("text", "is_read"),
    [
        (DOCUMENT, True),
        ('kind: nvidia.com/gpu\ndevices:\n- name: "all"\n', True),
        ("kind: nvidia.com/gpu\ndevices:\n- name: all\n", True),
        ('kind: nvidia.com/gpu\ndevices:\n- name: "0"\n', False),
        ("kind: amd.com/gpu\ndevices:\n- name: all\n", False),
    ],
)
def test_a_specification_counts_if_it_names_all_of_nvidia_s_gpus(
    gpu: ModuleType, tmp_path: Path, text: str, is_read: bool
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nvidia.yaml").write_text(text)
    assert gpu.reads_cdi({"CDISpecDirs": [str(tmp_path / "etc")]}) is is_read


def test_a_specification_that_docker_does_not_read_is_named(gpu: ModuleType, tmp_path: Path) -> None:
    program(tmp_path, "nvidia-smi")
    assert gpu.facts(Smi({}), [], "", {"ServerVersion": "27.5.1"})["cdi_unread"] == ""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "nvidia.yaml").write_text(DOCUMENT)
    values = gpu.facts(Smi({}), [], "", {"ServerVersion": "27.5.1"})
    assert (values["ways"], values["cdi_unread"]) == ([], str(tmp_path / "run" / "nvidia.yaml"))
    values = gpu.facts(Smi({}), [], "", {"CDISpecDirs": [str(tmp_path / "run")]})
    assert (values["ways"], values["cdi_unread"]) == (["cdi"], "")


def test_the_toolkit_s_version(gpu: ModuleType, tmp_path: Path) -> None:
    answers = Smi({"--version": "NVIDIA Container Toolkit CLI version 1.17.8\ncommit: f202b80\n"})
    assert gpu.toolkit_version(answers) == ""
    program(tmp_path, "nvidia-ctk")
    assert gpu.toolkit_version(answers) == "1.17.8"
