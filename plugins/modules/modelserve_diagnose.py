#!/usr/bin/python
"""Collect the states and logs of a host's modelserve in one archive without secrets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: modelserve_diagnose
short_description: Collects a host's logs, versions and states
description:
  - Packs logs, states and versions of a host into one archive. Changes nothing on the host.
  - Secrets are removed from every text before it is written; files that hold secrets are left out.
options:
  home:
    description: The data directory; need not exist.
    type: str
    required: true
  dest:
    description: The archive to write, with mode 0600. Without it the archive is only in the result.
    type: str
  log_kb:
    description: KiB from the end of each log file.
    type: int
    default: 256
  max_files:
    description: Number of Ray's log files, the newest first.
    type: int
    default: 200
  secrets:
    description: Values of secrets that lie on another host, and that logs of this one can have.
    type: list
    elements: str
    default: []
  secrets_only:
    description: Collect nothing, and return the values of the sections' secrets that lie on this host.
    type: bool
    default: false
author: modelserve
"""

EXAMPLES = r"""
- name: Collect
  modelserve_diagnose:
    home: /opt/modelserve
    dest: /root/diagnosis.tar.gz
"""

RETURN = r"""
headline:
  description: The host's state in one line.
  returned: always
  type: str
problems:
  description: What could not be collected, and why.
  returned: always
  type: list
size:
  description: The archive's size in bytes.
  returned: always
  type: int
secrets:
  description: The values of the sections' secrets.
  returned: with O(secrets_only)
  type: list
content:
  description: The archive, in base64.
  returned: when dest is not given
  type: str
"""

import base64
import contextlib
import functools
import glob
import io
import json
import os
import platform
import shutil
import signal
import stat
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule

try:  # in a collection, Ansible finds a module's helpers by their full names alone
    from ansible_collections.modelserve.modelserve.plugins.module_utils.modelserve_redact import Redactor, json_values
except ImportError:
    from ansible.module_utils.modelserve_redact import Redactor, json_values

TIMEOUT_S = 20
SECRETS_LARGEST = 2**20
LINES = "2000"  # from the end of a container's or a service's log, before it is cut to log_kb
LISTEN = "0A"  # the state's number in /proc/net/tcp, see include/net/tcp_states.h
PACKED = (".gz", ".xz", ".zst", ".bz2", ".zip", ".lz4", ".pb", ".core")  # not text: secrets in it cannot be found
DOCKERD_LOG = "/var/log/modelserve-dockerd.log"


def run(argv: Sequence[str], timeout: float = TIMEOUT_S) -> tuple[int | None, str]:
    """Return exit code and output of a command; the code is None where it is missing or exceeds ``timeout`` (s)."""
    program = shutil.which(argv[0])
    if program is None:
        return None, f"{argv[0]} is not installed\n"
    process = subprocess.Popen(
        [program, *argv[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(os.environ, LC_ALL="C"),
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None, f"no answer within {timeout} s\n"
    return process.returncode, out.decode(errors="replace")


def report(*commands: Sequence[str]) -> str:
    """Return commands with their output."""
    parts = []
    for argv in commands:
        code, out = run(argv)
        exit_note = "" if code in (0, None) else f"(exit code {code})\n"
        parts.append(f"$ {' '.join(argv)}\n{out}{exit_note}\n")
    return "".join(parts)


def read(path: str | Path, limit: int | None = None) -> str:
    """Return a file's text; with a limit in bytes, the complete lines of its end.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if limit is None or size <= limit:
            return stream.read(limit).decode(errors="replace")
        stream.seek(size - limit)
        return end_of(stream.read(limit).decode(errors="replace"), limit, cut=True)


def end_of(text: str, limit: int, cut: bool = False) -> str:
    """Return the complete lines of the last ``limit`` characters: no pattern recognises half a secret."""
    if not cut and len(text) <= limit:
        return text
    return "(the beginning is left out)\n" + text[-limit:].partition("\n")[2]


def is_binary(text: str) -> bool:
    """Return whether a decoded file is not text."""
    return "\0" in text or text.count("\ufffd") > len(text) // 10


def listeners() -> str:
    """Return the TCP ports with a listening socket, and their addresses, one per line."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        for line in read(table).splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].rpartition(":")
            if fields[3] == LISTEN:
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                raw = b"".join(words)
                if len(raw) == 4:
                    shown = ".".join(str(byte) for byte in raw)
                else:
                    shown = {bytes(16): "::", bytes(15) + b"\1": "::1"}.get(raw, raw.hex(":", 2))
                sockets.add((int(port, 16), shown))
    return "".join(f"{port:>5}  {address}\n" for port, address in sorted(sockets))


class LogFile(NamedTuple):
    """A log file of Ray: its time of change, its size in bytes, its path, and its name below the logs' directory."""

    changed: float
    size: int
    path: Path
    name: str


class Host:
    """Collect the data of a host: ``states`` are texts by name, ``problems`` what could not be read."""

    def __init__(self, home: str, log_kb: int, max_files: int) -> None:
        self.home = Path(os.path.realpath(home))
        self.limit = log_kb * 1024
        self.max_files = max_files
        self.redactor = Redactor()
        self.states: dict[str, str] = {}
        self.problems: list[str] = []
        self.containers: list[dict[str, Any]] = []
        self.algorithms: list[dict[str, Any]] | None = None
        self.docker = "not installed"
        self.logs: list[LogFile] = []
        self.log_count = 0

    def attempt(self, what: str, function: Callable[[], None]) -> None:
        """Run one part; record its failure, which stops no other part."""
        try:
            function()
        except Exception as error:  # any fault of the host belongs in the report
            self.problems.append(f"{what}: {type(error).__name__}: {error}")

    def collect_states(self) -> None:
        """Collect everything but the contents of Ray's logs."""
        self.attempt("secrets", self.learn_secrets)
        self.attempt("system", self.collect_system)
        self.attempt("files", self.collect_files)
        self.attempt("docker", self.collect_docker)
        self.attempt("modelserve", self.query_head)
        self.attempt("ray's logs", self.find_logs)

    def is_inside(self, path: Path) -> bool:
        """Return whether a path is a file below home, without the secrets, after all links are followed."""
        real = Path(os.path.realpath(path))
        secrets = self.home / "secrets"
        if self.home not in real.parents or secrets in (real, *real.parents):
            return False
        return os.path.exists(real) and stat.S_ISREG(real.stat().st_mode)

    def learn_secrets(self) -> None:
        """Read the host's secrets, which are removed from every collected text."""
        for directory, _, names in os.walk(self.home / "secrets"):
            for name in names:
                path = Path(directory) / name
                if os.path.isfile(path):
                    self.redactor.add_file(read(path, SECRETS_LARGEST))

    def collect_system(self) -> None:
        """Collect the states of the machine and its system."""
        days = float(read("/proc/uptime").split()[0]) / 86400
        system = [
            f"time    {timestamp(time.time())}",
            f"zone    {' '.join(time.tzname)}",
            f"up      {days:.1f} days",
            f"load    {read('/proc/loadavg').strip()}",
            f"cpus    {os.cpu_count()}",
            f"kernel  {' '.join(platform.uname())}",
            f"python  {platform.python_version()}",
        ]
        self.states["states/system.txt"] = "\n".join(system) + "\n"
        self.states["states/os-release.txt"] = read("/etc/os-release")
        self.states["states/memory.txt"] = read("/proc/meminfo")
        self.states["states/ports.txt"] = listeners()
        if shutil.which("nvidia-smi"):
            self.states["states/nvidia-smi.txt"] = report(
                ["nvidia-smi"], ["nvidia-smi", "-L"], ["nvidia-ctk", "cdi", "list"]
            )
        if os.path.isdir("/run/systemd/system") and shutil.which("journalctl"):
            self.states["states/docker-journal.txt"] = end_of(
                report(["journalctl", "--unit", "docker", "--lines", LINES, "--no-pager", "--utc"]), self.limit
            )
        if os.path.isfile(DOCKERD_LOG):
            self.states["states/dockerd.log"] = read(DOCKERD_LOG, self.limit)

    def collect_files(self) -> None:
        """Modelserve's own files, and the names and sizes of the store's entries."""
        patterns = ("settings.json", "conf.ini", "releases/*.json", "gateway/haproxy.cfg", "node/*")
        home = glob.escape(str(self.home))
        for pattern in patterns:
            for name in sorted(glob.glob(f"{home}/{pattern}")):
                if self.is_inside(Path(name)):
                    self.attempt(name, functools.partial(self.collect_file, Path(name)))
        entries = []
        until = time.monotonic() + TIMEOUT_S  # counting the many files of environments takes long on a slow disk
        for path in map(Path, sorted(glob.glob(f"{home}/store/*/*"))):
            when = timestamp(path.lstat().st_mtime)
            entries.append(f"{when}  {tree_size(path, until):>12}  {os.path.relpath(path, self.home)}")
        self.states["states/store.txt"] = "\n".join(entries or ["the store is empty or does not exist"]) + "\n"

    def collect_file(self, path: Path) -> None:
        """Collect one of modelserve's own files, and learn its secrets."""
        name = "files/" + os.path.relpath(path, self.home)
        text = read(path)
        if is_binary(text):
            text = f"(not text: {path.stat().st_size} bytes)\n"
        self.redactor.learn(self.redactor_of(name), text)
        self.states[name] = text

    def redactor_of(self, name: str) -> Callable[[str], str]:
        """Return the function that removes the secrets from a text of this name."""
        redact: Callable[[str], str] = self.redactor.text
        if name.endswith(".json"):
            redact = self.redactor.document
        elif name.endswith(".cfg"):
            redact = self.redactor.config
        return redact

    def collect_docker(self) -> None:
        """Collect the states of the engine, and of modelserve's containers and images."""
        root = ""
        code, out = run(["docker", "version", "--format", "{{.Server.Version}}"])
        if code == 0:
            self.docker = out.strip()
            _, root = run(["docker", "info", "--format", "{{.DockerRootDir}}"])
        elif shutil.which("docker"):
            self.docker = f"does not answer: {(out.strip() or 'no reason given').splitlines()[-1]}"
        self.states["states/disk.txt"] = self.disk(root.strip())
        if code != 0:
            self.states["states/docker.txt"] = report(["docker", "version"])
            return
        own = ["--filter", "label=modelserve.role"]
        self.states["states/docker.txt"] = report(["docker", "version"], ["docker", "info"])
        self.redactor.learn(self.redactor.text, self.states["states/docker.txt"])  # it may name a proxy
        self.states["states/containers.txt"] = report(["docker", "ps", "--all", "--no-trunc", "--size", *own])
        self.states["states/images.txt"] = report(["docker", "images", "--filter", "label=modelserve.part"])
        ids = run(["docker", "ps", "--all", "--quiet", *own])[1].split()
        if ids:
            _, inspected = run(["docker", "inspect", *ids])
            self.redactor.learn(self.redactor.document, inspected)
            self.states["states/inspect.json"] = inspected
            self.containers = json.loads(inspected)
        for container in self.containers:
            name = container["Name"].strip("/")
            _, log = run(["docker", "logs", "--timestamps", "--tail", LINES, name])
            self.states[f"containers/{name}.log"] = end_of(log, self.limit)

    def disk(self, docker_root: str) -> str:
        """Return free space and inodes of the file systems in use."""
        paths = [str(path) for path in (self.home, docker_root, "/tmp", "/dev/shm") if path and os.path.exists(path)]
        return report(["df", "-hP", "/", *paths], ["df", "-iP", "/", *paths])

    def query_head(self) -> None:
        """Collect the head's own states. The time limit also ends the commands inside the container."""
        for container in self.containers:
            labels = container["Config"].get("Labels") or {}
            if labels.get("modelserve.role") != "head" or not container["State"].get("Running"):
                continue
            execute = ["docker", "exec", container["Id"], "timeout", "-k", "2", str(TIMEOUT_S)]
            for name, argv in (
                ("status.json", ["modelserve", "status", "--json"]),
                ("events.json", ["modelserve", "events", "--since", "7d", "--json"]),
                ("plan.json", ["modelserve", "plan", "--json"]),
                ("ray-status.txt", ["ray", "status"]),
            ):
                code, out = run([*execute, *argv], TIMEOUT_S + 5)
                self.states["states/" + name] = out
                if name == "status.json":
                    self.algorithms = served(out)
                    failed = self.algorithms is None
                else:
                    failed = code != 0
                if failed:
                    why = f"no answer within {TIMEOUT_S} s" if code in (124, 137) else reason(out)
                    self.problems.append(f"{' '.join(argv)}: {why}")

    def find_logs(self) -> None:
        """Find Ray's log files, newest first.

        Links out of home are not followed: others may write in that directory.
        """
        top = Path(os.path.realpath(self.home / "ray" / "session_latest" / "logs"))
        files: list[LogFile] = []
        for directory, _, names in os.walk(top):
            for name in names:
                path = Path(directory) / name
                try:
                    entry = path.lstat()
                except FileNotFoundError:  # Ray rotates its logs
                    continue
                if stat.S_ISREG(entry.st_mode) and entry.st_size and self.is_inside(path):
                    files.append(LogFile(entry.st_mtime, entry.st_size, path, os.path.relpath(path, top)))
        files.sort(reverse=True)
        self.logs = [file for file in files if not file.name.endswith(PACKED)][: self.max_files]
        self.log_count = len(files)
        collected = {file.path for file in self.logs}
        rows = [
            f"{timestamp(file.changed)}  {file.size:>12}  {file.name}{'' if file.path in collected else '  (left out)'}"
            for file in files
        ]
        self.states["states/ray-logs.txt"] = "\n".join(rows or ["Ray has no log on this host"]) + "\n"

    def headline(self) -> str:
        """Return the host's state in one line."""
        parts = []
        for container in self.containers:
            state = container["State"]
            health = (state.get("Health") or {}).get("Status", "")
            health += f": {reason_of_health(state)}" if health == "unhealthy" else ""
            shown = state.get("Status", "?") + (f" ({health})" if health else "")
            restarts = container.get("RestartCount", 0)
            shown += f", {restarts} restarts" if restarts else ""
            shown += ", killed for memory" if state.get("OOMKilled") else ""
            parts.append(f"{container['Name'].strip('/')} {shown}")
        if self.algorithms is not None:
            running = [row for row in self.algorithms if row["status"] == "RUNNING"]
            parts.append(f"{len(running)} of {len(self.algorithms)} algorithms running")
        if not parts:
            engine_answers = self.docker[:1].isdigit()
            parts.append("no container of modelserve" if engine_answers else f"Docker {self.docker}")
        return str(self.redactor.text("; ".join(parts)))

    def summary(self) -> str:
        """Return a summary of the host, of at most 40 lines."""
        release = values(self.states.get("states/os-release.txt", "")).get("PRETTY_NAME", "?").strip('"')
        memory = values(self.states.get("states/memory.txt", ""), ":")
        releases = [name for name in self.states if name.startswith("files/releases/")]
        numbers = sorted(int(stem) for stem in (Path(name).stem for name in releases) if stem.isdigit())
        lines = [
            f"host        {platform.node()}",
            self.states.get("states/system.txt", "").replace("  ", "      ").strip().splitlines()[0],
            f"system      {release}, Linux {platform.release()}, {platform.machine()}",
            f"memory      {mib(memory, 'MemTotal')} MiB, {mib(memory, 'MemAvailable')} MiB available",
            f"disk        {free(self.home)}",
            f"docker      {self.docker}",
            f"state       {self.headline()}",
            f"release     {numbers[-1] if numbers else 'none'}",
            f"ray's logs  {len(self.logs)} of {self.log_count} files, the last {self.limit // 1024} KiB of each",
            "",
        ]
        lines += [
            f"{row['name']}: {row['status']} {str(row.get('message') or '')[:200]}".strip()
            for row in self.algorithms or []
        ]
        lines += [f"not collected: {problem}" for problem in self.problems] or ["everything was collected"]
        return "\n".join(lines[:40]) + "\n"

    def write(self, stream: IO[bytes]) -> None:
        """Write the archive: summary, states, files, logs. Only ``add``, which removes secrets, writes to it."""
        with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=6) as archive:

            def add(name: str, text: str, when: float | None = None) -> None:
                data = self.redactor_of(name)(text).encode("utf-8", "replace")
                entry = tarfile.TarInfo(self.redactor.text(name))
                entry.size, entry.mode, entry.mtime = len(data), 0o600, int(when or time.time())
                archive.addfile(entry, io.BytesIO(data))

            add("summary.txt", self.summary())
            for name, text in self.states.items():
                add(name, text)
            for when, _, path, name in self.logs:
                try:
                    text = read(path, self.limit)
                except OSError as error:  # Ray rotates its logs
                    text = f"({error})\n"
                add("ray-logs/" + name, "(not text)\n" if is_binary(text) else text, when)


def timestamp(seconds: float) -> str:
    """Return seconds since the epoch as a time in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def values(text: str, separator: str = "=") -> dict[str, str]:
    """Return lines of keys and values as a dictionary."""
    pairs = (line.partition(separator) for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def mib(memory: dict[str, str], key: str) -> int:
    """Return a value of /proc/meminfo in MiB."""
    return int(memory.get(key, "0 kB").split()[0]) // 1024


def free(path: Path) -> str:
    """Return the free space of the file system that holds or would hold ``path``."""
    while not os.path.exists(path):
        path = path.parent
    usage = shutil.disk_usage(path)
    return f"{usage.free // 2**20} MiB free of {usage.total // 2**20} MiB at {path}"


def tree_size(path: Path, until: float) -> int | str:
    """Return the bytes of the files in ``path``, or "not counted" where counting takes longer than ``until``."""
    total = path.lstat().st_size if os.path.isfile(path) else 0
    for directory, _, names in os.walk(path):
        if time.monotonic() > until:
            return "not counted"
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # the store is in use
                total += (Path(directory) / name).lstat().st_size
    return total


def reason(text: str) -> str:
    """Return why a command failed: its error, or its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line[len("error: ") :] for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no output"])[-1][:200]


def reason_of_health(state: dict[str, Any]) -> str:
    """Return what the last health check of a container printed, from its ``State`` as Docker inspects it."""
    log = (state.get("Health") or {}).get("Log") or [{}]
    return reason(str(log[-1].get("Output") or ""))


def served(text: str) -> list[dict[str, Any]] | None:
    """Return the rows of ``modelserve status --json``; None for any other output."""
    for line in text.splitlines():
        try:
            algorithms: list[dict[str, Any]] = json.loads(line)["algorithms"]
            return algorithms
        except (ValueError, KeyError, TypeError):
            continue
    return None


def section_secrets(home: str) -> list[str]:
    """Return the values of the sections' secrets that lie on this host.

    Raises:
        OSError: a file cannot be read.
    """
    directory = Path(home) / "secrets"
    inventory = directory / "inventory.json"
    values = (json_values(read(inventory, SECRETS_LARGEST)) or []) if inventory.exists() else []
    files = sorted(glob.glob(f"{glob.escape(str(directory))}/values/*"))
    return values + [read(path, SECRETS_LARGEST) for path in files if os.path.isfile(path)]


def collect(
    home: str, dest: str | None = None, log_kb: int = 256, max_files: int = 200, secrets: Sequence[str] = ()
) -> dict[str, Any]:
    """Collect the host's data, pack them, and return the module's result.

    Raises:
        OSError: ``dest`` cannot be written.
        ValueError: the secrets cannot be read, so none could be removed.
    """
    host = Host(home, log_kb, max_files)
    for secret in secrets:
        host.redactor.add_file(secret)
    host.collect_states()
    if any(problem.startswith("secrets: ") for problem in host.problems):
        raise ValueError(f"the secrets below {host.home} cannot be read, so none could be removed")
    result: dict[str, Any] = {"problems": [host.redactor.text(problem) for problem in host.problems]}
    if dest is None:
        buffer = io.BytesIO()
        host.write(buffer)
        result["content"] = base64.b64encode(buffer.getvalue()).decode()
        result["size"] = len(buffer.getvalue())
    else:
        handle = os.open(dest, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(handle, 0o600)
            host.write(stream)
        result["size"] = Path(dest).stat().st_size
    result["headline"] = host.headline()
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "str", "required": True},
            "dest": {"type": "str"},
            "log_kb": {"type": "int", "default": 256},
            "max_files": {"type": "int", "default": 200},
            "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "secrets_only": {"type": "bool", "default": False, "no_log": False},
        },
        supports_check_mode=True,
    )
    options = dict(module.params)
    try:
        if options.pop("secrets_only"):
            result: dict[str, Any] = {"secrets": section_secrets(options["home"])}
        else:
            result = collect(**options)
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"nothing collected: {error}")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
