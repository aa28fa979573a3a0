"""The author's loop: a new package works as it is, and what is tried is what conf.ini says."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import pytest
from modelserve.author import logs, scaffold, trial
from modelserve.author.benchmark import Load, Measurement, measure
from modelserve.author.logs import MAX_LINES, Line, Logs
from modelserve.cli.main import main
from modelserve.config import parser, project
from modelserve.errors import UserError
from modelserve.replica import loader
from modelserve.replica.arguments import LocalServerArgs
from modelserve.replica.local_server import LocalApplication, listen, load
from modelserve.replica.try_once import try_once
from modelserve.serve.contract import UserConfig
from modelserve.settings import Settings

if TYPE_CHECKING:
    from conftest import Site

CONF = "[MODEL SERVE]\nport = 666\n"
NODES = "/api/v0/nodes?limit=1000&detail=1&filter_keys=state&filter_predicates=%3D&filter_values=ALIVE"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "algopkg").mkdir()
    (tmp_path / "Model_ZOO").mkdir()
    (tmp_path / "conf.ini").write_text(CONF)
    return tmp_path


@pytest.fixture
def imports() -> Iterator[None]:
    """Forget afterwards what packages under test brought into this Python."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "route"), [("FaceDetection", "face-detection"), ("face_detection", "face-detection"), ("OCR2", "ocr2")]
)
def test_a_new_package_passes_its_own_test_and_fits_conf_ini(
    root: Path, name: str, route: str, imports: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", name, "--project", str(root)]) == 0
    assert f"algopkg/{name}" in capsys.readouterr().out
    parsed, _ = parser.load(root / "conf.ini")
    (section,) = parsed.sections
    assert (section.name, section.route) == (name, route)
    assert project.check(parsed, root / "algopkg", []) == []
    tried = trial.prepare(Settings(home=root), name)
    result = try_once(tried.args, tried.section.warmup or {})
    assert result["answer"]["result"] == {"length": 12, "vowels": 4}


@pytest.mark.parametrize("name", ["face-detection", "2d", "", "../up", "Größe", "class", "None"])
def test_a_name_that_is_none_makes_nothing(root: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a package"):
        scaffold.make(root, name)
    assert (root / "conf.ini").read_text() == CONF
    assert not list((root / "algopkg").iterdir())


def test_what_is_taken_is_left_alone(root: Path) -> None:
    scaffold.make(root, "Face")
    before = (root / "conf.ini").read_text()
    with pytest.raises(UserError, match="exists already"):
        scaffold.make(root, "Face")
    with pytest.raises(UserError, match="'face' is the route of"):
        scaffold.make(root, "face")
    assert (root / "conf.ini").read_text() == before
    assert not (root / "algopkg/face").exists()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_section_is_added_after_whatever_conf_ini_has_in_any_locale(root: Path, end: str) -> None:
    file = root / "conf.ini"
    before = f"\ufeff# größe{end or chr(10)}[MODEL SERVE]{end or chr(10)}port = 666{end}".encode()
    file.write_bytes(before)
    # A process of its own: Python takes the locale at its start.
    source = str(Path(scaffold.__file__).parents[2])
    variables = {"PYTHONPATH": source, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "modelserve", "new", "Face", "--project", str(root)]
    run = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert file.read_bytes().startswith(before)
    assert (b"\r\n[algopkg" in file.read_bytes()) is (end == "\r\n")
    assert [section.name for section in parser.load(file)[0].sections] == ["Face"]


def test_a_conf_ini_that_is_not_utf_8_is_an_error_line(root: Path) -> None:
    scaffold.make(root, "Face")
    (root / "conf.ini").write_bytes(b"[MODEL SERVE]\nport = 666\n# gr\xf6\n")
    with pytest.raises(UserError, match="not UTF-8"):
        scaffold.make(root, "Other")
    with pytest.raises(UserError, match="not UTF-8"):
        trial.prepare(Settings(home=root), "Face")
    assert not (root / "algopkg/Other").exists()


def test_a_template_of_conf_ini_is_only_appended_to(root: Path) -> None:
    (root / "conf.ini").write_text("[MODEL SERVE]\nport = {{ port }}\n")
    scaffold.make(root, "Face")
    assert (root / "conf.ini").read_text().endswith(scaffold.section_of("Face"))


def test_what_is_tried_is_the_section_unless_options_say_otherwise(root: Path) -> None:
    scaffold.make(root, "Face")
    backend = root / "algopkg/Face/backend.py"
    backend.write_text(backend.read_text() + "\n\nclass Other(Face): ...\n")
    (root / "Model_ZOO/a.bin").write_bytes(b"a")
    text = (root / "conf.ini").read_text() + "model = a.bin\nenv.THREADS = 2\n"
    (root / "conf.ini").write_text(text)
    settings = Settings(home=root)
    tried = trial.prepare(settings, "Face")
    assert tried.args.models == [str(root / "Model_ZOO/a.bin")]
    assert tried.section.env == {"THREADS": "2"}
    other = trial.prepare(settings, "Face", backend="Other", model="")
    assert (other.section.backend, other.section.model, other.section.route) == ("Other", (), "face")
    with pytest.raises(UserError, match="has no class 'Missing'"):
        trial.prepare(settings, "Face", backend="Missing")
    with pytest.raises(UserError, match="--model: 'x/y' is a path"):
        trial.prepare(settings, "Face", model="x/y")


def test_without_a_section_the_only_class_is_tried(root: Path) -> None:
    scaffold.make(root, "Face")
    (root / "conf.ini").write_text(CONF)
    assert trial.prepare(Settings(home=root), "Face").section.backend == "Face"
    with (root / "algopkg/Face/backend.py").open("a") as stream:
        stream.write("\n\nclass Other: ...\n")
    with pytest.raises(UserError, match=r"2 classes: Face, Other.*--backend"):
        trial.prepare(Settings(home=root), "Face")
    with pytest.raises(UserError, match="there is no package algopkg/Missing"):
        trial.prepare(Settings(home=root), "Missing")


def test_a_directory_is_tried_as_a_model(root: Path) -> None:
    scaffold.make(root, "Face")
    (root / "Model_ZOO/weights").mkdir()
    (root / "Model_ZOO/weights/config.json").write_text("{}")
    tried = trial.prepare(Settings(home=root), "Face", model="weights/")
    assert tried.args.models == [str(root / "Model_ZOO/weights")]


def test_a_link_that_leads_nowhere_is_refused(root: Path, tmp_path: Path) -> None:
    scaffold.make(root, "Face")
    (root / "Model_ZOO/weights").mkdir()
    (root / "Model_ZOO/weights/net.bin").symlink_to(tmp_path / "other_disk" / "net.bin")
    with pytest.raises(UserError, match=r"net\.bin is a link to a file that does not exist\. Put it there, or remove"):
        trial.prepare(Settings(home=root), "Face", model="weights")


async def ask(
    local: LocalApplication, path: str, method: str = "POST", body: bytes = b'{"text": "aeb"}'
) -> tuple[int, bytes]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}
    await local(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def test_a_package_answers_alone_below_its_route(root: Path, imports: None) -> None:
    scaffold.make(root, "Face")
    tried = trial.prepare(Settings(home=root), "Face")

    async def serve() -> None:
        async with load(tried.args, tried.config, "/face") as local:
            status, body = await ask(local, "/face")
            assert status == 200
            assert json.loads(body)["result"] == {"length": 3, "vowels": 2}
            assert (await ask(local, "/face/"))[0] == 200
            assert (await ask(local, "/face/more"))[0] == (await ask(local, "/faces"))[0] == 404
            assert json.loads((await ask(local, "/face/schema", "GET"))[1])["methods"] == ["GET", "POST"]
            assert (await ask(local, "/face", "PUT"))[0] == 405
            for body, expected in ((b"{", 400), (b"{}", 500)):
                status, answer = await ask(local, "/face", body=body)
                assert status == expected
                assert json.loads(answer)["request_id"]

    asyncio.run(serve())


def test_a_package_is_tried_with_its_section_s_batches_and_patience(root: Path, imports: None) -> None:
    scaffold.make(root, "Face")
    (root / "algopkg/Face/backend.py").write_text(
        "import time\n\nimport modelserve\n\n\nclass Face(modelserve.AlgoBackend):\n"
        "    def _model_inference_batch(self, items):\n"
        "        time.sleep(max(item.get('nap', 0) for item in items))\n"
        "        return [len(items)] * len(items)\n"
    )
    with (root / "conf.ini").open("a") as stream:
        stream.write("batch_size = 3\nbatch_wait = 5\nrequest_timeout = 7\n")
    tried = trial.prepare(Settings(home=root), "Face")

    async def serve(config: UserConfig) -> tuple[list[int], int]:
        async with load(tried.args, config.model_copy(update={"warmup": None}), "/face") as local:
            three = await asyncio.gather(*(ask(local, "/face", body=b"{}") for _ in range(3)))
        async with load(tried.args, UserConfig(request_timeout=0.05), "/face") as local:
            slow = await ask(local, "/face")
        return [json.loads(body)["result"] for _, body in three], slow[0]

    assert tried.config.request_timeout == 7
    assert asyncio.run(serve(tried.config)) == ([3, 3, 3], 504)


def test_a_taken_port_is_an_error_line_before_anything_is_loaded(site: Site) -> None:
    with pytest.raises(UserError, match=f"port {site.port} is not available .*--port"):
        listen(site.port)
    with pytest.raises(UserError, match="no such port"):
        listen(70000)


@pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="no uvicorn here; every environment has it")
def test_serve_says_when_it_answers_and_ends_by_ctrl_c(root: Path, closed_port: int) -> None:
    scaffold.make(root, "Face")
    tried = trial.prepare(Settings(home=root), "Face")
    arguments = LocalServerArgs(app=tried.args, config=tried.config, port=closed_port, route="/face")
    command = [sys.executable, "-m", "modelserve.replica.local_server", arguments.model_dump_json()]
    variables = {**os.environ, "PYTHONPATH": str(Path(scaffold.__file__).parents[2])}
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("answering")
            line = shlex.split(process.stdout.readline())
            assert line[0] == "curl"
            request = urllib.request.Request(line[3], line[5].encode(), method=line[2])
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
                assert json.loads(response.read())["result"]["length"] == 12
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    missing = tried.args.model_copy(update={"backend": "Missing"})
    failing = arguments.model_copy(update={"app": missing, "as_json": True})
    run = subprocess.run(
        [*command[:-1], failing.model_dump_json()], env=variables, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("error: Face did not load")
    assert json.loads(run.stdout)["ok"] is False


SHELL = """
import sys
from pathlib import Path
from modelserve.author import trial
from modelserve.environments.resolve import Environment
from modelserve.settings import Settings

root = Path(sys.argv[1])
trial.environment_of = lambda *_: Environment("Face", root / "environment", "")  # one is built in the image alone
trial.shell(Settings(home=root), "Face", None, 'echo "$THREADS $PWD $PYTHONPATH $CONDA_PREFIX ${PATH%%:*}"', print)
"""


def test_a_shell_has_the_package_its_environment_and_its_section_s_variables(root: Path) -> None:
    scaffold.make(root, "Face")
    with (root / "conf.ini").open("a") as stream:
        stream.write("env.THREADS = 2\n")
    variables = {**os.environ, "PYTHONPATH": str(Path(scaffold.__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", SHELL, root], env=variables, capture_output=True, text=True, check=True)
    package, environment = root / "algopkg/Face", root / "environment"
    path = f"{loader.IMPORT_PATH}:{package}"
    assert run.stdout.split() == ["2", str(package), path, str(environment), f"{environment}/bin"]


@pytest.mark.parametrize("name", ["..", "Missing", "Face/../Face"])
def test_a_shell_is_opened_in_a_package_alone(root: Path, name: str) -> None:
    scaffold.make(root, "Face")
    with pytest.raises(UserError, match="there is no package"):
        trial.shell(Settings(home=root), name, None, "true", print)


def measured(url: str, connections: int, seconds: float = 0.2, params: dict[str, Any] | None = None) -> Any:
    return measure(Load(f"{url}/echo", "POST", json.dumps(params or {}).encode()), connections, seconds)


def test_a_load_counts_answers_and_failures(site: Site, closed_port: int) -> None:
    site.answers["/echo"] = (200, b"{}")
    good = measured(site.url, 3, 0.4, {"a": 1}).as_dict()
    assert good["failures"] == {}
    assert good["requests"] == len(site.asked) > 3
    assert 0 < good["p50_ms"] <= good["p90_ms"] <= good["p99_ms"] <= good["max_ms"]
    assert json.loads(site.asked[0].body) == {"a": 1}
    assert site.asked[0].method == "POST"
    site.answers["/echo"] = (429, b"later")
    assert set(measured(site.url, 2).failures) == {"HTTP 429"}
    refused = measured(f"http://127.0.0.1:{closed_port}", 2)
    assert set(refused.failures) == {"ConnectionRefusedError"}
    assert refused.percentile_ms(50) is None


def test_a_load_counts_every_failure_of_every_connection(site: Site) -> None:
    site.answers["/echo"] = (503, b"")
    result = measured(site.url, 8, 0.4)
    assert result.failures == {"HTTP 503": result.requests}
    assert result.requests == len(site.asked)


def test_a_percentile_is_the_latency_that_a_share_of_the_requests_does_not_exceed() -> None:
    latencies_s = tuple(number / 1000 for number in range(1, 101))
    measurement = Measurement("http://host/echo", 1, 101, 2.0, latencies_s, {"HTTP 429": 1})
    assert [measurement.percentile_ms(share) for share in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert measurement.per_second == 50


def test_an_answer_that_says_it_failed_is_a_failure(site: Site) -> None:
    site.answers["/echo"] = (200, b'{"status": 0, "info": "no model"}')
    assert set(measured(site.url, 2).failures) == {"status 0"}
    site.answers["/echo"] = (200, b'{"status": 1, "result": {"status": 0}}')
    assert measured(site.url, 2).failures == {}


# Whoever runs the tests in the background has interrupts ignored, and so would the program.
INTERRUPTED = """
import signal, sys
from modelserve.author.benchmark import Load, measure

signal.signal(signal.SIGINT, signal.default_int_handler)
print("begun", flush=True)
measure(Load(sys.argv[1], "POST", b"{}"), 4, 60)
"""


def test_a_load_that_is_interrupted_ends(site: Site) -> None:
    site.answers["/echo"] = (200, b"{}")
    variables = {**os.environ, "PYTHONPATH": str(Path(scaffold.__file__).parents[2])}
    command = [sys.executable, "-c", INTERRUPTED, f"{site.url}/echo"]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            while not site.asked:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) != 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    "arguments",
    [["bench", "Face", "--seconds", bad] for bad in ("0", "-1", "301", "nan", "x")]
    + [["bench", "Face", "--connections", bad] for bad in ("0", "257", "1.5")]
    + [["logs", "Face", "--lines", "0"], ["serve", "Face", "--port", "70000"]],
)
def test_a_number_out_of_bounds_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert arguments[-2] in capsys.readouterr().err


def serving(site: Site, **replicas: list[dict[str, Any] | str] | None) -> Settings:
    """Have the site answer as Ray's dashboard: replicas on two nodes in turn, each with its log; None has none yet."""
    nodes = [
        {"node_id": str(n), "node_ip": f"10.0.0.{n}", "is_head_node": n == 0, "labels": {"modelserve.node": name}}
        for n, name in enumerate(("head", "worker_1"))
    ]
    site.answers[NODES] = (200, json.dumps({"data": {"result": {"result": nodes}}}).encode())
    shown = []
    for number, (replica, lines) in enumerate(replicas.items()):
        file = f"serve/replica_Echo_Echo_{replica}.log"
        shown.append(
            {"replica_id": replica, "state": "RUNNING", "node_id": str(number % 2), "log_file_path": f"/{file}"}
        )
        log(site, str(number % 2), file, lines)
    document = {"applications": {"Echo": {"status": "RUNNING", "deployments": {"Echo": {"replicas": shown}}}}}
    site.answers["/api/serve/applications/"] = (200, json.dumps(document).encode())
    return Settings(home=Path("/nonexistent"), dashboard_url=site.url)


def died(site: Site, *replicas: tuple[str, int]) -> None:
    """Have Ray tell of replicas that died: the id of each, and the second of its death, with exit code 4."""
    context = {"error_message": "Worker exits with an exit code 4.", "reason": "WORKER_DIED"}
    actors = [
        {
            "name": f"SERVE_REPLICA::Echo#Echo#{replica}",
            "node_id": "0",
            "pid": pid,
            "death_cause": {"actor_died_error_context": context},
        }
        for pid, (replica, _) in enumerate(replicas)
    ]
    midnight = time.mktime(time.strptime("2026-01-02 03:04:00", "%Y-%m-%d %H:%M:%S"))
    workers = [
        {"node_id": "0", "pid": pid, "worker_id": "w", "end_time_ms": int((midnight + second) * 1000)}
        for pid, (_, second) in enumerate(replicas)
    ]
    node = {"node_id": "0", "node_ip": "10.0.0.0", "is_head_node": True, "labels": {"modelserve.node": "head"}}
    equal = "&filter_keys={}&filter_predicates=%3D&filter_values={}"
    dead = equal.format("state", "DEAD") + equal.format("class_name", "ServeReplica%3AEcho%3AEcho")
    for path, documents in (
        ("actors?limit=10000&detail=1" + dead, actors),
        ("workers?limit=10000&detail=1" + equal.format("is_alive", "False"), workers),
        ("nodes?limit=1000&detail=1", [node]),
    ):
        site.answers[f"/api/v0/{path}"] = (200, json.dumps({"data": {"result": {"result": documents}}}).encode())


def log(site: Site, node: str, file: str, lines: list[dict[str, Any] | str] | None) -> None:
    text = "".join(
        f"{line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)}\n" for line in lines or ()
    )
    for count in (2, 1000, MAX_LINES):
        query = urllib.parse.urlencode({"node_id": node, "filename": file, "lines": count})
        end = "".join(text.splitlines(keepends=True)[-count:]) if text.isascii() else text
        missing = (500, f"A file is not found at: /tmp/ray/{file}".encode())
        site.answers[f"/api/v0/logs/file?{query}"] = missing if lines is None else (200, end.encode())


def listed(site: Site, name: str, *files: str) -> None:
    """Have each node list those of its files that fit what is asked for, as pathlib fits them."""
    pattern = f"serve/replica_{name}_{name}_*.log*"
    fitting = [file for file in files if PurePath(file).match(pattern)]
    for node, there in (("0", fitting), ("1", [])):
        query = urllib.parse.urlencode({"node_id": node, "glob": pattern})
        answer = {"data": {"result": {"internal": there} if there else {}}}
        site.answers[f"/api/v0/logs?{query}"] = (200, json.dumps(answer).encode())


def logged(second: int, message: str, **more: str) -> dict[str, Any]:
    return {"asctime": f"2026-01-02 03:04:{second:02},000", "levelname": "INFO", "message": message, **more}


def messages(lines: Iterable[Line]) -> list[str]:
    return [line.content["message"] for line in lines]


def test_logs_come_from_all_nodes_in_the_order_of_time(site: Site) -> None:
    settings = serving(
        site,
        abc=[logged(1, "loaded"), logged(5, "failed", exc_text="Traceback\nKeyError: 'x'", request_id="r7")],
        xyz=[logged(3, "printed\n"), "no document"],
    )
    lines = Logs(settings, "Echo").last(2)
    assert messages(lines) == ["loaded", "printed\n", "no document", "failed"]
    assert [(line.node, line.replica) for line in lines[:2]] == [("head", "abc"), ("worker_1", "xyz")]
    assert lines[1].text() == "03:04:03 INFO worker_1 xyz: printed"
    assert lines[3].text() == "03:04:05 INFO head abc [r7]: failed\nTraceback\nKeyError: 'x'"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (
            "('Traceback (most recent call last):\\n',)('  File \"/a.py\", line 1, in f\\n    int(\"x\")\\n',)"
            "(\"KeyError: 'x'\\n\",)",
            'Traceback (most recent call last):\n  File "/a.py", line 1, in f\n    int("x")\nKeyError: \'x\'',
        ),
        ("('KeyError: \\'x\\' \"y\"\\n',)", "KeyError: 'x' \"y\""),
        ("('a\\n',)\n('b\\n',)\n", "a\nb"),
        (
            "Traceback (most recent call last):\nValueError: ('a',)",
            "Traceback (most recent call last):\nValueError: ('a',)",
        ),
        ("('a',) and more", "('a',) and more"),
    ],
    ids=["parts", "both quotes", "a line each", "as Python prints it", "no tuples alone"],
)
def test_a_traceback_is_shown_as_python_prints_it(site: Site, written: str, shown: str) -> None:
    (line,) = Logs(serving(site, abc=[logged(1, "failed", exc_text=written)]), "Echo").last(2)
    assert line.text() == f"03:04:01 INFO head abc: failed\n{shown}"


def test_a_request_is_found_however_far_back(site: Site) -> None:
    first = logged(1, "failed", request_id="r7")
    settings = serving(site, abc=[first, *(logged(second, "noise") for second in range(2, 60))])
    assert messages(Logs(settings, "Echo").last(2, "r7")) == ["failed"]


@pytest.mark.parametrize("line", ['{"a": 1}', '{"message": 5}', '{"asctime": 1, "message": "x"}', "[1]", "7"])
def test_json_that_is_not_serve_s_is_shown_as_it_is(site: Site, line: str) -> None:
    (shown,) = Logs(serving(site, abc=[line]), "Echo").last(2)
    assert line in shown.text()


def test_a_line_has_its_end_where_serve_ended_it(site: Site) -> None:
    message = "one\u2028line\x85still"
    assert messages(Logs(serving(site, abc=[logged(1, message)]), "Echo").last(2)) == [message]


def test_a_replica_without_a_log_yet_hides_no_other(site: Site) -> None:
    assert messages(Logs(serving(site, abc=None, xyz=[logged(1, "loaded")]), "Echo").last(2)) == ["loaded"]
    site.answers.update({path: (500, b"on fire") for path in site.answers if path.startswith("/api/v0/logs/file")})
    with pytest.raises(UserError, match="on fire"):
        Logs(Settings(home=Path("/nonexistent"), dashboard_url=site.url), "Echo").last(2)


def test_following_shows_each_new_line_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "POLL_S", 0.01)
    lines: list[dict[str, Any] | str] = [logged(second, f"message {second}") for second in range(3)]
    settings = serving(site, abc=lines)
    followed = Logs(settings, "Echo").follow(2)
    assert messages(itertools.islice(followed, 2)) == ["message 1", "message 2"]
    serving(site, abc=[*lines, logged(4, "again"), logged(4, "again"), "bare", "bare"], new=None)
    assert messages(itertools.islice(followed, 4)) == ["again", "again", "bare", "bare"]
    # The first is out of what is read, a second replica has come, and the first one's log cannot be read for once.
    serving(site, abc=None, new=[logged(5, "new")])
    assert messages(itertools.islice(followed, 1)) == ["new"]
    serving(site, abc=[*lines[1:], logged(4, "again"), logged(4, "again"), "bare", "bare", "bare"])
    assert messages(itertools.islice(followed, 1)) == ["bare"]


def test_a_death_is_a_line_among_the_others(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = serving(site, abc=[logged(1, "loaded"), logged(5, "answered", request_id="r7")])
    died(site, ("old", 3))
    lines = Logs(settings, "Echo").last(2)
    assert [line.text() for line in lines] == [
        "03:04:01 INFO head abc: loaded",
        "03:04:03 ERROR head old: the replica died: ended itself with exit code 4",
        "03:04:05 INFO head abc [r7]: answered",
    ]
    assert messages(Logs(settings, "Echo").last(2, "r7")) == ["answered"]
    monkeypatch.setattr(logs, "POLL_S", 0.01)
    monkeypatch.setattr(logs, "DEATHS_POLL_S", 0)
    followed = Logs(settings, "Echo").follow(2)
    assert [line.replica for line in itertools.islice(followed, 3)] == ["abc", "old", "abc"]
    died(site, ("old", 3), ("newer", 9))
    assert [line.replica for line in itertools.islice(followed, 1)] == ["newer"]


def test_replicas_that_are_gone_are_found_by_their_logs(site: Site) -> None:
    old, older, other = (f"serve/replica_Echo_Echo_{rest}" for rest in ("old.log", "old.log.1", "Two_abc.log"))
    settings = serving(site)
    listed(site, "Echo", old, older, other, "serve/replica_Echo_Two_Echo_Two_abc.log", "serve/controller_1.log")
    log(site, "0", old, [logged(2, "later")])
    log(site, "0", older, [logged(1, "earlier")])
    lines = Logs(settings, "Echo", past=True).last(2)
    assert messages(lines) == ["earlier", "later"]
    assert {line.replica for line in lines} == {"old"}
    listed(site, "Face")
    with pytest.raises(UserError, match="no node has a log of Face"):
        Logs(settings, "Face", past=True).last(2)
    with pytest.raises(UserError, match="cannot name"):
        Logs(settings, "../*", past=True)


def test_logs_of_what_is_not_served_name_what_is(site: Site) -> None:
    with pytest.raises(UserError, match="Face is not served; what is: Echo"):
        Logs(serving(site, abc=[]), "Face")


def test_an_output_that_is_read_no_further_is_no_traceback(site: Site, tmp_path: Path) -> None:
    settings = serving(site, abc=[logged(1, "x" * 200)] * 1000)
    (tmp_path / "settings.json").write_text(json.dumps({"dashboard_url": settings.dashboard_url}))
    variables = {"PYTHONPATH": str(Path(scaffold.__file__).parents[2]), "MODELSERVE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "modelserve", "logs", "Echo", "--lines", "1000"]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(100)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 141


WRAPPER = Path(__file__).resolve().parents[2] / "scripts" / "modelserve"


@pytest.mark.parametrize("option", [["--project", "{}"], ["--project={}"]])
def test_the_wrapper_makes_a_package_in_this_project(root: Path, option: list[str]) -> None:
    project = [word.format(root) for word in option]
    run = subprocess.run([WRAPPER, "new", "Face", *project], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert (root / "algopkg/Face/backend.py").is_file()


def test_the_wrapper_tries_packages_of_its_own_project_alone(root: Path) -> None:
    run = subprocess.run([WRAPPER, "test", "Face", "--project", root], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("error: --project")


@pytest.mark.parametrize("has_head", [True, False])
def test_the_wrapper_tries_packages_in_the_head_s_image(tmp_path: Path, has_head: bool) -> None:
    docker = tmp_path / "docker"
    inspected = "echo sha256:head" if has_head else "exit 1"
    cases = f'inspect) {inspected};; images) printf "newest\\nolder\\n";; run) echo "$@";;'
    docker.write_text(f"#!/bin/sh\ncase $1 in {cases} esac\n")
    docker.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MODELSERVE_HOME": str(tmp_path)}
    run = subprocess.run([WRAPPER, "test", "Face"], env=environment, capture_output=True, text=True, check=False)
    image = "sha256:head" if has_head else "newest"
    assert run.stdout.endswith(f"{image} test Face --project /project\n"), run.stderr
