"""The environment of Ray: each switch has a documented place in Ray, and no request outlives what waits for it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from modelserve.config.section import Section
from modelserve.gateway.config import SERVER_GRACE_S
from modelserve.serve import environment
from modelserve.serve.environment import SERVE, node_environment
from modelserve.settings import Settings

TEMPLATE = Path(environment.__file__).parents[1] / "gateway" / "haproxy.cfg.j2"


def test_the_gateway_and_a_stopping_replica_wait_for_the_longest_request() -> None:
    longest_s, drain_s = longest("request_timeout"), longest("drain_timeout")
    hours = re.search(r"timeout server (\d+)h", TEMPLATE.read_text())
    assert hours is not None
    assert int(hours[1]) * 3600 > longest_s + SERVER_GRACE_S
    assert drain_s > longest_s


def longest(key: str) -> float:
    """The most that conf.ini takes for a key, in seconds."""
    return next(float(bound.le) for bound in Section.model_fields[key].metadata if hasattr(bound, "le"))


def test_the_gateway_calls_the_replicas_and_serve_has_no_haproxy() -> None:
    assert (SERVE["RAY_SERVE_ENABLE_HA_PROXY"], SERVE["RAY_SERVE_ENABLE_DIRECT_INGRESS"]) == ("0", "1")
    assert not [name for name in SERVE if name.startswith("RAY_SERVE_HAPROXY")]


@pytest.mark.parametrize("role", ["head", "worker"])
def test_a_node_authenticates_and_only_the_head_keeps_the_state(role: str, tmp_path: Path) -> None:
    variables = node_environment(role, Settings(home=tmp_path))
    assert (variables["RAY_AUTH_MODE"], variables["RAY_AUTH_TOKEN_PATH"]) == ("token", f"{tmp_path}/secrets/ray_token")
    assert variables.get("RAY_gcs_storage_path") == (f"{tmp_path}/gcs" if role == "head" else None)
    assert all(variables[name] == value for name, value in SERVE.items())


def test_every_switch_of_serve_names_its_line() -> None:
    lines = inspect.getsource(environment).splitlines()
    for name in SERVE:
        at = next(number for number, line in enumerate(lines) if line.strip().startswith(f'"{name}"'))
        comment = at - 1
        while lines[comment - 1].strip().startswith("#"):
            comment -= 1
        assert re.match(r"\s*# \d+", lines[comment]), name
