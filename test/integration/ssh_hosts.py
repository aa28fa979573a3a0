"""A host and a bastion for tests: two SSH servers of their own on this machine, and users with different rights."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SSHD = "/usr/sbin/sshd"
CONFIGURATION = """
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/{name}_key
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
StrictModes no
UsePAM no
LogLevel VERBOSE
MaxStartups 100
Subsystem sftp internal-sftp
"""


def missing() -> str:
    """Return what these tests lack on this machine, or nothing."""
    if os.geteuid() != 0:
        return "needs root, who may add users"
    return ", ".join(name for name in (SSHD, "sudo", "rsync", "useradd") if not shutil.which(name))


@dataclass
class Server:
    """An SSH server.

    Attributes:
        name: of the server; its files begin with it.
        port: it listens on, at 127.0.0.1.
        log: what it wrote.
    """

    name: str
    port: int
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)


@dataclass
class Hosts:
    """The servers, users and files.

    Attributes:
        directory: holds all files; anybody may enter it.
        servers: ``host`` and ``bastion``.
        password: of all users.
        users: names by what they may do: ``free`` uses sudo, ``asked`` uses sudo with a password, ``other`` is only
            somebody else.
    """

    directory: Path
    servers: dict[str, Server]
    password: str
    users: dict[str, str]

    @property
    def known_hosts(self) -> Path:
        """The file with the keys of both servers."""
        return self.directory / "known_hosts"

    def variables(self, user: str, **more: Any) -> dict[str, Any]:
        """Return a host's variables: the key of this test, a port of its own, and keys of hosts that are checked."""
        return {
            "ansible_host": "127.0.0.1",
            "ansible_port": self.servers["host"].port,
            "ansible_user": self.users[user],
            "ansible_ssh_private_key_file": str(self.directory / "key"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.known_hosts} -o StrictHostKeyChecking=yes",
            "ansible_python_interpreter": sys.executable,
        } | more

    def play(
        self, tasks: list[dict[str, Any]], variables: dict[str, Any], *options: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run tasks on the host; standard output is what Ansible printed, each run of spaces as one."""
        for user in self.users.values():
            Path("/run/sudo/ts", user).unlink(missing_ok=True)  # forget who gave a password
        (self.directory / "hosts.json").write_text(json.dumps({"all": {"hosts": {"gpu_1": variables}}}))
        play = {"hosts": "all", "gather_facts": False, "tasks": tasks}
        (self.directory / "play.yml").write_text(json.dumps([play]))
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.json", "play.yml", *options],
            cwd=self.directory,
            env=os.environ
            | {
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.directory / "cp"),
            }
            | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        done.stdout = " ".join((done.stdout + done.stderr).split())
        return done

    def end_connections(self) -> None:
        """End the connections that are kept for the next command."""
        for path in (self.directory / "cp").glob("*"):
            subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={path}", "x"], capture_output=True, check=False)


@contextlib.contextmanager
def start() -> Iterator[Hosts]:
    """Start both servers and add the users; all goes at the end."""
    directory = Path(tempfile.mkdtemp(prefix="ms"))
    directory.chmod(0o755)
    made_privileged = not Path("/run/sshd").exists()
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    hosts = Hosts(directory, {}, secrets.token_hex(8), {})
    try:
        for name in ("key", "host_key", "bastion_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
        shutil.copy(directory / "key.pub", directory / "authorized_keys")
        _add_users(hosts)
        for name in ("host", "bastion"):
            hosts.servers[name] = _serve(directory, name)
        lines = [
            f"[127.0.0.1]:{server.port} {(directory / f'{name}_key.pub').read_text()}"
            for name, server in hosts.servers.items()
        ]
        hosts.known_hosts.write_text("".join(lines))
        yield hosts
    finally:
        hosts.end_connections()
        for server in hosts.servers.values():
            server.process.terminate()
            server.process.wait()
        _remove_users(hosts)
        shutil.rmtree(directory)
        if made_privileged:
            with contextlib.suppress(OSError):
                Path("/run/sshd").rmdir()


def _add_users(hosts: Hosts) -> None:
    prefix = f"ms{os.getpid()}"
    for kind in ("free", "asked", "other"):
        name = hosts.users[kind] = f"{prefix}{kind}"
        home = hosts.directory / f"home_{kind}"
        subprocess.run(["useradd", "--create-home", "--home-dir", home, name], check=True, capture_output=True)
    pairs = "".join(f"{name}:{hosts.password}\n" for name in hosts.users.values())
    subprocess.run(["chpasswd"], input=pairs, text=True, check=True, capture_output=True)
    rules = [f"{hosts.users['free']} ALL=(ALL) NOPASSWD: ALL", f"{hosts.users['asked']} ALL=(ALL) ALL"]
    # Who gave the password is not asked again, wherever the next command comes from. The lecture precedes each prompt.
    rules += [f"Defaults:{hosts.users['asked']} timestamp_type=global, lecture=always"]
    Path("/etc/sudoers.d", prefix).write_text("\n".join(rules) + "\n")
    Path("/etc/sudoers.d", prefix).chmod(0o440)


def _remove_users(hosts: Hosts) -> None:
    Path("/etc/sudoers.d", f"ms{os.getpid()}").unlink(missing_ok=True)
    for name in hosts.users.values():
        subprocess.run(["userdel", "--force", name], capture_output=True, check=False)
        for folder in ("/run/sudo/ts", "/var/lib/sudo/lectured"):
            Path(folder, name).unlink(missing_ok=True)


def _serve(directory: Path, name: str) -> Server:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration, log = directory / f"{name}.conf", directory / f"{name}.log"
    configuration.write_text(CONFIGURATION.format(port=port, directory=directory, name=name))
    process = subprocess.Popen([SSHD, "-D", "-f", configuration, "-E", log])
    deadline = time.monotonic() + 10
    while not log.exists() or "Server listening" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text() if log.exists() else name
        time.sleep(0.02)
    return Server(name, port, log, process)
