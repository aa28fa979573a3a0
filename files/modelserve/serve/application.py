"""What Ray Serve is told: one section becomes one application, all of them one configuration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modelserve import hashing
from modelserve.config.routes import prefix_of
from modelserve.config.section import Section

# How soon Serve notices that a replica died; its own default is 10.
HEALTH_CHECK_PERIOD_S = 2
# What a replica that goes was asked already, it may answer for so long.
GRACE_S = 60
# Said to whom max_queued_requests turns away: replicas work off a queue in seconds, not in minutes.
RETRY_AFTER_S = 1


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
        "env_vars": {
            "CONDA_PREFIX": str(environment),
            "PATH": f"{environment}/bin:/usr/local/bin:/usr/bin:/bin",
            **section.env,
        },
    }
    args: dict[str, Any] = {
        "name": section.name,
        "package": str(package),
        "backend": section.backend,
        "models": [str(model) for model in models],
        "methods": list(section.method),
        "configured": section.user_config is not None,
    }
    resources: dict[str, Any] = {"num_cpus": section.cpu_cost, "num_gpus": section.gpu_cost}
    # What a section does not use is not written: what is served already stays as it is when modelserve learns a key.
    if section.batch_size > 1:
        args |= {"batch_size": section.batch_size, "batch_wait": section.batch_wait}
    if section.memory:
        resources["memory"] = section.memory
    if section.labels:
        resources["label_selector"] = section.labels
    return {
        "name": section.name,
        "route_prefix": prefix_of(section.name),
        "import_path": "modelserve.serving:build",
        "runtime_env": runtime_env,
        "args": args,
        "deployments": [
            {
                "name": section.name,
                **_scaling(section),
                "max_ongoing_requests": section.max_ongoing_requests,
                **_queue(section),
                # New replicas answer before old ones stop: an update loses no request, a failed one does no harm.
                "max_surge_percent": 100 if section.update == "rolling" else 0,
                "health_check_period_s": HEALTH_CHECK_PERIOD_S,
                "graceful_shutdown_timeout_s": GRACE_S,
                # The identity changes when replicas must: Serve shows it for the configuration it aims at.
                "user_config": {
                    "user_config": section.user_config,
                    "warmup": section.warmup,
                    "identity": hashing.of_value([runtime_env, args, resources]),
                    **_in_place(section),
                },
                "ray_actor_options": resources,
            }
        ],
    }


def _scaling(section: Section) -> dict[str, Any]:
    """How many replicas: a number, or what Serve's autoscaling keeps to."""
    if section.max_replicas is None:
        return {"num_replicas": section.replicas}
    scaling: dict[str, Any] = {
        "min_replicas": section.min_replicas,
        "max_replicas": section.max_replicas,
        "target_ongoing_requests": section.target_ongoing_requests,
    }
    # Without it a deploy keeps the number the load had led to. From none at all it would not prove that one starts.
    if "replicas" in section.model_fields_set or section.min_replicas == 0:
        scaling["initial_replicas"] = section.replicas
    return {"autoscaling_config": scaling}


def _queue(section: Section) -> dict[str, Any]:
    if section.max_queued_requests is None:
        return {}
    return {
        "max_queued_requests": section.max_queued_requests,
        "backpressure_config": {"status_code": 429, "retry_after_s": RETRY_AFTER_S},
    }


def _in_place(section: Section) -> dict[str, Any]:
    """What running replicas are told when it changes."""
    # Serve takes a change of max_queued_requests for one of its own and tells no replica; yet where clients reach
    # replicas directly, these count the queue. As part of the user configuration it gets there.
    settings = {"request_timeout": section.request_timeout, "max_queued_requests": section.max_queued_requests}
    return {key: value for key, value in settings.items() if value is not None}


def document(applications: Iterable[dict[str, Any]], port: int) -> dict[str, Any]:
    """The whole configuration (``ServeDeploySchema``): everything that shall run, on Serve's own fixed port."""
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": port},
        "logging_config": {"encoding": "JSON", "enable_access_log": False},
        "applications": list(applications),
    }
