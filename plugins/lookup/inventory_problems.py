"""What is wrong in an inventory, as a whole: the groups, the names and addresses of hosts, and the form of settings.

Reads the inventory alone, no host. ``validate_argument_spec`` checks types; this checks what is beyond a type.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: inventory_problems
author: modelserve
short_description: What is wrong in an inventory
description: One line for each problem. It names the host and the key, and says what to write.
options:
  _terms:
    description: A dictionary of C(groups), the inventory's, and C(head), C(workers) and C(gateways), names of hosts.
    required: true
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

# A host's name is part of a container's name (Docker), a label of a node (Ray) and a file's name.
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
DNS_NAME = re.compile(r"(?=.{1,253}$)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)(?:\.[A-Za-z0-9_-]{1,63})*\.?")
HEAD = "head"  # the head's name among the nodes
PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
# Set by roles during a run, which acts on them.
RUN_FACTS = (
    "modelserve_cluster",
    "modelserve_firewall_loaded",
    "modelserve_head_image_tag",
    "modelserve_image_present",
    "modelserve_image_tag",
    "modelserve_project_facts",
    "modelserve_served_port",
)


def is_address(value: object) -> bool:
    """Return whether a value is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(str(value))
    except ValueError:
        return False
    return True


def is_network(value: object) -> bool:
    """Return whether a value is an address, or a network such as ``10.0.0.0/8``."""
    try:
        ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        return False
    return True


def is_opening(entry: object) -> bool:
    """Return whether an entry of ``firewall_open_ports`` is a port, or a dictionary that the firewall's rules know."""
    if not isinstance(entry, Mapping):
        return str(entry).isdigit() and 0 < int(str(entry)) < 65536
    ports = PORTS.fullmatch(str(entry.get("port", "")))
    return (
        set(entry) <= {"port", "protocol", "from"}
        and ports is not None
        and all(0 < int(port) < 65536 for port in ports.groups() if port)
        and entry.get("protocol", "tcp") in ("tcp", "udp")
        and not isinstance(entry.get("from", []), str)
        and all(map(is_network, entry.get("from", [])))
    )


def matches(pattern: str) -> Callable[[object], bool]:
    """Return a test of a value's text."""
    return lambda value: re.fullmatch(pattern, str(value), re.IGNORECASE) is not None


def each(test: Callable[[object], bool]) -> Callable[[object], bool]:
    """Return a test of all elements of a list."""
    return lambda value: not isinstance(value, list) or all(map(test, value))


PROXY = (
    matches(r"|https?://([^\s/@:?#]+(:[^\s/@?#]*)?@)?(\[[0-9a-f:]+\]|[a-z0-9._-]+)(:\d{1,5})?/?"),
    "write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, in a password %40 for @, %23 for #, %2F for /",
)
# What a setting must be, and how to write it. A wrong type is found by its argument specification.
SETTINGS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "modelserve_gpus": (matches(r"auto|none|\d+"), "write auto, none or a number"),
    "modelserve_gpu_access": (matches(r"auto|runtime|cdi"), "write auto, runtime or cdi"),
    "modelserve_home": (
        matches(r"/[^\s:]+"),
        "write an absolute path without spaces and colons, such as /opt/modelserve",
    ),
    "modelserve_user": (matches(r"\d+"), 'write the number of a user, such as "6370"'),
    "modelserve_shm_size_head": (matches(r"\d+(\.\d+)? ?([kmgt]i?)?b?"), "write a size, such as 8G"),
    "modelserve_shm_size_worker": (matches(r"\d+(\.\d+)? ?([kmgt]i?)?b?"), "write a size, such as 4G"),
    "modelserve_node_ip": (
        lambda value: value == "" or is_address(value) or DNS_NAME.fullmatch(str(value)) is not None,
        "write an address without a port, such as 10.0.0.11",
    ),
    "modelserve_gateway_bind": (
        each(lambda value: value in ("*", "localhost") or is_address(value)),
        'write addresses of the host, or ["*"] for all',
    ),
    "modelserve_http_proxy": PROXY,
    "modelserve_https_proxy": PROXY,
    "modelserve_no_proxy": (
        each(matches(r"[^\s,/]+(/\d{1,3})?")),
        "write names, domains and addresses without a scheme, such as [.corp.example, 10.0.0.9]",
    ),
    "modelserve_extra_mounts": (
        each(matches(r"/[^:]*:/[^:]+(:[a-z,]+)?")),
        "write /on/the/host:/in/the/container[:ro]",
    ),
    "firewall_open_ports": (
        each(is_opening),
        "write ports, or dictionaries such as {port: 9100, protocol: tcp, from: [10.0.5.7]}",
    ),
    "firewall_ssh_from": (each(is_network), "write addresses or networks, such as [10.0.0.0/8]"),
}


def group_problems(cluster: Mapping[str, Any], is_head_set: bool) -> Iterator[str]:
    """Yield what is wrong in the groups.

    Args:
        cluster: the lookup's term.
        is_head_set: whether the inventory sets ``modelserve_head`` in place of the group.
    """
    groups, head, workers = cluster["groups"], cluster["head"], cluster["workers"]
    heads = groups.get("head", [])
    if not is_head_set and not heads and ("head" in groups or len(groups["all"]) > 1):
        yield "the group head has no host: put one host into it"
    if not is_head_set and len(heads) > 1:
        yield f"the group head has {len(heads)} hosts ({', '.join(heads)}): keep one, and put the others into workers"
    for name in workers:
        if name == head or name in heads:
            yield f"{name} is in the groups head and workers: take it out of workers; the head runs algorithms, too"
    for setting in ("head", "workers", "gateways"):
        names = [head] if setting == "head" else cluster[setting]
        for name in names:
            if name not in groups["all"]:
                yield f"modelserve_{setting} names {name}, which is not in the inventory: add it, or correct the name"


def name_problems(hosts: Sequence[str], cluster: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names that Docker, Ray or DNS refuse, or that have another meaning.

    Args:
        hosts: names of the cluster's hosts.
        cluster: the lookup's term.
    """
    for name in hosts:
        if name in cluster["groups"]:
            yield f"{name} is a host and a group, which share variables then: rename the host in the inventory"
        if not NAME.fullmatch(name):
            yield (
                f"{name} is no name for a host: use at most 63 letters, digits, '-', '_' and '.', a letter or digit "
                f"first and last, and write where it is as ansible_host"
            )
    if HEAD in cluster["workers"]:
        yield f"a worker is called {HEAD}, which is the head's name among the nodes: rename it in the inventory"


def address_problems(hosts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the addresses that several hosts have.

    Args:
        hosts: variables of each host.
    """
    names: dict[str, list[str]] = {}
    for name, variables in hosts.items():
        address = variables.get("modelserve_node_ip") or variables.get("ansible_host") or name
        names.setdefault(str(address), []).append(name)
    for address, same in names.items():
        if len(same) > 1:
            yield (
                f"{' and '.join(same)} have one address, {address}: correct ansible_host, or set modelserve_node_ip of "
                f"each to the address that the other hosts reach it at"
            )


def shown(value: object) -> object:
    """Return a value as a message may show it: without what stands before the last ``@``, which may be a password."""
    _before, at, after = value.rpartition("@") if isinstance(value, str) else ("", "", value)
    return f"...@{after}" if at else after


def family_problems(hosts: Mapping[str, Mapping[str, Any]], head: str) -> Iterator[str]:
    """Yield the hosts whose address is of another family than the head's: neither Ray nor the firewall joins the two.

    Args:
        hosts: variables of each host.
        head: the head's name.
    """
    versions = {}
    for name, variables in hosts.items():
        address = variables.get("modelserve_node_ip") or variables.get("ansible_host") or name
        if is_address(address):  # a name's family shows when it is resolved
            versions[name] = ipaddress.ip_address(str(address)).version
    for name, version in versions.items():
        if version != versions.get(head, version):
            yield (
                f"{name} has an address of IPv{version}, and {head}, the head, one of IPv{versions[head]}: set "
                f"modelserve_node_ip of {name} to its address of IPv{versions[head]}"
            )


def setting_problems(name: str, variables: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings of a host that have no valid value.

    Args:
        name: the host.
        variables: its variables.
    """
    for setting, (is_valid, fix) in SETTINGS.items():
        value = variables.get(setting)
        if value is not None and not is_valid(value):
            yield f"{name}: {setting} is {shown(value)!r}: {fix}"
    for fact in RUN_FACTS:
        if fact in variables:
            yield f"{name}: {fact} is set by each run itself: remove it from the inventory"


def problems(cluster: Mapping[str, Any], hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what is wrong in an inventory, a line each.

    Args:
        cluster: the lookup's term.
        hosts: variables of each host of the cluster.
    """
    is_head_set = any("modelserve_head" in variables for variables in hosts.values())
    lines = [*group_problems(cluster, is_head_set), *name_problems(list(hosts), cluster)]
    lines += address_problems(hosts)
    lines += family_problems(hosts, cluster["head"])
    lines += [line for name, variables in hosts.items() for line in setting_problems(name, variables)]
    return lines


class Readable(Mapping[str, Any]):
    """The variables of a host that can be read now: a template may need a fact that is not there yet."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables = variables

    def __getitem__(self, key: str) -> Any:
        try:
            return self._variables[key]
        except AnsibleError:
            raise KeyError(key) from None

    def __contains__(self, key: object) -> bool:
        return key in self._variables

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


class LookupModule(LookupBase):
    """The lookup ``inventory_problems``."""

    def run(
        self, terms: list[dict[str, Any]], variables: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[list[str]]:
        """Return one list of lines for each cluster."""
        hostvars = (variables or {})["hostvars"]
        lists = []
        for cluster in terms:
            members = dict.fromkeys([cluster["head"], *cluster["workers"], *cluster["gateways"]])
            hosts = {name: Readable(hostvars[name]) for name in members if name in cluster["groups"]["all"]}
            lists.append(problems(cluster, hosts))
        return lists
