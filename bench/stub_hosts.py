"""Stub hosts: reached over SSH as real hosts are, but with a `docker` that only reports a converged worker's state.

Fifty real Docker engines and Ray nodes do not fit on one machine. The cost of a playbook run per host does not depend
on them: where nothing changes, the playbooks only read a host's state. The head is a stub host too: it has the files
that a worker's tasks read on it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test" / "bed"))

import bed as bed  # noqa: E402 # after the path; a name that hosts.py imports

FIRST = 100  # stub hosts are worker_101, worker_102, ...
DOCKER = """#!/bin/sh
# Prints the output of a converged worker's Docker.
case $1 in
exec) ;; # the gateway's list of the workers
info) echo '{"ServerVersion": "26.1.5"}' ;;
ps) cat /stub/ps ;;
images) cat /stub/images ;;
esac
"""


@contextmanager
def hosts(count: int) -> Iterator[list[str]]:
    """Start stub hosts and yield their names; remove them at the end."""
    names = [f"worker_{FIRST + number}" for number in range(1, count + 1)]
    image = _image()
    try:
        for name in [bed.HEAD, *names]:
            _start(name, image)
        yield names
    finally:
        bed.run("docker", "rm", "--force", "--volumes", *map(bed.container, [bed.HEAD, *names]), check=False)


def _image() -> str:
    """Build the image of the hosts, which have nftables as a converged worker has, and return its name."""
    name = f"{bed.NETWORK}-stub"
    dockerfile = f"FROM {bed.image(bed.release(bed.HEAD))}\nRUN apt-get update -qq && apt-get install -qq -y nftables\n"
    bed.run("docker", "build", "--quiet", "--network", "host", "--tag", name, "-", stdin=dockerfile)
    return name


def _start(name: str, image: str) -> None:
    script = (
        "mkdir -p /run/sshd /stub && touch /stub/ps /stub/images && "
        f"cat >/usr/local/bin/docker <<'END'\n{DOCKER}END\n"
        "chmod +x /usr/local/bin/docker && cp /usr/local/bin/docker /usr/local/bin/dockerd && "
        "printf '#!/bin/sh\\n' >/usr/local/bin/rsync && chmod +x /usr/local/bin/rsync && "
        "cd /usr/lib/python3/dist-packages && mkdir -p requests && touch requests/__init__.py && "
        "mkdir -p -m 0750 /opt/modelserve/store /opt/modelserve/secrets && "
        f"echo 'head: {bed.HEAD}' >/opt/modelserve/.modelserve && chown 6370 /opt/modelserve && "
        "echo token-of-the-stub >/opt/modelserve/secrets/ray_token && "
        """echo '{"versions": {"image": "modelserve:stub"}}' >/opt/modelserve/store/manifest.json && """
        "chown ops: /home/ops/.ssh && exec /usr/sbin/sshd -D"
    )
    bed.run(
        *("docker", "run", "--detach", "--name", bed.container(name), "--label", f"{bed.LABEL}={bed.BED}"),
        *("--label", f"{bed.HOST_LABEL}={name}", "--hostname", name.replace("_", "-")),
        *("--cap-add", "NET_ADMIN", "--network", bed.NETWORK, "--ip", bed.address(name), image, "sh", "-c", script),
    )
    bed.let_key_in(name)  # no systemd runs in it, whose boot a bed's host is waited for
