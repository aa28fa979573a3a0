"""Checks what modelserve relies on in Ray, Serve and uvicorn against the versions in this image.

The Dockerfile runs it, so that an upgrade which moves one of these things fails the build with a line that names it.
In a running container: ``docker exec modelserve_head python /opt/lib/check_contract.py``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import importlib
import inspect
import mmap
import os
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Set
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

from modelserve.gateway import config, targets
from modelserve.serve import environment, status
from modelserve.settings import Settings
from pydantic import BaseModel

# What modelserve knows of Serve's states (ray/serve/schema.py and ray/serve/_private/common.py). A state that is new
# needs a decision: in rollouts, in readiness and in the table of nodes.
STATES: Mapping[tuple[str, str], Set[str]] = {
    ("ray.serve.schema", "ApplicationStatus"): {
        *("NOT_STARTED", "DEPLOYING", "DEPLOY_FAILED", "RUNNING", "UNHEALTHY", "DELETING"),
    },
    ("ray.serve._private.common", "DeploymentStatus"): {
        *("UPDATING", "HEALTHY", "UNHEALTHY", "DEPLOY_FAILED", "UPSCALING", "DOWNSCALING"),
    },
    ("ray.serve._private.common", "ReplicaState"): {
        *("STARTING", "UPDATING", "RECOVERING", "RUNNING", "STOPPING", "STOPPED", "PENDING_MIGRATION"),
    },
}
ROUTES = {
    *(("GET", "/api/serve/applications/"), ("PUT", "/api/serve/applications/")),
    *(("GET", "/api/v0/nodes"), ("GET", "/api/v0/logs"), ("GET", "/api/v0/logs/{media_type}")),
    *(("GET", "/api/v0/actors"), ("GET", "/api/v0/workers")),
    *(("GET", "/api/cluster_status"), ("GET", "/api/gcs_healthz"), ("GET", "/api/local_raylet_healthz")),
    ("GET", "/api/prometheus/sd"),
}
# Serve's header (constants.py) and the gateway's, which must be equal but for the case.
HEADERS = {
    "SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER": "X-Request-Disconnect-Disabled",
    "SERVE_HTTP_REQUEST_ID_HEADER": "X-Request-Id",
}
# What modelserve.replica.front uses of Serve's replica: attributes of the replica, and keywords of its metrics.
REPLICA_ATTRIBUTES = ("_route_prefix", "_deployment_id", "_semaphore", "_metrics_manager", "_user_callable_wrapper")
REPLICA_METHODS = ("_direct_ingress_asgi", "_determine_http_route", "_on_request_cancelled", "_on_request_failed")
METRICS_CACHES = ("_cached_latencies", "_cached_ingress_processing_latencies")
METRICS = {
    "record_request_metrics": {"route", "latency_ms", "is_error", "exception_type"},
    "record_ingress_request_metrics": {
        *("protocol", "method", "route", "app_name", "deployment_name", "latency_ms", "is_error", "status_code"),
    },
}
CONTEXT = {"route", "request_id", "_internal_request_id", "app_name", "cancel_on_parent_request_cancel"}
REQUEST_ATTRIBUTES = {"protocol", "is_direct_ingress", "internal_request_id"}
# What modelserve.serve.deaths reads: fields of the state API, and texts of Serve's controller log.
STATE_FIELDS = {
    "ActorState": {"name", "class_name", "state", "job_id", "node_id", "pid", "death_cause"},
    "WorkerState": {"worker_id", "is_alive", "node_id", "pid", "end_time_ms"},
    "NodeState": {
        "node_id",
        "node_ip",
        "is_head_node",
        "state",
        "state_message",
        "labels",
        "start_time_ms",
        "end_time_ms",
    },
}
CONTROLLER_TEXTS = (
    "failed health check, stopping it.",
    "crashed, marking ",
    "Health check for ",
    "Didn't receive health check response for replica ",
    ", the replica will be stopped.",
)
SECTIONS: tuple[dict[str, Any], ...] = (
    {"replicas": 2, "gpu_cost": 0.5, "memory": 2**20, "labels": {"zone": "a"}, "user_config": {"x": 1}},
    {"min_replicas": 0, "max_replicas": 2, "max_queued_requests": 3, "batch_size": 4, "request_timeout": 5},
)


def switches() -> Iterator[str]:
    """Serve reads each RAY_SERVE_* variable that modelserve sets, and takes the value."""
    os.environ.update(environment.SERVE)
    constants = importlib.import_module("ray.serve._private.constants")
    source = Path(str(constants.__file__)).read_text()
    for name in sorted(name for name in os.environ if name.startswith("RAY_SERVE_")):
        if f'"{name}"' not in source:
            yield f"Serve reads no variable {name}"
        elif not _equal(getattr(constants, name, None), os.environ[name]):
            yield f"Serve makes {getattr(constants, name, None)!r} of {name}={os.environ[name]}"


def _equal(value: Any, text: str) -> bool:
    if isinstance(value, bool):
        return value is (text == "1")
    return float(text) == value if isinstance(value, int | float) else str(value) == text


def core_switches() -> Iterator[str]:
    """Ray's own programs know each of the other RAY_* variables."""
    root = _root("ray")
    sources = [root / "_raylet.so", root / "core/src/ray/raylet/raylet", root / "core/src/ray/gcs/gcs_server"]
    sources += [
        root / "_private/ray_constants.py",
        root / "_private/node.py",
        root / "_common/usage/usage_constants.py",
    ]
    names = {*environment.node_environment("head", Settings()), "RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED"}
    for name in sorted(name for name in names - {*environment.SERVE} if name.startswith("RAY_")):
        # A lower-case name is that of an option in ray_config_def.h, without the prefix.
        word = name.removeprefix("RAY_") if re.search("[a-z]{3}", name) else name
        if not any(_contains(source, word.encode()) for source in sources):
            yield f"Ray reads no variable {name}"


def _contains(file: Path, word: bytes) -> bool:
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(word) >= 0


def start_options() -> Iterator[str]:
    """``ray start`` has each option that a node is started with."""
    from modelserve.cluster.node import start_command
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    more: dict[str, Any] = {"name": "x", "head_address": "x", "node_ip": "x", "gpus": "1", "object_store_mb": 1}
    words = {word for role in ("head", "worker") for word in start_command(role, Path("/home"), **more)[2:]}
    for option in sorted({word.partition("=")[0] for word in words} - known):
        yield f"'ray start' has no option {option}"


def gpus() -> Iterator[str]:
    """Ray hands out the entries of its own CUDA_VISIBLE_DEVICES: MIG instances have no numbers."""
    manager = importlib.import_module("ray._private.accelerators.nvidia_gpu").NvidiaGPUAcceleratorManager
    with mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES="MIG-1,GPU-2"):
        identifiers = manager.get_current_process_visible_accelerator_ids()
    if identifiers != ["MIG-1", "GPU-2"]:
        yield f"Ray makes {identifiers} of CUDA_VISIBLE_DEVICES=MIG-1,GPU-2"
    if "original_visible_accelerator_ids" not in (_root("ray") / "_private" / "worker.py").read_text():
        yield "Ray's worker.py has no original_visible_accelerator_ids"


def headers() -> Iterator[str]:
    """The headers that the gateway sets are those that Serve reads."""
    constants = importlib.import_module("ray.serve._private.constants")
    template = config.TEMPLATE.read_text()
    for name, header in HEADERS.items():
        if str(getattr(constants, name, None)).lower() != header.lower():
            yield f"Serve's {name} is {getattr(constants, name, None)!r}, not {header}"
        if header not in template:
            yield f"the gateway does not set {header}"


def document() -> Iterator[str]:
    """Serve's schema takes the document, and drops nothing of it."""
    from modelserve.config.section import Section
    from modelserve.serve.application import Application, deploy_document
    from ray.serve.schema import ServeDeploySchema

    paths = Path("/pkg/X-1"), [Path("/model/1/x")], Path("/env/X-1")
    sections = [Section(name=f"X{at}", backend="X", route=f"x{at}", **keys) for at, keys in enumerate(SECTIONS)]
    written = deploy_document([Application.from_section(section, *paths) for section in sections], 8000)
    read = ServeDeploySchema.model_validate(written)
    unknown = sorted({*written} - {*ServeDeploySchema.model_fields})
    for path in dict.fromkeys([*unknown, *_dropped(written, read.model_dump(exclude_unset=True))]):
        yield f"Serve's schema has no {path}"


def _dropped(written: Any, read: Any, path: str = "") -> Iterator[str]:
    if isinstance(written, Mapping) and isinstance(read, Mapping):
        for key, value in written.items():
            if key in read:
                yield from _dropped(value, read[key], f"{path}.{key}".lstrip("."))
            else:
                yield f"{path}.{key}".lstrip(".")
    elif isinstance(written, list) and isinstance(read, list):
        for item, kept in zip(written, read, strict=True):
            yield from _dropped(item, kept, path)


def details() -> Iterator[str]:
    """Serve's details have the fields that modelserve reads."""
    schema = importlib.import_module("ray.serve.schema")
    readers: Mapping[str, type[BaseModel]] = {
        "ApplicationDetails": status.ApplicationStatus,
        "DeploymentDetails": status.Deployment,
        "ReplicaDetails": status.Replica,
        "TargetGroup": targets.Group,
        "Target": targets.GroupTarget,
    }
    for name, reader in readers.items():
        for field in sorted({*reader.model_fields} - {*getattr(schema, name).model_fields}):
            yield f"Serve's {name} has no {field}"
    for field in ("applications", "target_groups"):
        if field not in schema.ServeInstanceDetails.model_fields:
            yield f"Serve's ServeInstanceDetails has no {field}"


def ingress() -> Iterator[str]:
    """Serve passes requests to the application that a deployment makes; a replica can have its own health checked."""
    replica = importlib.import_module("ray.serve._private.replica")
    http_util = importlib.import_module("ray.serve._private.http_util")
    algorithm = importlib.import_module("modelserve.serving").Algorithm
    if getattr(replica, "SERVE_BUILD_ASGI_APP_METHOD", None) != "__serve_build_asgi_app__":
        yield "Serve does not ask a deployment for its application by __serve_build_asgi_app__"
    if not issubclass(algorithm, http_util.ASGIAppReplicaWrapper):
        yield "Serve takes modelserve.serving.Algorithm for no ASGI application"
    if pickle.loads(b"cmodelserve.serving\nAlgorithm\n.") is not pickle.loads(pickle.dumps(algorithm)):
        yield "modelserve.serving.Algorithm is not known by its name"
    if not hasattr(replica, "add_port_to_grpc_server"):
        yield "Serve's replica does not bind its own port by add_port_to_grpc_server"
    if not hasattr(replica.ReplicaActor, "check_health"):
        yield "Serve's replica has no method check_health"


def front() -> Iterator[str]:
    """Serve's replica has what modelserve.replica.front does in its place."""
    replica = importlib.import_module("ray.serve._private.replica")
    context = importlib.import_module("ray.serve.context")
    source = Path(str(replica.__file__)).read_text()
    of_replica, of_metrics = inspect.getsource(replica.Replica), inspect.getsource(replica.ReplicaMetricsManager)
    for name in ("start_asgi_http_server", "is_tracing_enabled"):
        if not hasattr(replica, name):
            yield f"Serve's replica.py has no {name}"
    if not re.search(r"start_asgi_http_server\(\s*self\._direct_ingress_asgi,\s*options,", source):
        yield "Serve's replica does not start its server with _direct_ingress_asgi"
    for name in REPLICA_METHODS:
        if not hasattr(replica.Replica, name):
            yield f"Serve's Replica has no {name}"
    for text, names in ((of_replica, REPLICA_ATTRIBUTES), (of_metrics, METRICS_CACHES)):
        yield from (f"Serve's replica.py has no {name}" for name in names if f"self.{name}" not in text)
    if "self._run_user_code_in_separate_thread" not in source:
        yield "Serve's replica.py has no _run_user_code_in_separate_thread"
    for name, keywords in METRICS.items():
        if {*inspect.signature(getattr(replica.ReplicaMetricsManager, name)).parameters} - {"self"} != keywords:
            yield f"{name} of Serve's metrics takes other keywords than {sorted(keywords)}"
    for method in ("_change_num_ongoing_requests", "_on_request_cancelled", "_on_request_failed"):
        owner = replica.Replica if hasattr(replica.Replica, method) else replica.ReplicaMetricsManager
        read = {*re.findall(r"request_metadata\.(\w+)", inspect.getsource(getattr(owner, method)))}
        yield from (f"{method} of Serve reads {name} of a request" for name in sorted(read - REQUEST_ATTRIBUTES))
    fields = {field.name for field in dataclasses.fields(context._RequestContext)}
    yield from (f"Serve's _RequestContext has no {name}" for name in sorted(CONTEXT - fields))
    if not hasattr(context, "_serve_request_context"):
        yield "Serve keeps no _serve_request_context"


def states() -> Iterator[str]:
    """Serve's states are those that modelserve knows."""
    for (module, name), known in STATES.items():
        found = {state.value for state in getattr(importlib.import_module(module), name)}
        for state in sorted(found ^ known):
            yield f"Serve's {name} {'has a new value' if state in found else 'no longer has'} {state}"
    triggers = {
        trigger.value for trigger in importlib.import_module("ray.serve._private.common").DeploymentStatusTrigger
    }
    if status.STARTED_REPLICA_FAILED not in triggers:
        yield f"Serve's DeploymentStatusTrigger no longer has {status.STARTED_REPLICA_FAILED}"


def dashboard_routes() -> Iterator[str]:
    """The dashboard has each route that modelserve calls."""
    found = set()
    for file in (_root("ray") / "dashboard").rglob("*.py"):
        calls = re.findall(r"""@routes\.(get|put)\(\s*["']([^"']+)["']""", file.read_text())
        found |= {(method.upper(), path) for method, path in calls}
    for method, path in sorted(ROUTES - found):
        yield f"Ray's dashboard has no route {method} {path}"


def deaths() -> Iterator[str]:
    """Ray's state and Serve's controller log have what tells why a replica died."""
    common = importlib.import_module("ray.util.state.common")
    for name, fields in STATE_FIELDS.items():
        for field in sorted(fields - {field.name for field in dataclasses.fields(getattr(common, name))}):
            yield f"Ray's {name} has no {field}"
    source = (_root("ray") / "serve" / "_private" / "deployment_state.py").read_text()
    for text in CONTROLLER_TEXTS:
        if text not in source:
            yield f"Serve's controller does not log '{text.strip(' ,.')}'"


def server() -> Iterator[str]:
    """A request of uvicorn has the connection that modelserve.replica.uvicorn_compat uses."""
    for protocol in ("h11", "httptools"):
        cycle = _cycle_of_a_request(protocol)
        for name, kind in (("disconnected", bool), ("transport", object)):
            if not isinstance(getattr(cycle, name, None), kind) or getattr(cycle, name, None) is None:
                yield f"uvicorn's request ({protocol}) has no {name}"
        if not all(hasattr(getattr(cycle, "transport", None), name) for name in ("write", "writelines", "close")):
            yield f"uvicorn's connection ({protocol}) cannot be written to"


def _cycle_of_a_request(protocol: str) -> Any:
    import uvicorn

    cycles: list[Any] = []

    async def app(_: Any, receive: Any, send: Any) -> None:
        cycles.append(getattr(receive, "__self__", None))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    running = uvicorn.Server(uvicorn.Config(app, port=0, http=protocol, lifespan="off", log_level="critical"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not running.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/")
        connection.getresponse().read()
    running.should_exit = True
    thread.join(10)
    return cycles[0]


def _root(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(package)
    return Path(spec.origin).parent


CHECKS: tuple[Callable[[], Iterator[str]], ...] = (
    switches,
    core_switches,
    start_options,
    gpus,
    headers,
    document,
    details,
    ingress,
    front,
    states,
    dashboard_routes,
    deaths,
    server,
)


def problems() -> Iterator[str]:
    """Yield a line for each thing that is not as modelserve needs it."""
    for check in CHECKS:
        try:
            yield from check()
        except Exception as error:  # whatever a module that moved raises, the build fails with a line
            text = " ".join(str(error).split())[:300]
            yield f"{check.__name__}: {type(error).__name__}: {text}"


def main() -> int:
    """Print the problems, and return the exit code."""
    versions = f"Ray {version('ray')}, uvicorn {version('uvicorn')}"
    lines = list(problems())
    for line in lines:  # on standard output: Docker's builder puts colour codes before a line of standard error
        print(f"error: contract with {versions}: {line}")
    if not lines:
        print(f"contract: {len(CHECKS)} checks passed with {versions}")
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())
