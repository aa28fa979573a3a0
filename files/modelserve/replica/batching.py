"""Batches of concurrent requests: small and after a short wait while the model is idle, large while it is busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelserve.replica.health import Running
from modelserve.replica.thread_job import run_in_thread
from modelserve.replica.threads import InferenceThreads
from modelserve.replica.uvicorn_compat import Client, ClientDisconnectedError

Params = Any  # a request: its JSON object, or an instance of the annotated type


@dataclass(eq=False)
class _Item:
    params: Params
    client: Client
    answer: asyncio.Future[Any]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Calls an inference with batches of requests.

    A free thread takes the waiting requests when there are ``size`` of them, or when the oldest has waited ``wait_s``.
    """

    def __init__(
        self,
        infer: Callable[[list[Params]], Sequence[Any]],
        threads: InferenceThreads,
        running: Running,
        size: int,
        wait_s: float,
    ) -> None:
        """Make an empty batcher.

        Args:
            infer: returns one result per request.
            threads: run ``infer``, each one call at a time.
            running: the inferences that run now.
            size: largest number of requests in a call.
            wait_s: longest time in seconds that the oldest request waits for others.
        """
        self._infer = infer
        self._threads = threads
        self._running = running
        self._size = size
        self._wait_s = wait_s
        self._waiting: list[_Item] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._full: asyncio.Future[None] | None = None  # set while a worker waits for a full batch

    async def submit(self, params: Params, client: Client) -> Any:
        """Return the result of one request.

        Raises:
            ClientDisconnectedError: ``client`` closed its connection before the batch began.
            Exception: the exception in the place of the request's result, or the one that the whole batch raised.
            RuntimeError: the inference did not return one result per request.
        """
        item = _Item(params, client, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        if self._full is not None and not self._full.done() and len(self._waiting) >= self._size:
            self._full.set_result(None)
        self._start_worker()
        try:
            return await item.answer
        finally:
            if item in self._waiting:  # the caller was cancelled
                self._waiting.remove(item)

    def _start_worker(self) -> None:
        if self._waiting and self._full is None and len(self._workers) < self._threads.count:
            self._full = asyncio.get_running_loop().create_future()
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._end_worker)

    def _end_worker(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if worker.cancelled():
            self._full = None  # its own reset does not run when it is cancelled before it begins
        else:
            self._start_worker()

    async def _work(self) -> None:
        try:
            remaining_s = self._waiting[0].since + self._wait_s - time.monotonic() if self._waiting else 0
            if self._full is not None and len(self._waiting) < self._size and remaining_s > 0:
                await asyncio.wait([self._full], timeout=remaining_s)
        finally:
            self._full = None
        batch = self._take()
        self._start_worker()
        if batch:
            await self._answer(batch)

    def _take(self) -> list[_Item]:
        """Return the next batch, without requests of disconnected clients."""
        batch: list[_Item] = []
        while self._waiting and len(batch) < self._size:
            item = self._waiting.pop(0)
            try:
                item.client.require_connected()
            except ClientDisconnectedError as error:
                if not item.answer.done():
                    item.answer.set_exception(error)
            else:
                batch.append(item)
        return batch

    async def _answer(self, batch: list[_Item]) -> None:
        entry = self._running.entry(*(item.client for item in batch))
        try:
            results = await run_in_thread(self._threads, self._results, batch, entry)
        except Exception as error:
            results = [error] * len(batch)
        except BaseException:  # else their callers would wait for ever
            for item in batch:
                item.answer.cancel()
            raise
        for item, result in zip(batch, results, strict=True):
            if item.answer.done():
                continue
            if isinstance(result, StopIteration):  # no future can hold one
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
