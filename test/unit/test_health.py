"""A replica that cannot answer any more is unhealthy, with the reason; one that is merely busy or unlucky is not."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import modelserve
import pytest
from modelserve.replica import cuda, health
from modelserve.replica.health import Health, Running, UnhealthyError
from modelserve.replica.legacy import json_request
from modelserve.replica.uvicorn_compat import Client
from starlette.requests import Request


class Clock:
    """A clock that stands still until it is told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def request(number: str) -> Client:
    return Client(Request({"type": "http", "headers": [(b"x-request-id", number.encode())]}))


def reason_of(judged: Health) -> str:
    try:
        asyncio.run(judged.check())
    except UnhealthyError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("timeout_s", "age_s", "unhealthy"),
    [
        (None, 1e6, False),
        (2, 6.9, False),  # the grace is 5 s at least
        (2, 7.1, True),
        (100, 109, False),  # and a tenth of the limit
        (100, 111, True),
    ],
)
def test_an_inference_that_outlives_its_limit_and_a_grace_hangs(
    timeout_s: float | None, age_s: float, unhealthy: bool
) -> None:
    clock = Clock()
    running = Running(clock)
    judged = Health(running)
    judged.timeout_s = timeout_s
    entry = running.entry(request("abc"))
    entry.begin()
    clock.now += age_s
    assert bool(reason_of(judged)) == unhealthy
    if unhealthy:
        assert reason_of(judged) == (
            f"the inference of request abc has run for {age_s:.0f} s; request_timeout is {timeout_s} s"
        )
    entry.end()
    assert reason_of(judged) == ""


def test_the_oldest_of_the_running_counts_and_a_batch_names_its_requests() -> None:
    clock = Clock()
    running = Running(clock)
    entries = [running.entry(*(request(name) for name in names)) for names in (("a", "b"), ("c",))]
    assert running.oldest() is None
    entries[1].begin()
    clock.now += 1
    entries[0].begin()
    clock.now += 2
    entries[1].begin()  # it runs already
    assert running.oldest() == (3, "request c")
    entries[1].end()
    entries[1].end()
    assert running.oldest() == (2, "requests a, b")


def test_one_line_of_the_log_has_the_reason_and_one_that_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sick: list[str] = ["no licence"]

    def check() -> None:
        if sick:
            raise RuntimeError(sick[0])

    judged = Health(Running(), check)
    assert [reason_of(judged) for _ in range(3)] == ["check_health raised RuntimeError: no licence"] * 3
    assert judged.reason == "check_health raised RuntimeError: no licence"
    sick.clear()
    assert [reason_of(judged) for _ in range(2)] == ["", ""]
    assert [record.getMessage() for record in caplog.records] == [
        "replica is unhealthy: check_health raised RuntimeError: no licence",
        "replica is healthy again; it was unhealthy: check_health raised RuntimeError: no licence",
    ]
    assert judged.reason == ""


def test_a_failure_stays_and_is_told_at_once_from_any_thread() -> None:
    told = threading.Event()
    judged = Health(Running(), on_failure=told.set)
    for reason in ("out of memory", "another"):
        thread = threading.Thread(target=judged.fail, args=(reason,))
        thread.start()
        thread.join()
    assert told.is_set()
    assert [reason_of(judged), judged.reason] == ["out of memory"] * 2


async def asynchronous() -> None:
    raise RuntimeError("sick")


def synchronous() -> None:
    assert threading.current_thread().name == "check"
    raise RuntimeError("sick")


@pytest.mark.parametrize("check", [asynchronous, synchronous, functools.partial(asynchronous)])
def test_the_class_s_own_check_is_asked(check: Callable[[], Any]) -> None:
    assert reason_of(Health(Running(), check)) == "check_health raised RuntimeError: sick"


def test_an_own_check_that_hangs_is_a_failure_and_is_not_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "OWN_CHECK_LIMIT_S", 0.05)
    begun, free = [], threading.Event()

    def hang() -> None:
        begun.append(1)
        free.wait(10)

    judged = Health(Running(), hang)
    assert reason_of(judged) == "check_health took longer than 0.05 s"
    assert reason_of(judged) == "check_health has not returned after 0.05 s"
    assert begun == [1]
    free.set()
    deadline = time.monotonic() + 10
    while reason_of(judged) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert begun == [1, 1]


class LostDeviceError(Exception):
    """An author's own error."""


@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        (modelserve.Fatal("the GPU is lost"), True),
        (LostDeviceError("bus 3"), True),
        (ValueError("odd"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), False),  # no torch here: it cannot be confirmed
    ],
)
def test_an_error_is_fatal_where_the_author_says_so(error: Exception, fatal: bool) -> None:
    judged = Health(Running(), fatal_errors=(LostDeviceError,))
    assert asyncio.run(judged.judge(error)) == fatal
    expected = f"fatal error {type(error).__name__}: {error}" if fatal else ""
    assert reason_of(judged) == expected


def fails() -> None:
    raise RuntimeError("CUDA error: device-side assert triggered")


@pytest.mark.parametrize(
    ("text", "initialized", "synchronize", "fatal"),
    [
        ("CUDA error: an illegal memory access was encountered", True, fails, True),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`", True, fails, True),
        ("CUDA error: an illegal memory access was encountered", True, lambda: threading.Event().wait(1), True),
        ("CUDA error: an illegal memory access was encountered", True, lambda: None, False),
        ("CUDA error: an illegal memory access was encountered", False, fails, False),
        ("CUDA error: out of memory", True, fails, False),
        ("CUDA out of memory. Tried to allocate 20.00 MiB", True, fails, False),
        ("shape mismatch", True, fails, False),
    ],
)
def test_an_error_of_cuda_is_fatal_where_the_device_does_not_answer_any_more(
    monkeypatch: pytest.MonkeyPatch, text: str, initialized: bool, synchronize: Callable[[], Any], fatal: bool
) -> None:
    monkeypatch.setattr(cuda, "ANSWER_LIMIT_S", 0.1)
    own = SimpleNamespace(is_initialized=lambda: initialized, synchronize=synchronize)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=own))
    assert asyncio.run(Health(Running()).judge(RuntimeError(text))) == fatal


class Held(modelserve.AlgoBackend):
    """Notes while it infers, which inference is running."""

    def _model_inference(self, param_dict: dict[str, Any]) -> Any:
        return self._modelserve.running.oldest() is not None


class HeldInBatches(modelserve.AlgoBackend):
    def _model_inference_batch(self, param_dicts: list[dict[str, Any]]) -> list[Any]:
        return [self._modelserve.running.oldest() is not None for _ in param_dicts]


class Awaited(modelserve.AlgoBackend):
    async def _model_inference(self, param_dict: dict[str, Any]) -> Any:
        return self._modelserve.running.oldest() is not None


@pytest.mark.parametrize("kind", [Held, HeldInBatches, Awaited])
def test_an_inference_runs_from_its_beginning_to_its_end(kind: type[modelserve.AlgoBackend]) -> None:
    backend = kind()
    if kind is HeldInBatches:
        backend.batch_requests(2, 0)
    response = asyncio.run(backend(json_request({})))
    assert b'"result":true' in bytes(response.body)
    assert backend._modelserve.running.oldest() is None
