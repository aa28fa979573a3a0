"""What modelserve is compared with: peers, each in a virtual environment of its own, run when their turn comes.

All run on the image modelserve runs on: the same interpreter and libraries of the system. Below ``bench/peers/<name>``
lie a peer's ``server.py`` and ``requirements.lock``; the model and what turns sentences into its tokens and vectors is
the one file that modelserve serves, too.
"""

from __future__ import annotations

import hashlib
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cluster

CACHE = cluster.ROOT / ".cache" / "bench"
SOURCES = cluster.ROOT / "bench" / "peers"
MODEL = cluster.ROOT / "algopkg" / "TextEmbedding"
PORT = 18000
CONTAINER = "modelserve_bench_peer"
LABEL = "modelserve.bench=peer"
START_S = 60
# Certificates and Ray's defaults: the image sets what modelserve wants of Ray.
ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "HOME": "/tmp",
    "BENTOML_DO_NOT_TRACK": "true",
    "RAY_AUTH_MODE": "disabled",
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
}


def sentence(text: str) -> Any:
    """The request for an embedding, as most sides take it."""
    return {"sentence": text}


@dataclass(frozen=True)
class Side:
    """What is measured: where it answers what, and how it is asked.

    Attributes:
        name: of ``bench/peers/<name>``; modelserve's own.
        title: for people.
        package: the distribution whose version is told; empty for modelserve.
        echo, embed: URLs.
        asked: a sentence to the request for its embedding.
        settings: what was found best for it here, in a few words.
    """

    name: str
    title: str
    package: str = ""
    echo: str = f"http://127.0.0.1:{PORT}/echo"
    embed: str = f"http://127.0.0.1:{PORT}/embed"
    asked: Callable[[str], Any] = field(default=sentence)
    settings: str = ""


PEERS = (
    Side("fastapi", "FastAPI + uvicorn", "fastapi", settings="one process, a thread pool for the model, no batches"),
    Side("litserve", "LitServe", "litserve", settings="two workers, batches of 16 within 5 ms, fast queue"),
    Side(
        "bentoml",
        "BentoML",
        "bentoml",
        asked=lambda text: {"sentences": [text]},
        settings="two workers, batchable API, batches of 16",
    ),
    Side(
        "mlserver",
        "MLServer",
        "mlserver",
        embed=f"http://127.0.0.1:{PORT}/v2/models/embed/infer",
        asked=lambda text: {"inputs": [{"name": "sentence", "shape": [1], "datatype": "BYTES", "data": [text]}]},
        settings="one inference worker, adaptive batches of 16 within 5 ms; the echo has a route of its own",
    ),
    Side(
        "rayserve",
        "stock Ray Serve",
        "ray",
        settings="two replicas of the model, `serve.batch` of 16 within 5 ms, 100 requests in flight (not 5)",
    ),
)


class Unusable(Exception):
    """Why a peer cannot be measured, in one line."""


def image() -> str:
    """The image the cluster runs on."""
    return cluster.run("docker", "inspect", "--format", "{{.Config.Image}}", cluster.HEAD).strip()


def install(side: Side) -> str:
    """Make a peer's virtual environment from its lock, unless it is there.

    Returns:
        The peer's version.

    Raises:
        Unusable: it cannot be installed.
    """
    lock = SOURCES / side.name / "requirements.lock"
    wanted = hashlib.sha256(lock.read_bytes() + image().encode()).hexdigest()
    mark = CACHE / f"{side.name}.installed"
    if not mark.exists() or mark.read_text() != wanted:
        CACHE.mkdir(parents=True, exist_ok=True)
        place, locked = f"/bench/{side.name}", f"/peers/{side.name}/requirements.lock"
        make = f"uv venv -q --clear {place} && uv pip sync -q --python {place}/bin/python --require-hashes {locked}"
        # The index by the environment, without its value on the command line: it may hold a password.
        options = ["--env=UV_DEFAULT_INDEX"] if os.environ.get("UV_DEFAULT_INDEX") else []
        options += ["--env=UV_LINK_MODE=copy", "--env=UV_CACHE_DIR=/bench/uv", f"--volume={CACHE}:/bench"]
        command = ["docker", "run", "--rm", "--network=host", f"--label={LABEL}", *options]
        command += [f"--volume={SOURCES}:/peers:ro", "--entrypoint=sh", image(), "-c", make]
        _checked(command)
        mark.write_text(wanted)
    code = f"import importlib.metadata as m; print(m.version({side.package!r}))"
    return _checked([*_container("--rm"), f"--entrypoint=/bench/{side.name}/bin/python", image(), "-c", code]).strip()


@contextmanager
def started(side: Side, ready: Callable[[Side], str]) -> Iterator[None]:
    """Run a peer until the end of the block, from when ``ready`` says nothing against it.

    Raises:
        Unusable: it does not start, or answers otherwise than asked.
    """
    stop()
    command = [*_container("--detach", f"--name={CONTAINER}", f"--env=PYTHONPATH=/minilm:/peers/{side.name}")]
    command += [f"--entrypoint=/bench/{side.name}/bin/python", image(), f"/peers/{side.name}/server.py", str(PORT)]
    try:
        _checked(command)
        deadline = time.monotonic() + START_S
        while against := ready(side):
            if time.monotonic() > deadline:
                last = cluster.run("docker", "logs", "--tail", "20", CONTAINER, check=False)
                raise Unusable(f"{side.title} does not answer: {against}\n{last}")
            time.sleep(0.3)
        yield
    finally:
        stop()


def stop() -> None:
    """Remove the peer that runs, if one does."""
    cluster.run("docker", "rm", "--force", CONTAINER, check=False)


def post(url: str, content: bytes) -> bytes:
    """Send JSON, return the answer's body.

    Raises:
        OSError: no answer, or another status than 200.
    """
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
        body: bytes = response.read()
    return body


def _container(*options: str) -> list[str]:
    volumes = {CACHE: "/bench", SOURCES: "/peers", MODEL: "/minilm", cluster.ROOT / "Model_ZOO": "/models"}
    command = ["docker", "run", "--init", "--network=host", "--shm-size=1g", "--workdir=/tmp", f"--label={LABEL}"]
    command += [f"--volume={source}:{target}:ro" for source, target in volumes.items()]
    command += [f"--env={name}={value}" for name, value in ENVIRONMENT.items()]
    return [*command, *options]


def _checked(command: list[str]) -> str:
    try:
        return cluster.run(*command)
    except SystemExit as error:
        raise Unusable(str(error).strip().splitlines()[-1]) from None
