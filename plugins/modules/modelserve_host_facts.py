#!/usr/bin/python
"""One look at a host: what modelserve needs to know before it changes anything."""

from __future__ import annotations

DOCUMENTATION = r"""
module: modelserve_host_facts
short_description: Facts of a host that modelserve decides by
description:
  - Reads Docker, disk, memory, GPUs, listening ports, certificates and the distribution in one go. Changes nothing.
options:
  home:
    description: The directory modelserve keeps its data in; need not exist.
    type: str
    required: true
  commands:
    description: Commands to look for.
    type: list
    elements: str
    default: []
  ports:
    description: TCP ports to look at; those another program listens on are reported.
    type: list
    elements: int
    default: []
  survey:
    description:
      - Also read what is decided by before a first change. C(network) holds addresses, services, other firewalls and
        the hosts that do not answer; C(docker.root) and its free space say where Docker keeps images.
    type: bool
    default: false
  address:
    description: This host's address in the cluster, for O(survey).
    type: str
    default: ""
  peers:
    description: Hosts that must answer this one, for O(survey), each with C(name), C(address) and C(port) of its sshd.
    type: list
    elements: dict
    default: []
  proxies:
    description: URLs of HTTP proxies that must answer this host, for O(survey).
    type: list
    elements: str
    default: []
author: modelserve
"""

EXAMPLES = r"""
- name: Look at the host
  modelserve_host_facts:
    home: /opt/modelserve
    commands: [rsync]
    ports: [8000]
"""

RETURN = r"""
ansible_facts:
  description: A dictionary C(modelserve_host).
  returned: always
  type: dict
"""

import calendar
import glob
import hashlib
import importlib.util
import json
import os
import re
import shutil
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:  # from the installed collection
    from ansible_collections.modelserve.modelserve.plugins.module_utils import modelserve_gpu as gpu
    from ansible_collections.modelserve.modelserve.plugins.module_utils import modelserve_network as network
except ImportError:
    from ansible.module_utils import modelserve_gpu as gpu
    from ansible.module_utils import modelserve_network as network

CAP_NET_ADMIN = 12  # linux/capability.h
LISTEN = "0A"  # the state's number in /proc/net/tcp, see include/net/tcp_states.h
ROOT = "/"


def distribution() -> dict[str, Any]:
    """``id``, ``version`` and ``codename`` from os-release."""
    values = {}
    with open("/etc/os-release", encoding="utf-8") as stream:
        for line in stream:
            key, _, value = line.strip().partition("=")
            values[key] = value.strip('"')
    return {
        "id": values.get("ID", ""),
        "like": values.get("ID_LIKE", "").split(),
        "version": values.get("VERSION_ID", ""),
        "codename": values.get("VERSION_CODENAME", ""),
    }


def docker_info(module: AnsibleModule, client: str | None) -> tuple[dict[str, Any], str]:
    """Return what the engine says of itself, and why it does not answer; one of the two is empty."""
    if client is None:
        return {}, "not installed"
    code, out, err = module.run_command([client, "info", "--format", "{{json .}}"])
    try:
        info = json.loads(out)
    except ValueError:
        info = {}
    if isinstance(info, dict) and info.get("ServerVersion"):
        return info, ""
    # Docker 20.10 prints JSON without the engine's part then, and ends well.
    errors = info.get("ServerErrors") if isinstance(info, dict) else None
    lines = (errors or []) + err.strip().splitlines()[-1:] + out.strip().splitlines()[-1:]
    return {}, lines[0] if lines else "exit status {0}".format(code)


def unsuitable_docker(client: str | None, info: dict[str, Any], has_engine: bool) -> str:
    """Return what kind of Docker modelserve cannot use this is; empty for one that it can use, or where there is none.

    Args:
        client: path of the Docker client, if there is one.
        info: what the engine says of itself; empty where none answers.
        has_engine: whether a dockerd is among this host's commands.
    """
    if (client and is_podman(client)) or "BuildahVersion" in info:
        return "podman"
    if str(info.get("DockerRootDir", "")).startswith("/var/snap/"):
        return "snap"
    options = [option.split(",")[0] for option in info.get("SecurityOptions") or []]
    if "name=rootless" in options:
        return "rootless"
    if "name=userns" in options:
        return "userns-remap"
    if not info and not has_engine and os.path.isdir(ROOT + "snap/docker"):
        return "snap"
    # A user's own engine, while the system's does not run: starting that one is the operator's decision.
    if not info and glob.glob(ROOT + "run/user/*/docker.sock"):
        return "rootless"
    return ""


def is_podman(client: str) -> bool:
    """Return whether the command ``docker`` is the package podman-docker's: a script, or a link to podman."""
    if os.path.basename(os.path.realpath(client)).startswith("podman"):
        return True
    with open(client, "rb") as stream:
        beginning = stream.read(2048)
    return beginning.startswith(b"#!") and b"podman" in beginning


def docker(client: str | None, info: dict[str, Any], reason: str) -> dict[str, Any]:
    """Return whether the Docker client exists and its engine answers, with its version or the reason why not."""
    return {
        "client": client,
        "reachable": bool(info),
        "version": str(info.get("ServerVersion", "")),
        "reason": reason,
        "unsuitable": unsuitable_docker(client, info, shutil.which("dockerd") is not None),
        "has_proxy": bool(info.get("HttpProxy") or info.get("HttpsProxy")),
    }


def memory_mb() -> int:
    """Total memory in MiB."""
    with open("/proc/meminfo", encoding="ascii") as stream:
        return int(stream.readline().split()[1]) // 1024


def existing(path: str) -> str:
    """Return the closest directory above ``path`` that exists, or itself."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def disk_free_mb(path: str) -> int:
    """Free space in MiB where ``path`` lies or would lie."""
    return shutil.disk_usage(existing(path)).free // 2**20


def docker_disk(module: AnsibleModule, engine: dict[str, Any], home: str) -> dict[str, Any]:
    """Return where Docker keeps images, the free space there in MiB, and whether that is modelserve's own disk."""
    root = ""
    if engine["reachable"]:
        root = module.run_command([engine["client"], "info", "--format", "{{.DockerRootDir}}"])[1].strip()
    root = root if root.startswith("/") else "/var/lib/docker"
    same = os.stat(existing(root)).st_dev == os.stat(existing(home)).st_dev
    return {"root": root, "root_free_mb": disk_free_mb(root), "root_on_home_disk": same}


def surveyed_network(module: AnsibleModule, own: list[str]) -> dict[str, Any]:
    """Return the host's addresses, whether its own is among them, services, firewalls, and who does not answer."""
    return {
        "addresses": network.addresses(),
        "address_is_here": network.is_on_host(module.params["address"]),
        "services": network.services(own),
        "firewalls": network.firewalls(module.run_command, shutil.which),
        "unreachable": network.unreachable(module.params["peers"]),
        "proxy_problems": [network.proxy_problem(url) for url in module.params["proxies"]],
    }


def content(path: str) -> str:
    """What a small file holds, or nothing when it is not there."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read().strip()
    except OSError:
        return ""


# Where a site adds certificates to the system's: on Debian and its kin, and on Red Hat's family (files in PEM format).
CERTIFICATES = ("/usr/local/share/ca-certificates/**/*.crt", "/etc/pki/ca-trust/source/anchors/*")


def certificates() -> dict[str, str]:
    """SHA-256 of the certificates the site added to the system's, by path."""
    found = {}
    for path in sorted(path for pattern in CERTIFICATES for path in glob.glob(pattern, recursive=True)):
        with open(path, "rb") as stream:
            content = stream.read()
        if b"-----BEGIN" in content:
            found[path] = hashlib.sha256(content).hexdigest()
    return found


def listeners(ports: set[int]) -> dict[int, str]:
    """Inode of the listening socket of each of ``ports`` that has one."""
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        with open(table, encoding="ascii") as stream:
            for line in list(stream)[1:]:
                fields = line.split()
                port = int(fields[1].rpartition(":")[2], 16)
                if fields[3] == LISTEN and port in ports:
                    found[port] = fields[9]
    return found


def owner(inode: str) -> int | None:
    """The process that holds a socket: its pid, or None when that is not to be seen."""
    target = "socket:[{0}]".format(inode)
    for link in glob.iglob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(link) == target:
                return int(link.split("/")[2])
        except OSError:
            continue
    return None


def containers(module: AnsibleModule, client: str) -> dict[str, dict[str, Any]]:
    """The containers modelserve made, by name: id, role, what they were made from, whether they run and are well."""
    columns = ["ID", "Names", "State", "Status", 'Label "modelserve.role"', 'Label "modelserve.spec"']
    template = "\t".join("{{." + column + "}}" for column in columns)
    command = [client, "ps", "--all", "--no-trunc", "--filter", "label=modelserve.role", "--format", template]
    code, out, _ = module.run_command(command)
    found = {}
    for line in out.splitlines() if code == 0 else []:
        number, name, state, status, role, spec = line.split("\t")
        found[name] = {
            "id": number,
            "role": role,
            "spec": spec,
            "running": state == "running",
            "healthy": "(healthy)" in status,
        }
    return found


def started_at(text: str) -> float:
    """Return the time of Docker's ``2024-05-01T10:00:00.123456789Z`` in seconds; 0 where it is none."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z", text)
    if match is None:
        return 0.0
    return calendar.timegm(time.strptime(match.group(1), "%Y-%m-%dT%H:%M:%S")) + float(match.group(2) or 0)


def with_former_token(module: AnsibleModule, client: str, made: dict[str, dict[str, Any]], home: str) -> list[str]:
    """Return the names of the running containers that started before the token in ``home`` was written."""
    token = os.path.join(home, "secrets", "ray_token")
    running = [name for name, container in made.items() if container["running"]]
    if not running or not os.path.exists(token):
        return []
    written = os.stat(token).st_mtime
    template = "{{.Name}}\t{{.State.StartedAt}}"
    code, out, _ = module.run_command([client, "inspect", "--format", template, *running])
    rows = [line.partition("\t") for line in out.splitlines()] if code == 0 else []
    return sorted(name.lstrip("/") for name, _, started in rows if 0 < started_at(started) < written)


def images(module: AnsibleModule, client: str) -> list[str]:
    """Names of the modelserve images there are."""
    template = "{{.Repository}}:{{.Tag}}"
    command = [client, "images", "--filter", "label=modelserve.part=image", "--format", template]
    code, out, _ = module.run_command(command)
    return sorted(out.split()) if code == 0 else []


def home_content(home: str) -> str:
    """Return whose what lies in modelserve's directory is.

    ``absent`` or ``empty``: there is nothing. ``marked``: modelserve made it (role ``data_directory``). ``unmarked``:
    it did so before it marked its directories, which its traces show. ``foreign``: anything else.
    """
    if not os.path.isdir(home):
        return "absent"
    entries = set(os.listdir(home)) - {"lost+found"}  # a disk of its own is empty, too
    if ".modelserve" in entries:
        return "marked"
    if not entries:
        return "empty"
    traces = [["secrets/ray_token", "user", "tmp"], ["image/files/modelserve/__init__.py"]]
    if any(all(os.path.exists(os.path.join(home, path)) for path in paths) for paths in traces):
        return "unmarked"
    return "foreign"


def cluster_of(home: str) -> str:
    """Return the name of the head in the inventory that installed, from the marker; empty where it names none."""
    match = re.search(r"^head: (.+)$", content(os.path.join(home, ".modelserve")), re.MULTILINE)
    return match.group(1).strip() if match else ""


def home_state(home: str) -> dict[str, Any]:
    """Return what is known of modelserve's directory.

    ``owner`` is a user's id, ``token_sha256`` a hash of the token, both empty where there is none; ``content``
    is of :func:`home_content`; ``head`` names the cluster's head in the inventory that installed; ``gateways`` names
    the other hosts with a gateway, as the head knows them; ``gateway`` is whether a gateway's files lie here;
    ``served_port`` is its own gateway's. ``secrets`` names the secrets of sections that operators put here in files,
    and ``inventory_secrets`` is whether the inventory brought some.
    """
    token = os.path.join(home, "secrets", "ray_token")
    mark = ""
    if os.path.exists(token) and os.access(token, os.R_OK):
        with open(token, "rb") as stream:
            mark = hashlib.sha256(stream.read().strip()).hexdigest()
    gateways = os.path.join(home, "gateways.json")
    names = []
    if os.path.exists(gateways) and os.access(gateways, os.R_OK):
        with open(gateways, encoding="utf-8") as stream:
            names = sorted(json.load(stream))
    owner = str(os.stat(home).st_uid) if os.path.isdir(home) else ""
    return {
        "owner": owner,
        "content": home_content(home),
        "head": cluster_of(home),
        "token_sha256": mark,
        "gateways": names,
        "gateway": os.path.isdir(os.path.join(home, "gateway")),
        "served_port": served_port(home),
        "secrets": secret_files(home),
        "inventory_secrets": os.path.exists(os.path.join(home, "secrets", "inventory.json")),
    }


def secret_files(home: str) -> list[str]:
    """Return the names of the files in ``secrets/values``; none where they are closed to this user."""
    directory = os.path.join(home, "secrets", "values")
    try:
        return sorted(name for name in os.listdir(directory) if os.path.isfile(os.path.join(directory, name)))
    except OSError:
        return []


def served_port(home: str) -> int:
    """Return the port that the host's gateway listens on; 0 where there is none."""
    try:
        with open(os.path.join(home, "gateway", "served.json"), encoding="utf-8") as stream:
            return int(json.load(stream)["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def ports_taken(ports: list[int], own: list[str]) -> list[dict[str, Any]]:
    """Ports that a program outside modelserve's containers (their ids are ``own``) listens on, with its name."""
    found = listeners(set(ports))
    if not found:
        return []
    taken = []
    for port, inode in sorted(found.items()):
        pid = owner(inode)
        name = "another program"
        if pid is not None:
            with open("/proc/{0}/cgroup".format(pid), encoding="utf-8") as stream:
                group = stream.read()
            if any(container in group for container in own):
                continue
            with open("/proc/{0}/comm".format(pid), encoding="utf-8") as stream:
                name = "{0} (pid {1})".format(stream.read().strip(), pid)
        taken.append({"port": port, "by": name})
    return taken


def may_set_firewall() -> bool:
    """Return whether this process may set nftables rules: the root of a container may not."""
    with open("/proc/self/status", encoding="ascii") as status:
        effective = next(line.split()[1] for line in status if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> CAP_NET_ADMIN & 1)


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "str", "required": True},
            "commands": {"type": "list", "elements": "str", "default": []},
            "ports": {"type": "list", "elements": "int", "default": []},
            "survey": {"type": "bool", "default": False},
            "address": {"type": "str", "default": ""},
            "peers": {"type": "list", "elements": "dict", "default": []},
            "proxies": {"type": "list", "elements": "str", "default": [], "no_log": True},
        },
        supports_check_mode=True,
    )
    client = shutil.which("docker")
    info, reason = docker_info(module, client)
    engine = docker(client, info, reason)
    made = containers(module, engine["client"]) if engine["reachable"] else {}
    own = [container["id"] for container in made.values()]
    engine["bridges"] = network.docker_bridges(network.bridges(), module.run_command, engine["client"])
    cards, gpu_error = gpu.cards(module.run_command, shutil.which("nvidia-smi"))
    facts = {
        "distribution": distribution(),
        "systemd": os.path.isdir("/run/systemd/system"),
        "docker": engine,
        "python_requests": importlib.util.find_spec("requests") is not None,  # what community.docker needs
        "python_apt": importlib.util.find_spec("apt") is not None,  # what a dry run of apt needs
        "net_admin": may_set_firewall(),
        "commands": {name: shutil.which(name) for name in module.params["commands"]},
        "memory_mb": memory_mb(),
        "disk_free_mb": disk_free_mb(module.params["home"]),
        "gpus": gpu.devices(cards),
        "nvidia": gpu.facts(module.run_command, cards, gpu_error, info),
        "certificates": certificates(),
        "containers": made,
        "former_token": with_former_token(module, client, made, module.params["home"]) if client else [],
        "images": images(module, engine["client"]) if engine["reachable"] else [],
        "home": home_state(module.params["home"]),
        "ports_taken": ports_taken(module.params["ports"], own),
    }
    if module.params["survey"]:
        engine.update(docker_disk(module, engine, module.params["home"]))
        facts["network"] = surveyed_network(module, own)
    module.exit_json(changed=False, ansible_facts={"modelserve_host": facts})


if __name__ == "__main__":
    main()
