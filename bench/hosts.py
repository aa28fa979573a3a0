"""What does a host cost? `make bench-hosts`. Makes a test bed of its own; writes docs/benchmark-hosts.md.

On real hosts (systemd containers with their own Docker, over SSH): the first and the second `site.yml` on three hosts,
a worker added, and the bytes the operator's machine sends to each. On stand-ins: the second `site.yml` at 10, 25 and
50 workers. All of it is removed at the end.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

os.environ["MODELSERVE_BED"] = "bench"

import standin
from standin import bed

ROOT = standin.ROOT
PAGE = ROOT / "docs" / "benchmark-hosts.md"
PROJECT = bed.DIRECTORY / "project"
COUNTS = (10, 25, 50)
MODEL_MB = 64


def playbook(name: str, *options: str) -> tuple[float, str]:
    """Run a playbook on the bed; returns the seconds it took and what it printed."""
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
    """Counts of tasks by host and outcome."""
    lines = text.partition("PLAY RECAP")[2].splitlines()
    found = {}
    for line in lines:
        if match := re.match(r"(\S+)\s+: (ok=.*)", line):
            found[match[1]] = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", match[2])}
    return found


def parts(text: str) -> list[tuple[str, float]]:
    """The tasks that took longest, and their seconds."""
    found = re.findall(r"^(.+?) -+ ([\d.]+)s$", text, re.M)
    return [(name.strip(), float(seconds)) for name, seconds in found]


class SentBytes:
    """Counts what this machine sends to the hosts over SSH, by a rule per host that only counts."""

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
        """MB sent so far, by host."""
        lines = bed.run("iptables", "-nvxL", "OUTPUT").splitlines()
        found = {}
        for host in self._rules:
            (line,) = [line for line in lines if f" {bed.address(host)} " in line and "bench" in line]
            found[host] = int(line.split()[1]) / 1e6
        return found


def main() -> int:
    """Measure, and write the page."""
    page = [
        "# What does a host cost?",
        "",
        "Written by `make bench-hosts`, which makes and removes hosts of its own.",
        "",
    ]
    page += [
        f"Machine: {os.cpu_count()} cores, which the operator's side and all hosts share; {time.strftime('%Y-%m-%d')}."
    ]
    bed.down()
    measure = {"real": real_hosts, "many": stand_ins}
    try:
        for part in sys.argv[1:] or measure:
            page += measure[part]()
    finally:
        bed.down()
    PAGE.write_text("\n".join(page) + "\n")
    print(PAGE.read_text())
    return 0


def make_project() -> None:
    """The checkout's own project, to be changed."""
    for name in ("algopkg", "Model_ZOO"):
        shutil.copytree(ROOT / name, PROJECT / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "conf.ini", PROJECT)


def real_hosts() -> list[str]:
    """Three real hosts, then a fourth."""
    bed.up(2)
    make_project()
    names = [bed.HEAD, "worker_1", "worker_2"]
    with SentBytes(names) as sent:
        first, _ = playbook("site.yml")
        after_first = sent.now()
        print(f"first site.yml: {first:.0f} s, sent {after_first}", flush=True)
        second, text = playbook("site.yml")
        counts = recap(text)
        print(f"second site.yml: {second:.1f} s, {counts}", flush=True)
        (PROJECT / "Model_ZOO" / "large.bin").write_bytes(os.urandom(MODEL_MB << 20))
        conf = PROJECT / "conf.ini"
        conf.write_text(conf.read_text().replace("example_words.json", "example_words.json, large.bin"))
        before = sent.now()
        playbook("playbooks/deploy.yml")
        after = sent.now()
    on_workers = [bed.on(name, "sh", "-c", "ls /opt/modelserve/store/model/*/large.bin") for name in names[1:]]
    assert all(on_workers), "the workers have the model"
    bed.add("worker_3")
    bed.write_inventory()
    added, text = playbook("site.yml", "--limit", "worker_3")
    longest = parts(text)[:6]
    conf.write_text(conf.read_text().replace("replicas = 1", "replicas = 4"))
    started = time.monotonic()
    playbook("playbooks/deploy.yml")
    scaled = time.monotonic() - started
    url = f"http://{bed.address('worker_3')}:8000/AlgoExample"
    answer = bed.on(bed.HEAD, "python3", "-c", _ASK, url)
    assert '"status":1' in answer, answer
    changed = sum(host["changed"] for host in counts.values())
    rows = [
        ("first `site.yml`, three virgin hosts", f"{first:.0f} s", "reported"),
        ("second `site.yml`, three hosts", f"{second:.1f} s, changed={changed}", "under 25 s"),
        ("a worker added, from virgin host to a member (`--limit`)", f"{added:.0f} s", "under 90 s"),
        ("then replicas 1 to 4, deployed, the new worker answering", f"{scaled:.0f} s", "reported"),
    ]
    page = ["", "## Real hosts", "", "Systemd containers with Docker of their own, over SSH.", ""]
    page += ["| | measured | aim |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows), ""]
    page += ["Where the time of the added worker went:", "", "| task | s |", "|---|---|"]
    page += [f"| {name} | {seconds:.1f} |" for name, seconds in longest]
    page += ["", "## Bytes the operator's machine sends", "", "Counted on the wire (SSH to each host), in MB.", ""]
    page += ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    page += ["| first `site.yml` | " + " | ".join(f"{after_first[name]:.1f}" for name in names) + " |"]
    delta = {name: after[name] - before[name] for name in names}
    page += [f"| a model of {MODEL_MB} MiB deployed | " + " | ".join(f"{delta[name]:.1f}" for name in names) + " |", ""]
    page += [
        "The image is built on the head; it, packages, models and environments reach workers from the head's store.",
        "What a worker gets besides are Ansible's own modules.",
    ]
    bed.down()
    return page


_ASK = """
import sys, urllib.request as u
r = u.Request(sys.argv[1], b'{"text": "good"}', method="GET")
print(u.urlopen(r, timeout=30).read().decode())
"""


def stand_ins() -> list[str]:
    """The workers' part of a run with nothing to do, at growing numbers of stand-in workers."""
    bed.make_network()
    make_project()
    rows = []
    for count in COUNTS:
        with standin.hosts(count) as names:
            bed.write_inventory([bed.HEAD, *names])
            playbook("bench/converged.yml")
            playbook("site.yml", "--limit", "workers")  # tells the head of them
            seconds, text = playbook("site.yml", "--limit", "workers")
            counts = recap(text)
            assert all(host["changed"] == 0 for host in counts.values()), counts
            tasks = [sum(counts[name][kind] for kind in ("ok", "skipped")) for name in names]
            rows.append(f"| {count} | {seconds:.1f} | {seconds / count:.2f} | {min(tasks)} |")
            print(rows[-1], flush=True)
    return ["", *MANY.strip().splitlines(), *rows]


MANY = """
## Many hosts

`site.yml` with nothing to do, limited to the workers. All hosts are stand-ins: containers with sshd, whose `docker`
reports what a converged worker's does; no Docker engine and no Ray runs in them. The head's part (the first table's
second row has it) comes on top, once. Aim: at most 1.2 s a worker at 50, growth no worse than linear.

| workers | s | s a worker | tasks a worker, skipped ones included |
|---|---|---|---|
"""


if __name__ == "__main__":
    raise SystemExit(main())
