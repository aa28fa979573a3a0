"""The JSON arguments of the programs that an author's commands start with the algorithm's own Python."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from modelserve.serve.contract import AppArgs, UserConfig


class TryOnceArgs(BaseModel):
    """The argument of :mod:`modelserve.replica.try_once`.

    Attributes:
        app: what the replica is made of.
        params: the request.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    app: AppArgs
    params: dict[str, Any]


class LocalServerArgs(BaseModel):
    """The argument of :mod:`modelserve.replica.local_server`.

    Attributes:
        app: what the replica is made of.
        config: what the section configures in a running replica.
        port: TCP port on 127.0.0.1.
        route: path with its leading slash.
        as_json: whether messages on standard output are JSON documents.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    app: AppArgs
    config: UserConfig
    port: int
    route: str
    as_json: bool = False
