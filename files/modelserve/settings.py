"""How this cluster is set up, as Ansible wrote it to ``settings.json`` on the head."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from modelserve.errors import Problem, UserError


class Settings(BaseModel):
    """Settings of the controller.

    Attributes:
        home: modelserve_home, the same path on the host and in the container.
        dashboard_url: Ray's dashboard, whose REST API takes the Serve configuration.
        serve_port: the port of Serve's own ingress; fixed for a cluster's life.
        conda_channels: channels beside the image's own, first wins.
        index_url: Python package index for environments; empty means the tool's default.
        deploy_timeout_s: seconds without progress after which a deployment is given up.
        keep_releases: how many releases are kept.
        gateway_bind: addresses the gateway listens on.
        gateway_servers: ``host:port`` of the Serve ingresses the gateway sends to.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path = Path("/opt/modelserve")
    dashboard_url: str = "http://127.0.0.1:8265"
    serve_port: int = 8000
    conda_channels: tuple[str, ...] = ()
    index_url: str = ""
    deploy_timeout_s: float = 600
    keep_releases: int = 10
    gateway_bind: tuple[str, ...] = ("127.0.0.1",)
    gateway_servers: tuple[str, ...] = ("127.0.0.1:8000",)

    @classmethod
    def load(cls, home: str | os.PathLike[str] | None = None) -> Settings:
        """Read ``<home>/settings.json``; where there is none, the defaults hold.

        Args:
            home: modelserve_home; None takes ``$MODELSERVE_HOME``, else /opt/modelserve.

        Raises:
            UserError: the file is not what Ansible writes.
        """
        root = Path(home or os.environ.get("MODELSERVE_HOME") or "/opt/modelserve")
        file = root / "settings.json"
        try:
            values = json.loads(file.read_text()) if file.exists() else {}
            return cls.model_validate({**values, "home": root})
        except (ValidationError, ValueError, TypeError) as error:
            message = " ".join(str(error).split())
            raise UserError(Problem(message, "Run site.yml to write it anew", str(file))) from None

    @property
    def conf_file(self) -> Path:
        return self.home / "conf.ini"

    @property
    def algopkg(self) -> Path:
        return self.home / "algopkg"

    @property
    def model_zoo(self) -> Path:
        return self.home / "Model_ZOO"

    @property
    def token_file(self) -> Path:
        return self.home / "secrets" / "ray_token"
