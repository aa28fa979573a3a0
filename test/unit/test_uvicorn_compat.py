"""What a replica makes of a connection: one write for an answer, and no work for a client that has left."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import modelserve
import pytest
from modelserve.replica.legacy import LegacyBackend
from modelserve.replica.responses import json_response
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

ASK = b"POST /echo HTTP/1.1\r\nhost: here\r\ncontent-length: 8\r\n\r\n"
Answering = Callable[[Request], Any]


class Wire(asyncio.Transport):
    """Remembers what the server writes, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Connection:
    """A connection to uvicorn as Serve runs it, with ``answering`` as what is served."""

    def __init__(self, answering: Answering) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            response = await answering(Request(scope, receive, send))
            await response(scope, receive, send)

        config = Config(app, access_log=False, log_config=None, lifespan="off")
        config.load()
        self.wire = Wire()
        self._protocol = HttpToolsProtocol(config, ServerState(), {})
        self._protocol.connection_made(self.wire)

    def send(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def leave(self) -> None:
        self._protocol.connection_lost(None)

    async def idle(self) -> None:
        while self._protocol.tasks:
            await asyncio.sleep(0.01)


async def exchange(answering: Answering, *requests: bytes) -> Wire:
    connection = Connection(answering)
    for request in requests:
        connection.send(request)
        await connection.idle()
    return connection.wire


async def echo(request: Request) -> Response:
    return json_response(json.loads(await request.body()))


def test_head_and_body_leave_in_one_write() -> None:
    wire = asyncio.run(exchange(echo, ASK + b'{"a": 1}', ASK + b'{"a": 2}'))
    assert [write.partition(b"\r\n\r\n")[2] for write in wire.writes] == [b'{"a":1}', b'{"a":2}']
    assert all(write.startswith(b"HTTP/1.1 200 OK\r\n") for write in wire.writes)
    assert not wire.closed


def test_pipelined_requests_are_answered_in_order() -> None:
    wire = asyncio.run(exchange(echo, ASK + b'{"a": 1}' + ASK + b'{"a": 2}'))
    assert [write.partition(b"\r\n\r\n")[2] for write in wire.writes] == [b'{"a":1}', b'{"a":2}']


def test_an_answer_that_closes_the_connection_is_written_before() -> None:
    closing = ASK.replace(b"host:", b"connection: close\r\nhost:")
    wire = asyncio.run(exchange(echo, closing + b'{"a": 1}'))
    assert wire.closed
    assert len(wire.writes) == 1
    assert wire.writes[0].endswith(b'\r\n\r\n{"a":1}')


def test_the_next_response_of_another_class_is_written_as_ever() -> None:
    answers = [json_response({"a": 1}), PlainTextResponse("plain")]

    async def one_after_the_other(request: Request) -> Response:
        await request.body()
        return answers.pop(0)

    wire = asyncio.run(exchange(one_after_the_other, ASK + b'{"a": 1}', ASK + b'{"a": 1}'))
    assert b"".join(wire.writes).count(b"HTTP/1.1 200 OK") == 2
    assert wire.writes[-1].endswith(b"plain")


def test_an_answer_that_cannot_be_sent_leaves_the_connection_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    async def longer_than_said(request: Request) -> Response:
        response = json_response({"a": 1})
        response.headers["content-length"] = "1"
        return response

    with caplog.at_level(logging.CRITICAL):
        wire = asyncio.run(exchange(longer_than_said, ASK + b'{"a": 1}'))
    assert wire.closed


class Held(modelserve.AlgoBackend):
    """Infers while ``free`` is set, and remembers what."""

    def _model_init(self, model_path_lst: list[str] | None = None) -> None:
        self.seen: list[int] = []
        self.begun, self.free = threading.Event(), threading.Event()

    def _model_inference(self, param_dict: dict[str, Any]) -> Any:
        self.begun.set()
        self.free.wait(10)
        self.seen.append(param_dict["a"])


class HeldInBatches(Held):
    def _model_inference(self, param_dict: dict[str, Any]) -> Any:
        raise AssertionError("one by one")

    def _model_inference_batch(self, param_dicts: list[dict[str, Any]]) -> list[Any]:
        return [Held._model_inference(self, one) for one in param_dicts]


async def one_leaves(answering: Answering, backend: Held) -> None:
    """Three clients; the second leaves while the first is inferred."""
    connections = [Connection(answering) for _ in range(3)]
    for number, connection in enumerate(connections):
        connection.send(ASK + b'{"a": %d}' % number)
        while not backend.begun.is_set():
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    connections[1].leave()
    backend.free.set()
    for connection in connections:
        await connection.idle()
    assert [len(connection.wire.writes) for connection in connections] == [1, 0, 1]


@pytest.mark.parametrize("kind", [Held, HeldInBatches])
def test_nothing_is_inferred_for_a_client_that_left_before_its_turn(kind: type[Held]) -> None:
    backend = kind()
    if kind is HeldInBatches:
        backend.batch_requests(1, 0)
    asyncio.run(one_leaves(backend, backend))
    assert backend.seen == [0, 2]


def test_nor_by_a_class_written_the_original_way() -> None:
    inner = Held()

    async def original(request: Request) -> dict[str, Any]:
        inner._model_inference(await request.json())
        return {"status": 1}

    asyncio.run(one_leaves(LegacyBackend(original), inner))
    assert inner.seen == [0, 2]
