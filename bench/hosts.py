"""Measure the cost of a host: `make bench-hosts`. Makes a test bed of its own; writes docs/benchmark-hosts.md.

On real hosts (systemd containers with their own Docker, over SSH): the first and the second `site.yml` on three hosts,
an added worker, and the bytes that the operator's machine sends to each host. On stub hosts: the second `site.yml` at
10, 25 and 50 workers. All hosts are removed at the end.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ["MODELSERVE_BED"] = "bench"

import stub_hosts
from stub_hosts import bed

ROOT = stub_hosts.ROOT
PAGE = ROOT / "docs" / "benchmark-hosts.md"
PROJECT = bed.DIRECTORY / "project"
COUNTS = (10, 25, 50)
MODEL_MB = 64


def playbook(name: str, *options: str) -> tuple[float, str]:
    """Run a playbook on the test bed; return its duration in seconds and its output."""
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(bed.INVENTORY), name, *options]
    command += ["-e", f"modelserve_project={PROJECT}", "-e", "modelserve_gpus=2"]
    environment = {**os.environ, "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks", "ANSIBLE_NOCOLOR": "1"}
    started = time.monotonic()
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if result.returncode != 0:
        raise SystemExit(f"error: {name} failed:\n{result.stdout[-4000:]}{result.stderr[-2000:]}")
    return seconds, result.stdout


def recap(text: str) -> dict[str, dict[str, int]]:
    """Return the number of tasks by host and outcome."""
    lines = text.partition("PLAY RECAP")[2].splitlines()
    counts = {}
    for line in lines:
        if match := re.match(r"(\S+)\s+: (ok=.*)", line):
            counts[match[1]] = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", match[2])}
    return counts


def longest_tasks(text: str) -> list[tuple[str, float]]:
    """Return the tasks that took longest, and their seconds."""
    tasks = re.findall(r"^(.+?) -+ ([\d.]+)s$", text, re.M)
    return [(name.strip(), float(seconds)) for name, seconds in tasks]


class SentBytes:
    """Count the bytes that this machine sends to the hosts over SSH, with one iptables rule per host."""

    def __init__(self, hosts: list[str]) -> None:
        self._rules = {
            host: [
                "OUTPUT",
                "-d",
                bed.address(host),
                "-p",
                "tcp",
                "--dport",
                "22",
                "-m",
                "comment",
                "--comment",
                "bench",
            ]
            for host in hosts
        }

    def __enter__(self) -> SentBytes:
        for rule in self._rules.values():
            bed.run("iptables", "-I", *rule)
        return self

    def __exit__(self, *_: object) -> None:
        for rule in self._rules.values():
            bed.run("iptables", "-D", *rule, check=False)

    def now(self) -> dict[str, float]:
        """Return the MB sent so far, by host."""
        lines = bed.run("iptables", "-nvxL", "OUTPUT").splitlines()
        sent_mb = {}
        for host in self._rules:
            (line,) = [line for line in lines if f" {bed.address(host)} " in line and "bench" in line]
            sent_mb[host] = int(line.split()[1]) / 1e6
        return sent_mb


def main() -> int:
    """Measure and write the page."""
    page = [
        "# Cost of a host",
        "",
        "Written by `make bench-hosts`, which makes and removes hosts of its own.",
        "",
    ]
    page += [
        f"Machine: {os.cpu_count()} cores, which the operator's side and all hosts share; {time.strftime('%Y-%m-%d')}."
    ]
    bed.down()
    measure = {"real": real_hosts, "many": many_hosts}
    try:
        for part in sys.argv[1:] or measure:
            page += measure[part]()
    finally:
        bed.down()
    PAGE.write_text("\n".join(page) + "\n")
    print(PAGE.read_text())
    return 0


def make_project() -> None:
    """Copy the checkout's own project, so that it can be changed."""
    for name in ("algopkg", "Model_ZOO"):
        shutil.copytree(ROOT / name, PROJECT / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "conf.ini", PROJECT)


@dataclass
class RealHosts:
    """Measurements of the real hosts: durations in seconds, sent bytes in MB by host.

    Attributes:
        first: of the first `site.yml`.
        second: of the second one.
        changed: tasks that the second one changed.
        added: of `site.yml` for a new worker.
        added_tasks: the longest of its tasks, with their seconds.
        scaled: from the edited conf.ini until replicas run on the new worker.
        sent_first: in the first `site.yml`.
        sent_model: when a model is deployed.
    """

    first: float = 0
    second: float = 0
    changed: int = 0
    added: float = 0
    added_tasks: list[tuple[str, float]] = field(default_factory=list)
    scaled: float = 0
    sent_first: dict[str, float] = field(default_factory=dict)
    sent_model: dict[str, float] = field(default_factory=dict)


def real_hosts() -> list[str]:
    """Measure three real hosts, then a fourth; return the page's lines."""
    bed.up(2)
    make_project()
    result = RealHosts()
    measure_installation(result)
    measure_added_worker(result)
    bed.down()
    return real_hosts_page(result)


def measure_installation(result: RealHosts) -> None:
    """Measure the first and the second `site.yml`, and the deployment of a model."""
    workers = ["worker_1", "worker_2"]
    with SentBytes([bed.HEAD, *workers]) as sent:
        result.first, _ = playbook("site.yml")
        result.sent_first = sent.now()
        print(f"first site.yml: {result.first:.0f} s, sent {result.sent_first}", flush=True)
        result.second, text = playbook("site.yml")
        counts = recap(text)
        result.changed = sum(host["changed"] for host in counts.values())
        print(f"second site.yml: {result.second:.1f} s, {counts}", flush=True)
        (PROJECT / "Model_ZOO" / "large.bin").write_bytes(os.urandom(MODEL_MB << 20))
        conf = PROJECT / "conf.ini"
        conf.write_text(conf.read_text().replace("example_words.json", "example_words.json, large.bin"))
        before = sent.now()
        playbook("playbooks/deploy.yml")
        result.sent_model = {name: mb - before[name] for name, mb in sent.now().items()}
    on_workers = [bed.on(name, "sh", "-c", "ls /opt/modelserve/store/model/*/large.bin") for name in workers]
    assert all(on_workers), "the workers have the model"


def measure_added_worker(result: RealHosts) -> None:
    """Measure a fresh host's way to a member, and more replicas that use it."""
    bed.add("worker_3")
    bed.write_inventory()
    result.added, text = playbook("site.yml", "--limit", "worker_3")
    result.added_tasks = longest_tasks(text)[:6]
    conf = PROJECT / "conf.ini"
    conf.write_text(conf.read_text().replace("replicas = 1", "replicas = 4"))
    started = time.monotonic()
    playbook("playbooks/deploy.yml")
    result.scaled = time.monotonic() - started
    url = f"http://{bed.address('worker_3')}:8000/AlgoExample"
    answer = bed.on(bed.HEAD, "python3", "-c", _ASK, url)
    assert '"status":1' in answer, answer


def real_hosts_page(result: RealHosts) -> list[str]:
    """Return the page's lines about real hosts."""
    rows = [
        ("first `site.yml`, three fresh hosts", f"{result.first:.0f} s", "reported"),
        ("second `site.yml`, three hosts", f"{result.second:.1f} s, changed={result.changed}", "under 25 s"),
        ("a worker added, from fresh host to a member (`--limit`)", f"{result.added:.0f} s", "under 90 s"),
        ("then replicas 1 to 4, deployed, the new worker answering", f"{result.scaled:.0f} s", "reported"),
    ]
    names = list(result.sent_first)
    page = ["", "## Real hosts", "", "Systemd containers with Docker of their own, over SSH.", ""]
    page += ["| | measured | aim |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows), ""]
    page += ["Longest tasks of the added worker:", "", "| task | s |", "|---|---|"]
    page += [f"| {name} | {seconds:.1f} |" for name, seconds in result.added_tasks]
    page += ["", "## Bytes the operator's machine sends", "", "Counted on the wire (SSH to each host), in MB.", ""]
    page += ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    page += ["| first `site.yml` | " + " | ".join(f"{mb:.1f}" for mb in result.sent_first.values()) + " |"]
    sent_model = " | ".join(f"{result.sent_model[name]:.1f}" for name in names)
    page += [f"| a model of {MODEL_MB} MiB deployed | {sent_model} |"]
    return [
        *page,
        "",
        "The image is built on the head; it, packages, models and environments reach workers from the head's store.",
        "In addition a worker gets Ansible's own modules.",
    ]


_ASK = """
import sys, urllib.request as u
r = u.Request(sys.argv[1], b'{"text": "good"}', method="GET")
print(u.urlopen(r, timeout=30).read().decode())
"""


def many_hosts() -> list[str]:
    """Measure the workers' part of a run without changes, at growing numbers of stub hosts; return the page's lines."""
    bed.make_network()
    make_project()
    rows = []
    for count in COUNTS:
        with stub_hosts.hosts(count) as names:
            bed.write_inventory([bed.HEAD, *names])
            playbook("bench/converged.yml")
            playbook("site.yml", "--limit", "workers")  # registers them at the head
            seconds, text = playbook("site.yml", "--limit", "workers")
            counts = recap(text)
            assert all(host["changed"] == 0 for host in counts.values()), counts
            tasks = [sum(counts[name][kind] for kind in ("ok", "skipped")) for name in names]
            rows.append(f"| {count} | {seconds:.1f} | {seconds / count:.2f} | {min(tasks)} |")
            print(rows[-1], flush=True)
    return ["", *MANY.strip().splitlines(), *rows]


MANY = """
## Many hosts

`site.yml` without changes, limited to the workers. All hosts are stub hosts: containers with sshd, whose `docker`
prints the output of a converged worker's; no Docker engine and no Ray runs in them. The head's part (in the second row
of the first table) comes on top, once. Aim: at most 1.2 s a worker at 50, growth no worse than linear.

| workers | s | s a worker | tasks a worker, skipped ones included |
|---|---|---|---|
"""


if __name__ == "__main__":
    raise SystemExit(main())
