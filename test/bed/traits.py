"""Traits of a test host: what makes it differ from a plain one, as hosts of real sites do.

A trait is files that are there before the host boots, commands that run as root once it has booted, and variables of
the host in the inventory. Texts may hold ``{password}``, ``{address}``, ``{admin}``, ``{address6}``, ``{bastion}``,
``{bastion_port}`` and ``{config}`` (a configuration of ssh that has the bed's key); :func:`fill` replaces them.
"""

from __future__ import annotations

import difflib
import io
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PASSWORD = "odd-7Kq2"  # of the hosts' user, on networks that this machine alone reaches
DAEMON_FILE = "/etc/docker/daemon.json"
SSH_PORT = 2222
SERVICE_PORT = 9100
DOCKER_ROOT = "/srv/docker"
OWNER = 1234  # the numeric id of somebody who is no user of modelserve's

SET_PASSWORD = "echo 'ops:{password}' | chpasswd"
INSTALL = "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "
SERVICE = f"""[Unit]
Description=A service of the site's own
[Service]
ExecStart=/usr/bin/python3 -m http.server {SERVICE_PORT} --directory /srv/metrics
[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class File:
    """A file on a host, or a directory, whose path then ends with ``/``; ``owner`` is a user's numeric id."""

    path: str
    text: str = ""
    mode: int = 0o644
    owner: int = 0


@dataclass(frozen=True)
class Trait:
    """What a trait changes.

    Attributes:
        summary: one line for ``bed.py traits``.
        files: on the host before it boots.
        commands: of its shell, as root, once it has booted.
        variables: of the host in the inventory.
        daemon: settings of Docker's ``daemon.json``.
        volumes: directories that need a file system of their own: overlayfs does not work on overlayfs.
        key: whether the bed's SSH key is let in.
        debian: the Debian release; empty for the host's usual one.
        admin: whether the host is on the bed's second network, too.
        ipv6: whether the host has an IPv6 address.
    """

    summary: str
    files: Sequence[File] = ()
    commands: Sequence[str] = ()
    variables: Mapping[str, str | int | list[int]] = field(default_factory=dict)
    daemon: Mapping[str, Any] = field(default_factory=dict)
    volumes: Sequence[str] = ()
    key: bool = True
    debian: str = ""
    admin: bool = False
    ipv6: bool = False


TRAITS: dict[str, Trait] = {
    "sudo-password": Trait(
        "sudo asks for the user's password",
        files=[File("/etc/sudoers.d/ops", "ops ALL=(ALL) ALL\n", 0o440)],
        commands=[SET_PASSWORD],
        variables={"ansible_become_password": "{password}"},
    ),
    "ssh-port": Trait(
        f"sshd listens on port {SSH_PORT} alone",
        files=[File("/etc/ssh/sshd_config.d/port.conf", f"Port {SSH_PORT}\n")],
        variables={"ansible_port": SSH_PORT},
    ),
    "ssh-password": Trait(
        "SSH with a password, and no key",
        commands=[SET_PASSWORD],
        variables={"ansible_password": "{password}"},
        key=False,
    ),
    "bastion": Trait(
        "SSH from the head alone, through which Ansible jumps",
        files=[File("/etc/ssh/sshd_config.d/bastion.conf", "AllowUsers ops@{bastion}\n")],
        variables={"ansible_ssh_common_args": "-F {config} -o ProxyJump=ops@{bastion}:{bastion_port}"},
    ),
    "containerd-store": Trait(
        "Docker keeps images in containerd's store",
        daemon={"features": {"containerd-snapshotter": True}},
        volumes=["/var/lib/containerd"],
    ),
    "docker-root": Trait(
        f"Docker's data root is {DOCKER_ROOT}",
        daemon={"data-root": DOCKER_ROOT},
        volumes=[DOCKER_ROOT],
    ),
    "service": Trait(
        f"a service of the site's own on port {SERVICE_PORT}",
        files=[
            File("/etc/systemd/system/site-metrics.service", SERVICE),
            File("/srv/metrics/index.html", "metrics of the site\n"),
        ],
        commands=["systemctl --quiet enable --now site-metrics"],
    ),
    "two-networks": Trait(
        "Ansible reaches it on another network than the cluster does",
        variables={"ansible_host": "{admin}", "modelserve_node_ip": "{address}"},
        admin=True,
    ),
    "ipv6": Trait(
        "Ansible and clients reach it on IPv6, too; the cluster on IPv4",
        variables={"ansible_host": "{address6}", "modelserve_node_ip": "{address}"},
        ipv6=True,
    ),
    "foreign-directory": Trait(
        "files of somebody's where modelserve's data would be",
        files=[
            File("/opt/modelserve/", mode=0o750, owner=OWNER),
            File("/opt/modelserve/photos/", mode=0o700, owner=OWNER),
            File("/opt/modelserve/photos/1.jpg", "a photo\n", 0o600, OWNER),
        ],
    ),
    "ufw": Trait("ufw is active", commands=[INSTALL + "ufw >&2", "ufw allow ssh >&2 && ufw --force enable >&2"]),
    "firewalld": Trait("firewalld is active", commands=[INSTALL + "firewalld >&2", "systemctl start firewalld"]),
    "debian-11": Trait("Debian 11, which has Python 3.9", debian="bullseye"),
}


def parse(text: str) -> tuple[str, ...]:
    """Return the traits that a comma-separated list names.

    Raises:
        ValueError: one is unknown; the message names the closest.
    """
    names = tuple(filter(None, text.split(",")))
    for name in names:
        if name not in TRAITS:
            close = difflib.get_close_matches(name, TRAITS, 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(TRAITS)}"
            raise ValueError(f"unknown trait {name!r}. {hint}")
    return names


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return a text with the values of its ``{names}``; other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)


def archive(names: Sequence[str], values: Mapping[str, str]) -> bytes:
    """Return a tar archive of the files that traits put on a host; empty where there are none."""
    files = [entry for name in names for entry in TRAITS[name].files]
    daemon: dict[str, Any] = {}
    for name in names:
        daemon |= TRAITS[name].daemon
    if daemon:
        files.append(File(DAEMON_FILE, json.dumps(daemon) + "\n"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for entry in files:
            content = fill(entry.text, values).encode()
            info = tarfile.TarInfo(entry.path.strip("/"))
            info.type = tarfile.DIRTYPE if entry.path.endswith("/") else tarfile.REGTYPE
            info.mode, info.uid, info.gid, info.size = entry.mode, entry.owner, entry.owner, len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue() if files else b""


def commands(names: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return the commands that a host's traits need once it has booted, each once."""
    return list(dict.fromkeys(fill(command, values) for name in names for command in TRAITS[name].commands))


def variables(names: Sequence[str], values: Mapping[str, str]) -> dict[str, Any]:
    """Return the variables of a host in the inventory: its address, and those of its traits."""
    result: dict[str, Any] = {"ansible_host": values["address"]}
    for name in names:
        for key, value in TRAITS[name].variables.items():
            result[key] = fill(value, values) if isinstance(value, str) else value
    return result


def volumes(names: Sequence[str]) -> list[str]:
    """Return the directories of a host that need a volume."""
    return ["/var/lib/docker", *(path for name in names for path in TRAITS[name].volumes)]
