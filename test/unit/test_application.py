"""Applications: a section's keys reach Serve, and the identity changes exactly when replicas must."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from modelserve.config.section import Section
from modelserve.serve.application import Application, Resources, deploy_document
from modelserve.serve.contract import AppArgs


def app(
    package: str = "/pkg/1", models: tuple[str, ...] = (), environment: str = "/env/1", **keys: Any
) -> dict[str, Any]:
    return made(package, models, environment, **keys).to_serve()


def made(
    package: str = "/pkg/1", models: tuple[str, ...] = (), environment: str = "/env/1", **keys: Any
) -> Application:
    section = Section(**{"name": "Echo", "backend": "Echo", "route": "a/b", "user_config": 2, **keys})
    return Application.from_section(section, Path(package), map(Path, models), Path(environment))


def identity(application: dict[str, Any]) -> str:
    return str(application["deployments"][0]["user_config"]["identity"])


def test_a_section_s_keys_arrive() -> None:
    served = app(models=("/m/1/a",), replicas=3, gpu_cost=0.5, cpu_cost=2, user_config=[1], warmup={"x": 1})
    (deployment,) = served["deployments"]
    assert served["route_prefix"] == "/Echo"
    assert served["runtime_env"]["py_executable"] == "/env/1/bin/python"
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
    served = app()
    (only,) = served["deployments"]
    assert set(served["args"]) == {"name", "package", "backend", "models", "methods", "configured"}
    assert set(served["runtime_env"]["env_vars"]) == {"CONDA_PREFIX", "PATH"}
    assert set(only["ray_actor_options"]) == {"num_cpus", "num_gpus"}
    assert set(only["user_config"]) == {"user_config", "warmup", "identity"}
    assert set(only) == {
        "name",
        "num_replicas",
        "max_ongoing_requests",
        "max_surge_percent",
        "health_check_period_s",
        "health_check_timeout_s",
        "graceful_shutdown_timeout_s",
        "user_config",
        "ray_actor_options",
    }


def test_a_replica_s_needs_arrive() -> None:
    served = app(memory=2**30, labels={"modelserve.node": "worker_1"}, env={"A": "b"}, batch_size=4, batch_wait=0.5)
    options = served["deployments"][0]["ray_actor_options"]
    assert options["memory"] == 2**30
    assert options["label_selector"] == {"modelserve.node": "worker_1"}
    assert served["runtime_env"]["env_vars"]["A"] == "b"
    args = AppArgs.model_validate(served["args"])
    assert (args.batch_size, args.batch_wait) == (4, 0.5)


def test_a_memory_limit_reaches_the_replica_and_is_left_out_where_there_is_none() -> None:
    assert app(memory_limit=2**31)["args"]["memory_limit"] == 2**31
    assert "batch_size" not in app(memory_limit=2**31)["args"]
    assert "memory_limit" not in app()["args"]


@pytest.mark.parametrize(
    ("keys", "first"),
    [({}, None), ({"replicas": 2}, 2), ({"min_replicas": 0}, 1), ({"min_replicas": 0, "replicas": 3}, 3)],
)
def test_autoscaling_takes_the_place_of_a_number(keys: dict[str, int], first: int | None) -> None:
    served = deployment(max_replicas=5, target_ongoing_requests=3, **keys)
    scaling = served["autoscaling_config"]
    assert "num_replicas" not in served
    assert (scaling["max_replicas"], scaling["target_ongoing_requests"]) == (5, 3)
    assert scaling["min_replicas"] == keys.get("min_replicas", 1)
    assert scaling.get("initial_replicas") == first


def test_the_queue_is_the_gateway_s_and_replicas_know_their_limits() -> None:
    served = deployment(max_queued_requests=7, max_ongoing_requests=3, request_timeout=2.5, retry_unanswered=True)
    assert served["max_ongoing_requests"] == 3
    assert not {"max_queued_requests", "backpressure_config"} & {*served}
    config = served["user_config"]
    assert (config["max_queued_requests"], config["request_timeout"], config["retry_unanswered"]) == (7, 2.5, True)


@pytest.mark.parametrize(
    ("keys", "requests"),
    [({}, 16), ({"batch_size": 8}, 16), ({"batch_size": 32}, 64), ({"batch_size": 32, "max_ongoing_requests": 40}, 40)],
)
def test_a_replica_has_as_many_requests_as_keep_it_busy(keys: dict[str, int], requests: int) -> None:
    assert deployment(**keys)["max_ongoing_requests"] == requests


@pytest.mark.parametrize(
    ("keys", "seconds"),
    [
        ({}, 600),
        ({"request_timeout": 2}, 60),
        ({"request_timeout": 100}, 110),
        ({"request_timeout": 100, "drain_timeout": 5}, 5),
    ],
)
def test_a_replaced_replica_has_time_for_its_longest_request(keys: dict[str, float], seconds: float) -> None:
    assert deployment(**keys)["graceful_shutdown_timeout_s"] == seconds


def test_an_update_that_recreates_needs_no_capacity_for_both() -> None:
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
        ({"drain_timeout": 2}, False),
        ({"retry_unanswered": True}, False),
        ({"update": "recreate"}, False),
    ],
)
def test_the_identity_changes_when_replicas_must(change: dict[str, Any], changes: bool) -> None:
    assert (identity(app(**change)) != identity(app())) is changes


def test_the_whole_is_a_json_document_on_serve_s_own_port() -> None:
    whole = json.loads(json.dumps(deploy_document([made(), made(name="Other")], 8000)))
    assert whole["http_options"]["port"] == 8000
    assert [one["name"] for one in whole["applications"]] == ["Echo", "Other"]


DOCUMENTS = json.loads((Path(__file__).parent / "data" / "release_of_the_version_before.json").read_text())["serve"]


@pytest.mark.parametrize("document", DOCUMENTS["applications"], ids=[one["name"] for one in DOCUMENTS["applications"]])
def test_an_application_of_the_version_before_is_the_same_document_however_it_is_made(document: dict[str, Any]) -> None:
    read = Application.from_serve(document)
    assert json.dumps(read.to_serve()) == json.dumps(document)
    typed = replace(read, _document=None).to_serve()
    assert json.dumps(typed) == json.dumps(as_written_now(document)), "from its typed fields"


def as_written_now(application: dict[str, Any], **deployment: Any) -> dict[str, Any]:
    """The document of the version before as this version writes it, with other values of the deployment."""
    (old,) = application["deployments"]
    written: dict[str, Any] = {}
    for key, value in old.items():
        if key not in ("max_queued_requests", "backpressure_config"):
            written[key] = deployment.get(key, value)
        if key == "health_check_period_s":
            written["health_check_timeout_s"] = 30
    return {**application, "deployments": [written]}


SECTIONS: list[dict[str, Any]] = [
    {"name": "Plain", "backend": "Plain", "route": "plain"},
    {
        "name": "Fixed",
        "backend": "Big",
        "route": "fixed",
        "model": "net.onnx, words.json",
        "replicas": "3",
        "gpu_cost": "0.5",
        "cpu_cost": "2",
        "memory": "512MiB",
        "labels": "modelserve.node=!worker_1, gpu=a100",
        "method": "POST, GET",
        "warmup": '{"text": "hello", "n": 1.0}',
        "user_config": '{"top": 3, "scale": 1.0}',
        "max_ongoing_requests": "8",
        "max_queued_requests": "16",
        "request_timeout": "30",
        "batch_size": "4",
        "batch_wait": "0.05",
        "env": {"HUB_TOKEN": "hush", "PATH": "/x"},
        "update": "recreate",
    },
    {
        "name": "Scaled",
        "backend": "Scaled",
        "route": "scaled",
        "max_replicas": "4",
        "min_replicas": "2",
        "target_ongoing_requests": "3",
        "gpu_cost": 1,
    },
    {
        "name": "Zero",
        "backend": "Zero",
        "route": "shared",
        "max_replicas": 2,
        "min_replicas": 0,
        "user_config": "0",
    },
    {
        "name": "Start",
        "backend": "Start",
        "route": "shared",
        "max_replicas": 5,
        "replicas": 3,
        "request_timeout": 0.5,
    },
    {"name": "Größe", "backend": "G", "route": "g"},
]


# Default limits are other ones than those of the version before: they need no new replicas.
LIMITS = {"max_ongoing_requests": 16, "graceful_shutdown_timeout_s": 600.0}
SECTION_LIMITS: dict[str, dict[str, Any]] = {
    "Fixed": {"graceful_shutdown_timeout_s": 60.0},
    "Start": {**LIMITS, "graceful_shutdown_timeout_s": 60.0},
}


def test_a_section_gives_the_document_of_the_version_before_with_the_limits_of_this_one() -> None:
    store = Path("/opt/modelserve/store")
    applications = []
    for section in map(Section.model_validate, SECTIONS):
        models = [store / "model" / (64 * letter) / file for letter, file in zip("ab", section.model, strict=False)]
        environment = "AlgoExample" if section.name == "Plain" else section.name
        prefix = store / "env" / f"{environment}-ba9876543210"
        applications.append(
            Application.from_section(section, store / "pkg" / f"{section.name}-0123456789ab", models, prefix)
        )
    old = [as_written_now(one, **SECTION_LIMITS.get(one["name"], LIMITS)) for one in DOCUMENTS["applications"]]
    expected = {**DOCUMENTS, "proxy_location": "HeadOnly", "applications": old}
    assert json.dumps(deploy_document(applications, 8000)) == json.dumps(expected)


def test_an_application_read_back_keeps_what_another_version_wrote() -> None:
    document = app()
    document["deployments"][0]["user_config"]["of_tomorrow"] = 1
    document["args"]["of_tomorrow"] = 1
    del document["deployments"][0]["health_check_period_s"]
    read = Application.from_serve(document)
    assert read.to_serve() == document
    assert read != made()
    assert read == Application.from_serve(document)


def test_an_application_read_back_is_recreated_in_that_alone() -> None:
    document = app(gpu_cost=1)
    recreated = Application.from_serve(document).recreated()
    document["deployments"][0]["max_surge_percent"] = 0
    assert (recreated.to_serve(), recreated.update) == (document, "recreate")
    assert made(gpu_cost=1).recreated().to_serve() == document


def test_an_application_owns_its_content_by_hash() -> None:
    application = made("/s/pkg/Echo-01", ("/s/model/ab12/a.onnx",), "/s/env/Base-23")
    assert [content.hash for content in application.contents] == ["23", "01", "ab12"]
    assert Application.from_serve(application.to_serve()).contents == application.contents


@pytest.mark.parametrize(
    "document", [{}, {"name": "X"}, {**app(), "args": None}, {**app(), "deployments": []}, {**app(), "runtime_env": {}}]
)
def test_another_document_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not an application of modelserve"):
        Application.from_serve(document)


def test_resources_that_serve_shows_as_null_are_none() -> None:
    document = app()
    document["deployments"][0]["ray_actor_options"] = {"num_gpus": None, "memory": 5}
    assert Application.from_serve(document).resources == Resources(0, 0, 5)
