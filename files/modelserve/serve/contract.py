"""What the controller writes and a replica reads: the arguments and the user configuration of an application."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

# Below an algorithm's route: the schemas of its request and its answer.
SCHEMA_PATH = "/schema"


class AppArgs(BaseModel):
    """The arguments of an application. A change needs new replicas; paths carry content hashes.

    Attributes:
        name: the package's name.
        package: directory of the package's snapshot.
        backend: the class in its ``backend.py``.
        models: paths of the model files.
        methods: HTTP methods that are allowed.
        batch_size: largest number of requests in one call of ``_model_inference_batch``; 1 turns batching off.
        batch_wait: longest time in seconds that the first request of a batch waits for others.
        configured: whether the section has a ``user_config``; removing it needs replicas that never had one.
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

    def to_serve(self) -> dict[str, Any]:
        """Return the ``args`` of a Serve application.

        An option that a section does not use is left out: a new option of modelserve must not restart replicas.
        """
        return self.model_dump(exclude=set() if self.batch_size > 1 else {"batch_size", "batch_wait"})


class UserConfig(BaseModel):
    """The user configuration of a deployment. Serve passes a change to running replicas.

    Attributes:
        user_config: JSON value for the class's ``reconfigure``; None: the section has none.
        warmup: request that a new replica answers before it takes traffic.
        identity: hash of everything that needs new replicas. Serve shows it for its target revision.
        request_timeout: time limit of a request in seconds; None: no limit.
        max_queued_requests: longest queue of a replica. Serve does not pass its own option of this name to replicas,
            and a replica that clients reach directly counts its queue itself.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    user_config: Any = None
    warmup: dict[str, Any] | None = None
    identity: str = ""
    request_timeout: float | None = None
    max_queued_requests: int | None = None

    def to_serve(self) -> dict[str, Any]:
        """Return the ``user_config`` of a Serve deployment."""
        limits = {"request_timeout": self.request_timeout, "max_queued_requests": self.max_queued_requests}
        return {
            "user_config": self.user_config,
            "warmup": self.warmup,
            "identity": self.identity,
            **{key: value for key, value in limits.items() if value is not None},
        }
