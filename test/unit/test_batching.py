"""Batches: requests that come together go together, each gets its own answer, and a failure stays where it belongs."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import modelserve
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelserve.replica.legacy import json_request


class Tenfold(modelserve.AlgoBackend):
    """Answers ten times ``x``; remembers its batches, and works while ``busy`` is not set."""

    def _model_init(self, model_path_lst: list[str] | None = None) -> None:
        self.batches: list[list[int]] = []
        self.busy = threading.Event()
        self.busy.set()
        self.running = self.most = 0
        self.lock = threading.Lock()

    def _model_inference_batch(self, param_dicts: list[dict[str, Any]]) -> Sequence[Any]:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.batches.append([one["x"] for one in param_dicts])
        self.busy.wait(5)
        with self.lock:
            self.running -= 1
        return [ValueError("odd one") if one["x"] % 2 else one["x"] * 10 for one in param_dicts]


def batched(size: int, wait_s: float = 5, kind: type[modelserve.AlgoBackend] = Tenfold) -> Any:
    backend = kind()
    backend.batch_requests(size, wait_s)
    return backend


async def ask(backend: modelserve.AlgoBackend, x: int) -> tuple[int, Any]:
    response = await backend(json_request({"x": x}))
    return response.status_code, json.loads(bytes(response.body)).get("result")


async def ask_all(backend: modelserve.AlgoBackend, numbers: Sequence[int]) -> list[tuple[int, Any]]:
    return await asyncio.gather(*(ask(backend, x) for x in numbers))


def test_a_full_batch_does_not_wait() -> None:
    backend = batched(4, wait_s=60)
    answers = asyncio.run(asyncio.wait_for(ask_all(backend, [0, 2, 4, 6, 8, 10, 12, 14]), 10))
    assert answers == [(200, 10 * x) for x in range(0, 16, 2)]
    assert backend.batches == [[0, 2, 4, 6], [8, 10, 12, 14]]


def test_the_first_request_waits_no_longer_than_batch_wait() -> None:
    backend = batched(4, wait_s=0.02)
    assert asyncio.run(asyncio.wait_for(ask_all(backend, [2]), 10)) == [(200, 20)]


def test_while_the_model_works_the_next_batch_fills() -> None:
    backend = batched(4, wait_s=0)
    backend.busy.clear()

    async def later() -> list[tuple[int, Any]]:
        first = asyncio.create_task(ask(backend, 0))
        while not backend.batches:
            await asyncio.sleep(0.001)
        others = asyncio.create_task(ask_all(backend, [2, 4, 6]))
        await asyncio.sleep(0.01)
        backend.busy.set()
        return [await first, *await others]

    assert asyncio.run(later()) == [(200, 0), (200, 20), (200, 40), (200, 60)]
    assert backend.batches == [[0], [2, 4, 6]]


def test_an_exception_in_the_place_of_a_result_fails_that_request_alone() -> None:
    assert asyncio.run(ask_all(batched(3), [2, 3, 4])) == [(200, 20), (500, None), (200, 40)]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda batch: [1], "returned 1 results for 2 requests"),
        (lambda batch: None, "returned a NoneType, not a list of 2 results"),
        (lambda batch: {"a": 1, "b": 2}, "returned a dict, not a list of 2 results"),
        (lambda batch: 1 / 0, "ZeroDivisionError"),
        (lambda batch: next(iter([])), "StopIteration"),
        (lambda batch: exit("done"), "SystemExit: done"),
        (lambda batch: [StopIteration("a"), StopIteration("b")], "StopIteration: a"),
    ],
)
def test_a_batch_that_fails_fails_all_its_requests(answer: Any, words: str, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(modelserve.AlgoBackend):
        def _model_inference_batch(self, param_dicts: list[dict[str, Any]]) -> Any:
            return answer(param_dicts)

    backend = batched(2, kind=Broken)
    assert asyncio.run(ask_all(backend, [1, 2])) == [(500, None)] * 2
    assert words in caplog.text
    caplog.clear()
    assert asyncio.run(ask_all(backend, [1, 2])) == [(500, None)] * 2  # and the next ones are asked


def test_who_gives_up_is_not_asked_for() -> None:
    backend = batched(2, wait_s=0)
    backend.busy.clear()

    async def give_up() -> tuple[int, Any]:
        first = asyncio.create_task(ask(backend, 0))
        while not backend.batches:
            await asyncio.sleep(0.001)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(backend, 2), 0.01)
        last = asyncio.create_task(ask(backend, 4))
        first.cancel()  # its batch runs already
        await asyncio.sleep(0.01)
        backend.busy.set()
        return await last

    assert asyncio.run(give_up()) == (200, 40)
    assert backend.batches == [[0], [4]]


@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_batches_run_at_once_as_the_backend_allows(threads: int) -> None:
    class Parallel(Tenfold):
        def _model_inference_batch(self, param_dicts: list[dict[str, Any]]) -> Sequence[Any]:
            threading.Timer(0.05, self.busy.set).start()
            return super()._model_inference_batch(param_dicts)

    Parallel.threads = threads
    backend = batched(2, wait_s=0, kind=Parallel)
    backend.busy.clear()
    assert asyncio.run(ask_all(backend, [2] * 12)) == [(200, 20)] * 12
    assert backend.most == threads


def test_a_class_without_a_batch_form_is_refused() -> None:
    class Single(modelserve.AlgoBackend):
        def _model_inference(self, param_dict: dict[str, Any]) -> Any:
            return 1

    with pytest.raises(TypeError, match="batch_size = 2, but Single has no _model_inference_batch: define it"):
        batched(2, kind=Single)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 5),
    st.integers(1, 3),
    st.sampled_from([0, 0.002]),
    st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=12), min_size=1, max_size=4),
)
def test_every_request_gets_its_own_answer(size: int, threads: int, wait_s: float, waves: list[list[int]]) -> None:
    kind = type("Many", (Tenfold,), {"threads": threads})
    backend = batched(size, wait_s, kind)

    async def in_waves() -> None:
        for wave in waves:
            expected = [(500, None) if x % 2 else (200, 10 * x) for x in wave]
            assert await asyncio.wait_for(ask_all(backend, wave), 10) == expected

    asyncio.run(in_waves())
    assert max(map(len, backend.batches)) <= size
    assert sorted(x for batch in backend.batches for x in batch) == sorted(x for wave in waves for x in wave)
