"""What a replica does with Serve beyond its documented interface.

The algorithm's requests do not pass through Serve's wrappers; the replica's health is checked as soon as there is a
reason; its own port lies in a known range; and its deployment becomes an ASGI application under a stable name.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import socket
import sys
from collections import defaultdict, deque
from collections.abc import Collection
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp

from modelserve.replica.front import Front, ServeReplica

PORT_ATTEMPTS = 50
LATENCIES_AT_ONCE = 20
RUNNING_REQUESTS = "running_requests"  # the key by which Serve's autoscaling knows the requests of a replica


def stand_before_serve(application: ASGIApp, *, has_routes: bool) -> None:
    """Have this replica's HTTP server give the algorithm's requests to an application, and not to Serve's wrappers.

    Serve keeps them where something needs its own way: traces of requests, or user code in a thread of its own.
    Nothing happens where there is no Serve.

    Args:
        application: answers the requests.
        has_routes: whether it has routes of its own, which Serve's metrics tell apart.
    """
    try:
        from ray.serve._private import replica
    except ImportError:
        return
    start = replica.start_asgi_http_server

    def start_with_front(serve_app: Any, options: Any, **more: Any) -> Any:
        of_serve = serve_app.__self__
        separate = of_serve._user_callable_wrapper._run_user_code_in_separate_thread
        if not separate and not replica.is_tracing_enabled():
            front = Middleware(Front, serve=_serve_replica(of_serve, has_routes), application=application)
            options.middlewares.append(front)
        return start(serve_app, options, **more)

    replica.start_asgi_http_server = start_with_front


def _serve_replica(replica: Any, has_routes: bool) -> ServeReplica:
    """Return what a request needs of a replica (``Replica`` of Serve's ``replica.py``)."""
    from ray.serve import context
    from ray.serve._private.common import RequestProtocol

    prefix = replica._route_prefix
    thin_latencies(replica._metrics_manager)
    return ServeReplica(
        prefix=prefix,
        application=replica._deployment_id.app_name,
        deployment=replica._deployment_id.name,
        protocol=RequestProtocol.HTTP,
        slots=replica._semaphore,
        metrics=replica._metrics_manager,
        context=context._RequestContext,
        current_context=context._serve_request_context,
        route_of=replica._determine_http_route if has_routes else lambda _: prefix,
        on_cancelled=replica._on_request_cancelled,
        on_failed=replica._on_request_failed,
    )


def thin_latencies(metrics: Any) -> None:
    """Let Serve's histograms of latencies take no more than :data:`LATENCIES_AT_ONCE` of a route.

    Serve keeps what it counted for 100 ms. Counts stay exact; a value of a histogram costs a tenth of a small request,
    and all those of 100 ms together hold up the event loop.

    Args:
        metrics: Serve's ``ReplicaMetricsManager``.
    """
    thin = functools.partial(deque[float], maxlen=LATENCIES_AT_ONCE)
    metrics._cached_latencies = defaultdict(thin)
    metrics._cached_ingress_processing_latencies = defaultdict(lambda: defaultdict(thin))


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


def reserved_cpus() -> float:
    """Return the CPU cores that this replica reserves; 0 for none, and outside a replica."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 0
    return float(ray.get_runtime_context().get_assigned_resources().get("CPU", 0))


def own_variables() -> Collection[str]:
    """Return the names of the environment variables that the section sets; outside a replica all that there are.

    Ray adds to a replica's environment what the section does not set.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return frozenset(os.environ)
    return frozenset(ray.get_runtime_context().runtime_env.get("env_vars") or ())


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
