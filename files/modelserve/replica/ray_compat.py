"""What a replica does with Serve beyond its documented interface.

Its access log, where it is switched off, makes no records; its health is checked as soon as there is a reason; its own
port lies in a known range; and its deployment becomes an ASGI application under a stable name.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import sys
from typing import Any

PORT_ATTEMPTS = 50
RUNNING_REQUESTS = "running_requests"  # the key by which Serve's autoscaling knows the requests of a replica
MARK = "serve_access_log"  # the attribute by which Serve marks and filters the records of its access log


def skip_access_log(logger: logging.Logger) -> None:
    """Let ``logger.info`` make no record of the access log. All other records stay as they are.

    Serve makes one for each request and drops it at its handlers: a tenth of a small request's cost in a replica.
    """

    def info(msg: object, *args: Any, **options: Any) -> None:
        if not (options.get("extra") or {}).get(MARK):
            options["stacklevel"] = options.get("stacklevel", 1) + 1
            type(logger).info(logger, msg, *args, **options)

    logger.info = info  # type: ignore[method-assign]


def bind_within(ports: range) -> None:
    """Have Serve's gRPC server of this replica listen on a port of a range, and not on any that the kernel chooses.

    It takes calls of other processes of Serve, without authentication. Nothing happens where there is no Serve.

    Args:
        ports: TCP ports, of which a free one is used.
    """
    try:
        from ray.serve._private import replica
    except ImportError:
        return
    add_port = replica.add_port_to_grpc_server

    def add_port_within(server: Any, address: str) -> int:
        host, _, port = address.rpartition(":")
        if port != "0":
            return int(add_port(server, address))
        # gRPC shares a port with another gRPC server instead of refusing it: calls would reach another replica.
        for candidate in filter(is_free, random.sample(ports, min(len(ports), PORT_ATTEMPTS))):
            with contextlib.suppress(RuntimeError):
                return int(add_port(server, f"{host}:{candidate}"))
        return int(add_port(server, address))

    replica.add_port_to_grpc_server = add_port_within


def is_free(port: int) -> bool:
    """Return whether nothing listens on a TCP port of this host, on any address."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def check_health_now() -> None:
    """Have Serve check this replica's health without waiting for the next check. Safe from any thread.

    ``/-/healthz`` answers what the last check found, and the gateway asks it several times a second. Nothing happens
    outside a replica.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    with contextlib.suppress(Exception):  # Serve's own check follows within seconds
        check = ray.get_runtime_context().current_actor.check_health.remote()
        check.future().add_done_callback(lambda outcome: outcome.exception())  # else Ray logs it as unhandled


def as_ingress(deployment: type, module: str) -> type:
    """Return a deployment to which Serve passes requests as an ASGI server does.

    Serve's state refers to the class by its module and name, so that a new image loads what an old one stored.

    Args:
        deployment: a class with ``__serve_build_asgi_app__``.
        module: the module that holds the returned class under its name.

    Returns:
        The class itself where there is no Ray.
    """
    try:
        from ray import serve
    except ImportError:
        ingress = deployment
    else:
        ingress = serve.ingress()(deployment)
    ingress.__module__ = module
    ingress.__qualname__ = ingress.__name__
    return ingress
