"""What the controller writes and a replica reads: the arguments of an application."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

# Below an algorithm's route: what it takes and gives.
SCHEMA_PATH = "/schema"


class AppArgs(BaseModel):
    """The arguments of an application. Paths carry content hashes, so what changed is redeployed and only that.

    Attributes:
        name: the package's name.
        package: directory of the package's snapshot.
        backend: the class in its ``backend.py``.
        models: paths of the model files.
        methods: HTTP methods answered.
        batch_size: the most requests given to ``_model_inference_batch`` at once; 1 gathers none.
        batch_wait: seconds the first request of a batch waits for others, at most.
        configured: whether the section has a ``user_config``; taking it away needs replicas that never had one.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    package: str
    backend: str
    models: list[str] = []
    methods: list[str] = ["GET"]
    configured: bool = False
    batch_size: int = 1
    batch_wait: float = 0.01
