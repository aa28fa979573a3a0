"""Serve's access log: no record is made of a request, every other line is what it was."""

from __future__ import annotations

import logging
import socket
import sys
from types import ModuleType
from typing import Any

import pytest
from modelserve.replica import ray_compat


@pytest.fixture
def logger() -> logging.Logger:
    logger = logging.Logger("ray.serve", logging.INFO)
    ray_compat.skip_access_log(logger)
    ray_compat.skip_access_log(logger)  # a second algorithm in one process changes nothing
    return logger


def test_no_record_is_made_of_a_request(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> logging.LogRecord:
        raise AssertionError("a record was made")

    monkeypatch.setattr(logger, "makeRecord", refuse)
    logger.info("GET /echo 200 0.5ms", extra={"skip_context_filter": True, "serve_access_log": True})


@pytest.mark.parametrize("extra", [None, {}, {"route": "/echo"}, {"serve_access_log": False}])
def test_other_lines_are_written_and_say_where_they_come_from(
    logger: logging.Logger, extra: dict[str, Any] | None
) -> None:
    records: list[logging.LogRecord] = []
    logger.addFilter(lambda record: records.append(record) or True)  # type: ignore[func-returns-value]
    logger.info("%d models", 2, extra=extra)
    (record,) = records
    assert record.getMessage() == "2 models"
    assert (record.funcName, record.filename) == (
        "test_other_lines_are_written_and_say_where_they_come_from",
        "test_ray_compat.py",
    )


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
