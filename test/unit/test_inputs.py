"""Requests of every kind reach the inference as what it is annotated with, over a real server."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import socket
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import modelserve
import pytest
from modelserve.replica.inputs import warmup_params
from modelserve.replica.types import Types
from pydantic import BaseModel, Field
from replica_server import backend_of, serving
from starlette.responses import JSONResponse
from typing_extensions import TypedDict  # pydantic requires it before Python 3.12

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
BIG = 2**70 + 1


class Box(BaseModel):
    x: int
    y: int


class Picture(BaseModel):
    image: modelserve.Upload
    mask: bytes | None = None
    extra: list[modelserve.Upload] = []
    top: int = Field(3, ge=1)
    tags: list[str] = []
    box: Box | None = None


class Query(TypedDict, total=False):
    count: int
    ratio: float
    flag: bool
    tags: list[str]
    text: str


@dataclasses.dataclass
class Sound:
    sound: bytes
    rate: int = 1


def echo(param: dict[str, Any]) -> Any:
    return {key: shown(value) for key, value in param.items()}


def shown(value: Any) -> Any:
    """What a test sees of a value: of a file its name, type and size."""
    if isinstance(value, modelserve.Upload):
        assert value.size == len(value.read()) == len(value.file.read())
        return [value.filename, value.content_type, value.size]
    return [shown(item) for item in value] if isinstance(value, list) else value


def query(param: Query) -> Any:
    return param


def picture(param: Picture) -> Any:
    fields = {name: getattr(param, name) for name in Picture.model_fields}
    return {name: len(value) if isinstance(value, bytes) else shown(value) for name, value in fields.items()}


def sound(param: Sound) -> Any:
    return [len(param.sound), param.rate]


def raw_bytes(body: bytes) -> Any:
    return [len(body), zlib.crc32(body)]


def raw_upload(upload: modelserve.Upload) -> Any:
    return [shown(upload), zlib.crc32(upload.read())]


ECHO, QUERY, PICTURE, SOUND = map(backend_of, (echo, query, picture, sound))
BYTES, UPLOAD = map(backend_of, (raw_bytes, raw_upload))
Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Send a request to a backend."""
    current: list[Any] = []

    async def answering(request: Any) -> Any:
        return await current[-1](request)

    with serving(answering) as client:

        def send(backend: Any, method: str = "POST", path: str = "/", **options: Any) -> httpx.Response:
            current.append(backend)
            return client.request(method, path, **options)

        yield send


def result(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()["result"]


def refused(response: httpx.Response, status: int, code: str) -> str:
    document = response.json()
    assert (response.status_code, document["status"], document["code"]) == (status, 0, code), document
    assert document["request_id"] == response.headers["X-Request-ID"]
    return str(document["info"])


@pytest.mark.parametrize("content_type", ["application/json", "application/vnd.x+json", "text/plain", "", None])
def test_json_is_read_whatever_the_client_calls_it(ask: Ask, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert result(ask(ECHO, content=b'{"a": [1, "\xc3\xa4"]}', headers=headers)) == {"a": [1, "ä"]}


def test_curl_s_own_type_is_json_where_the_body_is_an_object(ask: Ask) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert result(ask(ECHO, content=b' {"a": 1}', headers=headers)) == {"a": 1}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_body_in_another_unicode_encoding_is_read(ask: Ask, encoding: str) -> None:
    assert result(ask(ECHO, content='{"text": "ä"}'.encode(encoding))) == {"text": "ä"}


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, BIG, -(2**63), -(2**63) - 1, -BIG])
def test_integers_are_exact(ask: Ask, number: int) -> None:
    answer = ask(ECHO, content=json.dumps({"id": number, "x": 0.00012345678901234567}).encode())
    assert answer.text.count(str(number)) == 1
    assert result(answer) == {"id": number, "x": 0.00012345678901234567}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"x": NaN}', "NaN and Infinity are no JSON numbers"),
        (b'{"x": [-Infinity]}', "NaN and Infinity are no JSON numbers"),
        (b'{"x": ', "send a JSON object"),
        (b"[1]", "not a JSON object"),
        (b"\xef\xbb\xbf", "empty"),
        (b"\xff\xfe{", "utf-16"),
        (b'{"x": 1' + b"0" * 5000 + b"}", "number is infinity"),
    ],
)
def test_what_is_not_an_object_of_json_is_refused_with_the_reason(ask: Ask, body: bytes, words: str) -> None:
    assert words in refused(ask(ECHO, content=body, headers={"Content-Type": "application/json"}), 400, "invalid_body")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_body_the_query_has_the_parameters(ask: Ask, method: str) -> None:
    path = "/?text=good%20morning&n=3&tag=a&tag=b&empty="
    expected = {"text": "good morning", "n": "3", "tag": ["a", "b"], "empty": ""}
    assert result(ask(ECHO, method, path)) == expected
    assert result(ask(ECHO, method)) == {}
    assert result(ask(ECHO, method, path, json={"a": 1})) == {"a": 1}


def test_the_annotation_gives_the_texts_of_a_query_their_types(ask: Ask) -> None:
    answer = result(ask(QUERY, "GET", "/?count=3&ratio=0.5&flag=true&tags=a&text=7"))
    assert answer == {"count": 3, "ratio": 0.5, "flag": True, "tags": ["a"], "text": "7"}
    assert result(ask(QUERY, "GET", '/?tags=["a","b"]')) == {"tags": ["a", "b"]}
    info = refused(ask(QUERY, "GET", "/?count=many"), 422, "validation_failed")
    assert "count" in info
    assert ask(QUERY, "GET", "/?count=many").json()["errors"][0]["field"] == "count"
    refused(ask(QUERY, "GET", "/?text=%ff"), 400, "invalid_body")


def test_a_form_of_text_has_the_parameters(ask: Ask) -> None:
    assert result(ask(ECHO, data={"a": "1", "b": ["x", "y"]})) == {"a": "1", "b": ["x", "y"]}
    assert result(ask(QUERY, data={"count": "3"})) == {"count": 3}


def test_a_form_mixes_files_and_fields(ask: Ask) -> None:
    files = [
        ("image", ("C:\\photos\\cat.png", PNG, "image/png")),
        ("mask", ("mask.bin", b"12345")),
        ("extra", ("a.txt", b"a", "text/plain")),
    ]
    answer = result(ask(PICTURE, files=files, data={"top": "5", "tags": ["a", "b"], "box": '{"x": 1, "y": 2}'}))
    assert answer == {
        "image": ["cat.png", "image/png", len(PNG)],
        "mask": 5,
        "extra": [["a.txt", "text/plain", 1]],
        "top": 5,
        "tags": ["a", "b"],
        "box": {"x": 1, "y": 2},
    }
    assert result(ask(SOUND, files={"sound": ("s.wav", b"abc")}, data={"rate": "8000"})) == [3, 8000]


def test_fields_that_were_left_empty_are_left_out(ask: Ask) -> None:
    files = [("image", ("cat.png", PNG)), ("extra", ("", b"")), ("mask", ("", b""))]
    answer = result(ask(PICTURE, files=files, data={"top": "", "tags": "", "box": "null"}))
    assert answer == {**answer, "mask": None, "extra": [], "top": 3, "tags": [], "box": None}
    assert result(ask(QUERY, "GET", "/?count=&text=")) == {"text": ""}
    # As a browser sends an empty file field beside an empty text field.
    part = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n\r\n'
    body = part % b'a"; filename="' + part % b"b" + b"--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert result(ask(ECHO, content=body, headers=headers)) == {"b": ""}


@pytest.mark.parametrize("empty", [("", b""), (None, b"")], ids=["file", "text"])
def test_files_of_a_list_that_were_not_chosen_are_left_out(ask: Ask, empty: tuple[str | None, bytes]) -> None:
    chosen = [("image", ("cat.png", PNG)), ("extra", ("a.txt", b"a")), ("extra", empty)]
    assert result(ask(PICTURE, files=chosen))["extra"] == [["a.txt", "text/plain", 1]]
    assert result(ask(PICTURE, files=[chosen[0], ("extra", empty)]))["extra"] == []
    named = [*chosen[:2], ("extra", ("empty.txt", b""))]
    assert result(ask(PICTURE, files=named))["extra"][1] == ["empty.txt", "text/plain", 0]


def test_a_form_without_types_has_texts_and_uploads(ask: Ask) -> None:
    answer = result(ask(ECHO, files={"image": ("cat.png", PNG, "image/png")}, data={"top": "5"}))
    assert answer == {"image": ["cat.png", "image/png", len(PNG)], "top": "5"}


def test_a_large_file_lies_on_the_disk(ask: Ask) -> None:
    content = PNG * 20_000  # 5 MB
    assert result(ask(PICTURE, files={"image": ("cat.png", content)}))["image"][2] == len(content)
    assert result(ask(SOUND, files={"sound": ("s", content)})) == [len(content), 1]
    assert result(ask(UPLOAD, content=content))[1] == zlib.crc32(content)

    def spooled(upload: modelserve.Upload) -> Any:
        return cast(Any, upload.file)._rolled

    backend = backend_of(spooled, upload=modelserve.Upload)
    assert result(ask(backend, content=content)) is True
    assert result(ask(backend, content=b"small")) is False


def test_fields_of_a_form_that_do_not_fit_are_named(ask: Ask) -> None:
    response = ask(PICTURE, files={"mask": ("m", b"1")}, data={"top": "0"})
    refused(response, 422, "validation_failed")
    assert [error["field"] for error in response.json()["errors"]] == ["image", "top"]


def test_files_in_json_are_base64_text(ask: Ask) -> None:
    text = base64.b64encode(PNG).decode()
    answer = result(ask(PICTURE, json={"image": text, "mask": f"data:image/png;base64,{text}", "extra": [text]}))
    assert (answer["image"][2], answer["mask"], answer["extra"][0][2]) == (len(PNG), len(PNG), len(PNG))
    response = ask(PICTURE, json={"image": "no base64!"})
    refused(response, 422, "validation_failed")
    assert response.json()["errors"] == [{"field": "image", "problem": "Input should be base64 text"}]
    refused(ask(PICTURE, json={"image": 1}), 422, "validation_failed")


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "text/plain", "", None])
@pytest.mark.parametrize("backend", [BYTES, UPLOAD], ids=["bytes", "upload"])
def test_any_body_is_the_input_of_an_inference_that_takes_one(ask: Ask, backend: Any, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    size, checksum = result(ask(backend, content=PNG, headers=headers))
    if backend is UPLOAD:
        assert size == ["", content_type or "application/octet-stream", len(PNG)]
    assert checksum == zlib.crc32(PNG)


def test_an_inference_that_takes_a_body_takes_a_form_with_one_file_and_base64(ask: Ask) -> None:
    one = {"whatever": ("cat.png", PNG, "image/png")}
    assert result(ask(UPLOAD, files=one))[0] == ["cat.png", "image/png", len(PNG)]
    assert result(ask(BYTES, files=one)) == [len(PNG), zlib.crc32(PNG)]
    assert result(ask(BYTES, json=base64.b64encode(PNG).decode())) == [len(PNG), zlib.crc32(PNG)]
    assert "2 files" in refused(ask(BYTES, files=[("a", b"1"), ("b", b"2")]), 400, "invalid_body")
    assert "the body is empty" in refused(ask(BYTES), 400, "invalid_body")
    assert "the body is empty" in refused(ask(UPLOAD, "GET"), 400, "invalid_body")
    assert "not base64" in refused(ask(BYTES, json="no base64!"), 400, "invalid_body")
    assert "application/octet-stream" in refused(ask(BYTES, json={"a": 1}), 415, "unsupported_media_type")


def test_another_type_is_refused_with_the_accepted_ones(ask: Ask) -> None:
    response = ask(ECHO, content=PNG, headers={"Content-Type": "image/png"})
    info = refused(response, 415, "unsupported_media_type")
    assert "image/png is not understood" in info
    assert "application/json, multipart/form-data" in info
    assert response.headers["Accept"].startswith("application/json")
    assert "multipart/form-data, application/json" in refused(
        ask(PICTURE, content=PNG, headers={"Content-Type": "image/png"}), 415, "unsupported_media_type"
    )


@pytest.mark.parametrize(
    "body", [b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1", b"no form"]
)
def test_a_form_that_is_cut_off_is_refused(ask: Ask, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert "multipart/form-data" in refused(ask(ECHO, content=body, headers=headers), 400, "invalid_body")


def test_a_form_without_a_boundary_is_refused(ask: Ask) -> None:
    headers = {"Content-Type": "multipart/form-data"}
    assert "boundary" in refused(ask(ECHO, content=b"--x--", headers=headers), 400, "invalid_body")


def chunks(content: bytes, size: int = 1000) -> Iterator[bytes]:
    """Send without a length: in chunks."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


def test_a_chunked_body_is_read_up_to_the_limit_of_the_gateway(ask: Ask) -> None:
    body = json.dumps({"text": "x" * 3000}).encode()
    limit = {"X-Modelserve-Max-Body": str(len(body))}
    assert len(result(ask(ECHO, content=chunks(body)))["text"]) == 3000
    assert len(result(ask(ECHO, content=chunks(body), headers=limit))["text"]) == 3000
    assert result(ask(BYTES, content=chunks(body), headers=limit))[0] == len(body)
    less = {"X-Modelserve-Max-Body": str(len(body) - 1)}
    for backend, content_type in ((ECHO, "application/json"), (BYTES, "image/png"), (UPLOAD, "image/png")):
        response = ask(backend, content=chunks(body), headers={**less, "Content-Type": content_type})
        assert f"{len(body) - 1} bytes" in refused(response, 413, "content_too_large")


def test_a_form_has_the_limit_too(ask: Ask) -> None:
    response = ask(ECHO, files={"a": ("a", b"x" * 5000)}, headers={"X-Modelserve-Max-Body": "4000"})
    refused(response, 413, "content_too_large")


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
    ],
    ids=["gzip", "x-gzip", "two members", "deflate", "raw deflate", "identity"],
)
@pytest.mark.parametrize("size", [10, 1_000_000])
def test_packed_bodies_are_unpacked(ask: Ask, encoding: str, pack: Callable[[bytes], bytes], size: int) -> None:
    headers = {"Content-Encoding": encoding}
    body = json.dumps({"text": "x" * size}).encode()
    assert len(result(ask(ECHO, content=pack(body), headers=headers))["text"]) == size
    assert result(ask(BYTES, content=chunks(pack(body), 101), headers=headers)) == [len(body), zlib.crc32(body)]


def test_the_limit_holds_for_the_unpacked_body(ask: Ask) -> None:
    bomb = gzip.compress(b"\0" * 70_000_000, 1)  # 300 kB
    response = ask(BYTES, content=bomb, headers={"Content-Encoding": "gzip"})
    assert f"{64 * 2**20} bytes" in refused(response, 413, "content_too_large")
    headers = {"Content-Encoding": "gzip", "X-Modelserve-Max-Body": "1000"}
    assert "unpacked" in refused(
        ask(BYTES, content=gzip.compress(b"\0" * 1001), headers=headers), 413, "content_too_large"
    )
    assert result(ask(BYTES, content=gzip.compress(b"\0" * 1000), headers=headers))[0] == 1000


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
def test_other_encodings_are_refused_with_those_that_are_understood(ask: Ask, encoding: str) -> None:
    response = ask(ECHO, content=b"{}", headers={"Content-Encoding": encoding})
    assert "gzip, deflate" in refused(response, 415, "unsupported_media_type")
    assert response.headers["Accept-Encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    "body",
    [b'{"a": 1}', gzip.compress(b'{"a": 1}')[:-4], gzip.compress(b"{}") + b"garbage"],
    ids=[
        "not packed",
        "cut off",
        "more behind it",
    ],  # packed content has the time: no two workers of pytest agree on it
)
def test_a_body_that_is_not_packed_as_its_header_says_is_refused(ask: Ask, body: bytes) -> None:
    assert "gzip" in refused(ask(ECHO, content=body, headers={"Content-Encoding": "gzip"}), 400, "invalid_body")


def test_an_inference_that_is_typed_by_a_list_of_a_batch_takes_bodies(ask: Ask) -> None:
    class Batch(modelserve.AlgoBackend):
        def _model_inference_batch(self, bodies: list[bytes]) -> list[int]:  # type: ignore[override]
            return [len(body) for body in bodies]

    assert result(ask(Batch(), content=PNG)) == len(PNG)


def test_the_document_says_what_is_taken() -> None:
    document = PICTURE.types.document()
    assert document["consumes"] == ["multipart/form-data", "application/json"]
    assert document["input"]["properties"]["image"] == {"type": "string", "format": "binary", "title": "Image"}
    assert document["input"]["properties"]["extra"]["items"] == {"type": "string", "format": "binary"}
    assert UPLOAD.types.document()["input"] == {"type": "string", "format": "binary"}
    assert UPLOAD.types.document()["consumes"] == ["application/octet-stream", "multipart/form-data"]
    assert ECHO.types.document()["consumes"][0] == "application/json"


def test_a_recursive_type_with_a_file_is_read() -> None:
    class Node(BaseModel):
        content: bytes
        children: list[Node] = []

    def inference(node: Node) -> Any: ...

    inference.__annotations__ = {"node": Node}
    Node.model_rebuild(_types_namespace={"Node": Node})
    text = base64.b64encode(PNG).decode()
    node = Types(inference).check({"content": text, "children": [{"content": text}]})
    assert node.children[0].content == PNG


def test_a_warm_up_names_a_file_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "example.png").write_bytes(PNG)
    (tmp_path.parent / "secret").write_bytes(PNG)
    upload = warmup_params(UPLOAD.types, {"file": "example.png"}, tmp_path)
    assert shown(upload) == ["example.png", "image/png", len(PNG)]
    assert warmup_params(BYTES.types, {"file": "example.png"}, tmp_path) == PNG
    assert warmup_params(ECHO.types, {"file": "example.png"}, tmp_path) == {"file": "example.png"}
    warmup = {"image": {"file": "example.png"}, "mask": {"file": "example.png"}, "extra": [{"file": "example.png"}]}
    picture = warmup_params(PICTURE.types, {**warmup, "top": 1}, tmp_path)
    assert shown(picture.image) == shown(picture.extra[0]) == ["example.png", "image/png", len(PNG)]
    assert (picture.mask, picture.top) == (PNG, 1)
    with pytest.raises(ValueError, match="not in the package's directory"):
        warmup_params(PICTURE.types, {"image": {"file": "../secret"}}, tmp_path)
    for odd in (
        {"file": "../secret"},
        {"file": "none"},
        {"file": "."},
        {"file": 1},
        {},
        {"file": "example.png", "a": 1},
    ):
        with pytest.raises(ValueError, match=r"not in the package's directory|takes a file"):
            warmup_params(UPLOAD.types, odd, tmp_path)


def test_the_request_has_the_client_that_the_gateway_names() -> None:
    async def answering(request: Any) -> Any:
        return JSONResponse(request.client.host)

    with serving(answering) as client:
        assert client.get("/", headers={"X-Forwarded-For": "192.0.2.7"}).json() == "192.0.2.7"


def test_a_client_that_leaves_within_its_body_is_no_failed_inference(
    ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    response = ask(ECHO, json={})
    with socket.create_connection((response.url.host, response.url.port or 0)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n{")
    assert result(ask(ECHO, json={"a": 1})) == {"a": 1}
    assert "failed" not in caplog.text
