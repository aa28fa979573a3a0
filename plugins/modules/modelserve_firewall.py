#!/usr/bin/python
"""A host's nftables table of modelserve's: loaded, kept over reboots, taken back when it cuts Ansible off."""

from __future__ import annotations

DOCUMENTATION = r"""
module: modelserve_firewall
short_description: Load modelserve's own nftables table
description:
  - Keeps one table, C(inet modelserve), beside whatever other tables there are; C(nft flush ruleset) is never used.
  - New rules are taken back by the host itself unless O(state=confirmed) follows in time, over a new connection.
  - Where systemd runs, a unit loads the rules at boot and whenever nftables is restarted.
options:
  state:
    description:
      - V(loaded) loads O(rules); V(confirmed) keeps what was loaded; V(admitted) adds O(addresses) to the cluster's in
        place, V(dismissed) removes them; V(absent) removes table, file and unit.
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
    description: Seconds after which unconfirmed rules are taken back.
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
  description: Whether the rules wait to be confirmed.
  returned: state loaded
  type: bool
"""

import os
import re
import shutil
import socket

from ansible.module_utils.basic import AnsibleModule

DIRECTORY = "/etc/modelserve"
FILE = f"{DIRECTORY}/firewall.nft"
BEFORE = f"{DIRECTORY}/firewall.before"
PENDING = f"{DIRECTORY}/firewall.pending"
UNIT = "modelserve-firewall.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
TABLE = "inet modelserve"
# Ours come after those of the system, and again when it restarts: that flushes all tables.
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
# Runs apart from Ansible: whatever becomes of the connection, it ends with the rules confirmed or taken back.
TAKE_BACK = f"""
sleep "$1"
[ -e {PENDING} ] || exit 0
if [ -e {BEFORE} ]; then
    mv {BEFORE} {FILE}
    nft -f {FILE}
else
    rm -f {FILE}
    nft delete table {TABLE}
fi
rm -f {PENDING}
"""


def read(path):
    """A file's text, or None."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def write(path, text):
    """Replace a file so that nobody sees a part of it."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with open(f"{path}.new", "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(f"{path}.new", path)


def remove(*paths):
    """Remove files that may not be there."""
    for path in paths:
        if os.path.exists(path):
            os.unlink(path)


def with_elements(rules, name, addresses, admit):
    """Rules whose set ``name`` has these addresses too, or has them no more; sorted, as the template has them."""
    block = re.search(rf"set {name} \{{\n *type \w+\n(?: *elements = \{{([^}}]*)\}}\n)?", rules)
    if block is None:
        return rules
    there = {one.strip() for one in (block[1] or "").split(",") if one.strip()}
    wanted = there | set(addresses) if admit else there - set(addresses)
    head = "\n".join(block[0].splitlines()[:2])
    elements = f"        elements = {{ {', '.join(sorted(wanted))} }}\n" if wanted else ""
    return rules.replace(block[0], f"{head}\n{elements}")


class Firewall:
    """The table of this host."""

    def __init__(self, module):
        self.module = module
        self.nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
        self.systemd = os.path.isdir("/run/systemd/system")

    def run(self, *command, check=True):
        """Run a command; fails the module with its error, if it is to succeed."""
        code, out, err = self.module.run_command(list(command))
        if check and code != 0:
            self.module.fail_json(msg=f"{' '.join(command)}: {(err or out).strip()}")
        return code, out

    def is_loaded(self):
        """Whether the table is there."""
        return self.nft is not None and self.run(self.nft, "list", "table", *TABLE.split(), check=False)[0] == 0

    def is_kept(self):
        """Whether it comes back by itself."""
        return not self.systemd or (
            read(UNIT_FILE) == UNIT_TEXT and self.run("systemctl", "-q", "is-enabled", UNIT, check=False)[0] == 0
        )

    def resolved(self, hosts):
        """The addresses of hosts, given by address or name: IPv4 ones and IPv6 ones."""
        found = set()
        for host in hosts:
            try:
                found |= {answer[4][0] for answer in socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)}
            except OSError as error:
                self.module.fail_json(msg=f"{host} has no address here ({error}): set its modelserve_node_ip")
        return sorted(one for one in found if ":" not in one), sorted(one for one in found if ":" in one)

    def rules(self, template, hosts):
        """The rules, the cluster's hosts in their places."""
        v4, v6 = self.resolved(hosts)
        rules = template.replace("@PEERS4@", ", ".join(v4)).replace("@PEERS6@", ", ".join(v6))
        return re.sub(r"\n *elements = \{ *\}", "", rules)  # nft knows no empty list

    def load(self, rules, timeout):
        """Load rules, to be confirmed; returns whether that was needed."""
        if read(FILE) == rules and not os.path.exists(PENDING) and self.is_loaded() and self.is_kept():
            return False
        if self.module.check_mode:
            return True
        if self.nft is None:
            self.module.fail_json(msg="the command nft is missing: install the package nftables")
        write(f"{FILE}.next", rules)
        code, _, error = self.module.run_command([self.nft, "-c", "-f", f"{FILE}.next"])
        if code != 0:
            remove(f"{FILE}.next")
            self.module.fail_json(msg=f"nft refuses the rules: {error.strip()}")
        if os.path.exists(FILE) and not os.path.exists(PENDING):
            shutil.copy(FILE, BEFORE)
        write(PENDING, "")
        self.apart("sh", "-c", TAKE_BACK, "take-back", str(timeout))
        os.replace(f"{FILE}.next", FILE)
        self.run(self.nft, "-f", FILE)
        return True

    def confirm(self):
        """Keep what was loaded."""
        if not os.path.exists(PENDING):
            self.module.fail_json(
                msg="the new rules were taken back: nobody could connect in time. They must let Ansible in: set "
                "firewall_ssh_ports to the port that sshd listens on here, or modelserve_firewall: false"
            )
        if self.systemd:
            write(UNIT_FILE, UNIT_TEXT)
            self.run("systemctl", "daemon-reload")
            self.run("systemctl", "-q", "enable", UNIT)
            self.run("systemctl", "start", UNIT)
        remove(PENDING, BEFORE)

    def change_addresses(self, addresses, admit):
        """Add hosts to those that may reach everything, or take them out; returns whether any changed."""
        text = read(FILE)
        if text is None:  # no firewall here
            return False
        changed = text
        for name, these in zip(("cluster4", "cluster6"), self.resolved(addresses), strict=True):
            changed = with_elements(changed, name, these, admit)
        if changed == text:
            return False
        if not self.module.check_mode:
            write(FILE, changed)
            self.run(self.nft, "-f", FILE)
        return True

    def drop(self):
        """Leave nothing; returns whether there was something."""
        there = os.path.exists(DIRECTORY) or os.path.exists(UNIT_FILE) or self.is_loaded()
        if there and not self.module.check_mode:
            if self.systemd and os.path.exists(UNIT_FILE):
                self.run("systemctl", "-q", "disable", "--now", UNIT, check=False)
                remove(UNIT_FILE)
                self.run("systemctl", "daemon-reload")
            if self.is_loaded():
                self.run(self.nft, "delete", "table", *TABLE.split())
            shutil.rmtree(DIRECTORY, ignore_errors=True)
        return there

    def apart(self, *command):
        """Start a command that outlives this connection."""
        if self.systemd:
            self.run("systemd-run", "-q", "--collect", "--", *command)
        else:
            self.module.run_command(["setsid", "-f", *command], close_fds=True)


def main():
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
    options = module.params
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
