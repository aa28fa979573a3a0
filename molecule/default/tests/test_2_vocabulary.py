"""What a section can say beyond its class and route, asked for real."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Cluster

BACKEND = '''"""Answers with what it was given."""

import os
import time

import modelserve
from pydantic import BaseModel


class Question(BaseModel):
    text: str
    sleep: float = 0


class Vocabulary(modelserve.AlgoBackend):
    def _model_inference_batch(self, questions: list[Question]) -> list[dict]:
        time.sleep(max(question.sleep for question in questions))
        return [
            ValueError("no")
            if question.text == "bad"
            else {"text": question.text, "together": len(questions), "greeting": os.environ.get("GREETING")}
            for question in questions
        ]
'''
LONG_S = 150  # Serve ends a replaced HAProxy after 120 s by default
SECTION = """
[algopkg.Vocabulary]
backend = Vocabulary
route = vocabulary
method = POST
"""
KEYS = """
batch_size = 8
batch_wait = 0.3
request_timeout = 2
memory = 64MiB
env.GREETING = hello
"""


@pytest.fixture
def package(cluster: Cluster, project: Path) -> Path:
    """The package and its section, with no keys yet."""
    directory = project / "algopkg/Vocabulary"
    directory.mkdir()
    (directory / "__init__.py").touch()
    (directory / "requirements.txt").touch()
    (directory / "backend.py").write_text(BACKEND)
    conf = project / "conf.ini"
    conf.write_text(conf.read_text() + SECTION)
    return conf


def ask_many(cluster: Cluster, questions: list[dict[str, Any]]) -> list[tuple[int, Any]]:
    """Ask all at once."""
    with ThreadPoolExecutor(len(questions)) as pool:
        return list(pool.map(lambda question: cluster.ask("vocabulary", question, "POST"), questions))


@pytest.mark.essential
def test_batches_types_timeouts_and_variables(cluster: Cluster, package: Path) -> None:
    package.write_text(package.read_text() + KEYS)
    cluster.apply()
    answers = ask_many(cluster, [{"text": f"{number}"} for number in range(7)] + [{"text": "bad"}])
    assert Counter(status for status, _ in answers) == {200: 7, 500: 1}, answers
    results = [answer["result"] for status, answer in answers if status == 200]
    assert sorted(result["text"] for result in results) == [str(number) for number in range(7)]
    assert max(result["together"] for result in results) > 1
    assert {result["greeting"] for result in results} == {"hello"}

    status, answer = cluster.ask("vocabulary", {"sleep": "long"}, "POST")
    assert (status, answer["status"]) == (422, 0)
    assert [error["field"] for error in answer["errors"]] == ["text", "sleep"]
    schema = cluster.ask("vocabulary/schema")[1]
    assert schema["input"]["properties"]["text"] == {"title": "Text", "type": "string"}
    status, answer = cluster.ask("vocabulary", {"text": "a", "sleep": 4}, "POST")
    assert status == 504 and "2 s (request_timeout)" in answer["info"]
    assert cluster.ask("extract", {"text": "good"})[0] == 200


def test_a_full_queue_turns_away_with_429_and_says_when_to_come_back(cluster: Cluster, package: Path) -> None:
    package.write_text(package.read_text() + "max_ongoing_requests = 1\nmax_queued_requests = 1\n")
    cluster.apply()
    told: list[str | None] = []

    def ask(_: int) -> int:
        body = json.dumps({"text": "a", "sleep": 0.5}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{cluster.port}/vocabulary", body, method="POST")
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            assert json.loads(error.read())["status"] == 0
            told.append(error.headers["Retry-After"])
            return error.code

    with ThreadPoolExecutor(12) as pool:
        counts = Counter(pool.map(ask, range(12)))
    assert set(counts) == {200, 429} and counts[429] >= 6, counts
    assert set(told) == {"1"}


def test_a_client_that_left_before_its_turn_is_not_worked_for(cluster: Cluster, package: Path) -> None:
    backend = package.parent / "algopkg/Vocabulary/backend.py"
    backend.write_text(
        backend.read_text().replace(
            "        time.sleep", "        print('asked', questions[0].text)\n        time.sleep"
        )
    )
    cluster.apply()

    def ask(text: str, patience: float) -> int:
        body = json.dumps({"text": text, "sleep": 3}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{cluster.port}/vocabulary", body, method="POST")
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, timeout=patience
            ) as response:
                return int(response.status)
        except OSError:
            return 0

    with ThreadPoolExecutor(3) as pool:
        asked = []
        for text, patience in (("first", 60), ("gone", 1), ("last", 60)):
            asked.append(pool.submit(ask, text, patience))
            time.sleep(0.3)
        assert [one.result() for one in asked] == [200, 0, 200]
    lines = cluster.head("modelserve", "logs", "Vocabulary").stdout
    assert "asked first" in lines and "asked last" in lines
    assert "asked gone" not in lines


def test_a_long_request_outlives_another_section_s_deploy_and_runs_once(cluster: Cluster, package: Path) -> None:
    backend = package.parent / "algopkg/Vocabulary/backend.py"
    backend.write_text(backend.read_text().replace("        time.sleep", "        print('runs')\n        time.sleep"))
    package.write_text(package.read_text() + "request_timeout = 300\n")
    cluster.apply()
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(cluster.ask, "vocabulary", {"text": "long", "sleep": LONG_S}, "POST", timeout=300)
        time.sleep(2)
        cluster.edit("algopkg/AlgoExample/backend.py", "^import json$", "NEW = True\nimport json")
        cluster.apply()
        status, answer = long.result()
    assert (status, answer["result"]["text"]) == (200, "long")
    assert cluster.head("modelserve", "logs", "Vocabulary").stdout.count("runs") == 1


def test_replicas_follow_the_load(cluster: Cluster, package: Path) -> None:
    package.write_text(package.read_text() + "min_replicas = 1\nmax_replicas = 2\ntarget_ongoing_requests = 1\n")
    cluster.apply()
    assert len(cluster.replicas()["Vocabulary"]) == 1
    most = 0
    for _ in range(40):
        statuses = {status for status, _ in ask_many(cluster, [{"text": "a", "sleep": 1}] * 6)}
        assert statuses == {200}
        most = max(most, len(cluster.replicas()["Vocabulary"]))
        if most == 2:
            break
    assert most == 2
    assert json.loads(cluster.head("modelserve", "plan", "--json").stdout)["changed"] is False


def test_defaults_and_disabled_sections(cluster: Cluster, package: Path) -> None:
    text = package.read_text().replace("[algopkg.Vocabulary]", "[algopkg.Vocabulary]\nenabled = false")
    package.write_text(text + f"\n[DEFAULTS]\nenv.GREETING = {os.getpid()}\n")
    cluster.apply()
    assert not cluster.replicas().get("Vocabulary")
    package.write_text(package.read_text().replace("enabled = false", "update = recreate"))
    cluster.apply()
    assert cluster.ask("vocabulary", {"text": "a"}, "POST")[1]["result"]["greeting"] == str(os.getpid())
