"""A model that is a directory: one entry of the store, as its author laid it out, and loaded whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelserve import hashing
from modelserve.errors import UserError
from modelserve.store import hash_cache, integrity
from modelserve.store.store import Store

FILES = {"config.json": b"{}", "1_Pooling/config.json": b"[]", "model.safetensors": b"weights" * 1000, ".hidden": b"h"}


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write(tmp_path / "Model_ZOO" / "bert", FILES)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read to be hashed."""
    names: list[str] = []
    of_file = hashing.of_file

    def counted(path: Path, advance: Callable[[int], None] | None = None) -> str:
        names.append(path.name)
        return of_file(path, advance)

    monkeypatch.setattr(hashing, "of_file", counted)
    return names


def test_a_directory_is_stored_as_it_is_laid_out(store: Store, bert: Path) -> None:
    (bert / ".cache").mkdir()
    (bert / ".cache" / "lock").touch()
    stored = store.add_model(bert)
    assert stored == store.models / hashing.of_model(bert) / "bert"
    assert content(stored) == FILES
    assert store.holds(str(stored.relative_to(store.root)))
    assert sorted(path.name for path in stored.parent.iterdir()) == [".bert.seal", "bert"]


def test_links_are_stored_as_what_they_lead_to(store: Store, bert: Path, tmp_path: Path) -> None:
    weights, linked = tmp_path / "other_disk" / "weights", tmp_path / "Model_ZOO" / "linked"
    weights.parent.mkdir()
    (bert / "model.safetensors").rename(weights)
    (bert / "model.safetensors").symlink_to(weights)
    linked.symlink_to(bert)
    assert content(store.add_model(bert)) == FILES
    assert content(store.add_model(linked)) == FILES


def test_another_version_shares_the_files_that_are_the_same(store: Store, bert: Path, hashed: list[str]) -> None:
    old = store.add_model(bert)
    (bert / "config.json").write_bytes(b'{"a": 1}')
    new = store.add_model(bert)
    assert (new / "model.safetensors").samefile(old / "model.safetensors")
    assert (content(old)["config.json"], content(new)["config.json"]) == (b"{}", b'{"a": 1}')
    hashed.clear()
    assert all(map(integrity.verify_integrity, (old, new)))  # a link's change of the time costs no hashing
    shutil.rmtree(bert)
    store.collect_garbage([str(new.relative_to(store.root))])
    assert not old.exists() and integrity.verify_integrity(new)
    assert hashed == []


def test_a_file_is_hashed_once(store: Store, bert: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_cache, "TICK_NS", 0)
    store.add_model(bert)
    assert sorted(hashed) == sorted([Path(name).name for name in FILES] * 2)  # the working files, and the copies
    hashed.clear()
    again = Store(store.root)
    assert again.holds(str(again.add_model(bert).relative_to(store.root)))
    assert hashed == []
    (bert / "config.json").write_bytes(b"{ }")
    assert again.sha256(bert) == hashing.of_listing((name, hashing.of_file(bert / name)) for name in FILES)
    assert hashed[0] == "config.json" and len(hashed) == 1 + len(FILES)


EDITS = {
    "a truncated file": lambda root: os.truncate(root / "model.safetensors", 10),
    "a changed byte": lambda root: (root / "model.safetensors").write_bytes(b"W" + FILES["model.safetensors"][1:]),
    "a missing file": lambda root: (root / "1_Pooling" / "config.json").unlink(),
    "an additional file": lambda root: (root / "1_Pooling" / "more.json").write_text("{}"),
    "a renamed file": lambda root: (root / "config.json").rename(root / "conf.json"),
    "a missing directory": lambda root: shutil.rmtree(root / "1_Pooling"),
    "a link that leads nowhere": lambda root: (root / "x").symlink_to("nowhere"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_stored_directory_that_was_changed_is_not_loaded(
    store: Store, bert: Path, edit: Callable[[Path], object]
) -> None:
    stored = store.add_model(bert)
    integrity.require_integrity(str(stored))
    edit(stored)
    with pytest.raises(ValueError, match=r"is not the one that was deployed.*Deploy again"):
        integrity.require_integrity(str(stored))
    assert store.add_model(bert) == stored
    assert content(stored) == FILES


def test_the_files_that_differ_are_named(store: Store, bert: Path) -> None:
    stored = store.add_model(bert)
    (stored / "config.json").unlink()
    (stored / "engine.plan").touch()
    (stored / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"missing config\.json, an additional file engine\.plan, changed model\.safe"):
        integrity.require_integrity(str(stored))


names = st.text(st.sampled_from("ab\u00e9.\u0301"), min_size=1, max_size=3).filter(lambda name: set(name) != {"."})
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=2).map("/".join), st.binary(max_size=3), min_size=1, max_size=4
)


@given(trees, trees)
@settings(max_examples=60)
def test_two_directories_have_one_hash_only_if_they_are_the_same(
    first: dict[str, bytes], second: dict[str, bytes]
) -> None:
    with tempfile.TemporaryDirectory() as work:
        roots = []
        for number, files in enumerate((first, second)):
            try:
                roots.append(write(Path(work) / str(number), files))
                hashing.model_files(roots[-1])
            except (ValueError, OSError):  # a name in two forms; a file where a directory is
                return
        bytes_of = [{name: path.read_bytes() for name, path in hashing.model_files(root)} for root in roots]
        assert (hashing.of_model(roots[0]) == hashing.of_model(roots[1])) == (bytes_of[0] == bytes_of[1])


@given(trees, trees)
@settings(max_examples=60)
def test_whatever_is_edited_what_is_stored_is_what_its_name_says(
    before: dict[str, bytes], after: dict[str, bytes]
) -> None:
    """A working directory becomes another one; a stored one becomes another one: neither is served as what it was."""
    with tempfile.TemporaryDirectory() as work:
        store, working = Store(Path(work) / "store"), Path(work) / "m"
        stored = []
        for files in (before, after):
            shutil.rmtree(working, ignore_errors=True)
            try:
                write(working, files)
                hashing.model_files(working)
            except (ValueError, OSError):
                return
            stored.append(store.add_model(working))
        for path, files in zip(stored, (before, after), strict=True):
            assert sorted(content(path).values()) == sorted(files.values())
            assert integrity.verify_integrity(path)
        same = stored[0] == stored[1]
        shutil.rmtree(stored[0])
        write(stored[0], after)
        assert integrity.verify_integrity(stored[0]) == same


def test_a_directory_without_files_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "bert" / "empty").mkdir(parents=True)
    with pytest.raises(UserError, match="bert is a directory without files"):
        store.add_model(tmp_path / "bert")


def test_a_write_during_the_copy_is_noticed_and_leaves_nothing(
    store: Store, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = os.copy_file_range

    def and_somebody_writes(source: int, target: int, count: int) -> int:
        (bert / "model.safetensors").write_bytes(b"other")
        return copy(source, target, count)

    monkeypatch.setattr(os, "copy_file_range", and_somebody_writes)
    with pytest.raises(UserError, match="was written to while it was copied"):
        store.add_model(bert)
    assert list(store.models.iterdir()) == []


def test_50_sections_with_100_gb_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, zoo = Store(tmp_path / "store"), tmp_path / "Model_ZOO"
    for number in range(50):
        model = zoo / f"bert_{number}"
        model.mkdir(parents=True)
        for part in range(4):
            (model / f"model-{part}.safetensors").touch()
            os.truncate(model / f"model-{part}.safetensors", 1 << 29)  # 100 GB of holes
        (model / "config.json").write_text("{}")
    read = 0

    def instant(path: Path, advance: Callable[[int], None] | None = None) -> str:
        nonlocal read
        read += path.stat().st_size
        return hashing.of_value([path.name, path.stat().st_size]) * 4

    monkeypatch.setattr(hashing, "of_file", instant)
    monkeypatch.setattr(hash_cache, "TICK_NS", 0)
    before = [store.sha256(model) for model in sorted(zoo.iterdir())]
    assert read > 100 << 30
    read, again, started = 0, Store(tmp_path / "store"), time.monotonic()
    assert [again.sha256(model) for model in sorted(zoo.iterdir())] == before
    assert read == 0
    assert time.monotonic() - started < 1


def test_a_long_step_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelserve.util import progress

    monkeypatch.setattr(progress, "INTERVAL_S", 0)
    lines: list[str] = []
    model = tmp_path / "net.onnx"
    model.write_bytes(bytes(3 << 20))
    Store(tmp_path / "store", lines.append).add_model(model)
    shape = re.compile(
        r"(hashing net\.onnx|copying net\.onnx into the store|verifying the copy of net\.onnx): "
        r"\d\.\dMiB of 3\.0MiB, \S+B/s"
    )
    assert all(map(shape.fullmatch, lines)), lines
    assert {line.split(" ")[0] for line in lines} == {"hashing", "copying", "verifying"}
