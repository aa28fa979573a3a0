"""CPU threads: a section's own number, else its reserved cores, else a fair part of the node's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import modelserve
import pytest
from modelserve.author import trial
from modelserve.cli.tables import status_table
from modelserve.config.section import Section
from modelserve.deploy import publish
from modelserve.deploy.publish import SHARED_BY, Publisher, replicas_per_node
from modelserve.deploy.releases import Releases
from modelserve.deploy.status import algorithm_statuses
from modelserve.errors import UserError
from modelserve.replica import cpu_threads, ray_compat
from modelserve.replica.arguments import TryOnceArgs
from modelserve.serve.application import Application
from modelserve.serve.contract import AppArgs, cpu_threads_of
from modelserve.serve.status import statuses_of
from modelserve.settings import Settings
from modelserve.store.manifest import NAME, Content, Manifest
from modelserve.store.store import Store


def app(**keys: Any) -> Application:
    section = Section(name="Echo", backend="Echo", route="echo", **keys)
    return Application.from_section(section, Path("/s/pkg/Echo-1"), [], Path("/s/env/Echo-1"))


@pytest.mark.parametrize(
    ("listed", "threads", "reserved", "cores", "sharing", "number"),
    [
        ("", 0, 0, 16, 4, 4),
        ("", 0, 0, 16, 5, 3),
        ("", 0, 0, 2, 50, 1),
        ("", 0, 0, 8, 0, 8),
        ("", 0, 3.5, 16, 4, 3),
        ("", 0, 0.5, 16, 4, 1),
        ("", 6, 3.5, 16, 4, 6),
        ("7", 6, 3.5, 16, 4, 7),
        ("7,2", 0, 0, 16, 4, 7),
        ("all", 0, 0, 16, 4, 4),
    ],
)
def test_the_number_of_threads(
    listed: str, threads: int, reserved: float, cores: int, sharing: int, number: int
) -> None:
    assert cpu_threads_of(listed, threads, reserved, cores, sharing) == number


def test_without_the_key_serve_is_given_what_it_was_given_before() -> None:
    assert "cpu_threads" not in app().to_serve()["args"]
    # The identity that this section had before there was the key: another one would restart its replicas.
    assert app().user_config.identity == "7c450451e6bf"
    assert app(cpu_threads=3).to_serve()["args"]["cpu_threads"] == 3
    assert app(cpu_threads=3).user_config.identity != app().user_config.identity
    assert Application.from_serve(app(cpu_threads=3).to_serve()).args.cpu_threads == 3


@pytest.mark.parametrize("value", ["", None])
def test_a_section_lifts_what_defaults_sets(value: Any) -> None:
    assert Section(name="Echo", backend="Echo", route="echo", cpu_threads=value).cpu_threads is None


@pytest.mark.parametrize("value", [0, -1, 1025, "two"])
def test_a_number_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="cpu_threads"):
        app(cpu_threads=value)


def test_the_replicas_of_a_node_are_counted_at_their_most() -> None:
    applications = {"A": app(replicas=3), "B": app(replicas=1, max_replicas=6)}
    assert [replicas_per_node(applications, nodes) for nodes in (1, 2, 4, 20)] == [9, 5, 3, 1]
    assert replicas_per_node({}, 3) == 0


def test_a_replica_reads_the_number_of_its_node(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert cpu_threads.replicas_per_node(tmp_path) == 1
    # Of a head of the version before, which names no number.
    old = Manifest(needed=(Content(path="env/A-1", hash="1"), Content(path="pkg/A-1", hash="1")))
    for published, number in [(old, 1), (old.model_copy(update={"replicas_per_node": 4}), 4)]:
        published.publish(store)
        assert cpu_threads.replicas_per_node(tmp_path) == published.cores_shared_by == number
    (store.root / NAME).rename(tmp_path / "copy")
    (tmp_path / "node").mkdir()
    (tmp_path / "copy").rename(tmp_path / "node" / NAME)  # as on a worker
    assert cpu_threads.replicas_per_node(tmp_path) == 4
    (tmp_path / "node" / NAME).write_text("damaged")
    assert cpu_threads.replicas_per_node(tmp_path) == 1


@pytest.mark.parametrize(("text", "limit"), [("max 100000\n", 64), ("250000 100000\n", 2), ("50000 100000\n", 1)])
def test_a_limit_of_the_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, limit: int
) -> None:
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(cpu_threads, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert cpu_threads.cores() == limit


def test_the_variables_of_a_section_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cpu_threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # Ray's
    monkeypatch.setenv("MKL_NUM_THREADS", "9")
    assert cpu_threads.set_variables(3, 0, {"MKL_NUM_THREADS"}) == 3
    values = {name: os.environ[name] for name in cpu_threads.VARIABLES}
    assert values.pop("MKL_NUM_THREADS") == "9"
    assert set(values.values()) == {"3"}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert cpu_threads.set_variables(0, 0, {"OMP_NUM_THREADS"}) == 5
    assert os.environ["MKL_NUM_THREADS"] == "5"


def test_in_a_replica_the_section_s_variables_are_those_of_its_runtime_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (ray_compat.reserved_cpus(), set(ray_compat.own_variables())) == (0, set(os.environ))
    context = SimpleNamespace(
        get_assigned_resources=lambda: {"CPU": 2.0}, runtime_env={"env_vars": {"OMP_NUM_THREADS": "4"}}
    )
    ray = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    assert (ray_compat.reserved_cpus(), set(ray_compat.own_variables())) == (2, {"OMP_NUM_THREADS"})


BACKEND = """\
import os
import modelserve

AT_IMPORT = [os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")]


class Echo(modelserve.AlgoBackend):
    def _model_inference(self, params):
        return AT_IMPORT
"""


@pytest.mark.parametrize(
    ("keys", "numbers"),
    [
        ({"cpu_threads": 3}, ["3", "3", "3"]),
        ({"cpu_cost": 2.5}, ["2", "2", "2"]),
        ({"env": {"OMP_NUM_THREADS": "4"}}, ["4", "4", "4"]),
        ({}, [str(max(1, cpu_threads.cores() // 2))] * 3),
    ],
)
def test_a_trial_has_the_threads_of_a_replica_before_its_package_is_imported(
    tmp_path: Path, keys: dict[str, Any], numbers: list[str]
) -> None:
    package = tmp_path / "algopkg" / "Echo"
    package.mkdir(parents=True)
    (package / "backend.py").write_text(BACKEND)
    Manifest(replicas_per_node=2).publish(Store(tmp_path / "store"))
    tried = trial.Trial(Section(name="Echo", backend="Echo", route="echo", **keys), package, tmp_path)
    command = [sys.executable, "-m", "modelserve.replica.try_once"]
    command.append(TryOnceArgs(app=tried.args, params={}).model_dump_json())
    clean = {name: value for name, value in tried.variables.items() if name not in cpu_threads.VARIABLES}
    own = {"PYTHONPATH": str(Path(modelserve.__file__).parents[1]), "MODELSERVE_HOME": str(tmp_path)}
    run = subprocess.run(command, env={**clean, **tried.section.env, **own}, capture_output=True, check=False)
    answer = json.loads(run.stdout.splitlines()[-1])
    assert answer["answer"]["result"] == numbers, run.stderr
    assert answer["cpu_threads"] == int(numbers[0])


def test_the_status_names_the_threads_by_the_nodes_of_the_replicas() -> None:
    def status(**keys: Any) -> tuple[int, ...]:
        replicas = [{"replica_id": node, "state": "RUNNING", "node_id": node} for node in ("a", "b", "c")]
        application = {
            "status": "RUNNING",
            "message": "",
            "route_prefix": "/Echo",
            "deployments": {"Echo": {"replicas": replicas}},
            "deployed_app_config": app(**keys).to_serve(),
        }
        statuses = statuses_of({"applications": {"Echo": application}})
        (row,) = algorithm_statuses(statuses, None, "", {"a": 8, "b": 16, "c": 8}, 2)
        assert json.loads(json.dumps(row.as_dict()))["cpu_threads"] == list(row.cpu_threads)
        return row.cpu_threads

    assert status() == (4, 8)
    assert status(cpu_threads=3) == (3,)
    assert status(cpu_cost=2) == (2,)
    assert status(env={"OMP_NUM_THREADS": "6"}) == (6,)


@pytest.mark.parametrize(("numbers", "cell"), [([4], "4"), ([4, 8], "4-8")])
def test_the_table_of_the_status_has_them(numbers: list[int], cell: str) -> None:
    row = {"name": "Echo", "status": "RUNNING", "message": "", "replicas": 1, "wanted": 1, "weight": 100.0}
    lines = status_table([{**row, "url": "http://127.0.0.1:666/extract", "cpu_threads": numbers}]).splitlines()
    assert lines[0].split() == ["algorithm", "status", "replicas", "threads", "url"]
    assert lines[-1].split()[3] == cell


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    settings = Settings(home=tmp_path, workers={"worker_1": "10.0.0.1"})
    secrets = SimpleNamespace(publish=lambda needed: None)
    releases = Releases(tmp_path / "releases", 3, print)
    return Publisher(settings, Store(tmp_path / "store"), releases, secrets, print)  # type: ignore[arg-type]


def test_workers_are_told_when_the_number_changes_and_a_worker_that_is_not_stops_nothing(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = SimpleNamespace(base=lambda: SimpleNamespace(path=tmp_path / "store" / "env" / "Base-1"))
    monkeypatch.setattr(publish, "EnvironmentResolver", lambda *_: base)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.60.0")
    told: list[int] = []

    def replicate(*_: object) -> None:
        told.append(Manifest.load(tmp_path / "store" / NAME).replicas_per_node)
        if told[-1] == 9:
            raise UserError("a worker does not answer")

    monkeypatch.setattr(publish.distribute, "replicate_to_workers", replicate)
    for replicas in (4, 4, 8, 8, 18, 18):
        section = Section(name="A", backend="A", route="a", replicas=replicas)
        store = tmp_path / "store"
        served = Application.from_section(section, store / "pkg" / "A-1", [], store / "env" / "A-1")
        publisher.publish({"A": served})
        publisher.distribute()
    assert told == [2, 4, 9, 9]
    assert f"{SHARED_BY}4" in (tmp_path / "spread.json").read_text()
    assert AppArgs(name="A", package="/p", backend="A").to_serve().keys() == {
        *("name", "package", "backend", "models", "methods", "configured")
    }
