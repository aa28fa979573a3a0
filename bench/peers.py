"""The peers that modelserve is compared with, each in a virtual environment of its own, run in turn.

All run on modelserve's image: the same interpreter and system libraries. ``bench/peers/<name>`` holds a peer's
``server.py`` and ``requirements.lock``. The model and the code around it are the files that modelserve serves.
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
# Ray's own defaults: the image sets modelserve's.
ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "HOME": "/tmp",
    "BENTOML_DO_NOT_TRACK": "true",
    "RAY_AUTH_MODE": "disabled",
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
}


def sentence(text: str) -> Any:
    """Return the request for an embedding, in the form that most sides take."""
    return {"sentence": text}


@dataclass(frozen=True)
class Side:
    """A measured server, with its URLs and its form of a request.

    Attributes:
        name: of the directory ``bench/peers/<name>``, or modelserve's own.
        title: in the page.
        package: the distribution whose version is shown; empty for modelserve.
        echo: URL of the echo.
        embed: URL of the model.
        request: a function from a sentence to the request for its embedding.
        settings: the best ones found on this machine, in a few words.
    """

    name: str
    title: str
    package: str = ""
    echo: str = f"http://127.0.0.1:{PORT}/echo"
    embed: str = f"http://127.0.0.1:{PORT}/embed"
    request: Callable[[str], Any] = field(default=sentence)
    settings: str = ""


PEERS = (
    Side("fastapi", "FastAPI + uvicorn", "fastapi", settings="one process, a thread pool for the model, no batches"),
    Side("litserve", "LitServe", "litserve", settings="two workers, batches of 16 within 5 ms, fast queue"),
    Side(
        "bentoml",
        "BentoML",
        "bentoml",
        request=lambda text: {"sentences": [text]},
        settings="two workers, batchable API, batches of 16",
    ),
    Side(
        "mlserver",
        "MLServer",
        "mlserver",
        embed=f"http://127.0.0.1:{PORT}/v2/models/embed/infer",
        request=lambda text: {"inputs": [{"name": "sentence", "shape": [1], "datatype": "BYTES", "data": [text]}]},
        settings="one inference worker, adaptive batches of 16 within 5 ms; the echo has a route of its own",
    ),
    Side(
        "rayserve",
        "stock Ray Serve",
        "ray",
        settings="two replicas of the model, `serve.batch` of 16 within 5 ms, 100 requests in flight (not 5)",
    ),
)


class PeerError(Exception):
    """The reason why a peer cannot be measured, in one line."""


def image() -> str:
    """Return the cluster's image."""
    return cluster.run("docker", "inspect", "--format", "{{.Config.Image}}", cluster.HEAD).strip()


def install(side: Side) -> str:
    """Make a peer's virtual environment from its lock, unless it exists.

    Returns:
        The peer's version.

    Raises:
        PeerError: it cannot be installed.
    """
    lock = SOURCES / side.name / "requirements.lock"
    content_hash = hashlib.sha256(lock.read_bytes() + image().encode()).hexdigest()
    mark = CACHE / f"{side.name}.installed"
    if not mark.exists() or mark.read_text() != content_hash:
        CACHE.mkdir(parents=True, exist_ok=True)
        directory, locked = f"/bench/{side.name}", f"/peers/{side.name}/requirements.lock"
        make = f"uv venv -q --clear {directory} && "
        make += f"uv pip sync -q --python {directory}/bin/python --require-hashes {locked}"
        # Docker takes the index from the environment: its URL may hold a password.
        options = ["--env=UV_DEFAULT_INDEX"] if os.environ.get("UV_DEFAULT_INDEX") else []
        options += ["--env=UV_LINK_MODE=copy", "--env=UV_CACHE_DIR=/bench/uv", f"--volume={CACHE}:/bench"]
        command = ["docker", "run", "--rm", "--network=host", f"--label={LABEL}", *options]
        command += [f"--volume={SOURCES}:/peers:ro", "--entrypoint=sh", image(), "-c", make]
        _checked(command)
        mark.write_text(content_hash)
    code = f"import importlib.metadata as m; print(m.version({side.package!r}))"
    return _checked([*_container("--rm"), f"--entrypoint=/bench/{side.name}/bin/python", image(), "-c", code]).strip()


@contextmanager
def started(side: Side, fault: Callable[[Side], str]) -> Iterator[None]:
    """Run a peer in the ``with`` block, which starts when ``fault`` returns nothing.

    Args:
        side: the peer.
        fault: a function that returns what is wrong with a peer's answers; empty if nothing.

    Raises:
        PeerError: it does not start, or its answers are wrong.
    """
    stop()
    command = [*_container("--detach", f"--name={CONTAINER}", f"--env=PYTHONPATH=/minilm:/peers/{side.name}")]
    command += [f"--entrypoint=/bench/{side.name}/bin/python", image(), f"/peers/{side.name}/server.py", str(PORT)]
    try:
        _checked(command)
        deadline = time.monotonic() + START_S
        while problem := fault(side):
            if time.monotonic() > deadline:
                last = cluster.run("docker", "logs", "--tail", "20", CONTAINER, check=False)
                raise PeerError(f"{side.title} does not answer: {problem}\n{last}")
            time.sleep(0.3)
        yield
    finally:
        stop()


def stop() -> None:
    """Remove the running peer, if there is one."""
    cluster.run("docker", "rm", "--force", CONTAINER, check=False)


def post(url: str, content: bytes) -> bytes:
    """Send JSON and return the answer's body.

    Raises:
        OSError: no answer, or an error status.
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
        raise PeerError(str(error).strip().splitlines()[-1]) from None
