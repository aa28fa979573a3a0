"""The command: exit codes, 'error:' lines instead of tracebacks, and one JSON document where it is asked for."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import modelserve
import pytest
from modelserve.cli.main import main
from modelserve.config.routes import Served, Share
from modelserve.config.section import Section
from modelserve.deploy.releases import Releases, Target
from modelserve.gateway.gateway import Gateway
from modelserve.serve.application import Application
from modelserve.settings import Settings

if TYPE_CHECKING:
    from conftest import Site

CONF = (
    '[MODEL SERVE]\nport = 666\n[algopkg.Echo]\nbackend = Echo\nmodel = words.json\nroute = echo\nwarmup = {"x": 1}\n'
)
BROKEN = CONF.replace("backend", "bakcend").replace("666", "x")
REMEMBERED = [(666, "/s/pkg/Echo-1", 1), (666, "/s/pkg/Echo-2", 1), (667, "/s/pkg/Echo-2", 3)]
APPLICATIONS = "/api/serve/applications/"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "algopkg" / "Echo").mkdir(parents=True)
    (tmp_path / "algopkg" / "Echo" / "backend.py").write_text("class Echo: ...\n")
    (tmp_path / "Model_ZOO").mkdir()
    (tmp_path / "Model_ZOO" / "words.json").write_text("{}")
    (tmp_path / "conf.ini").write_text(CONF)
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def served(port: int) -> Served:
    return Served(port=port, routes={"echo": (Share(name="Echo", prefix="/Echo"),)})


def serving(home: Path, site: Site, status: str = "RUNNING", message: str = "") -> None:
    """Have ``site`` answer as Ray's dashboard, with one application, and as the gateway."""
    (home / "settings.json").write_text(json.dumps({"dashboard_url": site.url}))
    Gateway(Settings.load(home)).configure(served(site.port))
    section = Section(name="Echo", backend="Echo", route="echo", gpu_cost=0.5)
    config = Application.from_section(section, Path("/store/pkg/Echo-1"), [], Path("/store/env/Echo-1"))
    application: dict[str, Any] = {
        "status": status,
        "message": message,
        "route_prefix": "/Echo",
        "deployments": {"Echo": {"replicas": [{"replica_id": "a", "state": "RUNNING"}]}},
        "deployed_app_config": config.to_serve(),
    }
    site.answers[APPLICATIONS] = (200, json.dumps({"applications": {"Echo": application}}).encode())


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines of standard error of a command that must fail as a user's mistake does."""
    assert main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("error: ") for line in lines)
    return lines


def test_the_check_s_document_has_no_value_of_an_environment_variable(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / "conf.ini"
    file.write_text(file.read_text().rstrip() + "\nenv.HUB_TOKEN = hush\n")
    assert main(["check", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["sections"]
    assert "hush" not in out


def test_a_project_without_problems_passes_the_check(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert "no problem found" in capsys.readouterr().out


def test_each_problem_of_a_project_is_a_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "conf.ini").write_text(BROKEN)
    lines = failed(capsys, "check")
    assert len(lines) == 3
    assert "error: conf.ini:4 [algopkg.Echo] bakcend: unknown key. Did you mean 'backend'?" in lines


def test_a_class_that_is_not_there_fails_the_check(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "algopkg" / "Echo" / "backend.py").write_text("class Ecco: ...\n")
    (line,) = failed(capsys, "check")
    assert "Did you mean 'Ecco'?" in line


def test_a_project_elsewhere_is_checked(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert main(["check", "--project", str(elsewhere)]) == 1
    (home / "conf.ini").rename(elsewhere / "my.ini")
    assert main(["check", "--project", str(home), "--conf", str(elsewhere / "my.ini")]) == 0


def test_a_conf_from_standard_input_is_checked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, code in ((CONF, 0), (BROKEN, 1)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert main(["check", "--conf", "-"]) == code


def test_a_model_that_is_described_counts_as_there(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "Model_ZOO" / "words.json").unlink()
    assert main(["check"]) == 1
    entry = f"- {{file: words.json, sha256: '{'0' * 64}', url: 'http://example.org/'}}\n"
    entry += f"- {{directory: bert, sha256: '{'0' * 64}', url: 's3://models/bert', fetch_on: head}}\n"
    (home / "Model_ZOO" / "models.yml").write_text(entry)
    capsys.readouterr()
    assert main(["check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == {"words.json": "", "bert": "head"}


@pytest.mark.parametrize("content", [b"[MODEL SERVE]\nport = \xff\n", b"\xff\xfe[\0M\0"], ids=["latin-1", "UTF-16"])
@pytest.mark.parametrize("command", ["check", "plan"])
def test_a_conf_that_is_not_utf_8_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], command: str, content: bytes
) -> None:
    (home / "conf.ini").write_bytes(content)
    (line,) = failed(capsys, command)
    assert "conf.ini" in line


def test_a_conf_with_a_byte_order_mark_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"\xef\xbb\xbf" + CONF.encode()
    (home / "conf.ini").write_bytes(content)
    assert main(["check"]) == 0
    assert main(["check", "--project", str(home)]) == 0
    # From Ansible's lookup of templates, and from a pipe.
    for text in (content, content + b"# {{ a }}\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        assert main(["check", "--conf", "-", "--project", str(home)]) == 0


def test_what_is_rendered_is_reported_with_the_lines_of_the_template(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "conf.ini").write_text("{% set port = 666 %}\n\n" + CONF.replace("666", "{{ port }}"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BROKEN.replace("bakcend", "backend").encode())))
    (line,) = failed(capsys, "check", "--conf", "-", "--project", str(home))
    assert line.startswith("error: conf.ini:4 [MODEL SERVE] port: 'x' is not a whole number")


def test_a_template_is_checked_as_far_as_it_is_known(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template = CONF + "replicas = {{ replicas_of_echo }}\ncpu_cost = {{ cores | default(2) }}\n"
    (home / "conf.ini").write_text(template)
    assert main(["check", "--project", str(home), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["sections"]["Echo"]["cpu_cost"] == 2
    assert document["unchecked"] == ["conf.ini:8 [algopkg.Echo] replicas"]
    (home / "conf.ini").write_text(template.replace("default(2)", "default('two')"))
    (line,) = failed(capsys, "check", "--project", str(home))
    assert line.startswith("error: conf.ini:9 [algopkg.Echo] cpu_cost: 'two' is not a number")
    (home / "conf.ini").write_text(template.replace('"x": 1', '"x": "{# one #}"'))
    (line,) = failed(capsys, "check", "--project", str(home))
    assert line.startswith("error: conf.ini:7 [algopkg.Echo] warmup: '{#' begins a comment of templates")


def test_on_the_head_braces_are_no_template(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "Answer {{ question }} in {# one #} word {% or %} two"
    (home / "conf.ini").write_text(CONF + f'user_config = {{"prompt": "{prompt}"}}\n')
    assert main(["check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sections"]["Echo"]["user_config"] == {"prompt": prompt}


@pytest.mark.parametrize("command", ["check", "plan", "apply"])
def test_a_missing_conf_is_named(home: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    (home / "conf.ini").unlink()
    (line,) = failed(capsys, command)
    assert str(home / "conf.ini") in line


@pytest.mark.parametrize("command", ["check", "plan", "apply"])
def test_a_wrong_conf_is_one_json_document_where_that_is_asked_for(
    home: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (home / "conf.ini").write_text(BROKEN)
    assert main([command, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert {(problem["section"], problem["key"], problem["line"]) for problem in document["problems"]} == {
        ("MODEL SERVE", "port", 2),
        ("algopkg.Echo", "bakcend", 4),
        ("algopkg.Echo", "backend", 3),
    }


def test_a_good_conf_is_one_json_document_where_that_is_asked_for(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["port"]) == (True, 666)
    assert document["sections"]["Echo"]["route"] == "echo"


def test_a_head_that_does_not_answer_is_an_error_line(
    home: Path, capsys: pytest.CaptureFixture[str], closed_port: int
) -> None:
    (home / "settings.json").write_text(json.dumps({"dashboard_url": f"http://127.0.0.1:{closed_port}"}))
    (line,) = failed(capsys, "status")
    assert "does not answer" in line


def death(site: Site) -> None:
    """Have ``site`` tell, as Ray, of a replica that died a moment ago."""
    context = {"error_message": "Worker exits with an exit code 4.", "reason": "WORKER_DIED"}
    actor = {
        "name": "SERVE_REPLICA::Echo#Echo#b",
        "node_id": "0",
        "pid": 7,
        "death_cause": {"actor_died_error_context": context},
    }
    worker = {"node_id": "0", "pid": 7, "worker_id": "w", "end_time_ms": time.time() * 1000}
    node = {"node_id": "0", "node_ip": "10.0.0.1", "is_head_node": True, "state": "DEAD", "labels": {}}
    equal = "&filter_keys={}&filter_predicates=%3D&filter_values={}"
    dead, of_echo = equal.format("state", "DEAD"), equal.format("class_name", "ServeReplica%3AEcho%3AEcho")
    for path, document in (
        ("actors?limit=10000&detail=1" + dead, actor),
        ("actors?limit=10000&detail=1" + dead + of_echo, actor),
        ("workers?limit=10000&detail=1" + equal.format("is_alive", "False"), worker),
        ("nodes?limit=1000&detail=1", node),
    ):
        site.answers[f"/api/v0/{path}"] = (200, json.dumps({"data": {"result": {"result": [document]}}}).encode())


def test_what_died_is_in_the_status_and_in_the_events(
    home: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    serving(home, site)
    assert main(["status"]) == 0
    assert "warning: Ray does not tell which replicas died" in capsys.readouterr().err
    death(site)
    assert main(["status"]) == 0
    assert "Echo: a replica died 0 s ago on 10.0.0.1: ended itself with exit code 4" in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["algorithms"]
    assert (row["deaths"]["count"], row["deaths"]["reason"]) == (1, "ended itself with exit code 4")
    assert main(["events", "Echo", "--since", "1h"]) == 0
    assert "replica b died" in capsys.readouterr().out
    assert main(["events", "--json"]) == 0
    (event,) = json.loads(capsys.readouterr().out)["events"]
    assert (event["kind"], event["algorithm"]) == ("death", "Echo")


@pytest.mark.parametrize("since", ["1", "1.5h", "an hour", "1w"])
def test_a_duration_that_is_none_is_refused(since: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["events", "--since", since])
    assert "write 90s, 15min, 2h or 1d" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "code"), [("RUNNING", 0), ("UNHEALTHY", 1), ("DEPLOY_FAILED", 1)])
def test_the_status_is_also_the_exit_code(
    home: Path, site: Site, capsys: pytest.CaptureFixture[str], status: str, code: int
) -> None:
    serving(home, site, status, "no GPU left")
    assert main(["status"]) == code
    text = capsys.readouterr().out
    assert status in text
    assert f"http://127.0.0.1:{site.port}/echo" in text
    assert main(["status", "--json"]) == code
    (row,) = json.loads(capsys.readouterr().out)["algorithms"]
    assert (row["name"], row["status"], row["environment"]) == ("Echo", status, "Echo-1")
    assert (row["replicas"], row["wanted"], row["gpu_cost"]) == (1, 1, 0.5)


@pytest.mark.parametrize(
    ("answer", "code"),
    [((200, b'{"status": 1}'), 0), ((200, b'{"status": 0}'), 1), ((500, b"{}"), 1), ((200, b"x"), 1)],
)
def test_smoke_asks_the_warm_up_request(
    home: Path, site: Site, capsys: pytest.CaptureFixture[str], answer: tuple[int, bytes], code: int
) -> None:
    serving(home, site)
    site.answers["/echo"] = answer
    assert main(["smoke"]) == code
    assert json.loads(site.asked[-1].body) == {"x": 1}
    assert capsys.readouterr().out.startswith("ok" if code == 0 else "FAIL")
    assert main(["smoke", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["ok"] is (code == 0)


def test_smoke_names_what_is_not_served(home: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    serving(home, site)
    site.answers[APPLICATIONS] = (200, b'{"applications": {}}')
    assert main(["smoke"]) == 1
    assert "Echo: is not served" in capsys.readouterr().out


def test_a_health_check_waits_as_long_as_it_is_told(home: Path, site: Site) -> None:
    Gateway(Settings.load(home)).configure(served(site.port))
    site.answers["/healthz"] = (503, b"{}")
    assert main(["gateway", "health"]) == 1
    assert len(site.asked) == 1
    comes_up = threading.Timer(0.3, site.answers.update, [{"/healthz": (200, b"{}")}])
    comes_up.start()
    assert main(["gateway", "health", "--wait", "10"]) == 0
    comes_up.join()


@pytest.mark.parametrize("command", ["node", "gateway", "catalog", "store"])
def test_the_entry_points_of_containers_are_commands_that_the_help_does_not_list(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--help"], [command, "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    listed, own = capsys.readouterr().out.split(f"usage: modelserve {command}")
    names = [line.split()[0] for line in listed.splitlines() if line.startswith("    ")]
    assert command not in names
    assert {"plan", "new", "keys"} <= set(names)
    assert "SUPPRESS" not in listed
    assert "action" in own or "{" in own


@pytest.mark.parametrize(("answer", "code"), [(b'{"status": 1}', 0), (b'{"status": 0}', 1)])
def test_a_benchmark_sends_the_warm_up_and_reports_failures(
    home: Path, site: Site, capsys: pytest.CaptureFixture[str], answer: bytes, code: int
) -> None:
    serving(home, site)
    site.answers["/echo"] = (200, answer)
    assert main(["bench", "Echo", "--seconds", "0.2", "--connections", "2"]) == code
    assert json.loads(site.asked[-1].body) == {"x": 1}
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split(maxsplit=1) == ["failed", "none"] or code
    assert max(map(len, lines)) <= 80
    assert main(["bench", "Echo", "--seconds", "0.2", "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is (code == 0)
    assert (document["p50_ms"] is None) is bool(document["failures"])


def test_a_benchmark_sends_a_file_as_the_algorithm_takes_it(
    home: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    serving(home, site)
    (home / "algopkg" / "Echo").mkdir(parents=True, exist_ok=True)
    (home / "algopkg" / "Echo" / "cat.png").write_bytes(b"picture")
    site.answers["/echo/schema"] = (200, b'{"input": {"type": "string", "format": "binary"}}')
    site.answers["/echo"] = (201, b"")
    assert main(["bench", "Echo", "--params", '{"file": "cat.png"}', "--seconds", "0.2", "--connections", "1"]) == 0
    assert (site.asked[-1].body, site.asked[-1].headers["Content-Type"]) == (b"picture", "image/png")
    capsys.readouterr()
    lines = failed(capsys, "bench", "Echo", "--params", '{"file": "dog.png"}')
    assert "'dog.png', which is not in the package's directory" in lines[0]


@pytest.mark.parametrize("answer", [b"[1]", b'"word"', b"3"])
def test_smoke_passes_an_answer_of_any_json_value(home: Path, site: Site, answer: bytes) -> None:
    serving(home, site)
    site.answers["/echo"] = (200, answer)
    assert main(["smoke"]) == 0


def test_keys_are_added_listed_and_revoked(home: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    serving(home, site)
    assert main(["keys", "add", "phone", "--algorithms", "Echo", "--max-concurrent", "8", "--json"]) == 0
    added = json.loads(capsys.readouterr().out)
    assert (added["ok"], added["client"]) == (True, "phone")
    assert main(["keys", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["keys"]
    assert (row["client"], row["algorithms"], row["max_concurrent"]) == ("phone", ["Echo"], 8)
    assert main(["keys"]) == 0
    table = capsys.readouterr().out
    assert "max concurrent" in table
    assert added["key"] not in table
    assert main(["keys", "add", "tablet"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.split()) == 1
    assert "shown this once" in printed.err
    assert main(["keys", "revoke", "phone"]) == 0
    assert "phone's key is revoked" in capsys.readouterr().out
    assert main(["keys", "revoke"]) == 1


def test_models_are_fetched(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "trained").write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    (home / "Model_ZOO" / "models.yml").write_text(f"- {{file: net, sha256: {sha256}, path: trained}}\n")
    for fetched in (["net"], []):
        assert main(["models", str(home / "Model_ZOO"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"ok": True, "fetched": fetched}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Ecco", "--backend", "Echo"], "Did you mean [algopkg.Echo]?"),
        (["Echo", "--backend", "Ecco"], "Did you mean 'Echo'?"),
        (["Echo", "--backend", "Echo", "--model", "word.json"], "Did you mean 'words.json'?"),
        (["Echo", "--backend", "my-class"], "my-class"),
        (["Echo", "--backend", "Echo", "--model", "a/b"], "a/b"),
        (["../Echo", "--backend", "Echo"], "../Echo"),
    ],
)
def test_a_test_of_what_is_not_there_is_an_error_line(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (line,) = failed(capsys, "test", *arguments)
    assert words in line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["check", "--no-such-option"],
        ["test"],
        ["node", "fly"],
        ["test", "Echo", "--backend", "Echo", "--params", "{"],
    ],
)
def test_a_command_that_is_none_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: modelserve" in capsys.readouterr().err


def run(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    places = {"PYTHONPATH": str(Path(modelserve.__file__).parents[1]), "MODELSERVE_HOME": str(home)}
    command = [sys.executable, "-m", "modelserve", *arguments]
    return subprocess.run(command, env={**places, **variables}, capture_output=True, text=True, check=False)


def test_the_module_is_the_command(home: Path) -> None:
    (home / "conf.ini").write_text(BROKEN)
    done = run(home, "check")
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 3
    assert "Traceback" not in done.stderr


def test_a_proxy_for_the_outside_is_not_asked_for_the_cluster(home: Path, site: Site, closed_port: int) -> None:
    serving(home, site)
    site.answers["/echo"] = (200, b'{"status": 1}')
    for command in ("status", "smoke"):
        done = run(home, command, http_proxy=f"http://127.0.0.1:{closed_port}")
        assert done.returncode == 0, done.stderr


@pytest.fixture
def released(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three releases: one's code changed, then its port and replicas."""
    monkeypatch.setenv("MODELSERVE_USER", "mia@laptop")
    releases = Releases(home / "releases", 10)
    for port, package, replicas in REMEMBERED:
        section = Section(name="Echo", backend="Echo", route="echo", replicas=replicas)
        models = [Path("/s/model/ab12/words.json")]
        application = Application.from_section(section, Path(package), models, Path("/e/1"))
        releases.record(Target(CONF, served(port), {"Echo": application}, {}), [f"~ Echo ({package})"])
    return home


def test_releases_are_listed_shown_and_compared(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["releases"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["3", "2", "1"]
    assert max(map(len, lines)) <= 80
    assert all("mia@laptop" in line for line in lines[2:])
    assert main(["releases", "show", "2"]) == 0
    text = capsys.readouterr().out
    assert "code         Echo-2" in text
    assert "words.json (ab12)" in text
    assert "  backend = Echo" in text
    assert main(["releases", "diff", "1", "3"]) == 0
    text = capsys.readouterr().out
    assert "port 666 -> 667" in text
    assert "code (new replicas)" in text
    assert "replicas: 1 -> 3" in text
    assert main(["releases", "diff", "2", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] is False


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (["show", "9"], 1, "there is no release 9: kept are 1 to 3"),
        (["show"], 2, "'releases show' takes 1 number"),
        (["diff", "1"], 2, "'releases diff' takes 2 numbers"),
    ],
)
def test_a_release_that_is_not_there_is_said_in_one_line(
    released: Path, capsys: pytest.CaptureFixture[str], command: list[str], code: int, says: str
) -> None:
    assert main(["releases", *command]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
