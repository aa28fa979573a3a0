#!/usr/bin/python
"""What a host's modelserve is, does and says, in one archive without secrets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: modelserve_diagnose
short_description: Collects a host's logs, versions and states
description:
  - Packs what one needs to find out what is wrong on a host into one archive. Changes nothing on the host.
  - Secrets are taken out of every text before it is written; files that hold them are left out.
options:
  home:
    description: The directory modelserve keeps its data in; need not exist.
    type: str
    required: true
  dest:
    description: The archive to write, with mode 0600. Without it nothing is written; the archive is in the result.
    type: str
  log_kb:
    description: How much of each log file's end is taken.
    type: int
    default: 256
  max_files:
    description: How many of Ray's log files are taken, the newest first.
    type: int
    default: 200
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
content:
  description: The archive, in base64.
  returned: when dest is not given
  type: str
"""

import base64
import contextlib
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

from ansible.module_utils.basic import AnsibleModule

try:  # in a collection, Ansible finds a module's helpers by their full names alone
    from ansible_collections.modelserve.modelserve.plugins.module_utils.modelserve_redact import Redactor
except ImportError:
    from ansible.module_utils.modelserve_redact import Redactor

TIMEOUT_S = 20
SECRETS_LARGEST = 2**20
LINES = "2000"  # of a container's or a service's log, before it is cut to log_kb
LISTEN = "0A"  # the state's number in /proc/net/tcp, see include/net/tcp_states.h
PACKED = (".gz", ".xz", ".zst", ".bz2", ".zip", ".lz4", ".pb", ".core")  # not text: no secret could be found in it
DOCKERD_LOG = "/var/log/modelserve-dockerd.log"


def run(argv, timeout=TIMEOUT_S):
    """Exit code and output of a command; the code is None when it is not there or takes too long."""
    program = shutil.which(argv[0])
    if program is None:
        return None, "{0} is not installed\n".format(argv[0])
    process = subprocess.Popen(
        [program] + argv[1:],
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
        return None, "no answer within {0} s\n".format(timeout)
    return process.returncode, out.decode(errors="replace")


def report(*commands):
    """Commands with what they print."""
    parts = []
    for argv in commands:
        code, out = run(argv)
        ended = "" if code in (0, None) else "(exit code {0})\n".format(code)
        parts.append("$ {0}\n{1}{2}\n".format(" ".join(argv), out, ended))
    return "".join(parts)


def read(path, limit=None):
    """A file's text; with a limit the whole lines of its end. Raises OSError."""
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if limit is None or size <= limit:
            return stream.read(limit).decode(errors="replace")
        stream.seek(size - limit)
        return end_of(stream.read(limit).decode(errors="replace"), limit, cut=True)


def end_of(text, limit, cut=False):
    """The last ``limit`` characters' whole lines: half a line may hold half a secret, which nothing recognises."""
    if not cut and len(text) <= limit:
        return text
    return "(the beginning is left out)\n" + text[-limit:].partition("\n")[2]


def binary(text):
    """Whether text that was decoded is none."""
    return "\0" in text or text.count("\ufffd") > len(text) // 10


def listeners():
    """The TCP ports that something listens on, with their addresses as /proc has them turned readable."""
    found = set()
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
                found.add((int(port, 16), shown))
    return "".join("{0:>5}  {1}\n".format(port, address) for port, address in sorted(found))


class Host:
    """Reads a host. ``states`` are texts by name, ``problems`` what could not be read."""

    def __init__(self, home, log_kb, max_files):
        self.home = os.path.realpath(home)
        self.limit = log_kb * 1024
        self.max_files = max_files
        self.redactor = Redactor()
        self.states = {}
        self.problems = []
        self.containers = []
        self.algorithms = None
        self.docker = "not installed"
        self.logs = []
        self.logs_there = 0

    def attempt(self, what, function):
        """Do one part; its failure is noted and stops no other."""
        try:
            function()
        except Exception as error:  # whatever is wrong with the host is what this module is there to report
            self.problems.append("{0}: {1}: {2}".format(what, type(error).__name__, error))

    def look(self):
        """Everything but the logs."""
        self.attempt("secrets", self.know_secrets)
        self.attempt("system", self.look_at_system)
        self.attempt("files", self.look_at_files)
        self.attempt("docker", self.look_at_docker)
        self.attempt("modelserve", self.ask_modelserve)
        self.attempt("ray's logs", self.find_logs)

    def inside(self, path):
        """Whether a path is a file below home, secrets not included, with all links followed."""
        real = os.path.realpath(path)
        secrets = os.path.join(self.home, "secrets")
        if not real.startswith(self.home + os.sep) or real == secrets or real.startswith(secrets + os.sep):
            return False
        return os.path.exists(real) and stat.S_ISREG(os.stat(real).st_mode)

    def know_secrets(self):
        """The host's secrets; nothing is collected that was not searched for them."""
        for directory, _, names in os.walk(os.path.join(self.home, "secrets")):
            for name in names:
                path = os.path.join(directory, name)
                if os.path.isfile(path):
                    self.redactor.add_file(read(path, SECRETS_LARGEST))

    def look_at_system(self):
        """The machine and its system."""
        with open("/proc/uptime", encoding="ascii") as stream:
            days = float(stream.read().split()[0]) / 86400
        system = [
            "time    {0}".format(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())),
            "zone    {0}".format(" ".join(time.tzname)),
            "up      {0:.1f} days".format(days),
            "load    {0}".format(read("/proc/loadavg").strip()),
            "cpus    {0}".format(os.cpu_count()),
            "kernel  {0}".format(" ".join(platform.uname())),
            "python  {0}".format(platform.python_version()),
        ]
        self.states["states/system.txt"] = "\n".join(system) + "\n"
        self.states["states/os-release.txt"] = read("/etc/os-release")
        self.states["states/memory.txt"] = read("/proc/meminfo")
        self.states["states/ports.txt"] = listeners()
        if shutil.which("nvidia-smi"):
            self.states["states/nvidia-smi.txt"] = report(["nvidia-smi"], ["nvidia-smi", "-L"])
        if os.path.isdir("/run/systemd/system") and shutil.which("journalctl"):
            self.states["states/docker-journal.txt"] = end_of(
                report(["journalctl", "--unit", "docker", "--lines", LINES, "--no-pager", "--utc"]), self.limit
            )
        if os.path.isfile(DOCKERD_LOG):
            self.states["states/dockerd.log"] = read(DOCKERD_LOG, self.limit)

    def look_at_files(self):
        """modelserve's own files, and the names and sizes of what the store holds."""
        patterns = ("settings.json", "conf.ini", "releases/*.json", "gateway/haproxy.cfg", "node/*")
        for pattern in patterns:
            for path in sorted(glob.glob(os.path.join(glob.escape(self.home), pattern))):
                if self.inside(path):
                    self.attempt(path, lambda path=path: self.take_file(path))
        entries = []
        until = time.monotonic() + TIMEOUT_S  # environments have many files, and a slow disk shows it
        for path in sorted(glob.glob(os.path.join(glob.escape(self.home), "store", "*", "*"))):
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(os.lstat(path).st_mtime))
            entries.append("{0}  {1:>12}  {2}".format(when, tree_size(path, until), os.path.relpath(path, self.home)))
        self.states["states/store.txt"] = "\n".join(entries or ["the store is empty, or not there"]) + "\n"

    def take_file(self, path):
        """One of modelserve's own files, and the secrets in it."""
        name = "files/" + os.path.relpath(path, self.home)
        text = read(path)
        if binary(text):
            text = "(not text: {0} bytes)\n".format(os.path.getsize(path))
        self.redactor.learn(self.redact_as(name), text)
        self.states[name] = text

    def redact_as(self, name):
        """How secrets are found in a text of this name."""
        if name.endswith(".json"):
            return self.redactor.document
        return self.redactor.config if name.endswith(".cfg") else self.redactor.text

    def look_at_docker(self):
        """The engine, modelserve's containers and images."""
        root = ""
        code, out = run(["docker", "version", "--format", "{{.Server.Version}}"])
        if code == 0:
            self.docker = out.strip()
            _, root = run(["docker", "info", "--format", "{{.DockerRootDir}}"])
        elif shutil.which("docker"):
            self.docker = "does not answer: {0}".format((out.strip() or "no reason given").splitlines()[-1])
        self.states["states/disk.txt"] = self.disk(root.strip())
        if code != 0:
            self.states["states/docker.txt"] = report(["docker", "version"])
            return
        mine = ["--filter", "label=modelserve.role"]
        self.states["states/docker.txt"] = report(["docker", "version"], ["docker", "info"])
        self.redactor.learn(self.redactor.text, self.states["states/docker.txt"])  # it may name a proxy
        self.states["states/containers.txt"] = report(["docker", "ps", "--all", "--no-trunc", "--size"] + mine)
        self.states["states/images.txt"] = report(["docker", "images", "--filter", "label=modelserve.part"])
        ids = run(["docker", "ps", "--all", "--quiet"] + mine)[1].split()
        if ids:
            _, inspected = run(["docker", "inspect"] + ids)
            self.redactor.learn(self.redactor.document, inspected)
            self.states["states/inspect.json"] = inspected
            self.containers = json.loads(inspected)
        for container in self.containers:
            name = container["Name"].strip("/")
            _, log = run(["docker", "logs", "--timestamps", "--tail", LINES, name])
            self.states["containers/{0}.log".format(name)] = end_of(log, self.limit)

    def disk(self, docker_root):
        """Space and inodes where the data lie."""
        there = [path for path in (self.home, docker_root, "/tmp", "/dev/shm") if path and os.path.exists(path)]
        return report(["df", "-hP", "/"] + there, ["df", "-iP", "/"] + there)

    def ask_modelserve(self):
        """What the head says of itself. The limit holds in the container too: nothing is left running there."""
        for container in self.containers:
            labels = container["Config"].get("Labels") or {}
            if labels.get("modelserve.role") != "head" or not container["State"].get("Running"):
                continue
            inside = ["docker", "exec", container["Id"], "timeout", "-k", "2", str(TIMEOUT_S)]
            for name, argv in (
                ("status.json", ["modelserve", "status", "--json"]),
                ("plan.json", ["modelserve", "plan", "--json"]),
                ("ray-status.txt", ["ray", "status"]),
            ):
                code, out = run(inside + argv, TIMEOUT_S + 5)
                self.states["states/" + name] = out
                if name == "status.json":
                    self.algorithms = served(out)
                    failed = self.algorithms is None
                else:
                    failed = code != 0
                if failed:
                    why = "no answer within {0} s".format(TIMEOUT_S) if code in (124, 137) else reason(out)
                    self.problems.append("{0}: {1}".format(" ".join(argv), why))

    def find_logs(self):
        """Ray's log files, newest first. Links out of home are not followed: others may write in that directory."""
        top = os.path.realpath(os.path.join(self.home, "ray", "session_latest", "logs"))
        found = []
        for directory, _, names in os.walk(top):
            for name in names:
                path = os.path.join(directory, name)
                try:
                    entry = os.lstat(path)
                except FileNotFoundError:  # Ray rotates its logs
                    continue
                if stat.S_ISREG(entry.st_mode) and entry.st_size and self.inside(path):
                    found.append((entry.st_mtime, entry.st_size, path, os.path.relpath(path, top)))
        found.sort(reverse=True)
        self.logs = [entry for entry in found if not entry[2].endswith(PACKED)][: self.max_files]
        self.logs_there = len(found)
        taken = {entry[2] for entry in self.logs}
        rows = [
            "{0}  {1:>12}  {2}{3}".format(
                time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)),
                size,
                name,
                "" if path in taken else "  (left out)",
            )
            for when, size, path, name in found
        ]
        self.states["states/ray-logs.txt"] = "\n".join(rows or ["Ray has no log here"]) + "\n"

    def headline(self):
        """The host in one line."""
        parts = []
        for container in self.containers:
            state = container["State"]
            health = (state.get("Health") or {}).get("Status", "")
            shown = state.get("Status", "?") + (" ({0})".format(health) if health else "")
            restarts = container.get("RestartCount", 0)
            shown += ", {0} restarts".format(restarts) if restarts else ""
            shown += ", killed for memory" if state.get("OOMKilled") else ""
            parts.append("{0} {1}".format(container["Name"].strip("/"), shown))
        if self.algorithms is not None:
            running = [row for row in self.algorithms if row["status"] == "RUNNING"]
            parts.append("{0} of {1} algorithms running".format(len(running), len(self.algorithms)))
        if not parts:
            engine_answers = self.docker[:1].isdigit()
            parts.append("no container of modelserve" if engine_answers else "Docker {0}".format(self.docker))
        return self.redactor.text("; ".join(parts))

    def summary(self):
        """One screen about the host."""
        release = values(self.states.get("states/os-release.txt", "")).get("PRETTY_NAME", "?").strip('"')
        memory = values(self.states.get("states/memory.txt", ""), ":")
        releases = [name for name in self.states if name.startswith("files/releases/")]
        numbers = sorted(int(stem) for stem in (os.path.basename(name)[:-5] for name in releases) if stem.isdigit())
        lines = [
            "host        {0}".format(platform.node()),
            self.states.get("states/system.txt", "").replace("  ", "      ").strip().splitlines()[0],
            "system      {0}, Linux {1}, {2}".format(release, platform.release(), platform.machine()),
            "memory      {0} MiB, {1} MiB available".format(mib(memory, "MemTotal"), mib(memory, "MemAvailable")),
            "disk        {0}".format(free(self.home)),
            "docker      {0}".format(self.docker),
            "state       {0}".format(self.headline()),
            "release     {0}".format(numbers[-1] if numbers else "none"),
            "ray's logs  {0} of {1} files, the last {2} KiB of each".format(
                len(self.logs), self.logs_there, self.limit // 1024
            ),
            "",
        ]
        for row in self.algorithms or []:
            lines.append("{0}: {1} {2}".format(row["name"], row["status"], str(row.get("message") or "")[:200]).strip())
        lines += ["not collected: {0}".format(problem) for problem in self.problems] or ["everything was collected"]
        return "\n".join(lines[:40]) + "\n"

    def write(self, stream):
        """The archive: a summary, the states, the files, the logs. Nothing reaches it but by ``put``."""
        with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=6) as archive:

            def put(name, text, when=None):
                data = self.redact_as(name)(text).encode("utf-8", "replace")
                entry = tarfile.TarInfo(self.redactor.text(name))
                entry.size, entry.mode, entry.mtime = len(data), 0o600, int(when or time.time())
                archive.addfile(entry, io.BytesIO(data))

            put("summary.txt", self.summary())
            for name, text in self.states.items():
                put(name, text)
            for when, _, path, name in self.logs:
                try:
                    text = read(path, self.limit)
                except OSError as error:  # Ray rotates its logs
                    text = "({0})\n".format(error)
                put("ray-logs/" + name, "(not text)\n" if binary(text) else text, when)


def values(text, separator="="):
    """Lines of keys and values as a dictionary."""
    pairs = (line.partition(separator) for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def mib(memory, key):
    """A value of /proc/meminfo."""
    return int(memory.get(key, "0 kB").split()[0]) // 1024


def free(path):
    """Free space where ``path`` lies or would lie."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    usage = shutil.disk_usage(path)
    return "{0} MiB free of {1} MiB at {2}".format(usage.free // 2**20, usage.total // 2**20, path)


def tree_size(path, until):
    """Bytes of the files in ``path``; not known where counting them would go on after ``until``."""
    total = os.lstat(path).st_size if os.path.isfile(path) else 0
    for directory, _, names in os.walk(path):
        if time.monotonic() > until:
            return "not counted"
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # the store is in use
                total += os.lstat(os.path.join(directory, name)).st_size
    return total


def reason(text):
    """Why a command failed: its error, or what it said last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line[len("error: ") :] for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1][:200]


def served(text):
    """The rows of ``modelserve status --json``; None where it answered otherwise."""
    for line in text.splitlines():
        try:
            return json.loads(line)["algorithms"]
        except (ValueError, KeyError, TypeError):
            continue
    return None


def collect(home, dest=None, log_kb=256, max_files=200):
    """Look at the host and pack what was found; the module's result."""
    host = Host(home, log_kb, max_files)
    host.look()
    if any(problem.startswith("secrets: ") for problem in host.problems):
        raise ValueError("the secrets below {0} cannot be read, so none could be taken out".format(host.home))
    result = {"problems": [host.redactor.text(problem) for problem in host.problems]}
    if dest is None:
        stream = io.BytesIO()
        host.write(stream)
        result["content"] = base64.b64encode(stream.getvalue()).decode()
        result["size"] = len(stream.getvalue())
    else:
        handle = os.open(dest, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(handle, 0o600)
            host.write(stream)
        result["size"] = os.path.getsize(dest)
    result["headline"] = host.headline()
    return result


def main():
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "str", "required": True},
            "dest": {"type": "str"},
            "log_kb": {"type": "int", "default": 256},
            "max_files": {"type": "int", "default": 200},
        },
        supports_check_mode=True,
    )
    try:
        result = collect(**module.params)
    except (OSError, ValueError) as error:
        module.fail_json(msg="nothing collected: {0}".format(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
