"""The cluster's settings, which Ansible writes to ``settings.json`` on the head."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from modelserve.errors import Location, Problem, UserError, validation_problems

FIX = "Run site.yml to write it again"


class RemoteGateway(BaseModel):
    """A gateway on another host than the head.

    Attributes:
        address: how the head reaches its host.
        bind: addresses it listens on.
        head: how it reaches the head.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    address: str
    bind: tuple[str, ...]
    head: str


class Settings(BaseModel):
    """Settings of the controller.

    Attributes:
        home: modelserve_home, the same path on the host and in the container.
        dashboard_url: Ray's dashboard, whose REST API takes the Serve configuration.
        serve_port: the port of Serve's own proxy on the head; fixed for a cluster's life.
        conda_channels: channels beside the image's own, first wins.
        index_url: Python package index for environments; empty means the tool's default.
        index_strategy: which of several package indexes uv takes a package from; empty: the first that has it.
        proxy_environment: variables of an HTTP proxy for what fetches packages; empty: there is none.
        models_environment: variables of the environment for what fetches models on the head.
        models_secrets: further ones, each with the name of the secret that has its value.
        deploy_timeout_s: seconds without progress after which a deployment is given up.
        scheduling_timeout_s: seconds that a new replica may wait for capacity that nothing frees.
        fetch_timeout_s: seconds that a node waits for its turn at the head's store.
        min_ready_seconds: seconds that new replicas must run before they count as healthy.
        keep_releases: how many releases are kept.
        gateway_bind: addresses the gateway listens on.
        gateway_tls: whether the gateway speaks HTTPS.
        gateway_names: host names and addresses that clients call, for its certificate.
        site_certificate: whether it shows the site's own certificate.
        gateway_keys: whether clients need a key.
        keys: those the inventory names (:class:`modelserve.security.keys.Key`).
        key_rate: requests a second that a key may make, where it has no limit of its own; 0: no limit.
        key_max_concurrent: concurrent requests of a key that has no limit of its own; 0: no limit.
        max_body: the longest request body, in bytes.
        access_log: whether the gateway logs what went well, too.
        gateway_reuse: whether the gateway uses a connection to a replica for several requests.
        gateway_threads: threads of the gateway.
        cors_origins: origins of the web pages that may call the gateway; ``*``: all.
        workers: addresses of the workers by name, from ``workers.json``, which Ansible writes when workers come and go.
        gateways: those on other hosts than the head, by the host's name; from ``gateways.json``, likewise.
    """

    # A head may start with the settings of the version before: unknown names are ignored, former names are read.
    model_config = ConfigDict(extra="ignore", frozen=True)

    home: Path = Path("/opt/modelserve")
    dashboard_url: str = "http://127.0.0.1:8265"
    serve_port: int = 8000
    conda_channels: tuple[str, ...] = ()
    index_url: str = ""
    index_strategy: str = ""
    proxy_environment: dict[str, str] = {}
    models_environment: dict[str, str] = {}
    models_secrets: dict[str, str] = {}
    deploy_timeout_s: float = 600
    scheduling_timeout_s: float = Field(30, validation_alias=AliasChoices("scheduling_timeout_s", "room_timeout_s"))
    fetch_timeout_s: float = 7200
    min_ready_seconds: float = Field(5, validation_alias=AliasChoices("min_ready_seconds", "watch_s"))
    keep_releases: int = 10
    gateway_bind: tuple[str, ...] = ("127.0.0.1",)
    gateway_tls: bool = False
    gateway_names: tuple[str, ...] = ()
    site_certificate: bool = False
    gateway_keys: bool = False
    keys: list[dict[str, Any]] = []
    key_rate: int = 0
    key_max_concurrent: int = Field(0, validation_alias=AliasChoices("key_max_concurrent", "key_at_once"))
    max_body: int = 64 * 2**20
    access_log: bool = False
    gateway_reuse: bool = True
    gateway_threads: int = 1
    cors_origins: tuple[str, ...] = ()
    workers: dict[str, str] = {}
    gateways: dict[str, RemoteGateway] = {}

    @classmethod
    def load(cls, home: str | os.PathLike[str] | None = None) -> Settings:
        """Read ``<home>/settings.json``; without it, the defaults hold.

        Args:
            home: the data directory; None takes ``$MODELSERVE_HOME``, else /opt/modelserve.

        Raises:
            UserError: a file is not as Ansible writes it.
        """
        root = Path(home or os.environ.get("MODELSERVE_HOME") or "/opt/modelserve")
        file = root / "settings.json"
        lists = {name: _read(root / f"{name}.json") for name in ("workers", "gateways")}
        try:
            return cls.model_validate({**_read(file), "home": root, **lists})
        except ValidationError as error:
            problems = validation_problems(error, Location(str(file)))
            raise UserError([_rewrite(problem, root, lists) for problem in problems]) from None

    @property
    def conf_file(self) -> Path:
        """Return the path of conf.ini as deployed."""
        return self.home / "conf.ini"

    @property
    def algopkg(self) -> Path:
        """Return the directory of the packages as deployed."""
        return self.home / "algopkg"

    @property
    def model_zoo(self) -> Path:
        """Return the directory of the model files as deployed."""
        return self.home / "Model_ZOO"

    @property
    def token_file(self) -> Path:
        """Return the path of the cluster's token."""
        return self.home / "secrets" / "ray_token"


def _read(file: Path) -> dict[str, object]:
    try:
        return {**(json.loads(file.read_text()) if file.exists() else {})}
    except (ValueError, TypeError) as error:
        raise UserError(Problem(" ".join(str(error).split()), FIX, str(file))) from None


def _rewrite(problem: Problem, root: Path, lists: Collection[str]) -> Problem:
    """Return a problem of the settings with the file that holds it and the command that writes it again."""
    name = problem.key.split(".")[0]
    file = root / f"{name}.json" if name in lists else Path(problem.file)
    return Problem(problem.message, FIX, str(file), key=problem.key)
