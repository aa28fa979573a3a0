"""One thread per model: it is loaded, configured, warmed up and asked in the same, and no event loop runs there."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable
from typing import Any

import modelserve
import pytest
from modelserve.replica.deployment import Algorithm
from modelserve.replica.legacy import json_request
from modelserve.replica.local_server import load
from modelserve.replica.threads import InferenceThreads
from modelserve.replica.try_once import try_once
from modelserve.serve.contract import AppArgs, UserConfig

# Each step notes its thread, uses what sqlite3 binds to a thread, and runs coroutines as a library of today does.
NOTED = """
import asyncio, sqlite3, threading

class Noted:
    def note(self):
        self.threads.append(threading.get_ident())
        assert asyncio.get_event_loop() is not None
        async def answer():
            return 42
        assert asyncio.run(answer()) == 42

    def _model_init(self, model_path_lst=None):
        self.threads = IMPORTED[:]
        self.db = sqlite3.connect(":memory:")
        self.note()

    def reconfigure(self, config):
        self.note()
        self.db.execute("select 1")

IMPORTED = [threading.get_ident()]
"""

SHORT = (
    "import modelserve\n"
    + NOTED
    + """
class Echo(Noted, modelserve.AlgoBackend):
    def _model_inference(self, param_dict):
        self.note()
        return [self.db.execute("select 7").fetchone()[0], self.threads]
"""
)
BATCH = (
    SHORT.replace("_model_inference(self, param_dict)", "_model_inference_batch(self, param_dicts)")
    .replace("return [", "return [[")
    .replace("self.threads]", "self.threads]] * len(param_dicts)")
)
# Its inference is a coroutine, within which asyncio.run() cannot work: only its constructor and reconfigure note.
ORIGINAL = (
    NOTED
    + """
class Echo(Noted):
    def __init__(self, model_path):
        self._model_init()

    async def __call__(self, request):
        self.threads.append(threading.get_ident())
        return {"status": 1, "result": [self.db.execute("select 7").fetchone()[0], self.threads]}
"""
)
ASYNC = """
import asyncio, sqlite3, threading
import modelserve

class Echo(modelserve.AlgoBackend):
    def _model_init(self, model_path_lst=None):
        asyncio.get_running_loop()
        self.db = sqlite3.connect(":memory:")
        self.threads = [threading.get_ident()]

    def reconfigure(self, config):
        self.threads.append(threading.get_ident())

    async def _model_inference(self, param_dict):
        self.threads.append(threading.get_ident())
        return [self.db.execute("select 7").fetchone()[0], self.threads]
"""
KINDS = pytest.mark.parametrize("source", [SHORT, BATCH, ORIGINAL, ASYNC], ids=["short", "batch", "original", "async"])

Make = Callable[..., AppArgs]


def noted(make: Make, source: str) -> AppArgs:
    return make(source, batch_size=2 if source is BATCH else 1)


def the_one_thread(result: list[Any], steps: int) -> int:
    seven, threads = result
    assert seven == 7
    assert len(threads) >= steps
    (thread,) = set(threads)
    return int(thread)


@KINDS
def test_a_replica_does_everything_in_one_thread(make: Make, source: str) -> None:
    async def serve() -> list[Any]:
        algorithm = Algorithm(noted(make, source).model_dump())
        await algorithm.reconfigure({"user_config": {"x": 1}, "warmup": {}})
        response = await algorithm.application.respond(json_request({}))
        result: list[Any] = json.loads(bytes(response.body))["result"]
        return result

    thread = the_one_thread(asyncio.run(serve()), steps=4)
    assert (thread == threading.get_ident()) == (source is ASYNC)


@KINDS
def test_so_does_a_trial(make: Make, source: str) -> None:
    answer = try_once(noted(make, source), {})["answer"]
    assert (the_one_thread(answer["result"], steps=2) == threading.get_ident()) == (source is ASYNC)


@KINDS
def test_and_a_local_server(make: Make, source: str) -> None:
    async def serve() -> Any:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async with load(noted(make, source), UserConfig(user_config=1, warmup={}), "/echo") as local:
            request = json_request({}, path="/echo")
            await local(request.scope, request.receive, send)
        return json.loads(sent[1]["body"])["result"]

    the_one_thread(asyncio.run(serve()), steps=4)


class Direct(modelserve.AlgoBackend):
    def _model_init(self, model_path_lst: list[str] | None = None) -> None:
        self.loaded_in = threading.get_ident()

    def _model_inference(self, param_dict: dict[str, Any]) -> Any:
        return self.loaded_in == threading.get_ident()


def test_a_backend_that_is_made_without_a_replica_has_a_thread_of_its_own() -> None:
    backend = Direct()
    assert backend.loaded_in != threading.get_ident()
    assert asyncio.run(backend.infer({})) is True


def test_a_backend_within_a_backend_shares_its_thread() -> None:
    class Outer(Direct):
        def _model_init(self, model_path_lst: list[str] | None = None) -> None:
            super()._model_init()
            self.inner = Direct()

        def _model_inference(self, param_dict: dict[str, Any]) -> Any:
            return self.inner._model_inference(param_dict)

    assert asyncio.run(Outer().infer({})) is True


def test_with_more_threads_the_model_is_loaded_in_one_of_them() -> None:
    class Parallel(Direct):
        threads = 3

        def _model_inference(self, param_dict: dict[str, Any]) -> Any:
            barrier.wait(10)  # three at the same time
            return threading.current_thread().name

    barrier = threading.Barrier(3)
    backend = Parallel()

    async def three() -> list[Any]:
        return await asyncio.gather(*(backend.infer({}) for _ in range(3)))

    assert set(asyncio.run(three())) == {"inference_0", "inference_1", "inference_2"}


def test_an_event_loop_is_there_again_after_a_library_ran_its_own() -> None:
    class Running(modelserve.AlgoBackend):
        def _model_inference(self, param_dict: dict[str, Any]) -> Any:
            before = asyncio.get_event_loop()
            asyncio.run(asyncio.sleep(0))
            return before

    backend = Running()
    assert asyncio.run(backend.infer({})) is asyncio.run(backend.infer({}))


def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    threads, free, ran = InferenceThreads(), threading.Event(), []

    async def give_up() -> None:
        first = threads.run(free.wait, 10)
        threads.run(ran.append, "second").cancel()
        free.set()
        await first
        await threads.run(ran.append, "third")

    asyncio.run(give_up())
    assert ran == ["third"]


@pytest.mark.parametrize("error", [SystemExit("done"), StopIteration("early")])
def test_an_error_that_would_end_the_replica_is_an_error_of_the_job_alone(error: BaseException) -> None:
    def job() -> None:
        raise error

    threads = InferenceThreads()

    async def run() -> Any:
        with pytest.raises(RuntimeError, match=f"{type(error).__name__}: {error}"):
            await threads.run(job)
        return await threads.run(lambda: "alive")

    assert asyncio.run(run()) == "alive"


def test_threads_end_with_what_they_served() -> None:
    threads = InferenceThreads(2)
    workers = [thread for thread in threading.enumerate() if thread.name.startswith("inference_")]
    served = [worker for worker in workers if worker.is_alive()]
    del threads
    gc.collect()
    for worker in served[-2:]:
        worker.join(10)
        assert not worker.is_alive()
