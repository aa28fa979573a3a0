"""Beyond Serve's documented interface: a replica's health, its name and its ports."""

from __future__ import annotations

import socket
import sys
from types import ModuleType
from typing import Any

import pytest
from modelserve.replica import ray_compat


def test_outside_a_replica_there_is_no_health_to_check() -> None:
    ray_compat.check_health_now()


def test_a_deployment_is_known_by_the_module_that_names_it() -> None:
    class Deployment:
        pass

    ingress = ray_compat.as_ingress(Deployment, "modelserve.serving")
    assert (ingress.__module__, ingress.__qualname__) == ("modelserve.serving", "Deployment")


def test_serve_s_own_port_is_a_free_one_of_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC would bind a port that another gRPC server has."""
    asked: list[str] = []

    def add_port(server: Any, address: str) -> int:
        asked.append(address)
        return int(address.rpartition(":")[2])

    replica = ModuleType("ray.serve._private.replica")
    replica.add_port_to_grpc_server = add_port  # type: ignore[attr-defined]
    private = ModuleType("ray.serve._private")
    private.replica = replica  # type: ignore[attr-defined]
    for name, module in (("ray", ModuleType("ray")), ("ray.serve", ModuleType("ray.serve"))):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "ray.serve._private", private)
    monkeypatch.setitem(sys.modules, "ray.serve._private.replica", replica)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not ray_compat.is_free(port)
        ray_compat.bind_within(range(port, port + 1))
        replica.add_port_to_grpc_server(None, "[::]:0")
    assert asked == ["[::]:0"], "the only port of the range is taken"
    replica.add_port_to_grpc_server(None, "[::]:0")
    assert asked[1] == f"[::]:{port}"
