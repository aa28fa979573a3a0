"""The base class: what a package's two methods need to do is little, and what clients get is what was promised."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import namedtuple
from typing import Any

import modelserve
import numpy as np
import pytest
from modelserve.replica.legacy import json_request
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response


class Echo(modelserve.AlgoBackend):
    def _model_init(self, model_path_lst: list[str] | None = None) -> None:
        self.paths = model_path_lst

    def _model_inference(self, param_dict: dict[str, Any]) -> Any:
        return param_dict


class Fixed(modelserve.AlgoBackend):
    """Answers ``result``, whatever it is asked."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def _model_inference(self, param_dict: dict[str, Any]) -> Any:
        return self.result


def ask(backend: modelserve.AlgoBackend, body: Any, method: str = "GET", request_id: str = "") -> Response:
    """Send a body, as JSON unless it is bytes, as the HTTP server would."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    headers = [(b"x-request-id", request_id.encode())] if request_id else []
    scope = {"type": "http", "method": method, "path": "/", "query_string": b"", "headers": headers}
    return asyncio.run(backend(Request(scope, receive)))


def read(response: Response) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(bytes(response.body))
    return document


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_answer_has_status_1_the_result_and_the_host(method: str) -> None:
    response = ask(Echo(), {"a": [1, "ä"]}, method)
    answer = read(response)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert (answer["status"], answer["result"]) == (1, {"a": [1, "ä"]})
    assert answer["info"].startswith("Result from ")


@pytest.mark.parametrize("body", [b"{", b"text", b"{'a': 1}", b'{"a": 1} x', b"\xff", b"[1]", b"1", b"null", b'"text"'])
def test_a_body_that_is_no_json_object_is_answered_400(body: bytes) -> None:
    response = ask(Echo(), body)
    assert response.status_code == 400
    assert read(response)["status"] == 0
    assert "body" in read(response)["info"]


def test_a_failed_inference_is_answered_500_and_its_cause_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(modelserve.AlgoBackend):
        def _model_inference(self, param_dict: dict[str, Any]) -> Any:
            raise ValueError("the secret cause")

    response = ask(Broken(), {}, request_id="abc123")
    answer = read(response)
    assert response.status_code == 500
    assert (answer["status"], answer["request_id"]) == (0, "abc123")
    assert response.headers["x-request-id"] == "abc123"
    assert answer["info"].startswith("Result from ")
    assert b"secret cause" not in response.body
    assert b"Traceback" not in response.body
    assert "abc123" in caplog.text
    assert "ValueError: the secret cause" in caplog.text


def test_a_request_without_an_id_gets_one_of_its_own() -> None:
    ids = {read(ask(Fixed(object()), {}))["request_id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.arange(6).reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        ({"scores": np.array([0.5], dtype=np.float16)}, {"scores": [0.5]}),
        ({1: "one"}, {"1": "one"}),
        ((1, 2), [1, 2]),
        ({3}, [3]),
        (namedtuple("Point", "x y")(1, 2), [1, 2]),
        ({"raw": b"text"}, {"raw": "text"}),
        (None, None),
    ],
)
def test_a_result_becomes_json(result: Any, expected: Any) -> None:
    response = ask(Fixed(result), {})
    assert (response.status_code, read(response)["result"]) == (200, expected)


@pytest.mark.parametrize("result", [object(), [b"\xff"], 1j])
def test_a_result_that_json_has_no_form_for_is_answered_500(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    response = ask(Fixed(result), {})
    assert (response.status_code, read(response)["status"]) == (500, 0)
    assert "JSON" in caplog.text or "utf-8" in caplog.text


@pytest.mark.parametrize(
    ("model_path", "paths"),
    [
        ("", None),
        ("/zoo,a.pb", ["/zoo/a.pb"]),
        ("/zoo,a.pb,1f/b.pb", ["/zoo/a.pb", "/zoo/1f/b.pb"]),
        ("zoo,a.pb", ["zoo/a.pb"]),
    ],
)
def test_the_model_path_becomes_a_list_of_paths(model_path: str, paths: list[str] | None) -> None:
    assert Echo(model_path).paths == paths


def test_a_backend_without_models_may_leave_the_argument_out() -> None:
    class Simple(modelserve.AlgoBackend):
        def _model_init(self) -> None:
            self.word = "ready"

        def _model_inference(self, param_dict: dict[str, Any]) -> Any:
            return self.word

    assert read(ask(Simple(""), {}))["result"] == "ready"


def test_a_load_that_fails_is_not_swallowed() -> None:
    class Broken(modelserve.AlgoBackend):
        def _model_init(self, model_path_lst: list[str] | None = None) -> None:
            raise FileNotFoundError("no weights")

    with pytest.raises(FileNotFoundError, match="no weights"):
        Broken("/zoo,a.pb")


def test_a_backend_may_define_the_batch_form_alone() -> None:
    class Batch(modelserve.AlgoBackend):
        def _model_inference_batch(self, param_dicts: list[dict[str, Any]]) -> list[Any]:
            return [ValueError("odd") if one["x"] % 2 else one["x"] * 10 for one in param_dicts]

    assert read(ask(Batch(), {"x": 2}))["result"] == 20
    assert ask(Batch(), {"x": 3}).status_code == 500


def test_a_backend_that_defines_no_inference_says_so_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Empty(modelserve.AlgoBackend):
        pass

    assert ask(Empty(), {}).status_code == 500
    assert "Empty defines neither" in caplog.text


def test_the_batch_form_answers_each_item_by_default() -> None:
    assert Echo()._model_inference_batch([{"x": 1}, {"x": 2}]) == [{"x": 1}, {"x": 2}]


def test_an_inference_does_not_block_the_event_loop() -> None:
    others_ran = threading.Event()

    class Slow(modelserve.AlgoBackend):
        def _model_inference(self, param_dict: dict[str, Any]) -> Any:
            return others_ran.wait(5)

    async def other() -> None:
        await asyncio.sleep(0.05)
        others_ran.set()

    async def both() -> Any:
        response, _ = await asyncio.gather(Slow()(json_request({})), other())
        return read(response)

    assert asyncio.run(both())["result"] is True


@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_inferences_run_at_once_as_the_backend_allows(threads: int) -> None:
    class Counting(modelserve.AlgoBackend):
        lock = threading.Lock()
        running = most = 0

        def _model_inference(self, param_dict: dict[str, Any]) -> Any:
            with self.lock:
                self.running += 1
                self.most = max(self.most, self.running)
            threading.Event().wait(0.02)
            with self.lock:
                self.running -= 1

    Counting.threads = threads
    backend = Counting()

    async def ask_many() -> None:
        await asyncio.gather(*(backend(json_request({})) for _ in range(9)))

    asyncio.run(ask_many())
    assert backend.most == threads


def test_a_request_that_does_not_fit_the_annotation_is_answered_422_before_the_model_sees_it() -> None:
    class Question(BaseModel):
        text: str
        top: int = 3

    class Answer(BaseModel):
        labels: list[str]

    class Typed(modelserve.AlgoBackend):
        def _model_init(self, model_path_lst: list[str] | None = None) -> None:
            self.seen: list[Question] = []

        def _model_inference(self, param_dict):  # type: ignore[no-untyped-def, override]
            self.seen.append(param_dict)
            return Answer(labels=[param_dict.text] * param_dict.top)

    # Local names: what `from __future__ import annotations` makes of them cannot be looked up.
    Typed._model_inference.__annotations__ = {"param_dict": Question, "return": Answer}
    backend = Typed()
    assert read(ask(backend, {"text": "a"}))["result"] == {"labels": ["a", "a", "a"]}
    response = ask(backend, {"top": "many"}, request_id="abc")
    answer = read(response)
    assert (response.status_code, answer["status"], answer["request_id"]) == (422, 0, "abc")
    assert [error["field"] for error in answer["errors"]] == ["text", "top"]
    assert "top" in answer["info"]
    assert backend.seen == [Question(text="a")]


def test_an_async_inference_runs_on_the_event_loop_as_many_as_are_asked() -> None:
    class Awaiting(modelserve.AlgoBackend):
        running = most = 0

        async def _model_inference(self, param_dict: dict[str, Any]) -> Any:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.02)
            self.running -= 1
            return threading.current_thread() is threading.main_thread()

    backend = Awaiting()

    async def ask_many() -> list[Response]:
        return await asyncio.gather(*(backend(json_request({})) for _ in range(9)))

    assert all(read(response)["result"] for response in asyncio.run(ask_many()))
    assert backend.most == 9


@pytest.mark.parametrize("error", [SystemExit(1), StopIteration("early"), ValueError("odd")])
def test_an_async_inference_that_fails_is_answered_500_and_the_replica_lives(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(modelserve.AlgoBackend):
        async def _model_inference(self, param_dict: dict[str, Any]) -> Any:
            raise error

    assert ask(Broken(), {}).status_code == 500
    assert "inference failed" in caplog.text


def test_an_async_inference_may_be_typed() -> None:
    class Typed(modelserve.AlgoBackend):
        async def _model_inference(self, question):  # type: ignore[no-untyped-def, override]
            return question.text

    class Question(BaseModel):
        text: str

    Typed._model_inference.__annotations__ = {"question": Question, "return": str}
    backend = Typed()
    assert backend.types.output is not None
    assert read(ask(backend, {"text": "a"}))["result"] == "a"
    assert ask(backend, {}).status_code == 422


def test_an_async_batch_form_is_refused_when_the_class_loads() -> None:
    class Batch(modelserve.AlgoBackend):
        async def _model_inference_batch(self, param_dicts: list[dict[str, Any]]) -> list[Any]:  # type: ignore[override]
            return []

    with pytest.raises(TypeError, match=r"Batch\._model_inference_batch cannot be async; _model_inference can"):
        Batch()
