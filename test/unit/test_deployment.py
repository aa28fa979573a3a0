"""Inside a replica: packages are imported as their authors expect, both kinds of class answer, methods are checked."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from modelserve.replica.deployment import Algorithm
from modelserve.replica.legacy import json_request
from modelserve.replica.loader import load_class, model_path
from modelserve.replica.package import Backend
from modelserve.replica.try_once import main as trial
from modelserve.serve.contract import AppArgs
from starlette.responses import Response

SHORT = """
import modelserve

class Echo(modelserve.AlgoBackend):
    config = None
    asked = 0

    def _model_init(self, model_path_lst=None):
        self.texts = [open(path).read() for path in model_path_lst or []]

    def reconfigure(self, config):
        self.config = config

    def _model_inference(self, param_dict):
        self.asked += 1
        if "fail" in param_dict:
            raise ValueError(param_dict["fail"])
        return {"got": param_dict, "config": self.config, "texts": self.texts, "asked": self.asked}
"""

# As the original's template has it: loading swallows errors, the class answers for itself.
ORIGINAL = """
import os
import socket

class algo_backend:
    def __init__(self, model_path):
        self.config = None
        try:
            if model_path:
                directory, *files = model_path.split(",")
                self._model_init([os.path.join(directory, file) for file in files])
            else:
                self._model_init()
        except Exception:
            pass

    def reconfigure(self, config):
        self.config = config

    def _model_init(self, model_path_lst=None):
        import json
        self.words = json.load(open(model_path_lst[0])) if model_path_lst else {}

    def _model_inference(self, param_dict):
        return {"word": self.words[param_dict["text"]], "config": self.config}

    async def __call__(self, starlette_request):
        info = "Result from " + socket.gethostname()
        try:
            param_dict = await starlette_request.json()
            return {"status": 1, "result": self._model_inference(param_dict), "info": info}
        except Exception as error:
            return {"status": 0, "info": info + ": " + repr(error)}
"""

Make = Callable[..., AppArgs]


@pytest.fixture
def words(tmp_path: Path) -> str:
    text = '{"hello": "world"}'
    file = tmp_path / "model" / hashlib.sha256(text.encode()).hexdigest() / "words.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return str(file)


def ask(answering: Callable[..., Awaitable[Response]], params: Any, method: str = "GET") -> tuple[int, dict[str, Any]]:
    response = asyncio.run(answering(json_request(params, method)))  # type: ignore[arg-type]
    return response.status_code, json.loads(bytes(response.body))


def served(args: AppArgs) -> Callable[..., Awaitable[Response]]:
    """Load a package, and return what answers its requests."""
    return Algorithm(args.model_dump()).application.respond


@pytest.mark.parametrize("init", [{"__init__.py": ""}, {}], ids=["with __init__", "without __init__"])
@pytest.mark.parametrize(
    "line",
    [
        "from .helper import word",
        "from . import helper; word = helper.word",
        "from algopkg.Echo.helper import word",
        "from algopkg.Echo import helper; word = helper.word",
        "from helper import word",
        "from .sub.deep import word",
    ],
)
def test_a_package_imports_its_modules_as_it_likes(make: Make, init: dict[str, str], line: str) -> None:
    files = {"helper.py": "word = 'helped'\n", "sub/deep.py": "from ..helper import word\n", **init}
    args = make({**files, "backend.py": f"{line}\nclass Echo:\n    found = word\n"})
    assert load_class(args.name, args.package, args.backend).found == "helped"  # type: ignore[attr-defined]


def test_a_class_may_come_from_a_module_beside_the_backend(make: Make) -> None:
    args = make({"backend.py": "from .core import Echo\n", "core.py": "class Echo: ...\n", "__init__.py": ""})
    assert load_class(args.name, args.package, args.backend).__name__ == "Echo"


def test_an_init_may_import_the_backend(make: Make) -> None:
    args = make({"__init__.py": "from .backend import Echo\n", "backend.py": "class Echo: ...\n"})
    assert load_class(args.name, args.package, args.backend).__name__ == "Echo"


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"__init__.py": ""}, ImportError),
        ({"backend.py": "class Other: ...\n"}, AttributeError),
        ({"backend.py": "Echo = 1\n"}, TypeError),
        ({"backend.py": "import no_such_module\nclass Echo: ...\n"}, ImportError),
        ({"backend.py": "raise ValueError('at import')\n"}, ValueError),
    ],
)
def test_a_package_that_cannot_be_loaded_raises(make: Make, files: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        Backend(make(files))


@pytest.mark.parametrize(
    ("models", "string"),
    [
        ([], ""),
        (["/s/model/1f/a"], "/s/model/1f,a"),
        (["/s/model/1f/a", "/s/model/2e/b"], "/s/model,1f/a,2e/b"),
        (["/Model_ZOO/a", "/Model_ZOO/b"], "/Model_ZOO,a,b"),
    ],
)
def test_models_come_as_one_string(models: list[str], string: str) -> None:
    assert model_path(models) == string


def test_a_short_class_reads_its_models_and_answers(make: Make, words: str) -> None:
    status, answer = ask(served(make({"backend.py": SHORT}, models=[words])), {"x": 1})
    assert (status, answer["status"]) == (200, 1)
    assert answer["result"]["got"] == {"x": 1}
    assert answer["result"]["texts"] == ['{"hello": "world"}']


def test_a_stored_model_that_was_changed_is_not_loaded(make: Make, tmp_path: Path) -> None:
    stored = tmp_path / "store" / "model" / hashlib.sha256(b"{}").hexdigest() / "words.json"
    stored.parent.mkdir(parents=True)
    stored.write_text("{}")
    args = make({"backend.py": SHORT}, models=[str(stored)])
    assert Backend(args).instance
    stored.write_text("[]")
    with pytest.raises(ValueError, match="not the one that was deployed"):
        Backend(args)


def test_an_original_class_reads_its_models_and_answers(make: Make, words: str) -> None:
    backend = served(make({"backend.py": ORIGINAL}, "algo_backend", models=[words]))
    status, answer = ask(backend, {"text": "hello"})
    assert (status, answer["status"], answer["result"]["word"]) == (200, 1, "world")
    assert answer["info"].startswith("Result from ")
    status, answer = ask(backend, {"text": "unknown"})
    assert (status, answer["status"]) == (200, 0)


def test_an_original_class_that_raises_is_answered_500(make: Make) -> None:
    source = (
        "class Echo:\n    def __init__(self, m): ...\n    async def __call__(self, r): raise ValueError('secret')\n"
    )
    status, answer = ask(served(make({"backend.py": source})), {})
    assert (status, answer["status"]) == (500, 0)
    assert "secret" not in json.dumps(answer)


def test_an_original_class_does_not_block_the_event_loop(make: Make) -> None:
    source = (
        "class Echo:\n    def __init__(self, m): ...\n    async def __call__(self, r): return {'free': self.wait(5)}\n"
    )
    backend = Backend(make({"backend.py": source}))
    others_ran = threading.Event()
    backend.instance.wait = others_ran.wait

    async def other() -> None:
        await asyncio.sleep(0.05)
        others_ran.set()

    async def both() -> Response:
        response, _ = await asyncio.gather(backend.respond(json_request({})), other())
        return response

    assert json.loads(bytes(asyncio.run(both()).body)) == {"free": True}


def test_a_warm_up_gives_the_answer(make: Make) -> None:
    answer = asyncio.run(Backend(make({"backend.py": SHORT})).warm_up({"x": 1}))
    assert (answer["status"], answer["result"]["got"]) == (1, {"x": 1})


def test_a_warm_up_that_fails_raises_the_inference_s_own_error(make: Make) -> None:
    with pytest.raises(ValueError, match="no weights"):
        asyncio.run(Backend(make({"backend.py": SHORT})).warm_up({"fail": "no weights"}))


def test_a_warm_up_that_an_original_class_answers_with_status_0_raises(make: Make) -> None:
    # It has no words: it was loaded without a model, and swallowed that.
    with pytest.raises(RuntimeError, match=r"Result from .*KeyError"):
        asyncio.run(Backend(make({"backend.py": ORIGINAL}, "algo_backend")).warm_up({"text": "hello"}))


@pytest.mark.parametrize(
    ("allowed", "method", "status"),
    [
        (["GET"], "GET", 200),
        (["GET"], "POST", 405),
        (["GET", "POST"], "POST", 200),
        (["POST"], "GET", 405),
        (["GET"], "OPTIONS", 405),
        (["GET"], "HEAD", 405),
    ],
)
def test_only_the_section_s_methods_are_answered(make: Make, allowed: list[str], method: str, status: int) -> None:
    algorithm = Algorithm(make({"backend.py": SHORT}, methods=allowed).model_dump())
    response = asyncio.run(algorithm.application.respond(json_request({}, method)))
    assert response.status_code == status
    if status == 405:
        assert response.headers["allow"] == ", ".join(allowed)
        assert json.loads(bytes(response.body))["status"] == 0


@pytest.mark.parametrize(("source", "backend"), [(SHORT, "Echo"), (ORIGINAL, "algo_backend")])
def test_a_changed_user_config_reaches_the_class(make: Make, source: str, backend: str) -> None:
    algorithm = Algorithm(make({"backend.py": source}, backend).model_dump())
    for config in ({"top": 1}, {"top": 2}):
        asyncio.run(algorithm.reconfigure({"user_config": config, "warmup": None}))
        assert algorithm.backend.instance.config == config


def test_a_class_may_reconfigure_itself_asynchronously(make: Make) -> None:
    source = SHORT.replace("def reconfigure", "async def reconfigure")
    algorithm = Algorithm(make({"backend.py": source}).model_dump())
    asyncio.run(algorithm.reconfigure({"user_config": 5}))
    assert ask(algorithm.application.respond, {})[1]["result"]["config"] == 5


def test_a_class_without_reconfigure_takes_any_user_config(make: Make) -> None:
    source = SHORT.replace("def reconfigure", "def something_else")
    algorithm = Algorithm(make({"backend.py": source}).model_dump())
    asyncio.run(algorithm.reconfigure({"user_config": 5}))
    assert ask(algorithm.application.respond, {})[1]["status"] == 1


def test_a_new_replica_is_asked_the_warm_up_once_with_its_configuration(make: Make) -> None:
    algorithm = Algorithm(make({"backend.py": SHORT}).model_dump())
    for top in (1, 2):
        asyncio.run(algorithm.reconfigure({"user_config": {"top": top}, "warmup": {"x": 1}}))
    assert ask(algorithm.application.respond, {})[1]["result"] == {
        "got": {},
        "config": {"top": 2},
        "texts": [],
        "asked": 2,
    }


def test_a_replica_whose_warm_up_fails_does_not_start(make: Make) -> None:
    algorithm = Algorithm(make({"backend.py": SHORT}).model_dump())
    with pytest.raises(ValueError, match="no weights"):
        asyncio.run(algorithm.reconfigure({"warmup": {"fail": "no weights"}}))


@pytest.mark.parametrize("kind", ["short", "original"])
def test_a_request_that_takes_longer_than_its_time_is_answered_504(make: Make, kind: str) -> None:
    source = (
        "import asyncio, threading, modelserve\n"
        "class Echo(modelserve.AlgoBackend):\n"
        "    go = threading.Event()\n"
        "    def _model_inference(self, param_dict):\n"
        "        return not param_dict or self.go.wait(5)\n"
        if kind == "short"
        else "import asyncio\n"
        "class Echo:\n"
        "    def __init__(self, m): ...\n"
        "    async def __call__(self, request):\n"
        "        return {'status': 1, 'result': not await request.json() or await asyncio.sleep(5)}\n"
    )
    algorithm = Algorithm(make({"backend.py": source}).model_dump())
    asyncio.run(algorithm.reconfigure({"request_timeout": 0.2}))
    status, answer = ask(algorithm.application.respond, {"slow": 1})
    assert (status, answer["status"]) == (504, 0)
    assert "longer than 0.2 s" in answer["info"]
    assert answer["request_id"]
    getattr(algorithm.backend.instance, "go", threading.Event()).set()
    asyncio.run(algorithm.reconfigure({}))  # the limit is lifted in place
    assert ask(algorithm.application.respond, {})[1]["result"] is True


def test_a_timeout_within_the_inference_is_a_failure_of_its_own(make: Make) -> None:
    algorithm = Algorithm(make({"backend.py": SHORT.replace("ValueError", "TimeoutError")}).model_dump())
    asyncio.run(algorithm.reconfigure({"request_timeout": 5}))
    assert ask(algorithm.application.respond, {"fail": "database"})[0] == 500


BATCH = """
import modelserve

class Echo(modelserve.AlgoBackend):
    def _model_inference_batch(self, param_dicts):
        return [len(param_dicts) for _ in param_dicts]
"""


def test_a_section_s_batch_size_gathers_requests(make: Make) -> None:
    algorithm = Algorithm(make({"backend.py": BATCH}, batch_size=3, batch_wait=5).model_dump())

    async def three() -> list[Response]:
        return await asyncio.gather(*(algorithm.application.respond(json_request({})) for _ in range(3)))

    assert [json.loads(bytes(one.body))["result"] for one in asyncio.run(three())] == [3, 3, 3]


@pytest.mark.parametrize(
    ("source", "backend", "words"),
    [(ORIGINAL, "algo_backend", "no modelserve.AlgoBackend"), (SHORT, "Echo", "no _model_inference_batch")],
)
def test_a_class_that_takes_no_batches_is_refused(make: Make, source: str, backend: str, words: str) -> None:
    with pytest.raises(TypeError, match=f"batch_size = 8, but {backend} .*{words}"):
        Backend(make({"backend.py": source}, backend, batch_size=8))


def test_a_trial_prints_the_answer_as_its_last_line(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    app = make({"backend.py": "print('loading')\n" + SHORT}).model_dump()
    assert trial(json.dumps({"app": app, "params": {"x": 1}})) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["ok"] is True
    assert document["answer"]["result"]["got"] == {"x": 1}


@pytest.mark.parametrize(
    ("source", "words"),
    [("raise ValueError('at import')\n", "ValueError: at import"), (SHORT, "ValueError: no weights")],
)
def test_a_trial_that_fails_prints_the_error_as_its_last_line(
    make: Make, capsys: pytest.CaptureFixture[str], source: str, words: str
) -> None:
    app = make({"backend.py": source}).model_dump()
    assert trial(json.dumps({"app": app, "params": {"fail": "no weights"}})) == 1
    printed = capsys.readouterr()
    document = json.loads(printed.out.splitlines()[-1])
    assert document["ok"] is False
    assert words in document["error"]
    assert "Traceback" in printed.err


TYPED = """
from pydantic import BaseModel
import modelserve

class Question(BaseModel):
    text: str

class Typed(modelserve.AlgoBackend):
    def _model_inference(self, question: Question) -> list[str]:
        return [question.text]
"""


@pytest.mark.parametrize(("root", "path"), [("/echo", "/echo/schema"), ("/echo", "/schema"), ("", "/schema")])
def test_the_schema_is_answered_below_the_route_whatever_the_methods(make: Make, root: str, path: str) -> None:
    algorithm = Algorithm(make({"backend.py": TYPED}, "Typed", methods=["POST"]).model_dump())
    asyncio.run(algorithm.reconfigure({"warmup": {"text": "a"}}))
    request = json_request({}, "GET", path)
    request.scope["root_path"] = root
    document = json.loads(bytes(asyncio.run(algorithm.application.respond(request)).body))
    assert document["methods"] == ["POST"]
    assert document["example"] == {"text": "a"}
    assert document["input"]["required"] == ["text"]
    assert document["output"]["items"] == {"type": "string"}


def test_the_schema_is_asked_for_by_get_alone(make: Make) -> None:
    algorithm = Algorithm(make({"backend.py": SHORT}, methods=["GET", "POST"]).model_dump())
    answer = asyncio.run(algorithm.application.respond(json_request({"x": 1}, "POST", "/schema")))
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


def test_a_class_without_types_has_a_schema_too(make: Make) -> None:
    algorithm = Algorithm(make({"backend.py": ORIGINAL}, "algo_backend").model_dump())
    document = json.loads(bytes(asyncio.run(algorithm.application.respond(json_request({}, "GET", "/schema"))).body))
    assert document["input"] == {"type": "object"}
    assert "example" not in document


def test_an_attribute_of_a_class_without_types_is_not_taken_for_its_types(make: Make) -> None:
    source = ORIGINAL.replace("self.config = None", "self.config, self.types = None, ['cat', 'dog']", 1)
    algorithm = Algorithm(make({"backend.py": source}, "algo_backend").model_dump())
    response = asyncio.run(algorithm.application.respond(json_request({}, "GET", "/schema")))
    assert json.loads(bytes(response.body))["input"] == {"type": "object"}
