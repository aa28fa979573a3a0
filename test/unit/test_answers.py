"""Answers of every kind, over a real server: values, bytes, files, images, responses, streams, and failures."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import modelserve
import pytest
from modelserve.replica.answers import answer_of
from modelserve.replica.responses import failure, failure_of, method_not_allowed, timed_out
from modelserve.replica.streams import encode_event
from modelserve.replica.types import Types
from modelserve.replica.uvicorn_compat import ClientDisconnectedError
from PIL import Image
from replica_server import serving
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

Ask = Callable[..., httpx.Response]
EVENTS = {"Accept": "text/event-stream"}


class Server:
    """Answers each request with what ``returning`` returns or raises."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.returning: Callable[[], Any] = dict
        self.envelope = True

    async def answer(self, request: Request) -> Response:
        await request.body()
        try:
            return answer_of(self.returning(), request, envelope=self.envelope)
        except Exception as error:
            return failure_of(error, request)

    def get(self, returning: Callable[[], Any], **headers: str) -> httpx.Response:
        self.returning = returning
        return self.client.get("/", headers=headers)

    def stream(self, returning: Callable[[], Any], **headers: str) -> Any:
        self.returning = returning
        return self.client.stream("GET", "/", headers=headers)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server(httpx.Client())
    with serving(server.answer) as server.client:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.envelope = True
    return running


def raising(error: Exception) -> Callable[[], Any]:
    def inference() -> Any:
        raise error

    return inference


@pytest.mark.parametrize("value", [{"a": 1}, [1], "text", "<p>text</p>", 1, 0.5, True, None, (1, 2), {3}, Path("/a")])
def test_a_value_is_the_result_of_a_document(server: Server, value: Any) -> None:
    response = server.get(lambda: value)
    assert response.headers["content-type"] == "application/json"
    expected = json.loads(
        json.dumps(value, default=lambda other: str(other) if isinstance(other, Path) else list(other))
    )
    assert (response.json()["status"], response.json()["result"]) == (1, expected)
    server.envelope = False
    assert server.get(lambda: value).json() == expected


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_sent_as_they_are(server: Server, kind: Any) -> None:
    response = server.get(lambda: kind(b"\x00\xff"))
    assert response.content == b"\x00\xff"
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-length"] == "2"


def test_a_file_is_sent_with_its_type_and_in_ranges(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(bytes(range(256)))
    response = server.get(lambda: modelserve.File(path))
    assert response.content == path.read_bytes()
    assert response.headers["content-type"] == "video/mp4"
    assert "content-disposition" not in response.headers
    part = server.get(lambda: modelserve.File(str(path), "video/x", "my clip.mp4"), Range="bytes=1-3")
    assert (part.status_code, part.content) == (206, b"\x01\x02\x03")
    assert part.headers["content-type"] == "video/x"
    assert "my%20clip.mp4" in part.headers["content-disposition"]
    missing = server.get(lambda: modelserve.File(tmp_path / "none"))
    assert (missing.status_code, missing.json()["code"]) == (500, "inference_failed")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "YCbCr"])
def test_an_image_is_sent_as_png(server: Server, mode: str) -> None:
    import io

    response = server.get(lambda: Image.new("RGB", (3, 2), "red").convert(mode))
    assert response.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(response.content))
    assert (image.format, image.size) == ("PNG", (3, 2))


def test_an_image_that_cannot_be_written_is_a_failure(server: Server) -> None:
    image = Image.new("RGB", (1, 1))
    image.close()
    image.im = None  # type: ignore[attr-defined]
    response = server.get(lambda: image)
    assert (response.status_code, response.json()["code"]) == (500, "inference_failed")


def test_a_response_is_sent_as_it_is(server: Server) -> None:
    response = server.get(lambda: HTMLResponse("<p>ä</p>", 201, {"X-Own": "1"}))
    assert (response.status_code, response.text, response.headers["x-own"]) == (201, "<p>ä</p>", "1")
    assert response.headers["content-type"].startswith("text/html")
    assert server.get(lambda: PlainTextResponse("plain")).text == "plain"


def two(*items: Any) -> Callable[[], Any]:
    """Both kinds of generators of the same items."""

    async def generate() -> AsyncIterator[Any]:
        for item in items:
            yield item

    return generate


def one_by_one(*items: Any) -> Callable[[], Any]:
    def generate() -> Iterator[Any]:
        yield from items

    return generate


@pytest.mark.parametrize("made", [two, one_by_one, lambda *items: lambda: iter(items)])
@pytest.mark.parametrize(
    ("items", "media_type", "body"),
    [
        (("a", "ä", ""), "text/plain; charset=utf-8", "aä"),
        (("a", b"b"), "text/plain; charset=utf-8", "ab"),
        ((b"a", b"b"), "application/octet-stream", "ab"),
        (({"a": 1}, [1], None, "x"), "application/x-ndjson", '{"a":1}\n[1]\nnull\n"x"\n'),
        ((1, 2.5), "application/x-ndjson", "1\n2.5\n"),
        ((), "application/x-ndjson", ""),
        (
            (modelserve.Event("a\nb", "token", "7", 100), modelserve.Event({"n": 1}), {"plain": 1}),
            "text/event-stream; charset=utf-8",
            'event: token\nid: 7\nretry: 100\ndata: a\ndata: b\n\ndata: {"n":1}\n\ndata: {"plain":1}\n\n',
        ),
    ],
)
def test_a_generator_is_a_stream(server: Server, made: Any, items: Any, media_type: str, body: str) -> None:
    response = server.get(made(*items))
    assert (response.headers["content-type"], response.text) == (media_type, body)
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.headers["cache-control"] == "no-cache"


def test_values_are_events_for_a_client_that_accepts_these(server: Server) -> None:
    response = server.get(two({"n": 1}, "a b"), **EVENTS)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text == 'data: {"n":1}\n\ndata: "a b"\n\n'
    assert server.get(two(b"a"), **EVENTS).headers["content-type"] == "application/octet-stream"
    # JSON is sent whatever the client accepts.
    assert server.get(dict, Accept="image/png").json()["status"] == 1


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_each_item_is_sent_as_it_comes(server: Server, kind: str) -> None:
    reached = [threading.Event() for _ in range(3)]

    def generate() -> Iterator[Any]:
        for at, event in enumerate(reached):
            assert event.wait(5)
            yield {"at": at}

    async def generate_async() -> AsyncIterator[Any]:
        for at, event in enumerate(reached):
            assert await asyncio.to_thread(event.wait, 5)
            yield {"at": at}

    reached[0].set()
    with server.stream(generate if kind == "plain" else generate_async) as response:
        for at, line in enumerate(response.iter_lines()):
            assert json.loads(line) == {"at": at}
            if at < 2:
                reached[at + 1].set()


@pytest.mark.parametrize("kind", ["async", "plain"])
@pytest.mark.parametrize("waits", [True, False])
def test_a_stream_ends_when_the_client_disconnects(server: Server, kind: str, waits: bool) -> None:
    closed = threading.Event()

    def generate() -> Iterator[Any]:
        try:
            while True:
                yield {"a": 1}
                time.sleep(0.1 if waits else 0.001)
        finally:
            closed.set()

    async def generate_async() -> AsyncIterator[Any]:
        try:
            while True:
                yield {"a": 1}
                await asyncio.sleep(1000 if waits else 0.001)
        finally:
            closed.set()

    with server.stream(generate if kind == "plain" else generate_async) as response:
        lines = response.iter_lines()  # it closes the connection at its own end
        assert next(lines) == '{"a":1}'
        assert not closed.is_set()
    assert closed.wait(3)


def test_a_generator_is_closed_at_its_end(server: Server) -> None:
    closed = threading.Event()

    class Items:
        """As a generator of a sync inference comes that runs in the inference's own thread."""

        def __init__(self) -> None:
            self.left = [1, 2]

        def __aiter__(self) -> AsyncIterator[Any]:
            return self

        async def __anext__(self) -> Any:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop(0)

        async def aclose(self) -> None:
            closed.set()

    assert server.get(Items).text == "1\n2\n"
    assert closed.wait(3)


def failing(error: Exception, *items: Any) -> Callable[[], Any]:
    def generate() -> Iterator[Any]:
        yield from items
        raise error

    return generate


def test_an_error_before_the_first_item_is_a_failure_as_any(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    response = server.get(failing(ValueError("the secret cause")), **{"X-Request-ID": "abc"})
    assert (response.status_code, response.json()["code"]) == (500, "inference_failed")
    assert response.headers["X-Request-ID"] == "abc"
    assert "the secret cause" in caplog.text
    response = server.get(failing(modelserve.HTTPError(404, "no such id", code="no_id"), *()))
    assert (response.status_code, response.json()["code"]) == (404, "no_id")
    assert server.get(two({"a": 1j})).json()["code"] == "invalid_result"


def test_a_later_error_is_told_where_the_form_can(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    lines = server.get(failing(ValueError("the secret cause"), {"a": 1}), **{"X-Request-ID": "abc"}).text.splitlines()
    assert json.loads(lines[0]) == {"a": 1}
    assert json.loads(lines[1])["code"] == "inference_failed"
    assert json.loads(lines[1])["request_id"] == "abc"
    events = server.get(failing(modelserve.HTTPError(503, "busy"), modelserve.Event("a"))).text.split("\n\n")
    assert events[0] == "data: a"
    kind, data = events[1].split("\n")
    assert kind == "event: error"
    assert json.loads(data.removeprefix("data: "))["code"] == "unavailable"
    assert "the secret cause" in caplog.text
    assert "abc" in caplog.text


@pytest.mark.parametrize("item", ["text", b"bytes"])
@pytest.mark.parametrize("fault", [[ValueError("the secret cause")], [{"no": "text"}]])
def test_a_stream_that_cannot_tell_is_not_taken_for_complete(
    server: Server, item: Any, fault: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    made = failing(fault[0], item) if isinstance(fault[0], Exception) else two(item, *fault)
    with pytest.raises(httpx.RemoteProtocolError):
        server.get(made)
    assert "inference failed" in caplog.text


@pytest.mark.parametrize("event", [modelserve.Event("a", event="a\nb"), modelserve.Event("a", id="a\rb")])
def test_an_event_s_fields_have_one_line(event: modelserve.Event) -> None:
    with pytest.raises(ValueError, match="line break"):
        encode_event(event)


@pytest.mark.parametrize("text", ["a\r\nb", "a\rb", "a\nb"])
def test_an_event_s_text_may_have_many(text: str) -> None:
    assert encode_event(modelserve.Event(text)) == b"data: a\ndata: b\n\n"
    assert encode_event(modelserve.Event("a\u2028b")) == "data: a\u2028b\n\n".encode()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (modelserve.HTTPError(404, "no such id"), 404, "not_found"),
        (modelserve.HTTPError(418, "no coffee"), 418, "client_error"),
        (modelserve.HTTPError(409, "taken", code="id_taken"), 409, "id_taken"),
        (modelserve.HTTPError(503, "busy"), 503, "unavailable"),
        (HTTPException(403, "no"), 403, "forbidden"),
        (HTTPException(302, "elsewhere"), 500, "inference_failed"),
        (ClientDisconnectedError("left"), 499, "client_disconnected"),
        (modelserve.Fatal("the GPU is lost"), 500, "replica_failed"),
        (ValueError("secret"), 500, "inference_failed"),
        (TimeoutError("secret"), 500, "inference_failed"),
    ],
)
def test_every_error_is_a_document_with_a_code(server: Server, error: Exception, status: int, code: str) -> None:
    response = server.get(raising(error), **{"X-Request-ID": "abc"})
    document = response.json()
    assert (response.status_code, document["status"], document["code"]) == (status, 0, code)
    assert document["request_id"] == response.headers["X-Request-ID"] == "abc"
    assert document["info"].startswith("Result from ")
    assert "secret" not in response.text
    assert "GPU" not in response.text
    assert response.headers.get("Retry-After") == ("1" if status == 503 else None)


def test_an_error_of_an_author_has_its_headers_and_details(server: Server) -> None:
    headers: Any = {"retry-after": 7}
    error = modelserve.HTTPError(429, "slow down", headers=headers, left=0, code="quota", request_id="x")
    response = server.get(raising(error), **{"X-Request-ID": "abc"})
    assert response.headers["Retry-After"] == "7"
    assert (response.json()["left"], response.json()["code"], response.json()["request_id"]) == (0, "quota", "abc")
    response = server.get(raising(modelserve.HTTPError(400, "odd", value=1j)))
    assert (response.status_code, response.json()["code"]) == (500, "invalid_result")
    response = server.get(raising(modelserve.HTTPError(400, "odd", headers={"X-Name": "\u2028"})))
    assert (response.status_code, response.json()["code"]) == (500, "inference_failed")


def test_the_other_failures_have_codes() -> None:
    scope = {"type": "http", "method": "PUT", "path": "/", "query_string": b"", "headers": []}
    request = Request(scope)
    made = {
        "method_not_allowed": method_not_allowed(request, frozenset({"GET"})),
        "inference_timeout": timed_out(request, 2),
        "not_found": failure(404, "no such path", "abc"),
    }
    assert {json.loads(bytes(response.body))["code"] for response in made.values()} == set(made)
    assert made["method_not_allowed"].headers["allow"] == "GET"


def streamed(param: dict[str, Any]) -> Iterator[modelserve.Event]:
    yield modelserve.Event("a")


async def tokens(param: dict[str, Any]) -> AsyncIterator[str]:
    yield "a"


def rows(param: dict[str, Any]) -> Any:
    yield {"a": 1}


def numbers(param: dict[str, Any]) -> Iterator[int]:
    return iter([1])


def frames(param: dict[str, Any]) -> Iterator[bytes]:
    return iter([b""])


def raw(param: dict[str, Any]) -> bytes:
    return b""


def image(param: dict[str, Any]) -> Image.Image:
    return Image.new("L", (1, 1))


def page(param: dict[str, Any]) -> HTMLResponse:
    return HTMLResponse()


def file(param: dict[str, Any]) -> modelserve.File:
    return modelserve.File("")


@pytest.mark.parametrize(
    ("method", "produces", "output"),
    [
        (streamed, ["text/event-stream"], {}),
        (tokens, ["text/plain", "text/event-stream"], {"type": "string"}),
        (rows, ["application/x-ndjson", "text/event-stream"], {}),
        (numbers, ["application/x-ndjson", "text/event-stream"], {"type": "integer"}),
        (raw, ["application/octet-stream"], {"type": "string", "format": "binary"}),
        (image, ["image/png"], {}),
        (page, ["*/*"], {}),
        (file, ["*/*"], {}),
    ],
)
def test_the_document_says_what_is_returned(method: Any, produces: list[str], output: dict[str, Any]) -> None:
    document = Types(method).document()
    assert (document["produces"], document["output"]) == (produces, output)


@pytest.mark.parametrize(
    ("method", "streams"), [(rows, True), (numbers, True), (frames, True), (raw, False), (file, False), (page, False)]
)
def test_the_document_says_whether_the_answer_is_a_stream(method: Any, streams: bool) -> None:
    assert Types(method).document()["streams"] is streams
