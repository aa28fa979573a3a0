"""Gathers concurrent requests into batches: few wait for each other while the model is idle, many while it works."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from modelserve.replica.uvicorn_compat import Client, ClientLeft

Params = Any  # a request: its JSON object, or what the inference is annotated with


def guarded(infer: Callable[[Any], Any], params: Any, client: Client | None = None) -> Any:
    """Call an inference; what ends a program, or gets lost on the way to the event loop, becomes a RuntimeError.

    Raises:
        ClientLeft: ``client`` does not wait for it any more.
    """
    if client is not None:
        client.require()
    try:
        return infer(params)
    except (SystemExit, StopIteration) as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


@dataclass(eq=False)
class _Item:
    params: Params
    client: Client
    answer: asyncio.Future[Any]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Calls ``infer`` in ``executor``, ``threads`` times at once at most, with up to ``size`` requests each.

    A free thread takes what waits once that is ``size`` requests, or the oldest has waited for ``wait_s``.
    """

    def __init__(
        self, infer: Callable[[list[Params]], Sequence[Any]], executor: Executor, threads: int, size: int, wait_s: float
    ) -> None:
        self._infer = infer
        self._executor = executor
        self._threads = threads
        self._size = size
        self._wait_s = wait_s
        self._waiting: list[_Item] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._full: asyncio.Future[None] | None = None  # there while a worker gathers

    async def ask(self, params: Params, client: Client) -> Any:
        """Answer one request.

        Raises:
            ClientLeft: ``client`` did not wait until its turn.
            Exception: what stands in the place of its result, or what the whole batch raised.
            RuntimeError: the batch form did not return one result per item.
        """
        item = _Item(params, client, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        if self._full is not None and not self._full.done() and len(self._waiting) >= self._size:
            self._full.set_result(None)
        self._start_worker()
        try:
            return await item.answer
        finally:
            if item in self._waiting:  # whoever asked has given up
                self._waiting.remove(item)

    def _start_worker(self) -> None:
        if self._waiting and self._full is None and len(self._workers) < self._threads:
            self._full = asyncio.get_running_loop().create_future()
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._end_worker)

    def _end_worker(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if worker.cancelled():
            self._full = None  # it may not even have begun
        else:
            self._start_worker()

    async def _work(self) -> None:
        try:
            left = self._waiting[0].since + self._wait_s - time.monotonic() if self._waiting else 0
            if self._full is not None and len(self._waiting) < self._size and left > 0:
                await asyncio.wait([self._full], timeout=left)
        finally:
            self._full = None
        batch = self._take()
        self._start_worker()
        if batch:
            await self._answer(batch)

    def _take(self) -> list[_Item]:
        """The next batch, without those whose client has left."""
        batch: list[_Item] = []
        while self._waiting and len(batch) < self._size:
            item = self._waiting.pop(0)
            try:
                item.client.require()
            except ClientLeft as left:
                if not item.answer.done():
                    item.answer.set_exception(left)
            else:
                batch.append(item)
        return batch

    async def _answer(self, batch: list[_Item]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._executor, guarded, self._results, batch)
        except Exception as error:
            results = [error] * len(batch)
        except BaseException:  # nobody would answer them
            for item in batch:
                item.answer.cancel()
            raise
        for item, result in zip(batch, results, strict=True):
            if item.answer.done():
                continue
            if isinstance(result, StopIteration):  # no future takes one
                result = RuntimeError(f"StopIteration: {result}")
            if isinstance(result, Exception):
                item.answer.set_exception(result)
            else:
                item.answer.set_result(result)

    def _results(self, batch: list[_Item]) -> list[Any]:
        results = self._infer([item.params for item in batch])
        if isinstance(results, str | bytes | Mapping) or not hasattr(results, "__len__"):
            kind = type(results).__name__
            raise RuntimeError(f"_model_inference_batch returned a {kind}, not a list of {len(batch)} results")
        if len(results) != len(batch):
            raise RuntimeError(f"_model_inference_batch returned {len(results)} results for {len(batch)} requests")
        return list(results)
