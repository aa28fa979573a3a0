"""What Serve is told: a section's keys arrive, and its identity changes exactly when replicas must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from modelserve.conf import Section
from modelserve.serve_config import application, document
from modelserve.serving import AppArgs


def app(package: str = "/pkg/1", models: tuple[str, ...] = (), env: str = "/env/1", **keys: Any) -> dict[str, Any]:
    section = Section(**{"name": "Echo", "backend": "Echo", "route": "a/b", "user_config": 2, **keys})
    return application(section, Path(package), map(Path, models), Path(env))


def identity(application: dict[str, Any]) -> str:
    return str(application["deployments"][0]["user_config"]["identity"])


def test_a_section_s_keys_arrive() -> None:
    made = app(models=("/m/1/a",), replicas=3, gpu_cost=0.5, cpu_cost=2, user_config=[1], warmup={"x": 1})
    (deployment,) = made["deployments"]
    assert made["route_prefix"] == "/a/b"
    assert made["runtime_env"]["py_executable"] == "/env/1/bin/python"
    assert deployment["num_replicas"] == 3
    assert deployment["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 0.5}
    assert (deployment["user_config"]["user_config"], deployment["user_config"]["warmup"]) == ([1], {"x": 1})


def test_the_replica_understands_its_arguments() -> None:
    args = AppArgs.model_validate(app(models=("/m/1/a",), method=("GET", "POST"))["args"])
    assert (args.name, args.package, args.backend) == ("Echo", "/pkg/1", "Echo")
    assert (args.models, args.methods) == (["/m/1/a"], ["GET", "POST"])


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({"package": "/pkg/2"}, True),
        ({"env": "/env/2"}, True),
        ({"models": ("/m/1/a",)}, True),
        ({"backend": "Other"}, True),
        ({"method": ("POST",)}, True),
        ({"gpu_cost": 1}, True),
        ({"replicas": 2}, False),
        ({"route": "other"}, False),
        ({"user_config": 1}, False),
        ({"user_config": None}, True),
        ({"warmup": {}}, False),
    ],
)
def test_the_identity_changes_when_replicas_must(change: dict[str, Any], changes: bool) -> None:
    assert (identity(app(**change)) != identity(app())) is changes


def test_the_whole_is_a_json_document_on_serve_s_own_port() -> None:
    whole = json.loads(json.dumps(document([app(), app(name="Other")], 8000)))
    assert whole["http_options"]["port"] == 8000
    assert [one["name"] for one in whole["applications"]] == ["Echo", "Other"]
