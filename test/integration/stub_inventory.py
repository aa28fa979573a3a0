"""Hosts that are stubs: playbooks run by Ansible itself, with facts that a test gives and rules that no host loads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    # Facts of a host are in its data directory.
    "modelserve_host_facts": """
names = ("home", "commands", "ports", "survey", "address", "peers", "proxies")
module = AnsibleModule({name: {"type": "raw"} for name in names}, supports_check_mode=True)
with open(module.params["home"] + "/facts.json") as stream:
    module.exit_json(changed=False, ansible_facts={"modelserve_host": json.load(stream)})
""",
    # What is loaded is a line of one file: the ports that are open to all.
    "modelserve_firewall": """
module = AnsibleModule({name: {"type": "raw"} for name in ("state", "rules", "addresses", "timeout")},
                       supports_check_mode=True)
with open(os.environ["STUB_RULES"], "a") as stream:
    stream.write((re.findall("tcp dport { (.*) } accept", module.params["rules"] or "") or ["none"])[0] + "\\n")
module.exit_json(changed=True, pending=False)
""",
}
# Ansible's connection to its own machine under a name that this project does not know.
OTHER_CONNECTION = '''
DOCUMENTATION = """
name: other
short_description: another connection
description: The operator's machine by another name.
options:
  become_success_timeout: {description: seconds, type: int, default: 10}
  become_strip_preamble: {description: what sudo prints, type: bool, default: true}
extends_documentation_fragment: [connection_pipelining]
"""
from ansible.plugins.connection.local import Connection as Local


class Connection(Local):
    transport = "other"
'''
HEADER = (
    "#!/usr/bin/python\nimport json\nimport os\nimport re\n\nfrom ansible.module_utils.basic import AnsibleModule\n"
)


def facts(**changes: Any) -> dict[str, Any]:
    """Return the facts of a host that has everything, with changes: keys with ``__`` reach into dictionaries."""
    values: dict[str, Any] = {
        "distribution": {"id": "debian", "like": [], "version": "13", "codename": "trixie"},
        "docker": {
            "reachable": True,
            "client": "/usr/bin/docker",
            "version": "28.0.0",
            "reason": "",
            "unsuitable": "",
            "has_proxy": False,
            "bridges": ["docker0"],
            "root": "/var/lib/docker",
            "root_free_mb": 50000,
            "root_on_home_disk": False,
        },
        "net_admin": True,
        "python_apt": True,
        "python_requests": True,
        "systemd": True,
        "commands": {name: f"/usr/bin/{name}" for name in ("nft", "rsync", "dockerd", "mmdebstrap")},
        "memory_mb": 64000,
        "disk_free_mb": 50000,
        "gpus": [],
        "nvidia": {"gpus": 0, "mig_instances": 0, "mig_empty": [], "persistence_off": [], "ways": []},
        "certificates": {},
        "containers": {},
        "images": ["modelserve:0"],
        "home": {
            "owner": "6370",
            "content": "marked",
            "head": "h",
            "token_sha256": "0",
            "gateways": [],
            "gateway": False,
            "served_port": 0,
            "secrets": [],
            "inventory_secrets": False,
        },
        "former_token": [],
        "ports_taken": [],
        "network": {
            "addresses": ["10.0.0.5"],
            "address_is_here": True,
            "services": [],
            "firewalls": [],
            "unreachable": [],
            "proxy_problems": [],
        },
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        target = values
        for name in path:
            target = target[name]
        target[last] = value
    return values


@dataclass
class Stubs:
    """An inventory of stub hosts below a directory.

    Attributes:
        directory: holds everything.
        groups: names of hosts by group.
        variables: more variables of all hosts.
    """

    directory: Path
    groups: dict[str, list[str]]
    variables: dict[str, Any] = field(default_factory=dict)

    def write_facts(self, name: str, values: dict[str, Any]) -> None:
        """Write what a host's facts are from now on."""
        home = self.directory / name
        home.mkdir(exist_ok=True)
        (home / "facts.json").write_text(json.dumps(values))

    def loaded(self) -> list[str]:
        """Return the open ports of each load of the firewall's rules, in the order of the loads."""
        rules = self.directory / "rules"
        return rules.read_text().splitlines() if rules.exists() else []

    def run(
        self, playbook: str, *options: str, of_hosts: dict[str, dict[str, Any]] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook of this project; roles in ``roles`` of the directory take the place of its own."""
        library = self.directory / "library"
        library.mkdir(exist_ok=True)
        for name, text in MODULES.items():
            (library / f"{name}.py").write_text(HEADER + text)
        hosts = {
            name: {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "ansible_become": False,
                "modelserve_home": str(self.directory / name),
                **self.variables,
                **(of_hosts or {}).get(name, {}),
            }
            for names in self.groups.values()
            for name in names
        }
        children = {group: {"hosts": dict.fromkeys(names)} for group, names in self.groups.items()}
        (self.directory / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "children": children}}))
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_LIBRARY": f"{library}:{ROOT / 'plugins' / 'modules'}",
            "ANSIBLE_ROLES_PATH": f"{self.directory / 'roles'}:{ROOT / 'roles'}",
            "ANSIBLE_NOCOLOR": "1",
            "STUB_RULES": str(self.directory / "rules"),
            "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
        }
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        command = [program, "-i", str(self.directory / "hosts.json"), str(ROOT / "playbooks" / playbook), *options]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=self.directory,
            timeout=180,
            stdin=subprocess.DEVNULL,
        )


def words(result: subprocess.CompletedProcess[str]) -> str:
    """Return what Ansible printed, with single spaces: its lines break anywhere."""
    return re.sub(r"\s+", " ", result.stdout + result.stderr)
