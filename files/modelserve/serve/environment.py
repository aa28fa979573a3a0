"""Every environment variable that modelserve sets for Ray, with the place in Ray 2.60 that reads it.

``files/image/check_contract.py`` compares the names with the Ray of the image when the image is built. The Dockerfile
sets four more for all processes of the image: ``RAY_SERVE_ENABLE_HA_PROXY`` and ``RAY_SERVE_THROUGHPUT_OPTIMIZED``
(``serve/_private/constants.py`` lines 752 and 1108), ``RAY_AUTH_MODE`` and ``RAY_USAGE_STATS_ENABLED``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from modelserve.settings import Settings

# Above the longest request_timeout that conf.ini takes, a day. A request without one ends earlier, at the gateway's
# "timeout server".
HARD_STOP_S = 90_000

# Source: ray/serve/_private/constants.py, at the line that each comment begins with.
SERVE: Mapping[str, str] = {
    # 915. A dead replica or host is noticed in a second; the default is 5 s.
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
    # 880. A connection within a cluster takes milliseconds.
    "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "1",
    # 965. A request that kills its replica is tried on two more, not on all.
    "RAY_SERVE_HAPROXY_RETRIES": "2",
    # 1080. Serve's HAProxies learn of a stopping replica within 2 s, and its GPU is reserved for as long as it drains.
    # The default of 30 s is for load balancers outside the cluster.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "10",
    # 832. Off: the proxy's actor parses a log line per request for metrics that the replicas count as well.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # 859. HAProxy sends a log line per request to a port without a listener; a sample of one in a million remains.
    "RAY_SERVE_HAPROXY_LOG_TARGET": "127.0.0.1:514 sample 1:1000000",
    # 774.
    "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
    # 803. Each deploy replaces the HAProxy process; the old one ends with its last request, or here. The default of
    # 120 s cuts longer requests, which are then sent again.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(HARD_STOP_S),
    # 1054. A stopped replica's port is quarantined for HARD_STOP_S + 30 s (line 1072): an old HAProxy may still know
    # it. That allows 2,768 replicas a day and host; the default of 31000 would allow 1,000. Ephemeral ports of the
    # kernel begin at 32768.
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": "32768",
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
        # common/ray_config_def.h. A worker waits so long for a head that restarts; the default is 60 s.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    }
    return {**SERVE, **core, **(_head_environment(settings.home) if role == "head" else {})}


def _head_environment(home: Path) -> dict[str, str]:
    # _private/node.py, lines 489 and 499: the cluster's state survives a restart of the head.
    return {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(gcs_directory(home))}


def gcs_directory(home: Path) -> Path:
    """Return the directory of the cluster's state on the head."""
    return home / "gcs"
