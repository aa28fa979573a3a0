"""diagnose: no secret gets into the archive, wherever it stood; what is needed to find a fault does."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import stat
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import ansible.module_utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))


def load(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(file).stem, ROOT / "plugins" / file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Redactor = load("module_utils/modelserve_redact.py").Redactor
diagnose = load("modules/modelserve_diagnose.py")

# A secret has characters that no text around it has, so that finding it is no accident.
letters = st.characters(codec="ascii", categories=["L", "N"])
words = st.text(letters, min_size=6, max_size=40).map(lambda text: f"Zq{text}")
odd = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=6, max_size=30).map("Zq{}".format)
around = st.text(st.sampled_from("abc ,;:='\"\\[]{}()<>@/\n\t-.é"), max_size=40)


@given(st.lists(st.one_of(words, odd), min_size=1, max_size=4), st.lists(around, min_size=5, max_size=5))
def test_a_known_secret_is_found_in_any_text(secrets: list[str], between: list[str]) -> None:
    redactor = Redactor()
    for secret in secrets:
        redactor.add_file(f"someone:{secret}\n")
    text = "".join(piece for pair in zip(between, [*secrets, ""], strict=False) for piece in pair)
    for written in (text, json.dumps(text), json.dumps({"m": text}, ensure_ascii=False), quote(text), repr(text)):
        for redacted in (redactor.text(written), redactor.document(written), redactor.config(written)):
            assert not any(secret in redacted for secret in secrets)
            assert not any(json.dumps(secret)[1:-1] in redacted or quote(secret) in redacted for secret in secrets)


@given(words, words)
def test_secrets_that_overlap_leave_nothing(first: str, second: str) -> None:
    redactor = Redactor()
    redactor.add(f"{first}-{second}")
    redactor.add(f"{second}-{first}")
    redacted = redactor.text(f"x {first}-{second}-{first} y")
    assert first not in redacted and second not in redacted
    assert redacted.startswith("x ") and redacted.endswith(" y")


WRITTEN = [
    "API_TOKEN={}",
    "export DB_PASSWORD={}",
    "api_key = {} and {} more",
    "db_secret =\n    {}\n    {}\nport = 3",
    '{{"hf_token": "{}", "x": 1}}',
    '{{"a":"b","auth_tokens":["{}","{}"],"x":1}}',
    '{{"secrets": {{"a": {{"b": "{}"}}, "c": "{}"}}}}',
    '{{"message": "asked with {{\\"api_key\\": \\"{}\\"}}"}}',
    '{{"message": "conf is [a]\\napi_key = {} {}\\nport = 3"}}',
    '{{"Env": ["RAY_TOKEN={}", "A=b"]}}',
    '{{"name": "HF_TOKEN", "value": "{}"}}',
    "2026-01-01 INFO options {{'password': '{}', 'a': 1}}",
    "2026-01-01 INFO call(user='u', password='it {} is', a=1)",
    "2026-01-01 INFO login with password: {} failed",
    "GET / Authorization: Basic {}",
    "-H 'X-Api-Key: {}' -H 'Authorization: Bearer {}'",
    "header was bearer {}",
    "run --auth-token {} --verbose",
    "pip install -i https://me:{}@index.example/simple",
    "pip install -i https://{}@index.example/simple",
    "http://me:{}/x#{}@proxy.example:3128/",
    "redis://:{}@10.0.0.1:6379/0",
    "http:\\/\\/me:{}@host\\/",
    "-----BEGIN RSA PRIVATE KEY-----\n{}\n{}==\n-----END RSA PRIVATE KEY-----",
    '"key": "-----BEGIN PRIVATE KEY-----\\n{}\\n{}\\n-----END PRIVATE KEY-----\\n"',
    "{}\n{}==\n-----END OPENSSH PRIVATE KEY-----",
    "01:02:03.4Z x{0:A<30}\n01:02:03.4Z {0:A<30}\n01:02:03.5Z {0}==\n01:02:03.6Z -----END RSA PRIVATE KEY-----",
    "-----BEGIN EC PRIVATE KEY-----\n{}",
]


@pytest.mark.parametrize("form", WRITTEN)
@settings(max_examples=20)
@given(secret=words, before=st.sampled_from(["", "plain words\n"]), after=st.sampled_from(["", "\nmore words 7"]))
def test_a_secret_nobody_knows_is_found_by_how_it_is_written(form: str, secret: str, before: str, after: str) -> None:
    text = before + form.format(secret, secret) + after
    redactor = Redactor()
    for redacted in (redactor.text(text), redactor.document(text), redactor.config(text)):
        assert secret not in redacted
        if "\n" not in form and "BEGIN" not in form:
            assert redacted.endswith(after)


@pytest.mark.parametrize(
    "text",
    [
        "replica started in 3.2 s at http://127.0.0.1:8000/extract",
        "git+ssh://host/repo and mail to someone@example.org",
        "the token was refused",
        '{"tokens": true, "secret": null}',
        "Traceback (most recent call last):\n  File x, line 3\nKeyError: 'a'",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    redactor = Redactor()
    redactor.add("ab12")
    assert redactor.text(text) == text


def test_a_document_stays_a_document() -> None:
    redacted = json.loads(Redactor().document(json.dumps({"a": [{"password": "hunter2222"}], "env": ["A_TOKEN=x y"]})))
    assert redacted == {"a": [{"password": "<redacted>"}], "env": ["A_TOKEN=<redacted>"]}


def test_long_lines_take_no_time() -> None:
    redactor = Redactor()
    for hard in (
        "A" * 100_000,
        "token" * 20_000,
        "://a:1" * 20_000,
        '\\"' * 120_000,
        "-token" * 20_000,
        "[{" * 120_000,
    ):
        redactor.text(hard)


DOCKER = """#!{python}
import json, sys
given = " ".join(sys.argv[1:])
container = {{"Id": "c1", "Name": "/modelserve_head", "RestartCount": 2,
             "State": {{"Running": True, "Status": "running"}},
             "Config": {{"Labels": {{"modelserve.role": "head"}}, "Env": ["HF_TOKEN={env}"]}}}}
rows = [{{"name": "Echo", "status": "DEPLOY_FAILED", "message": "login {env} refused"}}]
answers = {{"version --format": "27.0", "ps --all --quiet": "c1", "inspect": json.dumps([container]),
           "logs": "line one\\nsaw {known} and {env}\\n",
           "exec c1 timeout -k 2 20 modelserve status": json.dumps({{"algorithms": rows}})}}
print(next((answer for begin, answer in answers.items() if given.startswith(begin)), "proxy http://u:{url}@p:1"))
sys.exit(3 if "plan" in given else 0)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    root = tmp_path / "home"
    for name in ("secrets", "releases", "gateway", "node", "ray/session_1/logs/serve", "store/env/Echo-12", "bin"):
        (root / name).mkdir(parents=True)
    (root / "ray/session_latest").symlink_to(root / "ray/session_1")
    return root


PLANTED = {
    "token": "ZqWholeFile" * 4,
    "line": "ZqSecondLine 77",
    "value": "ZqAfterColon77",
    "index": "ZqIndexPassword7",
    "release": "ZqReleaseKey7",
    "haproxy": "ZqHaproxyPass7",
    "node": "ZqNodeValue7",
    "env": "ZqContainerEnv7",
    "url": "ZqProxyPassword7",
    "log": "ZqOnlyInTheLog7",
    "elsewhere": "ZqBehindALink7",
    "inventory": 'Zq"Inventory Secret7',
    "operator": "ZqOperatorFile7",
    "served": "zqservedvalue",
    "cut": "ZqLogIsCutHere7" * 40,
}


@pytest.fixture
def planted(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with secrets in all places, and a docker command that says some more."""
    p = PLANTED
    (home / "secrets/ray_token").write_text(p["token"] + "\n")
    (home / "secrets/cut").write_text(p["cut"])
    (home / "secrets/api_keys").write_text(f"first line\n{p['line']}\nalice: {p['value']}\n")
    (home / "secrets/values").mkdir()
    (home / "secrets/served").mkdir()
    (home / "secrets/inventory.json").write_text(json.dumps({"long_name_of_a_secret": p["inventory"]}))
    (home / "secrets/values/hf_token").write_text(p["operator"] + "\n")
    (home / "secrets/served/0a1b.json").write_text(json.dumps({"HF_TOKEN": p["served"]}))
    (home / "settings.json").write_text(json.dumps({"index_url": f"https://me:{p['index']}@host/simple", "port": 1}))
    (home / "conf.ini").write_text(f"[MODEL SERVE]\nport = 666\n[algopkg.Echo]\napi_key = {p['release']}\n")
    document = {"number": 7, "conf": f"[a]\napi_key = {p['release']}\nport = 1\n", "serve": {"t": p["value"]}}
    (home / "releases/7.json").write_text(json.dumps(document))
    (home / "gateway/haproxy.cfg").write_text(f"userlist u\n  user bob insecure-password {p['haproxy']}\n  bind :1\n")
    (home / "node/options.json").write_text(json.dumps({"private": {"deep": [p["node"]]}}))
    logs = home / "ray/session_latest/logs"
    everything = " ".join(value for name, value in p.items() if name not in ("log", "elsewhere", "haproxy", "node"))
    (logs / "raylet.out").write_text(f"begin {everything}\nAuthorization: Bearer {p['log']}\nthe end\n")
    (logs / f"serve/replica_{p['token']}.log").write_text("its name says too much\n")
    (logs / "serve/cut.log").write_text(p["cut"] + "\n" + "x" * (4096 - 300) + "\n")  # 4 KiB end within the secret
    (logs / "one_line.log").write_text(p["cut"] * 20)
    (logs / "core").write_bytes(b"\0" * 50 + p["log"].encode())
    (logs / "link.log").symlink_to(tmp_path / "outside")
    (logs / "token.log").symlink_to(home / "secrets/ray_token")
    (tmp_path / "outside").write_text(p["elsewhere"])
    (home / "store/env/Echo-12/lib.py").write_text("x" * 1000)
    docker = home / "bin/docker"
    docker.write_text(DOCKER.format(python=sys.executable, env=p["env"], known=p["value"], url=p["url"]))
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}/bin:/usr/bin:/bin")
    return home


def unpack(content: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {entry.name: archive.extractfile(entry).read().decode() for entry in archive}  # type: ignore[union-attr]


def test_no_planted_secret_is_in_the_archive(planted: Path, tmp_path: Path) -> None:
    dest = tmp_path / "part.tar.gz"
    dest.write_text("")
    dest.chmod(0o644)
    result = diagnose.collect(str(planted), str(dest), log_kb=4, max_files=50)
    files = unpack(dest.read_bytes())
    everything = json.dumps(result) + "".join(f"{name}\n{text}\n" for name, text in files.items())
    for name, secret in PLANTED.items():
        assert secret not in everything, name
    assert "ZqLogIs" not in everything, "the rest of a secret that was cut"
    assert not any("secrets" in name or "link" in name for name in files if not name.startswith("states/"))
    assert stat.S_IMODE(dest.stat().st_mode) == 0o600


def test_what_is_needed_is_in_the_archive(planted: Path) -> None:
    before = sorted(str(path) for path in planted.rglob("*"))
    result = diagnose.collect(str(planted), log_kb=4, max_files=50)
    files = unpack(base64.b64decode(result["content"]))
    assert next(iter(files)) == "summary.txt"
    assert len(files["summary.txt"].splitlines()) <= 24
    assert "release     7" in files["summary.txt"]
    assert "Echo: DEPLOY_FAILED login <redacted> refused" in files["summary.txt"]
    assert result["headline"] == "modelserve_head running, 2 restarts; 0 of 1 algorithms running"
    assert [problem.split(":")[0] for problem in result["problems"]] == ["modelserve plan --json"]
    assert json.loads(files["files/settings.json"]) == {"index_url": "https://me:<redacted>@host/simple", "port": 1}
    assert "port = 666" in files["files/conf.ini"]
    assert "bind :1" in files["files/gateway/haproxy.cfg"]
    assert "the end" in files["ray-logs/raylet.out"]
    assert "line one" in files["containers/modelserve_head.log"]
    assert "1000  store/env/Echo-12" in files["states/store.txt"]
    assert before == sorted(str(path) for path in planted.rglob("*"))


def test_the_newest_logs_are_taken_first(planted: Path) -> None:
    logs = planted / "ray/session_latest/logs"
    for number in range(5):
        (logs / f"n{number}.log").write_text(f"{number}\n")
        os.utime(logs / f"n{number}.log", (2e9 + number, 2e9 + number))
    files = unpack(base64.b64decode(diagnose.collect(str(planted), max_files=2)["content"]))
    assert [name for name in files if name.startswith("ray-logs/")] == ["ray-logs/n4.log", "ray-logs/n3.log"]
    assert "n2.log  (left out)" in files["states/ray-logs.txt"]


def test_the_headline_says_why_a_container_is_unhealthy(tmp_path: Path) -> None:
    host = diagnose.Host(str(tmp_path), 4, 1)
    state = {"Status": "running", "Health": {"Status": "unhealthy", "Log": [{"Output": "error: lost its GPUs\n"}]}}
    host.containers = [{"Name": "/modelserve_worker_1", "State": state}]
    assert host.headline() == "modelserve_worker_1 running (unhealthy: lost its GPUs)"
    state["Health"] = {"Status": "unhealthy", "Log": None}
    assert host.headline() == "modelserve_worker_1 running (unhealthy: no output)"


def test_a_host_without_anything_is_collected_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result: dict[str, Any] = diagnose.collect(str(tmp_path / "nothing"))
    assert result["headline"] == "Docker not installed"
    assert "release     none" in unpack(base64.b64decode(result["content"]))["summary.txt"]


def test_a_command_that_hangs_is_given_up() -> None:
    assert diagnose.run(["sh", "-c", "sleep 60 & sleep 60"], timeout=0.2) == (None, "no answer within 0.2 s\n")


def test_names_of_secrets_stay_readable(planted: Path) -> None:
    (planted / "conf.ini").write_text(
        "[algopkg.Echo]\nsecret.HF_TOKEN = long_name_of_a_secret\nsecret.B = name_2_of_a\n"
    )
    log = planted / "ray/session_latest/logs/names.log"
    log.write_text("uses long_name_of_a_secret and name_2_of_a\n")
    files = unpack(base64.b64decode(diagnose.collect(str(planted), log_kb=4, max_files=50)["content"]))
    assert "uses long_name_of_a_secret and name_2_of_a" in files["ray-logs/names.log"]


def test_a_worker_s_logs_have_no_secret_that_lies_on_the_head(planted: Path, tmp_path: Path) -> None:
    secrets = diagnose.section_secrets(str(planted))
    assert secrets == [PLANTED["inventory"], PLANTED["operator"] + "\n"]
    assert diagnose.section_secrets(str(tmp_path / "nothing")) == []
    worker = tmp_path / "worker"
    logs = worker / "ray/session_1/logs"
    logs.mkdir(parents=True)
    (worker / "ray/session_latest").symlink_to(worker / "ray/session_1")
    (worker / "secrets").mkdir()
    (logs / "replica.log").write_text(f"begin {PLANTED['operator']} {json.dumps(PLANTED['inventory'])} end\n")
    files = unpack(base64.b64decode(diagnose.collect(str(worker), secrets=secrets)["content"]))
    assert "begin <redacted>" in files["ray-logs/replica.log"]
    for value in ("operator", "inventory"):
        assert PLANTED[value] not in "".join(files.values())
        assert json.dumps(PLANTED[value])[1:-1] not in "".join(files.values())
