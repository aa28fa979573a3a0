#!/usr/bin/env python3
"""A test bed of real hosts: systemd containers with sshd on a private network, reached over SSH as any host is.

    bed.py up [--workers 2]     make what is missing, start it, write the inventory
    bed.py up --docker          the same, with Docker Engine on the hosts already
    bed.py up --with worker_1=ssh-port,sudo-password
                                the same, with a host that has traits
    bed.py add worker_3 [--with ipv6] [--docker]
                                one host more
    bed.py traits               list the traits that a host can have
    bed.py down                 remove hosts, volumes and networks; images stay (--images removes them too)

``$MODELSERVE_BED`` names the bed, of which there may be several: ``bed`` (the default), ``test``, ``odd``, ``bench``.

Hosts are fresh when made: nothing of modelserve's, and no Docker where none is asked for. The head and the odd workers
run Debian 13, the even workers Debian 12. What belongs to a bed carries the label ``modelserve.bed=<name>``; its files
lie in ``/var/tmp/modelserve-bed-<name>``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import traits

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Of each bed, the third number of its network's addresses.
SUBNETS = {"bed": 77, "test": 78, "bench": 79, "odd": 80}
BED = os.environ.get("MODELSERVE_BED", "bed")
SUBNET = f"172.31.{SUBNETS[BED]}"
ADMIN_SUBNET = f"172.31.{SUBNETS[BED] + 20}"
SUBNET6 = f"fd00:172:31:{SUBNETS[BED]}"
LABEL = "modelserve.bed"
HOST_LABEL = "modelserve.bed.host"
TRAITS_LABEL = "modelserve.bed.traits"
NETWORK = f"modelserve-bed-{BED}"
ADMIN_NETWORK = f"{NETWORK}-admin"  # of hosts with the trait two-networks
DIRECTORY = Path(f"/var/tmp/modelserve-bed-{BED}")
INVENTORY = DIRECTORY / "inventory"
KEY = DIRECTORY / "ssh_key"
KNOWN_HOSTS = DIRECTORY / "known_hosts"
SSH_CONFIG = DIRECTORY / "ssh_config"  # for ssh's own jumps, which take no other option of the command line
PACKAGES = "systemd,systemd-sysv,dbus,openssh-server,sudo,python3,iproute2,procps,kmod,ca-certificates"
DOCKER_PACKAGES = {
    "trixie": "docker.io,docker-cli,iptables",
    "bookworm": "docker.io,iptables",
    "bullseye": "docker.io,iptables",
}
HEAD = "head_node"
Traits = Mapping[str, Sequence[str]]  # the names of the traits of each host
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


def address(host: str, subnet: str = SUBNET) -> str:
    """A host's address: the head has .10, ``worker_1`` .11, and so on."""
    return f"{subnet}.{10 if host == HEAD else 10 + _number(host)}"


def release(host: str, names: Sequence[str] = ()) -> str:
    """The Debian release that a host with these traits runs."""
    usual = "bookworm" if host != HEAD and _number(host) % 2 == 0 else "trixie"
    return next(filter(None, (traits.TRAITS[name].debian for name in names)), usual)


def hosts() -> dict[str, tuple[str, ...]]:
    """The traits of the hosts there are, running or not, by name; the head first."""
    template = '{{.Label "' + HOST_LABEL + '"}} {{.Label "' + TRAITS_LABEL + '"}}'
    lines = run("docker", "ps", "-a", "--filter", f"label={LABEL}={BED}", "--format", template).splitlines()
    rows = sorted(line.partition(" ") for line in lines)
    return {name: traits.parse(names.strip()) for name, _, names in rows}


def values(host: str, of_hosts: Traits | None = None) -> dict[str, str]:
    """What the texts of traits may hold, for a host; ``of_hosts`` is what :func:`hosts` returns, if read."""
    of_head = (hosts() if of_hosts is None else of_hosts).get(HEAD, ())
    bastion_port = traits.SSH_PORT if "ssh-port" in of_head else 22
    return {
        "password": traits.PASSWORD,
        "address": address(host),
        "admin": address(host, ADMIN_SUBNET),
        "address6": f"{SUBNET6}::{10 if host == HEAD else 10 + _number(host)}",
        "bastion": address(HEAD),
        "bastion_port": str(bastion_port),
        "config": str(SSH_CONFIG),
    }


def on(host: str, *command: str, check: bool = True) -> str:
    """Run a command on a host as root, past SSH."""
    return run("docker", "exec", container(host), *command, check=check)


def up(workers: int, docker: bool = False, odd: Traits | None = None) -> None:
    """Make and start a head and workers, with Docker Engine or without, and write the inventory.

    A host that is there keeps its traits.

    Args:
        workers: how many.
        docker: whether the hosts have Docker Engine already.
        odd: the traits of hosts that have some, by name.
    """
    plain: dict[str, Sequence[str]] = {HEAD: (), **{f"worker_{number + 1}": () for number in range(workers)}}
    names = {**plain, **(odd or {}), **hosts()}
    make_network(ipv6=any(traits.TRAITS[trait].ipv6 for host in names.values() for trait in host))
    for name, of_host in names.items():
        start(name, docker, of_host)
    for name, of_host in names.items():
        authorize(name, of_host)
    write_inventory()


def make_network(ipv6: bool = False) -> None:
    """Make the bed's private network, if it is not there.

    Raises:
        SystemExit: it is there, without the IPv6 that a host needs.
    """
    there = run("docker", "network", "ls", "--filter", f"name=^{NETWORK}$", "--format", "{{.IPv6}}").strip()
    if there == "false" and ipv6:
        raise SystemExit("error: the bed's network has no IPv6. Run 'bed.py down', then 'bed.py up --with HOST=ipv6'")
    if not there:
        network = ["docker", "network", "create", "--label", f"{LABEL}={BED}", "--subnet", f"{SUBNET}.0/24"]
        run(*network, *(["--ipv6", "--subnet", f"{SUBNET6}::/64"] if ipv6 else []), NETWORK)


def add(host: str, names: Sequence[str] = (), docker: bool = False) -> None:
    """Make and start one host with these traits, and wait until it can be reached over SSH."""
    make_network(ipv6=any(traits.TRAITS[name].ipv6 for name in names))
    start(host, docker, names)
    authorize(host, names)


def start(host: str, docker: bool = False, names: Sequence[str] = ()) -> None:
    """Make one host with these traits, if it is not there, and start it; returns before it has booted."""
    if not run("docker", "ps", "-aq", "--filter", f"name=^{container(host)}$").strip():
        _create(host, docker, names)
    run("docker", "start", container(host))


def _create(host: str, docker: bool, names: Sequence[str]) -> None:
    """Make one host's container, with the files of its traits."""
    of_host = values(host)
    options = ["--name", container(host), "--hostname", host.replace("_", "-"), "--network", NETWORK]
    options += ["--ip", address(host)]
    options += ["--label", f"{LABEL}={BED}", "--label", f"{HOST_LABEL}={host}"]
    options += ["--label", f"{TRAITS_LABEL}={','.join(names)}"]
    for path in traits.volumes(names):
        options += ["--volume", f"{container(host)}{path.replace('/', '-')}:{path}"]
    if any(traits.TRAITS[name].ipv6 for name in names):
        options += ["--ip6", of_host["address6"]]
    run("docker", "create", *options, *FLAGS, image(release(host, names), docker))
    files = traits.archive(names, of_host)
    if files:
        subprocess.run(["docker", "cp", "--archive", "-", f"{container(host)}:/"], input=files, check=True)
    if any(traits.TRAITS[name].admin for name in names):
        _join_admin_network(host)


def _join_admin_network(host: str) -> None:
    if not run("docker", "network", "ls", "-q", "--filter", f"name=^{ADMIN_NETWORK}$"):
        network = ["docker", "network", "create", "--label", f"{LABEL}={BED}", "--subnet", f"{ADMIN_SUBNET}.0/24"]
        run(*network, ADMIN_NETWORK)
    run("docker", "network", "connect", "--ip", address(host, ADMIN_SUBNET), ADMIN_NETWORK, container(host))


def authorize(host: str, names: Sequence[str] = ()) -> None:
    """Wait until a host has booted, run the commands of its traits, and let the bed's key in."""
    _wait_for_boot(host)
    for line in traits.commands(names, values(host)):
        on(host, "sh", "-c", line)
    if all(traits.TRAITS[name].key for name in names):
        let_key_in(host)


def let_key_in(host: str) -> None:
    """Let the bed's key in on a host that runs."""
    file = "/home/ops/.ssh/authorized_keys"
    command = ["docker", "exec", "-i", container(host), "sh", "-c", f"cat >{file} && chown ops: {file}"]
    run(*command, stdin=_public_key())


def remove(host: str) -> None:
    """Remove one host and its volumes."""
    run("docker", "rm", "--force", "--volumes", container(host))
    for volume in run("docker", "volume", "ls", "-q", "--filter", f"name=^{container(host)}-").split():
        run("docker", "volume", "rm", volume)


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
    of_hosts = hosts()
    names = list(of_hosts) if names is None else names
    lines = ["# Written by test/bed/bed.py.", "all:", "  vars:"]
    lines += [f"    ansible_user: ops\n    ansible_ssh_private_key_file: {KEY}"]
    lines += [f"    ansible_ssh_common_args: -o UserKnownHostsFile={KNOWN_HOSTS} -o ControlPath={DIRECTORY}/cm-%r-%h"]
    lines += ["  children:"]
    for group, members in (("head", [HEAD]), ("workers", [name for name in names if name != HEAD])):
        lines += [f"    {group}:", "      hosts:" if members else "      hosts: {}"]
        lines += [f"        {name}: {json.dumps(inventory_variables(name, of_hosts))}" for name in members]
    INVENTORY.mkdir(parents=True, exist_ok=True)
    (INVENTORY / "hosts.yml").write_text("\n".join(lines) + "\n")
    KNOWN_HOSTS.write_text("".join(known_hosts_line(name, of_hosts) for name in names))
    SSH_CONFIG.write_text(f"IdentityFile {KEY}\nUserKnownHostsFile {KNOWN_HOSTS}\n")
    for name in names:
        _wait_for_login(name)


def inventory_variables(host: str, of_hosts: Traits | None = None) -> dict[str, Any]:
    """The variables of a host in the inventory; ``of_hosts`` as for :func:`values`."""
    of_hosts = hosts() if of_hosts is None else of_hosts
    return traits.variables(of_hosts.get(host, ()), values(host, of_hosts))


def node_address(host: str) -> str:
    """The address of a host in the cluster."""
    settings = inventory_variables(host)
    return str(settings.get("modelserve_node_ip", settings["ansible_host"]))


def known_hosts_line(host: str, of_hosts: Traits | None = None) -> str:
    """The line of ssh's ``known_hosts`` by which a host is known."""
    settings = inventory_variables(host, of_hosts)
    name, port = settings["ansible_host"], settings.get("ansible_port", 22)
    name = name if port == 22 else f"[{name}]:{port}"
    return f"{name} {on(host, 'cat', '/etc/ssh/ssh_host_ed25519_key.pub').strip()}\n"


def ssh(host: str, *command: str, jump: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command on a host as the inventory's user, over SSH and with the settings of the inventory.

    Args:
        host: the host.
        command: the command, as ssh takes it.
        jump: false: straight, though the inventory has a bastion.
    """
    settings = inventory_variables(host)
    options = ["-o", "ConnectTimeout=5", "-o", "ControlPath=none", "-p", str(settings.get("ansible_port", 22))]
    options += ["-o", f"UserKnownHostsFile={KNOWN_HOSTS}", "-o", "StrictHostKeyChecking=yes", "-i", str(KEY)]
    options += shlex.split(settings.get("ansible_ssh_common_args", "")) if jump else []
    environment = dict(os.environ)
    if "ansible_password" in settings:
        askpass = DIRECTORY / "askpass"
        askpass.write_text(f"#!/bin/sh\necho {traits.PASSWORD}\n")
        askpass.chmod(0o700)
        environment |= {"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
    else:
        options += ["-o", "BatchMode=yes"]
    line = ["ssh", *options, f"ops@{settings['ansible_host']}", *command]
    return subprocess.run(line, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, env=environment)


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
    deadline = time.monotonic() + 120
    while (result := ssh(host, "true")).returncode != 0:
        if time.monotonic() > deadline:
            raise SystemExit(f"error: no login on {host} ({address(host)}): {result.stderr.strip()[-500:]}")
        time.sleep(0.5)


def odd_hosts(entries: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The traits by host, of ``HOST=TRAIT,TRAIT`` each."""
    return {host: traits.parse(names) for host, _, names in (entry.partition("=") for entry in entries)}


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="A test bed of real hosts in containers.")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("up")
    making.add_argument("--workers", type=int, default=2)
    making.add_argument("--docker", action="store_true")
    making.add_argument("--with", dest="odd", action="append", default=[], metavar="HOST=TRAIT,TRAIT")
    adding = commands.add_parser("add")
    adding.add_argument("host")
    adding.add_argument("--docker", action="store_true")
    adding.add_argument("--with", dest="traits", default="", metavar="TRAIT,TRAIT")
    commands.add_parser("traits")
    commands.add_parser("down").add_argument("--images", action="store_true")
    options = parser.parse_args()
    if options.command == "down":
        down(options.images)
        return
    if options.command == "traits":
        print("\n".join(f"{name:18}{trait.summary}" for name, trait in traits.TRAITS.items()))
        return
    try:
        if options.command == "up":
            up(options.workers, options.docker, odd_hosts(options.odd))
        else:
            add(options.host, traits.parse(options.traits), options.docker)
            write_inventory()
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"inventory: {INVENTORY}\nhosts: {', '.join(hosts())}")


if __name__ == "__main__":
    main()
