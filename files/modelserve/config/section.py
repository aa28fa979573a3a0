"""The checked values of conf.ini: a section, and the whole file."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from modelserve.config import values

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# Requests wait in the gateway, in one queue per algorithm, for whichever replica is free first; one that dies takes few
# along. A replica needs as many as keep it busy while answers travel: 16 are as fast as 100 (docs/decisions.md), and
# two batches keep a batching one busy.
DEFAULT_CONCURRENCY = 16
DRAIN_S, LEAST_DRAIN_S = 600.0, 60.0
# Paths that Ray Serve ("-") or the gateway answer themselves.
RESERVED_ROUTES = ("-", "healthz", "readyz", "docs", "openapi.json", "metrics")


class Server(BaseModel):
    """The section ``[MODEL SERVE]``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: int = Field(666, ge=1, le=65535, description="The HTTP port clients call.")


class Section(BaseModel):
    """A section ``[algopkg.<Name>]``: one algorithm, served as one Ray Serve application."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(exclude=True)
    backend: str = Field(description="The class in `algopkg/<Name>/backend.py`.")
    model: tuple[str, ...] = Field(
        (), description="Names of files or directories in `Model_ZOO`, comma separated; may be empty."
    )
    replicas: int = Field(
        1, ge=1, le=1000, description="Replicas running in parallel; beside `max_replicas`, how many a deploy starts."
    )
    max_replicas: int | None = Field(
        None, ge=1, le=1000, description="Turns autoscaling on: as many replicas as the load asks for, up to this."
    )
    min_replicas: int = Field(
        1, ge=0, le=1000, description="With `max_replicas`: never fewer. 0 stops the last one when nobody asks."
    )
    target_ongoing_requests: float = Field(
        2, gt=0, allow_inf_nan=False, description="With `max_replicas`: requests per replica that the scaling aims at."
    )
    gpu_cost: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="Share of a GPU or MIG instance per replica: 0, a fraction below 1, or whole ones.",
    )
    cpu_cost: float = Field(
        0, ge=0, allow_inf_nan=False, description="CPU cores reserved per replica; 0 reserves none."
    )
    memory: int = Field(
        0,
        ge=0,
        le=2**50,
        description="Memory reserved per replica: `512MiB`, `2GiB`, `1GB`, or bytes; 0 reserves none.",
    )
    memory_limit: int = Field(
        0,
        ge=0,
        le=2**50,
        description="Memory above which a replica ends and is replaced, written as `memory` is. Empty or 0: no limit.",
    )
    labels: dict[str, str] = Field(
        {}, description="Hosts it may run on: `key=value, ...`; `modelserve.node=!worker_1` is every other host."
    )
    route: str = Field(description="Answers at `http://<head>:<port>/<route>`.")
    weight: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Of sections with the same `route`: this one's share of the requests. Empty: what is left of 100.",
    )
    method: tuple[str, ...] = Field(
        ("GET",), description="HTTP methods, comma separated; parameters are the JSON body."
    )
    warmup: dict[str, Any] | None = Field(
        None,
        description="A JSON request sent to each new replica before it takes traffic, and by the smoke test; "
        '`{"file": "cat.png"}` is a file of the package, for an inference that takes one.',
    )
    user_config: Any = Field(None, description="JSON given to the class's `reconfigure`; a change restarts nothing.")
    max_ongoing_requests: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Requests a replica has at the same time; the others wait in the gateway. Empty: 16, or twice "
        "`batch_size`.",
    )
    max_queued_requests: int | None = Field(
        None, ge=1, le=1_000_000, description="Requests that queue per replica; more get 429 at once. Empty: no limit."
    )
    request_timeout: float | None = Field(
        None, gt=0, le=86400, description="Seconds a replica has for a request before it answers 504. Empty: no limit."
    )
    drain_timeout: float | None = Field(
        None,
        gt=0,
        le=90000,
        description="Seconds a replaced replica has to finish its requests. Empty: `request_timeout` and 10 s, at "
        "least 60 s; without it 10 minutes.",
    )
    retry_unanswered: bool = Field(
        False,
        description="`true`: a request whose replica died before it answered is sent once more, to another replica.",
    )
    cpu_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads of a replica's numeric libraries (torch, numpy, OpenMP). Empty: `cpu_cost`, or without it "
        "the host's cores divided by its replicas.",
    )
    batch_size: int = Field(
        1, ge=1, le=100_000, description="Requests given to `_model_inference_batch` at once, at most."
    )
    batch_wait: float = Field(
        0.01, ge=0, le=60, description="With `batch_size`: seconds the first request waits for others, at most."
    )
    env: dict[str, str] = Field(
        {}, title="env.<NAME>", description="The environment variable `<NAME>` of the replicas."
    )
    secret: dict[str, str] = Field(
        {},
        title="secret.<NAME>",
        description="The name of a secret, whose value is the environment variable `<NAME>` of the replicas.",
    )
    update: Literal["rolling", "recreate"] = Field(
        "rolling",
        description="`rolling` starts new replicas before old ones stop; `recreate` stops first: no spare GPU needed.",
    )
    enabled: bool = Field(True, description="`false`: checked, but served no more than if it were commented out.")

    @property
    def concurrency(self) -> int:
        """Requests that a replica has at the same time."""
        return self.max_ongoing_requests or max(DEFAULT_CONCURRENCY, 2 * self.batch_size)

    @property
    def drain_timeout_s(self) -> float:
        """Seconds that a replaced replica has to finish its requests."""
        if self.drain_timeout is not None:
            return self.drain_timeout
        return DRAIN_S if self.request_timeout is None else max(LEAST_DRAIN_S, self.request_timeout + 10)

    @field_validator(
        *("max_replicas", "max_ongoing_requests", "max_queued_requests", "request_timeout", "drain_timeout", "weight"),
        "cpu_threads",
        mode="before",
    )
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value  # so that a section can lift what [DEFAULTS] sets

    @field_validator("memory", "memory_limit", mode="before")
    @classmethod
    def _bytes(cls, value: Any, info: ValidationInfo) -> Any:
        if value == "" and info.field_name == "memory_limit":
            return 0  # so that a section can lift what [DEFAULTS] sets
        return values.bytes_of(value) if isinstance(value, str) else value

    @field_validator("labels", mode="before")
    @classmethod
    def _labels(cls, value: Any) -> Any:
        return values.labels_of(value) if isinstance(value, str) else value

    @field_validator("model", "method", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("warmup", "user_config", mode="before")
    @classmethod
    def _json(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value, parse_constant=_refuse_constant)
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"is not JSON: {error} (a blank and '#' or ';' begin a comment)") from None

    @field_validator("backend")
    @classmethod
    def _identifier(cls, value: str) -> str:
        if not value.isidentifier():
            raise ValueError(f"'{value}' is not the name of a class")
        return value

    @field_validator("model")
    @classmethod
    def _plain_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(name.rstrip("/") or name for name in value)  # "bert/" is the directory "bert"
        for name in names:
            if "/" in name or name in (".", ".."):
                raise ValueError(f"'{name}' is a path; give the name in Model_ZOO alone")
        if len({values.composed(name) for name in names}) < len(names):
            raise ValueError("names a model twice")
        return names

    @field_validator("gpu_cost")
    @classmethod
    def _whole_or_fraction(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"{value} is neither a fraction below 1 nor a whole number of GPUs")
        return value

    @field_validator("route")
    @classmethod
    def _path(cls, value: str) -> str:
        route = value.strip("/")
        if not re.fullmatch(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*", route) or {".", ".."} & set(route.split("/")):
            raise ValueError(f"'{value}' is not a path of letters, digits, '.', '_', '~', '-' and '/'")
        if route.split("/")[0] in RESERVED_ROUTES:
            raise ValueError(f"'{route.split('/')[0]}' is a route of the server itself")
        return route

    @field_validator("method")
    @classmethod
    def _known_methods(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        methods = tuple(sorted({method.upper() for method in value}))
        unknown = [method for method in methods if method not in METHODS]
        if not methods:
            raise ValueError("names no method; leave the key out for GET")
        if unknown:
            raise ValueError(f"'{', '.join(unknown)}' is not one of {', '.join(METHODS)}")
        return methods


class Conf(BaseModel):
    """A whole conf.ini.

    Attributes:
        port: the HTTP port clients call.
        sections: the algorithms that are enabled, in the file's order.
    """

    model_config = ConfigDict(frozen=True)

    port: int
    sections: tuple[Section, ...]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")
