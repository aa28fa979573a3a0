"""NVIDIA's GPUs of a host: the cards, what Ray can hand out of them, and how Docker gives them to containers."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SYS = "/sys"
#: Directories of CDI specifications that Docker and NVIDIA's toolkit use by default.
CDI_DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
CDI_KIND = "nvidia.com/gpu"
CDI_ALL = CDI_KIND + "=all"  # the device that stands for all of them
#: Docker's own driver of GPUs runs this program. The toolkit's base package has the runtime without it.
HOOK = "nvidia-container-runtime-hook"
FIELDS = "index,mig.mode.current,persistence_mode,name"
Run = Callable[[list[str]], tuple[int, str, str]]

_CARD = re.compile(r"GPU (?P<index>\d+): ")
_INSTANCE = re.compile(r"\s+MIG (?P<profile>\S+)\s+Device\s+\d+:")
_ALL_DEVICE = re.compile(r"""["']?name["']?\s*:\s*["']?all["']?\s*([,}\n]|$)""")


@dataclass(frozen=True)
class Card:
    """A GPU as nvidia-smi shows it.

    Attributes:
        index: its number in nvidia-smi.
        name: its product name.
        has_mig: whether it is in MIG mode: then its MIG instances can be used, and the card itself cannot.
        is_persistent: whether the driver keeps it initialized while nobody uses it; so where nvidia-smi cannot tell.
        instances: the profiles of its MIG instances, such as ``1g.5gb``.
    """

    index: int
    name: str
    has_mig: bool = False
    is_persistent: bool = True
    instances: tuple[str, ...] = ()

    @property
    def devices(self) -> list[str]:
        """The names of the devices that Ray can hand out: the MIG instances, or the card."""
        return [f"{self.name} MIG {profile}" for profile in self.instances] if self.has_mig else [self.name]


def cards(run: Run, program: str | None) -> tuple[list[Card], str]:
    """Return the GPUs that nvidia-smi shows, and why it shows none where it fails.

    Args:
        run: runs a command; returns its exit status, output and error output.
        program: path of nvidia-smi, if there is one.
    """
    if program is None:
        return [], ""
    code, out, _ = run([program, "--query-gpu=" + FIELDS, "--format=csv,noheader"])
    if code == 0:
        rows = [line.split(", ", 3) for line in out.splitlines() if line.strip()]
        instances = _instances(run, program) if any(row[1] == "Enabled" for row in rows) else {}
        return [_card(row, instances) for row in rows], ""
    # A driver before 450 knows no MIG mode, and refuses the query.
    code, out, err = run([program, "--query-gpu=name", "--format=csv,noheader"])
    if code == 0:
        names = [line.strip() for line in out.splitlines() if line.strip()]
        return [Card(index, name) for index, name in enumerate(names)], ""
    return [], " ".join((out + " " + err).split()) or f"exit status {code}"


def _card(row: list[str], instances: dict[int, list[str]]) -> Card:
    index, mig, persistence, name = row
    has_mig = mig == "Enabled"
    own = tuple(instances.get(int(index), [])) if has_mig else ()
    return Card(int(index), name.strip(), has_mig, persistence != "Disabled", own)


def _instances(run: Run, program: str) -> dict[int, list[str]]:
    """Return the profiles of the MIG instances by the index of their card."""
    found: dict[int, list[str]] = {}
    index = -1
    for line in run([program, "-L"])[1].splitlines():
        card, instance = _CARD.match(line), _INSTANCE.match(line)
        if card:
            index = int(card.group("index"))
        elif instance:
            found.setdefault(index, []).append(instance.group("profile"))
    return found


def devices(found: list[Card]) -> list[str]:
    """Return the names of all devices that Ray can hand out."""
    return [device for card in found for device in card.devices]


def facts(run: Run, found: list[Card], error: str, docker: dict[str, Any]) -> dict[str, Any]:
    """Return what stands between Docker and the GPUs: devices, driver, toolkit, and the ways into a container.

    Args:
        run: see :func:`cards`.
        found: the cards.
        error: why nvidia-smi fails.
        docker: what the engine says of itself; empty where none answers.
    """
    values: dict[str, Any] = {
        "pci": pci_devices(),
        "smi": shutil.which("nvidia-smi"),
        "error": error,
        "gpus": len(found),
        "mig_instances": sum(len(card.instances) for card in found),
        "mig_empty": [card.index for card in found if card.has_mig and not card.instances],
        "persistence_off": [card.index for card in found if not card.is_persistent],
        "driver": content(SYS + "/module/nvidia/version"),
        "toolkit": "",
        "ways": [],
        "cdi_unread": "",
    }
    if values["smi"] or values["pci"]:
        values["toolkit"] = toolkit_version(run)
        values["ways"] = ways(docker)
        if docker and "cdi" not in values["ways"]:
            values["cdi_unread"] = unread_specification(docker)
    return values


def pci_devices() -> int:
    """Return the number of NVIDIA's displays and accelerators on the PCI bus, without those of virtual machines."""
    paths = glob.glob(SYS + "/bus/pci/devices/*")
    paths = [path for path in paths if content(path + "/vendor") == "0x10de"]
    paths = [path for path in paths if content(path + "/class").startswith("0x03")]
    # A device that is handed to a virtual machine is none of this host's.
    return len([path for path in paths if not os.path.realpath(path + "/driver").endswith("/vfio-pci")])


def toolkit_version(run: Run) -> str:
    """Return the version of NVIDIA's container toolkit; empty where it is not installed."""
    if shutil.which("nvidia-ctk") is None:
        return ""
    code, out, _ = run(["nvidia-ctk", "--version"])
    return (out.splitlines() or [""])[0].split(" ")[-1] if code == 0 else ""


def ways(docker: dict[str, Any]) -> list[str]:
    """Return how Docker can give GPUs to a container, ``runtime`` and ``cdi``, the preferred one first.

    The runtime comes first: CDI's specification is out of date after each upgrade of the driver, unless something
    generates it again. Without its hook the runtime does not serve Docker's requests of GPUs.
    """
    found = ["runtime"] if "nvidia" in (docker.get("Runtimes") or {}) else []
    if reads_cdi(docker):
        found.insert(0 if shutil.which(HOOK) is None else len(found), "cdi")
    return found


def reads_cdi(docker: dict[str, Any]) -> bool:
    """Return whether Docker knows the CDI device of all GPUs."""
    discovered = docker.get("DiscoveredDevices")  # Docker 28.2 and later
    if discovered is not None:
        return CDI_ALL in [device.get("ID") for device in discovered]
    # Directories are named only by a Docker that reads them.
    return any(_names_all(path) for path in specifications(docker.get("CDISpecDirs") or []))


def unread_specification(docker: dict[str, Any]) -> str:
    """Return the path of a CDI specification of all GPUs that Docker does not read; empty where there is none."""
    read = {os.path.realpath(path) for path in docker.get("CDISpecDirs") or []}  # /var/run is a link to /run
    unread = [path for path in CDI_DIRECTORIES if os.path.realpath(path) not in read]
    return next(filter(_names_all, specifications(unread)), "")


def specifications(directories: list[str]) -> list[str]:
    """Return the paths of the CDI specifications in directories."""
    return [path for directory in directories for path in sorted(glob.glob(directory + "/*"))]


def _names_all(path: str) -> bool:
    text = content(path)
    return CDI_KIND in text and _ALL_DEVICE.search(text) is not None


def content(path: str) -> str:
    """Return what a small file holds; empty where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
