"""How a backend's inference runs: in the threads of the model, in batches, or on the event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Protocol

from modelserve.replica.batching import Batcher
from modelserve.replica.generators import Stream, TaskStream, ThreadStream, is_async_iterator, is_iterator
from modelserve.replica.health import Running
from modelserve.replica.thread_job import run_in_thread
from modelserve.replica.threads import InferenceThreads, holdable
from modelserve.replica.uvicorn_compat import Client


def runs_on_loop(function: Callable[..., Any]) -> bool:
    """Return whether an inference is a coroutine or an async generator, which runs on the event loop."""
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


class Inferring(Protocol):
    """A backend with an inference."""

    def _model_inference(self, param_dict: Any) -> Any:
        """Return the result of one request."""


class Inference:
    """The inference of one backend.

    Attributes:
        threads: the threads in which the model was loaded.
        running: the inferences that run now.
        on_loop: whether the inference runs on the event loop.
    """

    def __init__(self, backend: Inferring, threads: InferenceThreads) -> None:
        """Make the inference of a loaded model.

        Args:
            backend: turns the parameters of a request into a result.
            threads: the threads in which the model was loaded.
        """
        self.threads = threads
        self.running = Running()
        self.on_loop = runs_on_loop(type(backend)._model_inference)
        self._backend = backend
        self._batcher: Batcher | None = None

    def batch(self, infer: Callable[[list[Any]], Any], size: int, wait_s: float) -> None:
        """Gather concurrent requests, and call ``infer`` with them.

        Args:
            infer: returns one result per request.
            size: largest number of requests in a call.
            wait_s: longest time in seconds that the first request waits for others while nothing runs.
        """
        self._batcher = Batcher(infer, self.threads, self.running, size, wait_s)

    async def run(self, params: Any, client: Client) -> Any:
        """Return the result of one request.

        Args:
            params: the request.
            client: the sender; its connection is checked when the inference is about to begin.

        Returns:
            What the inference returns; for an iterator, such as a generator, a :class:`Stream` that has its first item.

        Raises:
            ClientDisconnectedError: the client closed its connection.
            Exception: whatever the inference raises, before its first item where it is a generator.
        """
        if self._batcher is not None:
            result = await self._batcher.submit(params, client)
        elif self.on_loop:
            result = await self._run_on_loop(params, client)
        else:
            result = await run_in_thread(
                self.threads, self._backend._model_inference, params, self.running.entry(client), client
            )
        if is_iterator(result) or is_async_iterator(result):
            return await self._started(result, client)
        return result

    async def _run_on_loop(self, params: Any, client: Client) -> Any:
        entry = self.running.entry(client)
        entry.begin()
        try:
            result = self._backend._model_inference(params)
            return await result if inspect.isawaitable(result) else result
        except SystemExit as error:  # it would end the replica
            raise holdable(error) from error
        finally:
            entry.end()

    async def _started(self, result: Any, client: Client) -> Stream:
        stream = result if isinstance(result, Stream) else self._stream_of(result, client)
        await stream.started()
        return stream

    def _stream_of(self, generator: Any, client: Client) -> Stream:
        entry = self.running.entry(client)
        entry.begin()
        loop = asyncio.get_running_loop()
        if is_async_iterator(generator):
            return TaskStream(loop, entry, generator)
        stream = ThreadStream(loop, entry, generator)
        self.threads.submit(stream.pump)
        return stream
