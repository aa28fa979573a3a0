"""A plan names what changes in a model: its files, and how large it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelserve.cli.tables import plan_text
from modelserve.config.routes import Served
from modelserve.config.section import Section
from modelserve.deploy.model_changes import described
from modelserve.deploy.plan import Plan, compare
from modelserve.serve.application import Application
from modelserve.store.store import Store

SERVED = Served(port=666)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    bert = tmp_path / "Model_ZOO" / "bert"
    bert.mkdir(parents=True)
    for name in ("config.json", "vocab.txt", "old.bin", "weights"):
        (bert / name).write_text(name)
    (tmp_path / "Model_ZOO" / "net.onnx").write_bytes(bytes(2048))
    return tmp_path / "Model_ZOO"


def application(models: list[Path]) -> Application:
    section = Section(name="Bert", backend="Bert", route="bert")
    return Application.from_section(section, Path("/s/pkg/Bert-1"), models, Path("/s/env/Bert-1"))


def plan(old: list[Path], new: list[Path], store: Store, zoo: Path) -> Plan:
    listings = {str(store.model_path(path)): store.listing(path) for path in zoo.iterdir()}
    found = compare({"Bert": application(new)}, {"Bert": application(old)}, SERVED, SERVED)
    return described(found, listings)


def test_the_files_of_a_directory_that_change_are_named(store: Store, zoo: Path) -> None:
    old = [store.add_model(zoo / "bert")]
    (zoo / "bert" / "config.json").write_text("{}")
    (zoo / "bert" / "more.txt").write_text("more")
    (zoo / "bert" / "old.bin").unlink()
    changed = plan(old, [store.model_path(zoo / "bert"), store.model_path(zoo / "net.onnx")], store, zoo)
    text = plan_text(changed).splitlines()[1]
    assert text == (
        "    model: bert changed (22B): more.txt added, config.json changed, old.bin removed; "
        "net.onnx added (2.0KiB) (new replicas)"
    )
    (difference,) = changed.as_dict()["changes"][0]["differences"]
    assert difference["details"][1] == "net.onnx added (2.0KiB)"


def test_a_file_and_the_order_of_models_are_named(store: Store, zoo: Path) -> None:
    models = [store.add_model(zoo / "net.onnx"), store.add_model(zoo / "bert")]
    assert "    model: order changed (new replicas)" in plan_text(plan(models, models[::-1], store, zoo))
    (zoo / "net.onnx").write_bytes(b"new")
    now = [store.model_path(zoo / "net.onnx")]
    assert plan(models, now, store, zoo).changes[0].differences[0].details == ("net.onnx changed (3B)", "bert removed")


def test_what_is_not_in_the_store_any_more_is_named_without_its_files(store: Store, zoo: Path) -> None:
    gone = store.models / ("0" * 64) / "bert"
    now = [store.model_path(zoo / "bert")]
    assert plan([gone], now, store, zoo).changes[0].differences[0].details == ("bert changed (34B)",)
    assert not plan(now, now, store, zoo)
