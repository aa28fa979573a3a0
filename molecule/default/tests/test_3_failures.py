"""What goes wrong: one clear line each, and what was served is served still."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import HEAD, HOME, Cluster, run


def broken(cluster: Cluster, *says: str) -> None:
    """Apply what the test broke: it must fail and say why in lines of its own, and no request may be lost."""
    before = cluster.replicas()
    with cluster.load("extract", {"text": "good"}) as counts:
        result = cluster.apply(check=False)
        time.sleep(1)
    assert result.returncode == 1, result.stdout
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors and "Traceback" not in result.stdout + result.stderr
    for words in says:
        assert words in result.stderr
    assert set(counts) == {200}
    assert cluster.ask("extract", {"text": "good"})[1]["result"]["score"] == 1
    assert cluster.replicas()["TextEmbedding"] == before["TextEmbedding"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("^import json$", "import jsonn", "No module named 'jsonn'"),
        pytest.param(
            r"json\.load\(stream\)",
            'json.load(stream)["nothing"]',
            "KeyError: 'nothing'",
            marks=pytest.mark.essential,
        ),
        (r"param_dict\[\"text\"\]", 'param_dict["txet"]', "KeyError: 'txet'"),
        ("^class algo_backend", "class algo_backnd", "Did you mean 'algo_backnd'?"),
        ("^class algo_backend", "class algo_backend(", "algopkg/AlgoExample/backend.py: does not parse: line"),
    ],
    ids=["import", "load", "warm-up", "class", "syntax"],
)
def test_a_broken_package_does_no_harm(cluster: Cluster, project: Path, old: str, new: str, says: str) -> None:
    cluster.edit("algopkg/AlgoExample/backend.py", old, new)
    broken(cluster, says)


def test_an_original_class_that_swallows_its_load_error_is_found_by_its_warm_up(
    cluster: Cluster, project: Path
) -> None:
    cluster.edit("algopkg/OriginalStyle/backend.py", "from algopkg.OriginalStyle.words", "from algopkg.Nowhere.words")
    broken(cluster, "OriginalStyle", "the warm-up request failed")


@pytest.mark.parametrize(
    ("requirements", "says"),
    [
        ("numpy==2.1.3\nnumpy==2.3.5", "numpy==2.3.5"),
        ("no-such-package-at-all==1.0", "no-such-package-at-all"),
        ("ray==2.9.1", "asks for ray==2.9.1, but the cluster runs ray"),
        ("numpy==1.26.4", "numpy"),
    ],
    ids=["conflict", "unknown", "other-ray", "no-wheel"],
)
def test_requirements_that_cannot_be_met_stop_before_anything_is_deployed(
    cluster: Cluster, project: Path, requirements: str, says: str
) -> None:
    (project / "algopkg/AlgoExample/requirements.txt").write_text(requirements + "\n")
    broken(cluster, "algopkg/AlgoExample/requirements.txt", says)


def test_another_python_is_refused(cluster: Cluster, project: Path) -> None:
    (project / "algopkg/AlgoExample/environment.yml").write_text("dependencies:\n  - python=3.9\n")
    broken(cluster, "algopkg/AlgoExample/environment.yml: asks for python=3.9, but the cluster runs Python 3.")


def test_a_conda_package_that_no_channel_has_is_named(cluster: Cluster, project: Path) -> None:
    (project / "algopkg/AlgoExample/environment.yml").write_text("dependencies:\n  - ffmpeg=7\n")
    broken(cluster, "algopkg/AlgoExample/environment.yml", "ffmpeg", "modelserve_conda_channels")


def test_a_conda_package_comes_from_a_channel(cluster: Cluster, project: Path) -> None:
    channel = HOME / "channel"
    (channel / "noarch").mkdir(parents=True)
    index = {"name": "greeting", "version": "1.0", "build": "0", "build_number": 0, "depends": [], "subdir": "noarch"}
    files = {"share/greeting.txt": b"hello", "info/index.json": json.dumps({**index, "noarch": "generic"}).encode()}
    path = {"_path": "share/greeting.txt", "path_type": "hardlink", "size_in_bytes": 5}
    path["sha256"] = hashlib.sha256(b"hello").hexdigest()
    files["info/paths.json"] = json.dumps({"paths": [path], "paths_version": 1}).encode()
    with tarfile.open(channel / "noarch" / "greeting-1.0-0.tar.bz2", "w:bz2") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    run("chown", "--recursive", f"--reference={HOME}", str(channel))
    code = (
        f"import asyncio, os; from rattler.index import index_fs; asyncio.run(index_fs({str(channel)!r})); os._exit(0)"
    )
    cluster.head("python", "-c", code)
    (project / "algopkg/AlgoExample/environment.yml").write_text(
        f"channels: [file://{channel}]\ndependencies:\n  - python\n  - greeting=1.0\n"
    )
    read = 'open(__import__("sys").prefix + "/share/greeting.txt").read()'
    cluster.edit("algopkg/AlgoExample/backend.py", r'"score": sum\(known.values\(\)\)', f'"score": {read}')
    cluster.apply()
    cluster.eventually("extract", {"text": ""}, {"score": "hello", "words": {}})


def test_an_environment_yml_can_bring_pip_packages(cluster: Cluster, project: Path) -> None:
    text = "channels: [defaults]\ndependencies:\n  - python=3\n  - pip\n  - pip: [tabulate==0.9.0]\n"
    (project / "algopkg/AlgoExample/environment.yml").write_text(text)
    cluster.edit("algopkg/AlgoExample/backend.py", "^import json$", "import json\nimport tabulate")
    assert "environment AlgoExample-" in cluster.apply().stdout


@pytest.mark.essential
def test_every_mistake_in_conf_ini_is_told_at_once(cluster: Cluster, project: Path) -> None:
    cluster.edit("conf.ini", "^backend = TextEmbedding", "backnd = TextEmbedding")
    cluster.edit("conf.ini", "^port = 6660", "port = 66600")
    cluster.edit("conf.ini", "^route = numpy/new", "route = numpy/old")
    broken(
        cluster,
        "conf.ini:15 [algopkg.TextEmbedding] backnd: unknown key. Did you mean 'backend'?",
        "conf.ini:3 [MODEL SERVE] port: 66600 is out of range",
        "conf.ini:30 [algopkg.NumpyNew] route: 'numpy/old' is the route of [algopkg.NumpyOld] too",
    )


def test_the_deploy_playbook_stops_before_a_wrong_conf_ini_reaches_the_head(cluster: Cluster, project: Path) -> None:
    on_head = (HOME / "conf.ini").read_text()
    cluster.edit("conf.ini", "^model = minilm-int8.onnx", "model = minilm-int9.onnx")
    result = cluster.playbook("playbooks/deploy.yml", check=False)
    assert result.returncode != 0
    assert "'minilm-int9.onnx' is not in Model_ZOO. Did you mean 'minilm-int8.onnx'?" in result.stdout
    assert (HOME / "conf.ini").read_text() == on_head


@pytest.mark.essential
def test_preflight_reports_every_failure_as_a_table(cluster: Cluster, project: Path) -> None:
    cluster.edit("conf.ini", r"gpu_cost = 0\.5", "gpu_cost = 2")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 6662))
        other.listen()
        cluster.edit("conf.ini", "^port = 6660", "port = 6662")
        result = cluster.playbook("site.yml", "-e", "modelserve_min_disk_mb=999999999", check=False)
    assert result.returncode != 0 and "changed=0" in result.stdout
    for words in ("GPUs: found 4.0 asked for, 2 there", "disk at", "6662 by ", "memory"):
        assert words in result.stdout


def test_a_port_that_is_taken_changes_nothing(cluster: Cluster, project: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 6663))
        other.listen()
        cluster.edit("conf.ini", "^port = 6660", "port = 6663")
        cluster.edit("algopkg/AlgoExample/backend.py", r'"score": sum\(known.values\(\)\)', '"score": 42')
        broken(cluster, "port 6663 is taken", "choose a port that is free")


def environments_without_mark() -> list[Path]:
    """Return the directories of environments whose builds were not finished."""
    return [path for path in (HOME / "store/env").glob("[!.]*") if not (path / "modelserve.json").exists()]


def test_an_interrupted_build_leaves_nothing_that_looks_complete(cluster: Cluster, project: Path) -> None:
    (project / "algopkg/AlgoExample/requirements.txt").write_text("tabulate==0.9.0\ntoolz==1.0.0\n")
    run("rsync", "-a", "--delete", f"{project}/algopkg/", f"{HOME}/algopkg/")
    test = ["modelserve", "test", "AlgoExample", "--backend", "algo_backend", "--model", "example_words.json"]
    test += ["--params", '{"text": "good"}']
    build = subprocess.Popen(["docker", "exec", HEAD, *test], stdout=subprocess.PIPE, text=True)
    assert build.stdout is not None and "building" in build.stdout.readline()
    deadline = time.monotonic() + 60
    while not (unfinished := environments_without_mark()):  # the line is shown before the first file is there
        assert time.monotonic() < deadline and build.poll() is None
        time.sleep(0.01)
    run("docker", "exec", HEAD, "pkill", "-KILL", "-f", "^/opt/venv/bin/python /opt/venv/bin/modelserve test")
    build.wait()
    assert environments_without_mark() == unfinished
    assert [path.name.split("-")[0] for path in unfinished] == ["AlgoExample"]
    assert '"ok": true' in cluster.head(*test).stdout
    assert (unfinished[0] / "modelserve.json").exists()


def test_a_model_that_is_not_the_one_described_is_refused(cluster: Cluster, project: Path) -> None:
    file = project / "Model_ZOO" / "minilm-tokenizer.json"
    file.write_text(file.read_text() + " ")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    said = (
        f"error: Model_ZOO/models.yml [minilm-tokenizer.json]: the file there has sha256 {found}, not be50c3628f2bf5bb"
    )
    broken(cluster, said, "Deploy from the project")


def test_a_stored_model_that_was_changed_is_never_loaded(cluster: Cluster) -> None:
    model = (HOME / "Model_ZOO" / "minilm-tokenizer.json").read_bytes()
    stored = HOME / "store" / "model" / hashlib.sha256(model).hexdigest() / "minilm-tokenizer.json"
    stored.write_bytes(model.replace(b"the", b"eht", 1))
    found = cluster.head("pgrep", "-f", "^ray::ServeReplica:TextEmbedding").stdout.split()
    cluster.head("kill", "-9", *found)
    deadline = time.monotonic() + 120
    while "not the one that was deployed" not in (answer := cluster.ask("readyz/TextEmbedding"))[1]["info"]:
        assert time.monotonic() < deadline, answer
        time.sleep(0.5)
    assert answer[0] == 503
    assert cluster.ask("extract", {"text": "good"})[0] == 200
    assert "nothing to do" in cluster.apply().stdout
    assert stored.read_bytes() == model
    assert cluster.ask("embed", {"sentence": "a"})[0] == 200


def test_a_head_that_is_killed_comes_back_with_its_applications(host: Any, cluster: Cluster) -> None:
    latest = max(int(path.stem) for path in (HOME / "releases").glob("*.json"))
    os.kill(int(host.docker(HEAD).inspect()["State"]["Pid"]), signal.SIGKILL)
    deadline = time.monotonic() + 400
    while cluster.ask("extract", {"text": "good"})[0] != 200 or cluster.ask("original", {"word": "good"})[0] != 200:
        assert time.monotonic() < deadline, "the algorithms did not come back"
        time.sleep(1)
    result = cluster.head("modelserve", "apply", "--json", check=False)
    while result.returncode != 0 and time.monotonic() < deadline:
        time.sleep(1)
        result = cluster.head("modelserve", "apply", "--json", check=False)
    assert json.loads(result.stdout)["changed"] is False
    assert max(int(path.stem) for path in (HOME / "releases").glob("*.json")) == latest


@pytest.mark.essential
def test_a_gateway_that_is_killed_comes_back(host: Any, cluster: Cluster) -> None:
    os.kill(int(host.docker("modelserve_gateway").inspect()["State"]["Pid"]), signal.SIGKILL)
    deadline = time.monotonic() + 200
    while cluster.ask("extract", {"text": "good"})[0] != 200:
        assert time.monotonic() < deadline, "the gateway did not come back"
        time.sleep(0.5)


def test_without_a_head_the_commands_say_so(cluster: Cluster) -> None:
    run("docker", "stop", "--time", "1", HEAD)
    try:
        gateway, answer = cluster.ask("extract", {"text": "good"})
        assert gateway in (502, 503) and answer["status"] == 0
        result = cluster.playbook("playbooks/status.yml", check=False)
        assert result.returncode != 0 and "is not running" in result.stdout
    finally:
        run("docker", "start", HEAD)
    cluster.head("modelserve", "node", "health", "--wait", "120")
    cluster.apply()
