"""The environment of Ray: each switch has a documented place in Ray, and no request outlives an old HAProxy."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from modelserve.config.section import Section
from modelserve.serve import environment
from modelserve.serve.environment import SERVE, node_environment
from modelserve.settings import Settings

FIRST_REPLICA_PORT, FIRST_EPHEMERAL_PORT = 30_000, 32_768
TEMPLATE = Path(environment.__file__).parents[1] / "gateway" / "haproxy.cfg.j2"


def test_a_replaced_haproxy_outlives_the_longest_request() -> None:
    limit = next(bound.le for bound in Section.model_fields["request_timeout"].metadata if hasattr(bound, "le"))
    hours = re.search(r"timeout server (\d+)h", TEMPLATE.read_text())
    assert hours is not None
    without_limit = int(hours[1]) * 3600
    assert int(SERVE["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) > max(limit, without_limit)


def test_quarantined_ports_leave_room_for_a_day_of_deploys() -> None:
    last = int(SERVE["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"])
    assert last <= FIRST_EPHEMERAL_PORT
    assert last - FIRST_REPLICA_PORT > 2000


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
