"""Before Serve: the algorithm's requests are answered, limited and counted; what is Serve's own passes on."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import defaultdict, deque
from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from modelserve.replica import ray_compat
from modelserve.replica.front import Front, ServeReplica
from starlette.middleware import Middleware
from starlette.types import Message, Receive, Scope, Send

CURRENT: ContextVar[Any] = ContextVar("current")


class Metrics:
    """Serve's counts of a replica."""

    def __init__(self) -> None:
        self.ongoing = self.most = 0
        self.requests: list[dict[str, Any]] = []
        self.http: list[dict[str, Any]] = []

    def inc_num_ongoing_requests(self, request: Any) -> None:
        assert request.is_direct_ingress
        assert request.protocol == "HTTP"
        self.ongoing += 1
        self.most = max(self.most, self.ongoing)

    def dec_num_ongoing_requests(self, request: Any) -> None:
        self.ongoing -= 1

    def record_request_metrics(self, **values: Any) -> None:
        self.requests.append(values)

    def record_ingress_request_metrics(self, **values: Any) -> None:
        self.http.append(values)


class Trial:
    """A front, with all that it calls."""

    def __init__(self, application: Callable[[Scope, Receive, Send], Any], limit: int = 16) -> None:
        self.metrics = Metrics()
        self.cancelled: list[str] = []
        self.failed: list[Exception] = []
        self.passed_on: list[str] = []
        self.slots = asyncio.Semaphore(limit)
        serve = ServeReplica(
            prefix="/Echo",
            application="Echo",
            deployment="Echo",
            protocol="HTTP",
            slots=self.slots,
            metrics=self.metrics,
            context=SimpleNamespace,
            current_context=CURRENT,
            route_of=lambda scope: scope["path"],
            on_cancelled=lambda request, _: self.cancelled.append(request.internal_request_id),
            on_failed=lambda _, error: self.failed.append(error),
        )
        self.front = Front(self.serve, serve, application)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.passed_on.append(scope.get("path", scope["type"]))

    async def ask(self, path: str = "/Echo", kind: str = "http", **headers: str) -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": kind, "path": path, "root_path": "", "headers": pairs}
        await self.front(scope | ({"method": "GET"} if kind == "http" else {}), _no_body, send)
        return sent


async def _no_body() -> Message:
    return {"type": "http.request"}


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, 200, scope["root_path"].encode())


async def answer(send: Send, status: int, body: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


def test_a_request_is_answered_and_counted() -> None:
    trial = Trial(ok)
    start, body = asyncio.run(trial.ask("/Echo/x"))
    assert (start["status"], body["body"]) == (200, b"/Echo")
    (request,), (http,) = trial.metrics.requests, trial.metrics.http
    assert (request["route"], request["is_error"], request["exception_type"]) == ("/Echo/x", False, None)
    assert 0 <= request["latency_ms"] == http["latency_ms"] < 10_000
    assert (http["status_code"], http["is_error"], http["method"]) == ("200", False, "GET")
    assert (http["app_name"], http["deployment_name"], http["protocol"]) == ("Echo", "Echo", "HTTP")
    assert (trial.metrics.most, trial.metrics.ongoing, trial.passed_on) == (1, 0, [])


@pytest.mark.parametrize("status", [404, 503])
def test_an_error_status_is_counted_as_one(status: int) -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, status)

    trial = Trial(fail)
    asyncio.run(trial.ask())
    assert [(seen["status_code"], seen["is_error"]) for seen in trial.metrics.http] == [(str(status), True)]
    assert not trial.metrics.requests[0]["is_error"]  # the application answered


@pytest.mark.parametrize(("path", "kind"), [("/-/healthz", "http"), ("/-/routes", "http"), ("/", "lifespan")])
def test_what_is_serve_s_own_passes_on(path: str, kind: str) -> None:
    trial = Trial(ok)
    asyncio.run(trial.ask(path, kind))
    assert (trial.passed_on, trial.metrics.requests) == ([path], [])


def test_log_lines_and_other_deployments_know_the_request() -> None:
    seen: list[Any] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((CURRENT.get(), scope["headers"]))
        await answer(send, 200)

    async def twice(trial: Trial) -> None:
        await trial.ask(x_request_id="abc")
        await trial.ask()

    asyncio.run(twice(Trial(look)))
    (named, _), (unnamed, headers) = seen
    assert (named.request_id, named.route, named.app_name) == ("abc", "/Echo", "Echo")
    assert len(unnamed.request_id) == 32
    assert (b"x-request-id", unnamed.request_id.encode()) in headers  # the answer and the log have the same
    assert named._internal_request_id != unnamed._internal_request_id


def test_requests_wait_for_a_slot() -> None:
    async def flood() -> Trial:
        go = asyncio.Event()

        async def wait(scope: Scope, receive: Receive, send: Send) -> None:
            await go.wait()
            await answer(send, 200)

        trial = Trial(wait, limit=2)
        asked = [asyncio.create_task(trial.ask()) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert trial.metrics.ongoing == 2
        asked[4].cancel()  # one that waits
        asked[0].cancel()  # one that runs
        await asyncio.sleep(0.01)
        go.set()
        await asyncio.gather(*asked, return_exceptions=True)
        return trial

    trial = asyncio.run(flood())
    assert (trial.metrics.most, trial.metrics.ongoing, len(trial.metrics.http)) == (2, 0, 3)
    assert not trial.slots.locked()
    assert [seen["exception_type"] for seen in trial.metrics.requests].count("CancelledError") == 2
    assert len(trial.cancelled) == 2 == len(set(trial.cancelled))


def test_an_error_of_the_application_is_logged_and_ends_here(caplog: pytest.LogCaptureFixture) -> None:
    async def break_off(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("in the middle")

    trial = Trial(break_off)
    with caplog.at_level(logging.ERROR, "ray.serve"):
        asyncio.run(trial.ask(x_request_id="abc"))
    (record,) = caplog.records
    assert record.getMessage() == "request failed, request abc"
    assert record.exc_info is not None
    assert [str(error) for error in trial.failed] == ["in the middle"]
    assert trial.metrics.requests[0]["exception_type"] == "ValueError"
    assert (trial.metrics.ongoing, trial.slots.locked()) == (0, False)


def test_a_websocket_is_counted_without_a_status() -> None:
    async def close(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close", "code": 1000})

    trial = Trial(close)
    assert [message["type"] for message in asyncio.run(trial.ask(kind="websocket"))] == ["websocket.close"]
    assert (len(trial.metrics.requests), trial.metrics.http) == (1, [])


@pytest.mark.parametrize(
    ("separate", "tracing", "stands"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_the_front_stands_where_serve_needs_nothing_of_its_own(
    monkeypatch: pytest.MonkeyPatch, separate: bool, tracing: bool, stands: bool
) -> None:
    started: list[Any] = []
    context = ModuleType("ray.serve.context")
    context._RequestContext = SimpleNamespace  # type: ignore[attr-defined]
    context._serve_request_context = CURRENT  # type: ignore[attr-defined]
    common = ModuleType("ray.serve._private.common")
    common.RequestProtocol = SimpleNamespace(HTTP="HTTP")  # type: ignore[attr-defined]
    module = ModuleType("ray.serve._private.replica")
    module.is_tracing_enabled = lambda: tracing  # type: ignore[attr-defined]
    module.start_asgi_http_server = (  # type: ignore[attr-defined]
        lambda app, options, **more: started.append((app, options.middlewares, more))
    )
    serve, private = ModuleType("ray.serve"), ModuleType("ray.serve._private")
    serve.context, private.replica = context, module  # type: ignore[attr-defined]
    modules = {"ray": ModuleType("ray"), "ray.serve": serve, "ray.serve.context": context}
    modules |= {"ray.serve._private": private, common.__name__: common, module.__name__: module}
    for name, stub in modules.items():
        monkeypatch.setitem(sys.modules, name, stub)

    class Replica:
        _route_prefix = "/Echo"
        _deployment_id = SimpleNamespace(name="Echo", app_name="Echo")
        _semaphore = object()
        _metrics_manager = SimpleNamespace()
        _user_callable_wrapper = SimpleNamespace(_run_user_code_in_separate_thread=separate)
        _determine_http_route = _on_request_cancelled = _on_request_failed = staticmethod(lambda *_: "")

        async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
            """Stand for Serve's."""

    replica = Replica()
    ray_compat.stand_before_serve(ok, has_routes=False)
    module.start_asgi_http_server(replica.app, SimpleNamespace(middlewares=[]), event_loop="loop")
    ((app, middlewares, more),) = started
    assert (app, more) == (replica.app, {"event_loop": "loop"})
    assert [middleware.cls for middleware in middlewares] == ([Front] if stands else [])
    if stands:
        (front,) = middlewares
        assert isinstance(front, Middleware)
        assert front.kwargs["application"] is ok
        assert front.kwargs["serve"].route_of({}) == "/Echo"
        assert replica._metrics_manager._cached_latencies["/Echo"].maxlen == ray_compat.LATENCIES_AT_ONCE


def test_histograms_take_the_last_latencies_of_a_report() -> None:
    metrics = SimpleNamespace(_cached_latencies=defaultdict(deque))
    ray_compat.thin_latencies(metrics)
    for number in range(1000):
        metrics._cached_latencies["/Echo"].append(float(number))
        metrics._cached_ingress_processing_latencies["HTTP"][frozenset()].append(float(number))
    last = [float(number) for number in range(1000 - ray_compat.LATENCIES_AT_ONCE, 1000)]
    assert [*metrics._cached_latencies["/Echo"]] == last
    assert [*metrics._cached_ingress_processing_latencies["HTTP"][frozenset()]] == last
