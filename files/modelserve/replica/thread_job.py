"""One inference in a thread of the model, awaited on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from modelserve.replica.generators import Stream, ThreadStream, is_iterator
from modelserve.replica.health import Entry
from modelserve.replica.threads import InferenceThreads, call_soon, holdable, settle
from modelserve.replica.uvicorn_compat import Client


async def run_in_thread(
    threads: InferenceThreads, infer: Callable[[Any], Any], params: Any, entry: Entry, client: Client | None = None
) -> Any:
    """Return what an inference returns that runs in one of the threads; for a generator a stream of its items.

    Args:
        threads: the threads in which the model was loaded.
        infer: the inference.
        params: the request, or the requests of a batch.
        entry: the inference in the list of running ones.
        client: the sender of the request; None skips the check of its connection.

    Raises:
        ClientDisconnectedError: ``client`` closed its connection.
        RuntimeError: the inference raised SystemExit, which would end the replica, or StopIteration, which no future
            can hold.
        Exception: whatever else the inference raises.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()
    threads.submit(lambda: _infer(loop, outcome, infer, params, entry, client))
    try:
        return await outcome
    except asyncio.CancelledError:
        if outcome.done() and not outcome.cancelled() and outcome.exception() is None:
            _stop(outcome.result())
        raise


def _infer(
    loop: asyncio.AbstractEventLoop,
    outcome: asyncio.Future[Any],
    infer: Callable[[Any], Any],
    params: Any,
    entry: Entry,
    client: Client | None,
) -> None:
    if outcome.cancelled():
        return
    try:
        if client is not None:
            client.require_connected()
        entry.begin()
        result, error = infer(params), None
    except BaseException as raised:
        result, error = None, holdable(raised)
    if is_iterator(result):
        stream = ThreadStream(loop, entry, result)
        call_soon(loop, _hand_over, outcome, stream)
        stream.pump()
        return
    entry.end()
    call_soon(loop, settle, outcome, result, error)


def _hand_over(outcome: asyncio.Future[Any], stream: Stream) -> None:
    if outcome.done():
        stream.stop()
    else:
        outcome.set_result(stream)


def _stop(result: Any) -> None:
    if isinstance(result, Stream):
        result.stop()
