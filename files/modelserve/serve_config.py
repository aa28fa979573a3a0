"""What Ray Serve is told: one section becomes one application, all of them one configuration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modelserve import hashing
from modelserve.conf import Section

# A request waits in the replica's queue, not at the ingress, until this many are in flight per replica.
MAX_ONGOING_REQUESTS = 100
# How soon Serve notices that a replica died; its own default is 10.
HEALTH_CHECK_PERIOD_S = 2


def application(section: Section, package: Path, models: Iterable[Path], environment: Path) -> dict[str, Any]:
    """The Serve application (``ServeApplicationSchema``, Ray 2.60) of a section.

    Args:
        section: the section.
        package: the package's snapshot in the store.
        models: the model files in the store.
        environment: the environment's prefix.
    """
    runtime_env = {
        "py_executable": f"{environment}/bin/python",
        # What activating a conda environment would set; nothing is activated when a replica starts.
        "env_vars": {"CONDA_PREFIX": str(environment), "PATH": f"{environment}/bin:/usr/local/bin:/usr/bin:/bin"},
    }
    args = {
        "name": section.name,
        "package": str(package),
        "backend": section.backend,
        "models": [str(model) for model in models],
        "methods": list(section.method),
        "configured": section.user_config is not None,
    }
    resources = {"num_cpus": section.cpu_cost, "num_gpus": section.gpu_cost}
    return {
        "name": section.name,
        "route_prefix": f"/{section.route}",
        "import_path": "modelserve.serving:build",
        "runtime_env": runtime_env,
        "args": args,
        "deployments": [
            {
                "name": section.name,
                "num_replicas": section.replicas,
                "max_ongoing_requests": MAX_ONGOING_REQUESTS,
                # New replicas answer before old ones stop: an update loses no request, a failed one does no harm.
                "max_surge_percent": 100,
                "health_check_period_s": HEALTH_CHECK_PERIOD_S,
                # The identity changes when replicas must: Serve shows it for the configuration it aims at.
                "user_config": {
                    "user_config": section.user_config,
                    "warmup": section.warmup,
                    "identity": hashing.of_value([runtime_env, args, resources]),
                },
                "ray_actor_options": resources,
            }
        ],
    }


def document(applications: Iterable[dict[str, Any]], port: int) -> dict[str, Any]:
    """The whole configuration (``ServeDeploySchema``): everything that shall run, on Serve's own fixed port."""
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": port},
        "logging_config": {"encoding": "JSON", "enable_access_log": False},
        "applications": list(applications),
    }
