"""The GPUs that this container was given: what Ray hands out of them, and whether they can still be opened."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from pathlib import Path

from modelserve.errors import UserError

CONTROL_DEVICE = Path("/dev/nvidiactl")
TIMEOUT_S = 60

_CARD = re.compile(r"GPU \d+: .*\(UUID: (?P<id>[^)]+)\)")
_INSTANCE = re.compile(r"\s+MIG .*\(UUID: (?P<id>[^)]+)\)")


def mig_devices(count: str) -> list[str]:
    """Return what Ray hands out on a node with MIG: the MIG instances, and the cards that are not in MIG mode.

    CUDA finds a MIG instance by its identifier alone, while Ray hands out the numbers of cards, unless
    CUDA_VISIBLE_DEVICES of ``ray start`` has other identifiers.

    Args:
        count: the number of GPUs that the node is started with.

    Returns:
        As many identifiers as ``count``; none where no card is in MIG mode, or nvidia-smi does not show any.

    Raises:
        UserError: there are fewer: MIG instances do not survive a reboot of the host.

    Source: get_current_process_visible_accelerator_ids in Ray 2.60's _private/accelerators/nvidia_gpu.py, and
    get_accelerator_ids_for_accelerator_resource in _private/worker.py.
    """
    if not count.isdigit() or count == "0":
        return []
    rows = [line.split(", ") for line in _nvidia_smi("--query-gpu=uuid,mig.mode.current", "--format=csv,noheader")]
    with_mig = {uuid for uuid, mode in rows if mode == "Enabled"}
    if not with_mig:
        return []
    devices: list[str] = []
    for line in _nvidia_smi("-L"):
        card, instance = _CARD.match(line), _INSTANCE.match(line)
        if instance:
            devices.append(instance["id"])
        elif card and card["id"] not in with_mig:
            devices.append(card["id"])
    if len(devices) < int(count):
        raise UserError(
            f"this node is set up for {count} GPUs, and nvidia-smi shows {len(devices)} MIG instances and whole GPUs",
            "Create the MIG instances again (nvidia-smi mig -cgi PROFILES -C), or run site.yml for those there are",
        )
    return devices[: int(count)]


def require_access() -> None:
    """Return when this container has no GPUs, or may open them.

    The control device alone is opened: that of a card would wake the card up.

    Raises:
        UserError: the container's cgroup does not admit the devices any more.
    """
    try:
        os.close(os.open(CONTROL_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EPERM:  # of the file's own permissions it would be EACCES
            raise UserError(
                f"this container lost its GPUs: {CONTROL_DEVICE} is not permitted any more, as after a "
                "'systemctl daemon-reload' on the host",
                "Restart the node with playbooks/restart.yml --limit; docs/troubleshooting.md says how to prevent it",
            ) from None


def _nvidia_smi(*arguments: str) -> list[str]:
    """Return the lines of nvidia-smi's output; none where it fails, or is not in this container."""
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    except FileNotFoundError:
        return []
    except subprocess.SubprocessError as error:
        print(f"nvidia-smi does not answer, so that MIG instances are not known: {error}", flush=True)
        return []
    return done.stdout.splitlines()
