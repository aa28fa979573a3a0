"""What Serve is told: a section's keys arrive, and its identity changes exactly when replicas must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from modelserve.config.section import Section
from modelserve.replica.deployment import AppArgs
from modelserve.serve.application import application, document


def app(
    package: str = "/pkg/1", models: tuple[str, ...] = (), environment: str = "/env/1", **keys: Any
) -> dict[str, Any]:
    section = Section(**{"name": "Echo", "backend": "Echo", "route": "a/b", "user_config": 2, **keys})
    return application(section, Path(package), map(Path, models), Path(environment))


def identity(application: dict[str, Any]) -> str:
    return str(application["deployments"][0]["user_config"]["identity"])


def test_a_section_s_keys_arrive() -> None:
    made = app(models=("/m/1/a",), replicas=3, gpu_cost=0.5, cpu_cost=2, user_config=[1], warmup={"x": 1})
    (deployment,) = made["deployments"]
    assert made["route_prefix"] == "/Echo"
    assert made["runtime_env"]["py_executable"] == "/env/1/bin/python"
    assert deployment["num_replicas"] == 3
    assert deployment["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 0.5}
    assert (deployment["user_config"]["user_config"], deployment["user_config"]["warmup"]) == ([1], {"x": 1})


def test_the_replica_understands_its_arguments() -> None:
    args = AppArgs.model_validate(app(models=("/m/1/a",), method=("GET", "POST"))["args"])
    assert (args.name, args.package, args.backend) == ("Echo", "/pkg/1", "Echo")
    assert (args.models, args.methods) == (["/m/1/a"], ["GET", "POST"])


def deployment(**keys: Any) -> dict[str, Any]:
    (only,) = app(**keys)["deployments"]
    return dict(only)


def test_what_a_section_does_not_use_is_not_written() -> None:
    """Else an update of modelserve would replace replicas that nobody changed."""
    made = app()
    (only,) = made["deployments"]
    assert set(made["args"]) == {"name", "package", "backend", "models", "methods", "configured"}
    assert set(made["runtime_env"]["env_vars"]) == {"CONDA_PREFIX", "PATH"}
    assert set(only["ray_actor_options"]) == {"num_cpus", "num_gpus"}
    assert set(only["user_config"]) == {"user_config", "warmup", "identity"}
    assert set(only) == {
        "name",
        "num_replicas",
        "max_ongoing_requests",
        "max_surge_percent",
        "health_check_period_s",
        "graceful_shutdown_timeout_s",
        "user_config",
        "ray_actor_options",
    }


def test_a_replica_s_needs_arrive() -> None:
    made = app(memory=2**30, labels={"modelserve.node": "worker_1"}, env={"A": "b"}, batch_size=4, batch_wait=0.5)
    options = made["deployments"][0]["ray_actor_options"]
    assert options["memory"] == 2**30
    assert options["label_selector"] == {"modelserve.node": "worker_1"}
    assert made["runtime_env"]["env_vars"]["A"] == "b"
    args = AppArgs.model_validate(made["args"])
    assert (args.batch_size, args.batch_wait) == (4, 0.5)


@pytest.mark.parametrize(
    ("keys", "first"),
    [({}, None), ({"replicas": 2}, 2), ({"min_replicas": 0}, 1), ({"min_replicas": 0, "replicas": 3}, 3)],
)
def test_autoscaling_takes_the_place_of_a_number(keys: dict[str, int], first: int | None) -> None:
    made = deployment(max_replicas=5, target_ongoing_requests=3, **keys)
    scaling = made["autoscaling_config"]
    assert "num_replicas" not in made
    assert (scaling["max_replicas"], scaling["target_ongoing_requests"]) == (5, 3)
    assert scaling["min_replicas"] == keys.get("min_replicas", 1)
    assert scaling.get("initial_replicas") == first


def test_a_limit_of_the_queue_reaches_serve_and_the_replicas() -> None:
    made = deployment(max_queued_requests=7, max_ongoing_requests=3, request_timeout=2.5)
    assert (made["max_queued_requests"], made["max_ongoing_requests"]) == (7, 3)
    assert made["backpressure_config"]["status_code"] == 429
    assert (made["user_config"]["max_queued_requests"], made["user_config"]["request_timeout"]) == (7, 2.5)


def test_an_update_that_recreates_needs_no_room_for_both() -> None:
    assert deployment(update="recreate")["max_surge_percent"] == 0 < deployment()["max_surge_percent"]


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({"package": "/pkg/2"}, True),
        ({"environment": "/env/2"}, True),
        ({"models": ("/m/1/a",)}, True),
        ({"backend": "Other"}, True),
        ({"method": ("POST",)}, True),
        ({"gpu_cost": 1}, True),
        ({"replicas": 2}, False),
        ({"route": "other"}, False),
        ({"user_config": 1}, False),
        ({"user_config": None}, True),
        ({"warmup": {}}, False),
        ({"memory": 1}, True),
        ({"labels": {"a": "b"}}, True),
        ({"env": {"A": "b"}}, True),
        ({"batch_size": 2}, True),
        ({"max_replicas": 2}, False),
        ({"max_ongoing_requests": 2}, False),
        ({"max_queued_requests": 2}, False),
        ({"request_timeout": 2}, False),
        ({"update": "recreate"}, False),
    ],
)
def test_the_identity_changes_when_replicas_must(change: dict[str, Any], changes: bool) -> None:
    assert (identity(app(**change)) != identity(app())) is changes


def test_the_whole_is_a_json_document_on_serve_s_own_port() -> None:
    whole = json.loads(json.dumps(document([app(), app(name="Other")], 8000)))
    assert whole["http_options"]["port"] == 8000
    assert [one["name"] for one in whole["applications"]] == ["Echo", "Other"]
