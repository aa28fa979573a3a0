"""Every environment variable that modelserve sets for Ray, with the place in Ray 2.60 that reads it.

``files/image/check_contract.py`` compares the names with the Ray of the image when the image is built. The Dockerfile
sets some for all processes of the image: ``RAY_SERVE_ENABLE_HA_PROXY`` and ``RAY_SERVE_ENABLE_DIRECT_INGRESS`` as
below, ``RAY_SERVE_THROUGHPUT_OPTIMIZED`` (``serve/_private/constants.py``, line 1108), ``RAY_AUTH_MODE`` and
``RAY_USAGE_STATS_ENABLED``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modelserve.settings import Settings

# Source: ray/serve/_private/constants.py, at the line that each comment begins with.
SERVE: Mapping[str, str] = {
    # 752 and 1126. Serve's own HAProxy would be a second proxy behind the gateway.
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    # 744. Each replica listens on a port of its own, which the gateway calls.
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
    # 529. A replica that failed its health checks may hang in an inference, and would keep its GPU while it drains.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    # 1080. The gateways learn of a stopping replica within a second, and its GPU is reserved for as long as it drains.
    # The default of 30 s is for load balancers outside the cluster.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "10",
    # 726 and 1113. RAY_SERVE_THROUGHPUT_OPTIMIZED would keep 1,000 log lines back, and without an access log there are
    # few lines.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
}


def node_environment(role: str, settings: Settings) -> dict[str, str]:
    """Return the environment variables of a node's ``ray start``.

    Args:
        role: ``head`` or ``worker``.
        settings: the node's settings.
    """
    core = {
        # Ray's authentication/authentication_token_loader.cc. The mode must be set on every node.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.token_file),
        # _private/ray_constants.py, line 41: SIGTERM drains the node for at most this long.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "30",
        # _private/ray_constants.py, line 629. The default of 15 gives a replica less of the processor than anything
        # else on the host.
        "RAY_worker_niceness": "0",
        # common/ray_config_def.h. On a busy host a node takes longer than the default of 30 s to register: Ray ended
        # itself, and the container started again.
        "RAY_raylet_start_wait_time_s": "90",
        # uvicorn's config.py. The gateways name the client, and nobody else reaches a replica's port.
        "FORWARDED_ALLOW_IPS": "*",
        # common/ray_config_def.h. A worker waits so long for a head that restarts; the default is 60 s.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    }
    return {**SERVE, **core, **(_head_environment(settings.home) if role == "head" else {})}


def _head_environment(home: Path) -> dict[str, str]:
    # _private/node.py, lines 489 and 499: the cluster's state survives a restart of the head.
    return {
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": str(gcs_directory(home)),
        # common/ray_config_def.h. Ray's memory monitor kills Serve's controller first, not the replica at fault: the
        # kernel, for which Ray marks the replicas, chooses better. docs/decisions.md has the trials.
        "RAY_memory_monitor_refresh_ms": "0",
    }


def gcs_directory(home: Path) -> Path:
    """Return the directory of the cluster's state on the head."""
    return home / "gcs"
