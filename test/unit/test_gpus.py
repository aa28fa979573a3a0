"""The GPUs of a node's container: Ray hands out MIG instances by their identifiers, and lost GPUs are noticed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from modelserve.cluster import gpus
from modelserve.errors import UserError

CARDS = ("GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0", "GPU-8eaaebb8-bb64-8489-fda2-62256e821983")
INSTANCES = ("MIG-c7384736-a75d-5afc-978f-d2f1294409fd", "MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d")
MIXED = f"{CARDS[0]}, Enabled\n{CARDS[1]}, Disabled\n"
MIXED_LIST = f"""GPU 0: NVIDIA A100-SXM4-40GB (UUID: {CARDS[0]})
  MIG 3g.20gb     Device  0: (UUID: {INSTANCES[0]})
  MIG 1c.3g.20gb  Device  1: (UUID: {INSTANCES[1]})
GPU 1: NVIDIA A100-SXM4-40GB (UUID: {CARDS[1]})
"""


def nvidia_smi(directory: Path, modes: str, listed: str, code: int = 0) -> None:
    """Write a stub of nvidia-smi that shows GPUs."""
    (directory / "modes").write_text(modes)
    (directory / "listed").write_text(listed)
    (directory / "nvidia-smi").write_text(
        f'#!/bin/sh\ncase "$*" in\n  -L) cat "{directory}/listed";;\n'
        f'  "--query-gpu=uuid,mig.mode.current --format=csv,noheader") cat "{directory}/modes";;\n  *) exit 2;;\nesac\n'
        f"exit {code}\n"
    )
    (directory / "nvidia-smi").chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of commands, in which there is no nvidia-smi yet."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_ray_gets_mig_instances_and_the_cards_beside_them(path: Path) -> None:
    nvidia_smi(path, MIXED, MIXED_LIST)
    assert gpus.mig_devices("3") == [*INSTANCES, CARDS[1]]
    assert gpus.mig_devices("1") == [INSTANCES[0]]
    assert gpus.mig_devices("0") == []


def test_a_node_without_mig_keeps_ray_s_numbers(path: Path) -> None:
    assert gpus.mig_devices("2") == []  # stand-ins: there is no nvidia-smi
    nvidia_smi(path, f"{CARDS[0]}, [N/A]\n{CARDS[1]}, Disabled\n", "")
    assert gpus.mig_devices("2") == []
    nvidia_smi(path, 'Field "mig.mode.current" is not a valid field to query.\n', "", code=2)
    assert gpus.mig_devices("2") == []


@pytest.mark.parametrize(
    "listed", [f"GPU 0: NVIDIA A100-SXM4-40GB (UUID: {CARDS[0]})\n", "\n".join(MIXED_LIST.splitlines()[:2])]
)
def test_instances_that_are_gone_since_the_setup_are_named(path: Path, listed: str) -> None:
    nvidia_smi(path, f"{CARDS[0]}, Enabled\n", listed)
    with pytest.raises(UserError, match=r"set up for 2 GPUs, and nvidia-smi shows [01] MIG .* mig -cgi PROFILES -C"):
        gpus.mig_devices("2")


def test_a_container_without_gpus_is_not_judged_by_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "CONTROL_DEVICE", tmp_path / "nvidiactl")
    gpus.require_access()
    (tmp_path / "nvidiactl").touch()
    gpus.require_access()


@pytest.mark.parametrize(("number", "lost"), [(errno.EPERM, True), (errno.EACCES, False), (errno.ENXIO, False)])
def test_a_device_that_the_cgroup_does_not_admit_is_a_lost_one(
    monkeypatch: pytest.MonkeyPatch, number: int, lost: bool
) -> None:
    def refuse(path: Path, flags: int) -> int:
        assert path == Path("/dev/nvidiactl") and flags & os.O_RDWR
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    if lost:
        with pytest.raises(UserError, match=r"lost its GPUs: /dev/nvidiactl .*daemon-reload.*playbooks/restart\.yml"):
            gpus.require_access()
    else:
        gpus.require_access()
