"""The smoke test's request, against real backends, and its judgement of every kind of answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import modelserve
import pytest
from modelserve.cli import smoke
from modelserve.cli.smoke import ask, judge
from modelserve.config.section import Section
from pydantic import BaseModel
from replica_server import backend_of, serving
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

PNG = b"\x89PNG"
Smoke = Callable[..., tuple[bool, str]]


@pytest.fixture
def ask_backend(tmp_path: Path) -> Smoke:
    """Send the warm-up request of a section to an inference."""
    package = tmp_path / "Echo"
    package.mkdir()
    (package / "cat.png").write_bytes(PNG)

    def ask_it(inference: Any, warmup: dict[str, Any]) -> tuple[bool, str]:
        backend = backend_of(inference)

        async def answering(request: Request) -> Response:
            if request.url.path == "/echo/schema":
                return JSONResponse(backend.types.document())
            return await backend(request)

        with serving(answering) as client:
            section = Section(name="Echo", backend="Echo", route="echo", method=("POST",), warmup=warmup)
            return ask(f"{client.base_url}/echo".replace("//echo", "/echo"), section, {}, tmp_path)

    return ask_it


def upload(file: modelserve.Upload) -> Any:
    return [file.filename, file.content_type, file.size]


class Picture(BaseModel):
    image: bytes
    box: dict[str, str]


def picture_of(param: Picture) -> Any:
    return [len(param.image), param.box]


def echo(params: dict[str, Any]) -> Any:
    return params


def events(params: dict[str, Any]) -> Iterator[Any]:
    yield modelserve.Event("a")
    if params["fail"]:
        raise ValueError("odd")


def text(params: dict[str, Any]) -> Iterator[Any]:
    yield "a"
    if params["fail"]:
        raise ValueError("odd")


def endless(params: dict[str, Any]) -> Iterator[Any]:
    while True:
        yield b"x" * 1000


def picture(params: dict[str, Any]) -> Any:
    return PNG


def test_a_file_that_the_warm_up_names_is_sent(ask_backend: Smoke) -> None:
    passed, line = ask_backend(upload, {"file": "cat.png"})
    assert passed
    assert "/echo <cat.png, 4 bytes> -> " in line
    assert '"image/png", 4]' in line
    passed, line = ask_backend(upload, {"file": "none.png"})
    assert not passed
    assert "'none.png', which is not in the package's directory" in line


def test_a_file_in_a_field_is_sent_as_base64(ask_backend: Smoke) -> None:
    passed, line = ask_backend(picture_of, {"image": {"file": "cat.png"}, "box": {"file": "1"}})
    assert passed
    assert '"result": [4, {"file": "1"}]' in line
    assert '{"image": {"file": "cat.png"}, ' in line


def test_an_algorithm_that_takes_objects_gets_such_an_object(ask_backend: Smoke) -> None:
    passed, line = ask_backend(echo, {"file": "cat.png"})
    assert passed
    assert '"result": {"file": "cat.png"}' in line


def test_an_old_replica_and_one_that_has_no_schema_get_an_object(site: Any, tmp_path: Path) -> None:
    site.answers["/echo"] = (200, b'{"status": 1}')
    section = Section(name="Echo", backend="Echo", route="echo", warmup={"file": "cat.png"})
    for schema in ((200, b"{}"), (200, b"[]"), (200, b"x"), (404, b"")):
        site.answers["/echo/schema"] = schema
        assert ask(f"{site.url}/echo", section, {}, tmp_path)[0]
        assert site.asked[-1].body == b'{"file": "cat.png"}'


@pytest.mark.parametrize("inference", [events, text])
@pytest.mark.parametrize("fail", [False, True])
def test_a_stream_is_read_to_its_end(ask_backend: Smoke, inference: Any, fail: bool) -> None:
    passed, line = ask_backend(inference, {"fail": fail})
    assert passed is not fail
    assert "text/" in line or "got no answer" in line


def test_bytes_are_an_answer(ask_backend: Smoke) -> None:
    passed, line = ask_backend(picture, {})
    assert passed
    assert line.endswith("-> application/octet-stream, 4 bytes")


@pytest.mark.parametrize(("limit", "words"), [("MAX_ANSWER_BYTES", "longer than"), ("TIMEOUT_S", "did not end within")])
def test_an_answer_without_an_end_fails(
    ask_backend: Smoke, monkeypatch: pytest.MonkeyPatch, limit: str, words: str
) -> None:
    monkeypatch.setattr(smoke, limit, 0.5)
    passed, line = ask_backend(endless, {})
    assert not passed
    assert words in line


@pytest.mark.parametrize(
    ("content_type", "content", "passed", "shown"),
    [
        ("application/json; charset=utf-8", b'{"status": 1}', True, '{"status": 1}'),
        ("application/json", b'{"status": 0}', False, '{"status": 0}'),
        ("", b"[1]", True, "[1]"),
        ("image/png", PNG, True, "image/png, 4 bytes"),
        ("text/plain; charset=utf-8", b"a\nb", True, "text/plain, 3 bytes: a\\nb"),
        ("text/event-stream", b"data: 1\n\n", True, "text/event-stream, 9 bytes: data: 1"),
        ("text/event-stream", b"data: 1\n\nevent: error\ndata: {}\n\n", False, "event: error"),
        ("application/x-ndjson", b'1\n{"a": 2}\n', True, "application/x-ndjson"),
        ("application/x-ndjson", b'1\n{"status": 0}\n', False, "application/x-ndjson"),
        ("application/x-ndjson", b"", True, "application/x-ndjson, 0 bytes"),
    ],
)
def test_every_kind_of_answer_is_judged(content_type: str, content: bytes, passed: bool, shown: str) -> None:
    verdict, line = judge(content_type, content)
    assert verdict is passed
    assert shown in line
