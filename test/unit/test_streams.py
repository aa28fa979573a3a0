"""Streams: items leave one by one, in the thread of the model, no faster than the client reads, and end with it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from local import ROUTE, serving
from modelserve.replica.generators import ITEMS_AHEAD
from modelserve.serve.contract import AppArgs

Make = Callable[..., AppArgs]

# What the generators of the packages below share with the test, which runs in the same process.
STATE: dict[str, Any] = {}

HEAD = """
import asyncio, sqlite3, sys, threading, time
import modelserve
from starlette.responses import StreamingResponse

STATE = sys.modules["test_streams"].STATE

def note(name):
    STATE.setdefault("events", []).append((name, threading.get_ident()))

def items(p, db=None):
    try:
        note("begun")
        for number in range(p.get("count", 3)):
            if number == p.get("fail", -1):
                raise ValueError("the secret cause")
            if db is not None:
                db.execute("select 1")
            if number and p.get("wait"):
                assert STATE["go"].wait(10)
            STATE["made"] = number + 1
            yield p.get("text", "item") + f" {number}\\n"
    finally:
        note("closed")
        STATE["closed"].set()

async def async_items(p):
    try:
        note("begun")
        for number in range(p.get("count", 3)):
            if number == p.get("fail", -1):
                raise ValueError("the secret cause")
            while number and p.get("wait") and not STATE["go"].is_set():
                await asyncio.sleep(0.005)
            STATE["made"] = number + 1
            yield p.get("text", "item") + f" {number}\\n"
    finally:
        note("closed")
        STATE["closed"].set()
"""
SYNC = (
    HEAD
    + """
class Echo(modelserve.AlgoBackend):
    def _model_init(self, model_path_lst=None):
        self.db = sqlite3.connect(":memory:")
        note("loaded")

    def _model_inference(self, p):
        if p.get("plain"):
            return "plain"
        return items(p, self.db)
"""
)
GENERATOR = SYNC.replace("return items(p, self.db)", "yield from items(p, self.db)").replace(
    'return "plain"', 'yield "plain"'
)
BATCH = SYNC.replace(
    "def _model_inference(self, p):", "def _model_inference_batch(self, ps):\n        (p,) = ps"
).replace("return items(p, self.db)", "return [items(p, self.db)]")
ASYNC = (
    HEAD
    + """
class Echo(modelserve.AlgoBackend):
    async def _model_inference(self, p):
        async for item in async_items(p):
            yield item
"""
)
RETURNED = ASYNC.replace(
    "        async for item in async_items(p):\n            yield item\n", "        return async_items(p)\n"
)
# A queue belongs to the event loop on which it is waited for: the class's own.
LEGACY = (
    HEAD
    + """
class Echo:
    def __init__(self, model_path):
        note("loaded")

    async def __call__(self, request):
        p = await request.json()
        ready = asyncio.Queue()
        await ready.put(1)
        async def body():
            asyncio.get_running_loop().create_task(ready.put(2))
            await ready.get()
            await ready.get()
            async for item in async_items(p):
                assert not await request.is_disconnected() or p.get("wait")
                yield item
        return StreamingResponse(body(), media_type="text/plain")
"""
)
LEGACY_GENERATOR = (
    HEAD
    + """
class Echo:
    def __init__(self, model_path):
        self.db = sqlite3.connect(":memory:")
        note("loaded")

    async def __call__(self, request):
        return items(await request.json(), self.db)
"""
)
MAPPED = SYNC.replace("return items(p, self.db)", "return map(str, items(p, self.db))")
SOURCES = {
    "sync": SYNC,
    "generator": GENERATOR,
    "batch": BATCH,
    "async": ASYNC,
    "returned": RETURNED,
    "legacy": LEGACY,
    "legacy generator": LEGACY_GENERATOR,
}
KINDS = pytest.mark.parametrize("kind", SOURCES)
ANSWER = "item 0\nitem 1\nitem 2\n"


@pytest.fixture(autouse=True)
def state() -> Iterator[dict[str, Any]]:
    STATE.clear()
    STATE.update(go=threading.Event(), closed=threading.Event())
    yield STATE
    STATE["go"].set()


def package(make: Make, kind: str) -> AppArgs:
    return make(SOURCES[kind], batch_size=2 if kind == "batch" else 1, batch_wait=0)


def stream(client: httpx.Client, **params: Any) -> Any:
    return client.stream("GET", ROUTE, content=json.dumps(params))


@KINDS
def test_items_are_sent_as_they_are_made(make: Make, kind: str, state: dict[str, Any]) -> None:
    with serving(package(make, kind)) as client, stream(client, wait=1) as response:
        parts = response.iter_text()
        assert next(parts) == "item 0\n"
        assert state["made"] == 1
        state["go"].set()
        assert "".join(parts) == ANSWER.removeprefix("item 0\n")
        assert state["closed"].wait(10)
    assert response.status_code == 200


@pytest.mark.parametrize("kind", ["sync", "generator", "batch", "legacy generator"])
def test_a_generator_runs_in_the_thread_of_the_model(make: Make, kind: str, state: dict[str, Any]) -> None:
    with serving(package(make, kind)) as client:
        assert client.request("GET", ROUTE, content=b"{}").text == ANSWER
    assert [name for name, _ in state["events"]] == ["loaded", "begun", "closed"]
    assert len({thread for _, thread in state["events"]}) == 1


@KINDS
def test_a_generator_is_closed_when_its_client_leaves(make: Make, kind: str, state: dict[str, Any]) -> None:
    with serving(package(make, kind)) as client:
        with stream(client, wait=1, count=100) as response:
            assert next(response.iter_text()) == "item 0\n"
        if kind in ("sync", "generator", "batch", "legacy generator"):  # its thread waits for the next item
            time.sleep(0.1)
            state["go"].set()
        assert state["closed"].wait(10)
        assert state["made"] < 100
        state["go"].set()
        assert client.request("GET", ROUTE, content=b"{}").text == ANSWER  # the next is answered as ever


@pytest.mark.parametrize("kind", ["sync", "async", "legacy"])
def test_a_generator_waits_for_a_client_that_is_slow(make: Make, kind: str, state: dict[str, Any]) -> None:
    size = 100_000
    with serving(package(make, kind)) as client:
        with stream(client, count=1000, text="x" * size) as response:
            parts = response.iter_raw(size)
            next(parts)
            made = 0
            while made != state["made"] or made < ITEMS_AHEAD:  # it goes on until what is between the two is full
                made = state["made"]
                time.sleep(0.3)
            assert ITEMS_AHEAD <= made < 400
        assert state["closed"].wait(10)


@pytest.mark.parametrize("kind", ["sync", "generator", "async", "returned"])
def test_an_error_before_the_first_item_is_answered_as_any_other(make: Make, kind: str) -> None:
    with serving(package(make, kind)) as client:
        response = client.request("GET", ROUTE, content=json.dumps({"fail": 0}))
    assert (response.status_code, response.json()["status"]) == (500, 0)
    assert "secret" not in response.text


@KINDS
def test_an_error_after_it_breaks_the_answer_off(make: Make, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with serving(package(make, kind)) as client:
        with pytest.raises(httpx.RemoteProtocolError), stream(client, fail=1) as response:
            assert response.status_code == 200
            list(response.iter_text())
        assert client.request("GET", ROUTE, content=b"{}").text == ANSWER
    assert "the secret cause" in caplog.text


@KINDS
def test_the_time_limit_covers_the_first_item_alone(make: Make, kind: str, state: dict[str, Any]) -> None:
    with serving(package(make, kind), request_timeout=0.3) as client, stream(client, wait=1) as response:
        parts = response.iter_text()
        first = next(parts)
        threading.Timer(0.6, state["go"].set).start()
        assert first + "".join(parts) == ANSWER


def test_a_first_item_that_takes_too_long_is_answered_504(make: Make, state: dict[str, Any]) -> None:
    source = SYNC.replace('note("begun")', 'note("begun"); STATE["go"].wait(0 if p.get("quick") else 10)')
    with serving(make(source), request_timeout=0.2) as client:
        response = client.request("GET", ROUTE, content=b"{}")
        assert (response.status_code, response.json()["code"]) == (504, "inference_timeout")
        state["go"].set()
        assert state["closed"].wait(10)  # nobody reads it
        assert client.request("GET", ROUTE, content=b'{"quick": 1}').text == ANSWER


def test_a_stream_without_items_is_an_answer(make: Make) -> None:
    with serving(make(SYNC)) as client:
        response = client.request("GET", ROUTE, content=b'{"count": 0}')
    assert (response.status_code, response.text) == (200, "")


def test_any_iterator_is_a_stream_in_the_thread_of_the_model(make: Make, state: dict[str, Any]) -> None:
    with serving(make(MAPPED)) as client:
        assert client.request("GET", ROUTE, content=b"{}").text == ANSWER
    assert len({thread for _, thread in state["events"]}) == 1


def test_other_requests_are_answered_between_two_streams(make: Make) -> None:
    with serving(make(SYNC)) as client:
        for _ in range(3):
            assert client.request("GET", ROUTE, content=b"{}").text == ANSWER
            assert client.request("GET", ROUTE, content=b'{"plain": 1}').json()["result"] == "plain"


def test_a_warm_up_may_be_a_stream(make: Make, state: dict[str, Any]) -> None:
    with serving(make(SYNC), warmup={}):
        assert state["closed"].is_set()
    with pytest.raises(ValueError, match="the secret cause"), serving(make(SYNC), warmup={"fail": 0}):
        pass
