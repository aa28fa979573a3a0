#!/usr/bin/env python3
"""A test bed of real hosts: systemd containers with sshd on a private network, reached over SSH as any host is.

    bed.py up [--workers 2]     make what is missing, start it, write the inventory
    bed.py up --docker          the same, with Docker Engine on the hosts already
    bed.py add worker_3         one host more, without Docker
    bed.py down                 remove hosts, volumes and network; images stay (--images removes them too)

``$MODELSERVE_BED`` names the bed, of which there may be several: ``bed`` (the default), ``test``, ``bench``.

Hosts are fresh when made: nothing of modelserve's, and no Docker where none is asked for. The head and the odd workers
run Debian 13, the even workers Debian 12. What belongs to a bed carries the label ``modelserve.bed=<name>``; its files
lie in ``/var/tmp/modelserve-bed-<name>``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SUBNETS = {"bed": "172.31.77", "test": "172.31.78", "bench": "172.31.79"}
BED = os.environ.get("MODELSERVE_BED", "bed")
SUBNET = SUBNETS[BED]
LABEL = "modelserve.bed"
HOST_LABEL = "modelserve.bed.host"
NETWORK = f"modelserve-bed-{BED}"
DIRECTORY = Path(f"/var/tmp/modelserve-bed-{BED}")
INVENTORY = DIRECTORY / "inventory"
KEY = DIRECTORY / "ssh_key"
PACKAGES = "systemd,systemd-sysv,dbus,openssh-server,sudo,python3,iproute2,procps,kmod,ca-certificates"
DOCKER_PACKAGES = {"trixie": "docker.io,docker-cli,iptables", "bookworm": "docker.io,iptables"}
HEAD = "head_node"
# Not --privileged: a machine may lack CAP_SYS_RESOURCE, and then refuses it.
FLAGS = [
    *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
    *("--security-opt", "systempaths=unconfined", "--cgroupns=host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw"),
    *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--stop-timeout", "30"),
]


def run(*command: str, check: bool = True, stdin: str | None = None) -> str:
    """Run a command and return its output.

    Raises:
        SystemExit: it failed, with what it printed.
    """
    result = subprocess.run(command, capture_output=True, text=True, input=stdin, check=False)
    if check and result.returncode != 0:
        raise SystemExit(f"error: {' '.join(command)} failed:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return result.stdout


def container(host: str) -> str:
    """The name of a host's container on this machine."""
    return f"{NETWORK}-{host.replace('_', '-')}"


def address(host: str) -> str:
    """A host's address: the head has .10, ``worker_1`` .11, and so on."""
    return f"{SUBNET}.{10 if host == HEAD else 10 + _number(host)}"


def release(host: str) -> str:
    """The Debian release a host runs."""
    return "bookworm" if host != HEAD and _number(host) % 2 == 0 else "trixie"


def hosts() -> list[str]:
    """The hosts there are, running or not, the head first."""
    template = '{{.Label "' + HOST_LABEL + '"}}'
    return sorted(run("docker", "ps", "-a", "--filter", f"label={LABEL}={BED}", "--format", template).split())


def on(host: str, *command: str, check: bool = True) -> str:
    """Run a command on a host as root, past SSH."""
    return run("docker", "exec", container(host), *command, check=check)


def up(workers: int, docker: bool = False) -> None:
    """Make and start a head and workers, with Docker Engine or without, and write the inventory."""
    names = [HEAD, *(f"worker_{number + 1}" for number in range(workers))]
    make_network()
    for name in names:
        start(name, docker)
    for name in names:
        authorize(name)
    write_inventory()


def make_network() -> None:
    """Make the bed's private network, if it is not there."""
    if not run("docker", "network", "ls", "-q", "--filter", f"name=^{NETWORK}$"):
        network = ["docker", "network", "create", "--label", f"{LABEL}={BED}", "--subnet", f"{SUBNET}.0/24", NETWORK]
        run(*network)


def add(host: str) -> None:
    """Make and start one host without Docker, and wait until it can be reached over SSH."""
    start(host)
    authorize(host)


def start(host: str, docker: bool = False) -> None:
    """Make one host, if it is not there, and start it; returns before it has booted."""
    existing = run("docker", "ps", "-aq", "--filter", f"name=^{container(host)}$").strip()
    if existing:
        run("docker", "start", container(host))
    else:
        run(
            *("docker", "run", "--detach", "--name", container(host), "--hostname", host.replace("_", "-")),
            *(
                "--label",
                f"{LABEL}={BED}",
                "--label",
                f"{HOST_LABEL}={host}",
                "--network",
                NETWORK,
                "--ip",
                address(host),
            ),
            *("--volume", f"{container(host)}:/var/lib/docker", *FLAGS, image(release(host), docker)),
        )


def authorize(host: str) -> None:
    """Wait until a host has booted, and let the bed's key in."""
    _wait_for_boot(host)
    file = "/home/ops/.ssh/authorized_keys"
    command = ["docker", "exec", "-i", container(host), "sh", "-c", f"cat >{file} && chown ops: {file}"]
    run(*command, stdin=_public_key())


def down(images: bool = False) -> None:
    """Remove the bed; with ``images``, those of all beds too."""
    own = f"label={LABEL}={BED}"
    names = run("docker", "ps", "-aq", "--filter", own).split()
    if names:
        run("docker", "rm", "--force", "--volumes", *names)
    for volume in run("docker", "volume", "ls", "-q", "--filter", f"name=^{NETWORK}-").split():
        run("docker", "volume", "rm", volume)
    for network in run("docker", "network", "ls", "-q", "--filter", own).split():
        run("docker", "network", "rm", network)
    if images:
        found = run("docker", "images", "-q", "--filter", f"label={LABEL}").split()
        if found:
            run("docker", "rmi", "--force", *sorted(set(found)))
    shutil.rmtree(DIRECTORY, ignore_errors=True)


def power_off(host: str) -> None:
    """Take a host's power: nothing on it gets to say good-bye."""
    run("docker", "kill", container(host))


def power_on(host: str) -> None:
    """Boot a host, and wait until it can be reached."""
    run("docker", "start", container(host))
    _wait_for_boot(host)


def write_inventory(names: Sequence[str] | None = None) -> None:
    """Write the inventory of the hosts there are, or of those named."""
    names = hosts() if names is None else names
    lines = ["# Written by test/bed/bed.py.", "all:", "  vars:"]
    lines += [f"    ansible_user: ops\n    ansible_ssh_private_key_file: {KEY}"]
    known = DIRECTORY / "known_hosts"
    lines += [f"    ansible_ssh_common_args: -o UserKnownHostsFile={known} -o ControlPath={DIRECTORY}/cm-%r-%h"]
    lines += ["  children:"]
    for group, members in (("head", [HEAD]), ("workers", [name for name in names if name != HEAD])):
        lines += [f"    {group}:", "      hosts:" if members else "      hosts: {}"]
        lines += [f"        {name}: {{ansible_host: {address(name)}}}" for name in members]
    INVENTORY.mkdir(parents=True, exist_ok=True)
    (INVENTORY / "hosts.yml").write_text("\n".join(lines) + "\n")
    keys = [f"{address(name)} {on(name, 'cat', '/etc/ssh/ssh_host_ed25519_key.pub').strip()}" for name in names]
    known.write_text("\n".join(keys) + "\n")
    for name in names:
        _wait_for_login(name)


def _number(host: str) -> int:
    found = re.fullmatch(r"worker_(\d+)", host)
    if not found or not 1 <= int(found[1]) <= 200:
        raise SystemExit(f"error: a host of the bed is {HEAD} or worker_1 to worker_200, not {host}")
    return int(found[1])


def _public_key() -> str:
    DIRECTORY.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not KEY.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "modelserve bed", "-f", str(KEY))
    return KEY.with_suffix(".pub").read_text()


def image(name: str, docker: bool = False) -> str:
    """The image of a Debian release's host, built when this directory or the machine's certificates are new."""
    certificates = sorted(Path("/usr/local/share/ca-certificates").rglob("*.crt"))
    packages = f"{PACKAGES},{DOCKER_PACKAGES[name]}" if docker else PACKAGES
    content = [packages.encode(), (HERE / "Dockerfile").read_bytes(), *(file.read_bytes() for file in certificates)]
    tag = f"modelserve-bed:{name}-{hashlib.sha256(b''.join(content)).hexdigest()[:12]}"
    if run("docker", "images", "-q", tag):
        return tag
    print(f"building the image of Debian {name} hosts (half a minute)", flush=True)
    with tempfile.TemporaryDirectory() as work:
        tar, ca = Path(work) / "base.tar", Path(work) / "ca"
        run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", name, str(tar))
        base = f"{tag}-base"
        run("docker", "import", "--change", f"LABEL {LABEL}=image", str(tar), base)
        tar.unlink()
        ca.mkdir()
        for file in certificates:
            shutil.copy(file, ca)
        shutil.copy(HERE / "Dockerfile", work)
        run("docker", "build", "--quiet", "--label", f"{LABEL}=image", "--build-arg", f"BASE={base}", "-t", tag, work)
    return tag


def _wait_for_boot(host: str) -> None:
    deadline = time.monotonic() + 120
    while on(host, "systemctl", "is-active", "ssh", check=False).strip() != "active":
        if time.monotonic() > deadline:
            raise SystemExit(f"error: {host} does not boot: {run('docker', 'logs', container(host))[-2000:]}")
        time.sleep(0.3)


def _wait_for_login(host: str) -> None:
    """Wait until a user can log in: sshd listens before systemd lets others than root in."""
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "ControlPath=none"]
    options += ["-o", f"UserKnownHostsFile={DIRECTORY}/known_hosts", "-i", str(KEY)]
    deadline = time.monotonic() + 120
    while True:
        command = ["ssh", *options, f"ops@{address(host)}", "true"]
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if result.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"error: no login on {host} ({address(host)}): {result.stderr.strip()[-500:]}")
        time.sleep(0.5)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="A test bed of real hosts in containers.")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("up")
    making.add_argument("--workers", type=int, default=2)
    making.add_argument("--docker", action="store_true")
    commands.add_parser("add").add_argument("host")
    commands.add_parser("down").add_argument("--images", action="store_true")
    options = parser.parse_args()
    if options.command == "down":
        down(options.images)
        return
    if options.command == "up":
        up(options.workers, options.docker)
    else:
        add(options.host)
        write_inventory()
    print(f"inventory: {INVENTORY}\nhosts: {', '.join(hosts())}")


if __name__ == "__main__":
    main()
