"""What the controller writes and a replica reads: the arguments and the user configuration of an application."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from modelserve import hashing

# Below an algorithm's route: the schemas of its request and its answer.
SCHEMA_PATH = "/schema"
# From the gateway to a replica: how many requests per replica wait in the algorithm's queue.
QUEUED_HEADER = "X-Modelserve-Queued"
# How lines of a replica's log begin from which the controller reads why it died.
UNHEALTHY_LINE = "replica is unhealthy: "
MEMORY_LINE = "the node's memory is nearly full: "
EXIT_LINE = "replica ends itself with exit code "
# The variable by which numeric libraries know their number of threads.
OMP = "OMP_NUM_THREADS"


class Secret(BaseModel):
    """A secret that a section refers to.

    Attributes:
        name: its name in the cluster.
        digest: keyed digest of its value, from which nobody can tell the value.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    digest: str


class AppArgs(BaseModel):
    """The arguments of an application. A change needs new replicas; paths carry content hashes.

    Attributes:
        name: the package's name.
        package: directory of the package's snapshot.
        backend: the class in its ``backend.py``.
        models: paths of the models, files or directories.
        methods: HTTP methods that are allowed.
        batch_size: largest number of requests in one call of ``_model_inference_batch``; 1 turns batching off.
        batch_wait: longest time in seconds that the first request of a batch waits for others.
        memory_limit: largest memory of a replica in bytes, above which it ends; 0: no limit.
        configured: whether the section has a ``user_config``; removing it needs replicas that never had one.
        secrets: by environment variable: the secret that is its value.
        cpu_threads: threads of its numeric libraries; 0: the replica decides by its node.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    package: str
    backend: str
    models: list[str] = []
    methods: list[str] = ["GET"]
    configured: bool = False
    batch_size: int = 1
    batch_wait: float = 0.01
    memory_limit: int = 0
    secrets: dict[str, Secret] = {}
    cpu_threads: int = 0

    @property
    def secrets_id(self) -> str:
        """The name under which the head keeps the values of these secrets; empty without any."""
        references = {variable: secret.model_dump() for variable, secret in self.secrets.items()}
        return hashing.of_value(references) if references else ""

    def to_serve(self) -> dict[str, Any]:
        """Return the ``args`` of a Serve application.

        An option that a section does not use is left out: a new option of modelserve must not restart replicas.
        """
        unused = set() if self.batch_size > 1 else {"batch_size", "batch_wait"}
        unused |= {option for option in ("memory_limit", "secrets", "cpu_threads") if not getattr(self, option)}
        return self.model_dump(exclude=unused)


class UserConfig(BaseModel):
    """The user configuration of a deployment. Serve passes a change to running replicas.

    Attributes:
        user_config: JSON value for the class's ``reconfigure``; None: the section has none.
        warmup: request that a new replica answers before it takes traffic.
        identity: hash of everything that needs new replicas. Serve shows it for its target revision.
        request_timeout: time limit of a request in seconds; None: no limit.
        max_queued_requests: longest queue per replica, which the gateway keeps to.
        retry_unanswered: whether the gateway sends a request once more where its replica died.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    user_config: Any = None
    warmup: dict[str, Any] | None = None
    identity: str = ""
    request_timeout: float | None = None
    max_queued_requests: int | None = None
    retry_unanswered: bool = False

    def to_serve(self) -> dict[str, Any]:
        """Return the ``user_config`` of a Serve deployment."""
        limits = {"request_timeout": self.request_timeout, "max_queued_requests": self.max_queued_requests}
        return {
            "user_config": self.user_config,
            "warmup": self.warmup,
            "identity": self.identity,
            **{key: value for key, value in limits.items() if value is not None},
            **({"retry_unanswered": True} if self.retry_unanswered else {}),
        }


def cpu_threads_of(listed: str, threads: int, reserved_cpus: float, cores: int, replicas_per_node: int) -> int:
    """Return the number of CPU threads of a replica's numeric libraries.

    Args:
        listed: ``OMP_NUM_THREADS`` of the section; empty without it.
        threads: ``cpu_threads`` of the section; 0 without it.
        reserved_cpus: ``cpu_cost`` of the section; 0 without it.
        cores: cores of the replica's node.
        replicas_per_node: replicas of all sections per node of the cluster.
    """
    first = listed.split(",")[0].strip()  # OpenMP takes a list: the first number is that of a thread's own region
    if first.isdecimal() and int(first):
        return int(first)
    if threads or reserved_cpus:
        return threads or max(1, int(reserved_cpus))
    return max(1, cores // max(1, replicas_per_node))
