"""Every port that modelserve and Ray listen on."""

from __future__ import annotations

from collections.abc import Mapping

# Ray's ports are fixed. Those of Serve (8000, 8404, 8500, 9101, 30000 and up) are its defaults.
PORTS: Mapping[str, int] = {
    "node-manager-port": 6380,
    "object-manager-port": 6381,
    "dashboard-agent-listen-port": 52365,
    "dashboard-agent-grpc-port": 52366,
    "runtime-env-agent-port": 52367,
    "metrics-export-port": 8080,
    "min-worker-port": 11000,
    "max-worker-port": 11099,
}
HEAD_PORTS: Mapping[str, int] = {"port": 6370, "dashboard-port": 8265, "ray-client-server-port": 10001}
# What else listens on the head. The gateway's port is conf.ini's.
SERVICE_PORTS: Mapping[str, int] = {"store": 6390, "catalog": 6392}
