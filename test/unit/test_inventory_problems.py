"""The validation of an inventory as a whole: each problem is one line that names the host, the key and the fix."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "plugins" / "lookup" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOOKUP = load("inventory_problems")
Hosts = dict[str, dict[str, Any]]


def problems(groups: dict[str, list[str]], variables: Hosts | None = None, **members: Any) -> list[str]:
    """Return the problems of an inventory with these groups and variables of hosts."""
    everyone = list(dict.fromkeys(name for names in groups.values() for name in names))
    groups = {**groups, "all": everyone}
    heads = groups.get("head") or everyone
    cluster = {
        "groups": groups,
        "head": members.get("head", heads[0]),
        "workers": members.get("workers", groups.get("workers", [])),
        "gateways": members.get("gateways", groups.get("gateway") or [heads[0]]),
    }
    names = dict.fromkeys([cluster["head"], *cluster["workers"], *cluster["gateways"]])
    hosts: Hosts = {name: (variables or {}).get(name, {}) for name in names if name in everyone}
    return list(LOOKUP.problems(cluster, hosts))


GOOD: dict[str, dict[str, list[str]]] = {
    "one_machine": {"head": ["local"], "workers": []},
    "without_groups": {"ungrouped": ["local"]},
    "cluster": {"head": ["h"], "workers": ["w1", "worker_2", "gpu-3.example.org"], "gateway": ["h", "w1"]},
    "gateway_elsewhere": {"head": ["h"], "workers": ["w1"], "gateway": ["g"], "other": ["x"]},
}


@pytest.mark.parametrize("name", GOOD)
def test_a_usable_inventory_has_no_problem(name: str) -> None:
    assert problems(GOOD[name]) == []


BAD: dict[str, tuple[dict[str, list[str]], str]] = {
    "empty_head": ({"head": [], "workers": ["w1"]}, "the group head has no host: put one host into it"),
    "no_head": ({"workers": ["w1", "w2"]}, "the group head has no host"),
    "two_heads": ({"head": ["a", "b"]}, "the group head has 2 hosts (a, b): keep one, and put the others into workers"),
    "head_and_worker": ({"head": ["a"], "workers": ["a", "b"]}, "a is in the groups head and workers: take it out of"),
    "worker_head": ({"head": ["a"], "workers": ["head"]}, "a worker is called head"),
    "group": ({"head": ["a"], "workers": ["gateway"], "gateway": ["a"]}, "gateway is a host and a group"),
    "at": ({"head": ["ops@a"]}, "ops@a is no name for a host"),
    "colon": ({"head": ["a"], "workers": ["fd00::2"]}, "fd00::2 is no name for a host"),
    "long": ({"head": ["a"], "workers": ["w" * 64]}, f"{'w' * 64} is no name for a host"),
    "dash": ({"head": ["a"], "workers": ["w-"]}, "w- is no name for a host"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_problem_of_groups_and_names_is_named_with_the_fix(name: str) -> None:
    groups, line = BAD[name]
    lines = problems(groups)
    assert any(line in text for text in lines), lines
    assert all("\n" not in text and ": " in text for text in lines)


def test_all_problems_are_reported_at_once() -> None:
    lines = problems({"head": ["a", "b"], "workers": ["a", "head", "x@y"]}, {"a": {"modelserve_gpus": "many"}})
    assert len(lines) == 6, lines


def test_names_that_a_setting_gives_must_be_hosts() -> None:
    groups = {"head": ["h"]}
    assert problems(groups, workers=["w9"])[0].startswith("modelserve_workers names w9, which is not in the inventory")
    assert problems(groups, gateways=["g9"])[0].startswith("modelserve_gateways names g9")
    assert problems({"a": ["x", "y"]}, {"x": {"modelserve_head": "x"}}, head="x") == [], (
        "the setting in place of the group"
    )


def test_the_addresses_of_a_cluster_are_of_one_family() -> None:
    groups = {"head": ["h"], "workers": ["w1", "w2"]}
    hosts: Hosts = {"h": {"ansible_host": "10.0.0.1"}, "w1": {"ansible_host": "fd00::2"}, "w2": {"ansible_host": "w2"}}
    (line,) = problems(groups, hosts)
    assert line == (
        "w1 has an address of IPv6, and h, the head, one of IPv4: set modelserve_node_ip of w1 to its address of IPv4"
    )
    hosts["w1"]["modelserve_node_ip"] = "10.0.0.2"
    assert problems(groups, hosts) == []
    hosts = {name: {"ansible_host": f"fd00::{number}"} for number, name in enumerate(["h", "w1", "w2"], 1)}
    assert problems(groups, hosts) == []


def test_two_hosts_have_two_addresses() -> None:
    groups = {"head": ["h"], "workers": ["w1", "w2"]}
    same = {"h": {"ansible_host": "10.0.0.1"}, "w1": {"ansible_host": "10.0.0.1"}}
    (line,) = problems(groups, same)
    assert line.startswith("h and w1 have one address, 10.0.0.1") and "modelserve_node_ip" in line
    behind_a_router = {
        name: {**variables, "modelserve_node_ip": f"10.1.0.{len(name)}"} for name, variables in same.items()
    }
    assert problems(groups, behind_a_router) == []


VALUES: list[tuple[str, Any, bool]] = [
    ("modelserve_gpus", "auto", True),
    ("modelserve_gpus", 2, True),
    ("modelserve_gpus", "two", False),
    ("modelserve_gpu_access", "cdi", True),
    ("modelserve_gpu_access", "hook", False),
    ("modelserve_home", "/srv/model serve", False),
    ("modelserve_home", "opt", False),
    ("modelserve_user", "6370", True),
    ("modelserve_user", "ubuntu", False),
    ("modelserve_shm_size_head", "8G", True),
    ("modelserve_shm_size_head", "8 gigs", False),
    ("modelserve_node_ip", "", True),
    ("modelserve_node_ip", "fd00::1", True),
    ("modelserve_node_ip", "gpu-1.example.org", True),
    ("modelserve_node_ip", "10.0.0.1:22", False),
    ("modelserve_gateway_bind", ["*", "127.0.0.1", "::"], True),
    ("modelserve_gateway_bind", ["eth0"], False),
    ("modelserve_extra_mounts", ["/data:/data:ro"], True),
    ("modelserve_extra_mounts", ["data"], False),
    ("modelserve_http_proxy", "http://proxy.example:3128", True),
    ("modelserve_http_proxy", "http://site:p%40ss@10.0.0.1:3128/", True),
    ("modelserve_https_proxy", "http://[fd00::1]:3128", True),
    ("modelserve_https_proxy", "", True),
    ("modelserve_http_proxy", "proxy.example:3128", False),
    ("modelserve_http_proxy", "http://proxy.example: 3128", False),
    ("modelserve_https_proxy", "socks5://proxy.example:1080", False),
    ("modelserve_no_proxy", [".corp.example", "10.0.0.0/8", "fd00::1", "*.example"], True),
    ("modelserve_no_proxy", ["a.example,b.example"], False),
    ("modelserve_no_proxy", ["http://a.example"], False),
    ("firewall_open_ports", [9100, "9101", {"port": "5000-5010", "protocol": "udp", "from": ["10.0.0.0/8"]}], True),
    ("firewall_open_ports", [{"port": 9100, "form": ["10.0.5.7"]}], False),
    ("firewall_open_ports", [{"port": 9100, "from": ["monitor"]}], False),
    ("firewall_open_ports", [70000], False),
    ("firewall_ssh_from", ["10.0.0.0/8", "fd00::1"], True),
    ("firewall_ssh_from", ["office"], False),
]


@pytest.mark.parametrize(("setting", "value", "is_valid"), VALUES)
def test_a_setting_of_another_form_is_named_with_how_to_write_it(setting: str, value: Any, is_valid: bool) -> None:
    lines = problems({"head": ["h"]}, {"h": {setting: value}})
    assert len(lines) == (0 if is_valid else 1), lines
    assert all(line.startswith(f"h: {setting} is ") and ": write " in line for line in lines)


@pytest.mark.parametrize("url", ["site:hid#den@proxy.example:3128", "http://site:hid@den@proxy.example:3128"])
def test_a_malformed_proxy_is_named_without_its_password(url: str) -> None:
    (line,) = problems({"head": ["h"]}, {"h": {"modelserve_http_proxy": url}})
    assert line.startswith("h: modelserve_http_proxy is '...@proxy.example:3128': write http://HOST:PORT"), line


def test_what_decides_a_run_is_not_the_inventory_s() -> None:
    assert problems({"head": ["h"]}, {"h": {"image_tag": "v1"}}) == [], "of the site's own"
    (line,) = problems({"head": ["h"]}, {"h": {"modelserve_image_tag": "site:1"}})
    assert line == "h: modelserve_image_tag is set by each run itself: remove it from the inventory"
    assert set(LOOKUP.RUN_FACTS) <= load("unknown_settings").FACTS


def test_the_settings_that_are_checked_exist_and_their_defaults_are_valid() -> None:
    for role in ("modelserve", "firewall"):
        defaults = yaml.safe_load((ROOT / "roles" / role / "defaults" / "main.yml").read_text())
        checked = {
            name: default for name, default in defaults.items() if name in LOOKUP.SETTINGS and "{{" not in str(default)
        }
        assert checked
        for name, default in checked.items():
            assert LOOKUP.SETTINGS[name][0](default), name


@pytest.mark.parametrize(
    ("answers", "address"),
    [
        (["10.0.0.7", "fd00::7", "10.0.0.6"], "10.0.0.6"),
        (["fd00::7"], "fd00::7"),
        (["127.0.1.1", "10.0.0.7"], "10.0.0.7"),
        (["127.0.1.1", "fe80::1%eth0"], "gpu-1"),
        ([], "gpu-1"),
    ],
)
def test_a_name_is_resolved_to_one_address_that_others_reach(
    monkeypatch: pytest.MonkeyPatch, answers: list[str], address: str
) -> None:
    module = load("node_address")

    def resolve(name: str, *_: object, **__: object) -> list[Any]:
        if not answers:
            raise OSError("no address")
        return [(0, 0, 0, "", (answer, 0)) for answer in answers]

    monkeypatch.setattr(module.socket, "getaddrinfo", resolve)
    assert module.LookupModule().run(["gpu-1", "10.0.0.9", "FD00::9"]) == [address, "10.0.0.9", "fd00::9"]
