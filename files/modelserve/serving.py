"""The names by which Serve's state and kept releases know an application.

``modelserve.serving:build`` and ``modelserve.serving.Algorithm`` must not move: a head that restarts with a new image
loads both from Ray's state.
"""

from __future__ import annotations

from typing import Any

from modelserve.replica import deployment, ray_compat
from modelserve.serve.contract import AppArgs

__all__ = ["Algorithm", "build"]

# Pickle refers to a class by its module and name: by these, wherever the class is written.
Algorithm: type = ray_compat.as_ingress(deployment.Algorithm, __name__)


def build(args: dict[str, Any]) -> Any:
    """Return the Serve application.

    Args:
        args: fields of :class:`AppArgs`, from the configuration of Serve.
    """
    from ray import serve

    return serve.deployment(Algorithm, name=AppArgs.model_validate(args).name).bind(args)
