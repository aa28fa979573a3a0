"""A class with an ASGI application: requests, WebSockets, start and end; and what a class without one answers."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import warnings
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from local import serving
from modelserve.replica.author_app import is_asgi
from modelserve.replica.deployment import Algorithm
from modelserve.serve.contract import AppArgs, UserConfig
from starlette.applications import Starlette
from starlette.websockets import WebSocketDisconnect

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the version of httpx that Starlette would rather have
    from starlette.testclient import TestClient

Make = Callable[..., AppArgs]

APP = """
import asyncio, contextlib, threading
import modelserve
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

class Echo(BASE):
    def BEGIN:
        self.steps = ["loaded"]
        self.thread = threading.get_ident()
        self.app = Starlette(
            routes=[
                Route("/", self.home, methods=["GET", "DELETE"]),
                Route("/items/{item}", self.item),
                Route("/slow", self.slow),
                Route("/fail", self.fail),
                Route("/fatal", self.fatal),
                WebSocketRoute("/live", self.live),
            ],
            lifespan=self.lifespan,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app):
        self.steps.append("started")
        yield
        self.steps.append("ended")

    async def home(self, request):
        return JSONResponse({"steps": self.steps, "method": request.method, "query": request.url.query})

    async def item(self, request):
        url = request.url_for("item", item=1)
        return JSONResponse([request.path_params["item"], request.scope["root_path"], str(url)])

    async def slow(self, request):
        await asyncio.sleep(10)

    async def fail(self, request):
        raise ValueError("the secret cause")

    async def fatal(self, request):
        raise modelserve.Fatal("the GPU is lost")

    async def live(self, websocket):
        await websocket.accept()
        while True:
            await websocket.send_text((await websocket.receive_text()).upper())
"""
SHORT = APP.replace("BASE", "modelserve.AlgoBackend").replace("BEGIN", "_model_init(self, model_path_lst=None)")
LEGACY = APP.replace("(BASE)", "").replace("BEGIN", "__init__(self, model_path)")
KINDS = pytest.mark.parametrize("source", [SHORT, LEGACY], ids=["short", "legacy"])


@KINDS
def test_an_app_gets_what_is_below_the_route(make: Make, source: str) -> None:
    with serving(make(source), warmup={}) as client:
        home = client.get("/echo?a=1&b=%20x")
        assert home.json() == {"steps": ["loaded", "started"], "method": "GET", "query": "a=1&b=%20x"}
        assert client.get("/echo/").json()["steps"] == ["loaded", "started"]
        assert client.delete("/echo").json()["method"] == "DELETE"  # its methods are its own
        item = client.get("/echo/items/a%2Fb").status_code, client.get("/echo/items/cat").json()
        assert item == (404, ["cat", "/echo", str(client.base_url.join("/echo/items/1"))])
        assert client.get("/echo/nothing").status_code == 404
        assert client.get("/echo/schema").json()["name"] == "Echo"
        assert client.get("/echoes").json()["code"] == "not_found"


@KINDS
def test_an_error_and_a_time_out_of_an_app_are_answered_in_json(make: Make, source: str) -> None:
    with serving(make(source), request_timeout=0.2) as client:
        slow = client.get("/echo/slow", headers={"X-Request-ID": "abc"})
        assert (slow.status_code, slow.json()["code"], slow.json()["request_id"]) == (504, "inference_timeout", "abc")
        fail = client.get("/echo/fail")
        assert fail.status_code == 500
        assert "secret" not in fail.text


@KINDS
def test_an_app_starts_before_the_warm_up_and_ends_with_the_replica(make: Make, source: str) -> None:
    algorithm = Algorithm(make(source).model_dump())
    with TestClient(algorithm.application) as client:
        assert client.get("/").json()["steps"] == ["loaded", "started"]
    assert algorithm.backend.instance.steps == ["loaded", "started", "ended"]


@KINDS
def test_an_app_answers_websockets(make: Make, source: str) -> None:
    algorithm = Algorithm(make(source).model_dump())
    with TestClient(algorithm.application) as client:
        with client.websocket_connect("/live") as websocket:
            for word in ("one", "two"):
                websocket.send_text(word)
                assert websocket.receive_text() == word.upper()
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/nothing"):
            pass


def test_a_fatal_error_of_an_app_makes_the_replica_unhealthy(make: Make) -> None:
    algorithm = Algorithm(make(SHORT).model_dump())
    with TestClient(algorithm.application, raise_server_exceptions=False) as client:
        assert client.get("/fatal").status_code == 500
    assert algorithm.health.reason == "fatal error Fatal: the GPU is lost"


WITH_INFERENCE = """
import threading
import modelserve
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

class Echo(modelserve.AlgoBackend):
    def _model_init(self, model_path_lst=None):
        self.thread = threading.get_ident()
        self.app = Starlette(routes=[Route("/twice", self.twice, methods=["POST"]), Route("/all", self.all)])

    def _model_inference(self, param_dict):
        if "all" in param_dict:
            return iter(str(number) * 1000 for number in range(param_dict["all"]))
        return [param_dict["x"] * 2, threading.get_ident() == self.thread]

    async def twice(self, request):
        return JSONResponse(await self.infer(await request.json()))

    async def all(self, request):
        return StreamingResponse(await self.infer({"all": int(request.query_params["n"])}))
"""


def test_an_app_may_ask_the_inference_in_the_thread_of_the_model(make: Make) -> None:
    with serving(make(WITH_INFERENCE), warmup={"x": 1}) as client:
        assert client.post("/echo/twice", json={"x": 21}).json() == [42, True]
    with pytest.raises(KeyError), serving(make(WITH_INFERENCE), warmup={"y": 1}):
        pass


def test_an_app_may_answer_with_the_inference_s_stream_and_frees_its_thread(make: Make) -> None:
    with serving(make(WITH_INFERENCE)) as client:
        assert client.get("/echo/all?n=2").text == "0" * 1000 + "1" * 1000
        with client.stream("GET", "/echo/all?n=1000000") as response:
            next(response.iter_raw())
        assert client.post("/echo/twice", json={"x": 21}).json() == [42, True]


PLAIN = """
import modelserve

class Model:
    def __call__(self, image):
        return "detected"

class Echo(modelserve.AlgoBackend):
    def _model_init(self, model_path_lst=None):
        self.app = Model()

    def _model_inference(self, param_dict):
        return self.app("image")
"""
ORIGINAL = """
class Echo:
    def __init__(self, model_path):
        from starlette.applications import Starlette
        self.app = Starlette()

    async def __call__(self, request):
        return {"status": 1, "result": request.scope["path"]}
"""


def test_a_model_that_is_called_app_is_no_application(make: Make) -> None:
    with serving(make(PLAIN)) as client:
        assert client.get("/echo").json()["result"] == "detected"


def test_a_class_of_the_original_framework_goes_on_answering_itself(make: Make) -> None:
    with serving(make(ORIGINAL)) as client:
        assert client.get("/echo/some/path").json()["result"] == "/echo/some/path"


@pytest.mark.parametrize("path", ["/echo/more", "/echo/schema/more", "/echo//"])
def test_below_its_route_a_class_without_an_app_answers_404(make: Make, path: str) -> None:
    with serving(make(PLAIN)) as client:
        answer = client.get(path)
    assert (answer.status_code, answer.json()["status"], answer.json()["code"]) == (404, 0, "not_found")
    assert answer.json()["info"].endswith(f"{path} is not answered here; use /echo")


def test_a_class_without_an_app_refuses_websockets(make: Make) -> None:
    algorithm = Algorithm(make(PLAIN).model_dump())
    with (
        TestClient(algorithm.application) as client,
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/"),
    ):
        pass


async def function(scope: Any, receive: Any, send: Any) -> None: ...


async def two(scope: Any, receive: Any) -> None: ...


class Instance:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class NoCoroutine:
    def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize("value", [Starlette(), function, Instance(), Instance().__call__])
def test_an_application_is_a_coroutine_function_of_three_parameters(value: Any) -> None:
    assert is_asgi(value)


@pytest.mark.parametrize("value", [None, "app", two, NoCoroutine(), Starlette, Instance, object(), print, len])
def test_anything_else_is_none(value: Any) -> None:
    assert not is_asgi(value)


FATAL = """
import asyncio, threading
import modelserve

class LostDevice(Exception): ...

class Echo(modelserve.AlgoBackend):
    fatal_errors = (LostDevice,)
    sick = False
    go = threading.Event()

    def _model_inference(self, p):
        match p.get("do"):
            case "fatal": raise modelserve.Fatal("the GPU is lost")
            case "own": raise LostDevice("bus 3")
            case "http": raise modelserve.HTTPError(404, "no such id", code="no_such_id", id=7)
            case "hang": self.go.wait(30)
            case "sick": self.sick = True
            case "stream": return self.stream()
        return 1

    def stream(self):
        yield 1
        raise LostDevice("bus 4")

    def check_health(self):
        if self.sick:
            raise RuntimeError("no licence")
"""
FATAL_LEGACY = """
import modelserve

class Echo:
    fatal_errors = [ZeroDivisionError]
    sick = False

    def __init__(self, model_path): ...

    async def __call__(self, request):
        match (await request.json()).get("do"):
            case "fatal": raise modelserve.Fatal("the GPU is lost")
            case "own": 1 / 0
            case "http": raise modelserve.HTTPError(404, "no such id", code="no_such_id", id=7)
            case "sick": self.sick = True
        return {"status": 1, "result": 1}

    async def check_health(self):
        if self.sick:
            raise RuntimeError("no licence")
"""
BOTH = pytest.mark.parametrize("source", [FATAL, FATAL_LEGACY], ids=["short", "legacy"])


def ask(algorithm: Algorithm, **params: Any) -> httpx.Response:
    with TestClient(algorithm.application) as client:
        answer: httpx.Response = client.request("GET", "/", content=json.dumps(params).encode())
    return answer


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


def reason_of(algorithm: Algorithm) -> str:
    try:
        asyncio.run(algorithm.check_health())
    except Exception as error:
        return str(error)
    return ""


@BOTH
@pytest.mark.parametrize("do", ["fatal", "own"])
def test_a_fatal_error_is_answered_and_ends_the_replica_s_health(
    make: Make, source: str, do: str, caplog: pytest.LogCaptureFixture
) -> None:
    algorithm = Algorithm(make(source).model_dump())
    assert reason_of(algorithm) == ""
    answer = ask(algorithm, do=do)
    assert (answer.status_code, answer.json()["code"]) == (500, "replica_failed")
    assert "lost" not in answer.text
    assert "Traceback" in caplog.text
    assert caplog.text.count("replica is unhealthy: fatal error ") == 1
    assert reason_of(algorithm).startswith("fatal error ")


@BOTH
def test_an_error_that_the_author_words_is_answered_so_and_noted_without_a_traceback(
    make: Make, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    algorithm = Algorithm(make(source).model_dump())
    answer = ask(algorithm, do="http")
    assert (answer.status_code, answer.json()["code"], answer.json()["id"]) == (404, "no_such_id", 7)
    (record,) = [record for record in caplog.records if "no such id" in record.getMessage()]
    assert (record.levelno, record.exc_info) == (logging.INFO, None)
    assert reason_of(algorithm) == ""


@BOTH
def test_the_class_s_own_check_is_called(make: Make, source: str) -> None:
    algorithm = Algorithm(make(source).model_dump())
    assert reason_of(algorithm) == ""
    ask(algorithm, do="sick")
    assert reason_of(algorithm) == "check_health raised RuntimeError: no licence"


def test_a_fatal_error_in_the_middle_of_a_stream_counts(make: Make) -> None:
    algorithm = Algorithm(make(FATAL).model_dump())
    ask(algorithm, do="stream")
    assert reason_of(algorithm) == "fatal error LostDevice: bus 4"


def test_an_inference_that_hangs_is_noticed_without_being_asked(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelserve.replica.health.SHORTEST_GRACE_S", 1)
    noticed = threading.Event()
    monkeypatch.setattr("modelserve.replica.ray_compat.check_health_now", noticed.set)

    async def hang() -> tuple[int, bool, str]:
        algorithm = Algorithm(make(FATAL).model_dump())
        await algorithm.reconfigure(UserConfig(request_timeout=0.2).to_serve())
        transport = httpx.ASGITransport(algorithm.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            answer = await client.request("GET", "/", content=b'{"do": "hang"}', headers={"x-request-id": "abc"})
            early = noticed.is_set()
            await until(noticed.is_set)
        algorithm.backend.instance.go.set()
        return answer.status_code, early, algorithm.health.reason

    status, early, reason = asyncio.run(hang())
    assert (status, early, noticed.is_set()) == (504, False, True)
    assert reason.startswith("the inference of request abc has run for ")


CANCELLED = """
import asyncio
import modelserve

class Echo(modelserve.AlgoBackend):
    async def _model_inference(self, p):
        raise asyncio.CancelledError("by a library")
"""


@pytest.mark.parametrize(
    "source",
    [
        CANCELLED,
        CANCELLED.replace("async def", "def"),
        "import asyncio\nclass Echo:\n    def __init__(self, m): ...\n"
        "    async def __call__(self, request): raise asyncio.CancelledError('by a library')\n",
    ],
    ids=["async", "short", "legacy"],
)
def test_a_library_that_cancels_itself_is_an_error_like_any_other(make: Make, source: str) -> None:
    answer = ask(Algorithm(make(source).model_dump()))
    assert (answer.status_code, answer.json()["code"]) == (500, "inference_failed")


LOOPS = """
import asyncio, time

class Echo:
    def __init__(self, model_path):
        self.loop = asyncio.get_event_loop()
        self.queue = asyncio.Queue()

    async def __call__(self, request):
        time.sleep((await request.json()).get("sleep", 0))
        await self.queue.put(self.loop is asyncio.get_running_loop())
        return {"status": 1, "result": [await self.queue.get(), await self.loop.run_in_executor(None, str, 1)]}
"""


def test_a_class_of_the_original_framework_is_made_with_the_event_loop_on_which_it_answers(make: Make) -> None:
    answer = ask(Algorithm(make(LOOPS).model_dump()))
    assert answer.json()["result"] == [True, "1"]


def test_an_inference_that_blocks_its_own_event_loop_is_noticed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelserve.replica.health.SHORTEST_GRACE_S", 0.2)

    async def hang() -> str:
        algorithm = Algorithm(make(LOOPS).model_dump())
        await algorithm.reconfigure(UserConfig(request_timeout=0.1).to_serve())
        transport = httpx.ASGITransport(algorithm.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            assert (await client.request("GET", "/", content=b'{"sleep": 2}')).status_code == 504
            await until(algorithm.health.hang)
            hung = algorithm.health.hang()
            await until(lambda: not algorithm.health.hang())  # it ended after all
            return hung

    assert asyncio.run(hang()).startswith("the inference of a request without an id has run for ")
