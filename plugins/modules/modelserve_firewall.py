#!/usr/bin/python
"""Load modelserve's nftables table, keep it over reboots, and roll it back when it locks Ansible out."""

from __future__ import annotations

DOCUMENTATION = r"""
module: modelserve_firewall
short_description: Load modelserve's own nftables table
description:
  - Manages one table, C(inet modelserve). Other tables are not changed; C(nft flush ruleset) is never used.
  - The host itself rolls new rules back unless O(state=confirmed) follows in time, over a new connection.
  - Where systemd runs, a unit loads the rules at boot and whenever nftables is restarted.
options:
  state:
    description:
      - V(loaded) loads O(rules); V(confirmed) keeps the loaded rules; V(admitted) adds O(addresses) to the allowed
        peers in place, V(dismissed) removes them; V(absent) removes table, file and unit.
    type: str
    choices: [loaded, confirmed, admitted, dismissed, absent]
    default: loaded
  rules:
    description: The table as an nft script; C(@PEERS4@) and C(@PEERS6@) stand for O(addresses).
    type: str
    default: ""
  addresses:
    description: The cluster's hosts; names are resolved here.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds after which unconfirmed rules are rolled back.
    type: int
    default: 30
author: modelserve
"""

EXAMPLES = r"""
- name: Load the rules
  modelserve_firewall:
    rules: "{{ lookup('ansible.builtin.template', 'firewall.nft.j2') }}"
    addresses: [10.0.0.10, 10.0.0.11]
"""

RETURN = r"""
pending:
  description: Whether the rules must be confirmed.
  returned: state loaded
  type: bool
"""

import contextlib
import fcntl
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DIRECTORY = "/etc/modelserve"
FILE = f"{DIRECTORY}/firewall.nft"
BEFORE = f"{DIRECTORY}/firewall.before"
PENDING = f"{DIRECTORY}/firewall.pending"
UNIT = "modelserve-firewall.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
LOCK = "/run/modelserve-firewall.lock"
TABLE = "inet modelserve"
# The table is loaded after those of the system, and again when nftables restarts: that flushes all tables.
UNIT_TEXT = f"""# Written by modelserve.
[Unit]
Description=modelserve's firewall: the table {TABLE}
DefaultDependencies=no
After=nftables.service local-fs.target
PartOf=nftables.service
Before=network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {FILE}
ExecReload=/usr/sbin/nft -f {FILE}
ExecStop=-/usr/sbin/nft delete table {TABLE}

[Install]
WantedBy=sysinit.target nftables.service
"""
# Runs detached from Ansible: it ends with the rules confirmed or rolled back, even if the connection is lost.
# Rules of a later load have another nonce in the file, and a timer of their own.
ROLL_BACK = f"""
sleep "$1"
[ "$(cat {PENDING} 2>/dev/null)" = "$2" ] || exit 0
if [ -e {BEFORE} ]; then
    mv {BEFORE} {FILE}
    nft -f {FILE}
else
    rm -f {FILE}
    nft delete table {TABLE}
fi
rm -f {PENDING}
"""


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Keep other processes of this module on this host waiting: two runs may admit hosts at the same time."""
    with Path(LOCK).open("a", encoding="utf-8") as stream:  # closed in the processes that it starts
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def read(path: str) -> str | None:
    """Return a file's text, or None where it does not exist."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def write(path: str, text: str) -> None:
    """Replace a file atomically."""
    Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = Path(f"{path}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def remove(*paths: str) -> None:
    """Remove the files that exist."""
    for path in paths:
        if os.path.exists(path):
            Path(path).unlink()


def with_elements(rules: str, name: str, addresses: Iterable[str], admit: bool) -> str:
    """Return the rules with these addresses added to the set ``name``, or removed; sorted as in the template."""
    block = re.search(rf"set {name} \{{\n *type \w+\n(?: *elements = \{{([^}}]*)\}}\n)?", rules)
    if block is None:
        return rules
    present = {address.strip() for address in (block[1] or "").split(",") if address.strip()}
    allowed = present | set(addresses) if admit else present - set(addresses)
    head = "\n".join(block[0].splitlines()[:2])
    elements = f"        elements = {{ {', '.join(sorted(allowed))} }}\n" if allowed else ""
    return rules.replace(block[0], f"{head}\n{elements}")


class Firewall:
    """The table of this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
        self.systemd = os.path.isdir("/run/systemd/system")

    def run(self, *command: str, check: bool = True) -> tuple[int, str]:
        """Return a command's exit code and output; with ``check``, a failure is the module's."""
        code, out, err = self.module.run_command(list(command))
        if check and code != 0:
            self.module.fail_json(msg=f"{' '.join(command)}: {(err or out).strip()}")
        return code, out

    def require_nft(self) -> str:
        """Return the path of nft; fail the module where it is not installed."""
        if self.nft is None:
            self.module.fail_json(msg="the command nft is missing: install the package nftables")
        return str(self.nft)

    def is_loaded(self) -> bool:
        """Return whether the table is loaded."""
        return self.nft is not None and self.run(self.nft, "list", "table", *TABLE.split(), check=False)[0] == 0

    def is_persistent(self) -> bool:
        """Return whether the table is loaded at boot; without systemd nothing could do that."""
        return not self.systemd or (
            read(UNIT_FILE) == UNIT_TEXT and self.run("systemctl", "-q", "is-enabled", UNIT, check=False)[0] == 0
        )

    def resolved(self, hosts: Iterable[str], required: bool = True) -> tuple[list[str], list[str]]:
        """Return the IPv4 and the IPv6 addresses of hosts, which are named by address or name.

        Where ``required``, one without an address fails the module; else it is a warning.
        """
        addresses: set[str] = set()
        for host in hosts:
            try:
                addresses |= {str(answer[4][0]) for answer in socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)}
            except OSError as error:
                if required:
                    self.module.fail_json(msg=f"{host} has no address here ({error}): set its modelserve_node_ip")
                self.module.warn(
                    f"{host} has no address here any more ({error}). The next site.yml without it in the inventory "
                    "closes this host to the addresses that it had"
                )
        v6 = {address for address in addresses if ":" in address}
        return sorted(addresses - v6), sorted(v6)

    def rules(self, template: str, hosts: Iterable[str]) -> str:
        """Return the rules with the addresses of the cluster's hosts."""
        v4, v6 = self.resolved(hosts)
        rules = template.replace("@PEERS4@", ", ".join(v4)).replace("@PEERS6@", ", ".join(v6))
        return re.sub(r"\n *elements = \{ *\}", "", rules)  # nft refuses an empty list

    def load(self, rules: str, timeout: int) -> bool:
        """Load rules that must be confirmed; return whether anything changes."""
        if read(FILE) == rules and not os.path.exists(PENDING) and self.is_loaded() and self.is_persistent():
            return False
        if self.module.check_mode:
            return True
        with locked():
            self._replace(rules, timeout)
        return True

    def _replace(self, rules: str, timeout: int) -> None:
        nft = self.require_nft()
        write(f"{FILE}.next", rules)
        code, _, error = self.module.run_command([nft, "-c", "-f", f"{FILE}.next"])
        if code != 0:
            remove(f"{FILE}.next")
            self.module.fail_json(msg=f"nft refuses the rules: {error.strip()}")
        if os.path.exists(FILE) and not os.path.exists(PENDING):
            shutil.copy(FILE, BEFORE)
        nonce = uuid.uuid4().hex
        write(PENDING, nonce)
        self.run_detached("sh", "-c", ROLL_BACK, "roll-back", str(timeout), nonce)
        Path(f"{FILE}.next").replace(FILE)
        self.run(nft, "-f", FILE)

    def confirm(self) -> None:
        """Keep the loaded rules."""
        if not os.path.exists(PENDING):
            self.module.fail_json(
                msg="the new rules were rolled back: Ansible could not connect in time. Set firewall_ssh_ports to the "
                "port that sshd listens on here, or modelserve_firewall: false"
            )
        if self.systemd:
            write(UNIT_FILE, UNIT_TEXT)
            self.run("systemctl", "daemon-reload")
            self.run("systemctl", "-q", "enable", UNIT)
            self.run("systemctl", "start", UNIT)
        remove(PENDING, BEFORE)

    def change_addresses(self, addresses: Iterable[str], admit: bool) -> bool:
        """Add hosts to the allowed peers, or remove them; return whether anything changes."""
        v4, v6 = self.resolved(addresses, required=admit)  # who leaves may have no name in the DNS any more
        with locked():
            text = read(FILE)
            if text is None:  # no firewall here
                return False
            changed = with_elements(with_elements(text, "cluster4", v4, admit), "cluster6", v6, admit)
            if changed == text:
                return False
            if not self.module.check_mode:
                nft = self.require_nft()
                write(FILE, changed)
                self.run(nft, "-f", FILE)
            return True

    def drop(self) -> bool:
        """Remove table, files and unit; return whether any of them existed."""
        exists = os.path.exists(DIRECTORY) or os.path.exists(UNIT_FILE) or self.is_loaded()
        if exists and not self.module.check_mode:
            if self.systemd and os.path.exists(UNIT_FILE):
                self.run("systemctl", "-q", "disable", "--now", UNIT, check=False)
                remove(UNIT_FILE)
                self.run("systemctl", "daemon-reload")
            if self.is_loaded():
                self.run(self.require_nft(), "delete", "table", *TABLE.split())
            shutil.rmtree(DIRECTORY, ignore_errors=True)
        return exists

    def run_detached(self, *command: str) -> None:
        """Start a command that continues after this connection ends."""
        if self.systemd:
            self.run("systemd-run", "-q", "--collect", "--", *command)
        else:
            self.module.run_command(["setsid", "-f", *command], close_fds=True)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": ["loaded", "confirmed", "admitted", "dismissed", "absent"],
                "default": "loaded",
            },
            "rules": {"type": "str", "default": ""},
            "addresses": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    firewall = Firewall(module)
    options: dict[str, Any] = module.params
    if options["state"] == "loaded":
        changed = firewall.load(firewall.rules(options["rules"], options["addresses"]), options["timeout"])
        module.exit_json(changed=changed, pending=changed and not module.check_mode)
    elif options["state"] == "confirmed":
        firewall.confirm()
        module.exit_json(changed=False)
    elif options["state"] in ("admitted", "dismissed"):
        module.exit_json(changed=firewall.change_addresses(options["addresses"], options["state"] == "admitted"))
    module.exit_json(changed=firewall.drop())


if __name__ == "__main__":
    main()
