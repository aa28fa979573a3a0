"""The store: what has its final name is complete, and is the content its name says."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path

import pytest
from modelserve.store import Store, write_atomically


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    root = tmp_path / "algopkg" / "Echo"
    (root / "sub").mkdir(parents=True)
    (root / "backend.py").write_text("x = 1\n")
    (root / "sub" / "words.txt").write_text("good\n")
    return root


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "Model_ZOO" / "net.onnx"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    return file


def is_what_its_name_says(path: Path) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == path.parent.name


def test_a_package_is_copied_whole(store: Store, package: Path) -> None:
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "backend.pyc").write_bytes(b"")
    copy = store.add_package("Echo", package)
    files = {str(path.relative_to(copy)): path.read_text() for path in copy.rglob("*") if path.is_file()}
    assert files == {"backend.py": "x = 1\n", "sub/words.txt": "good\n"}
    assert copy == store.package_path("Echo", package)


def test_the_same_content_has_the_same_place_and_is_not_copied_again(store: Store, package: Path) -> None:
    first = store.add_package("Echo", package)
    before = (first / "backend.py").stat()
    moved = package.rename(package.with_name("Elsewhere"))
    assert store.add_package("Echo", moved) == first
    assert (first / "backend.py").stat() == before


def test_edited_content_has_another_place_and_the_old_one_stays(store: Store, package: Path) -> None:
    old = store.add_package("Echo", package)
    (package / "backend.py").write_text("x = 2\n")
    new = store.add_package("Echo", package)
    assert new != old
    assert [(path / "backend.py").read_text() for path in (old, new)] == ["x = 1\n", "x = 2\n"]


def test_an_interrupted_copy_leaves_nothing(store: Store, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Path] = []

    def full_after_one(source: Path, target: Path) -> None:
        if copied:
            raise OSError("no space left on device")
        copied.append(target)
        target.write_bytes(source.read_bytes())

    with monkeypatch.context() as disk:
        disk.setattr(shutil, "copy2", full_after_one)
        with pytest.raises(OSError, match="no space"):
            store.add_package("Echo", package)
    assert copied
    assert list((store.root / "pkg").iterdir()) == []
    assert len(list(store.add_package("Echo", package).rglob("*.*"))) == 2


def test_a_model_takes_no_second_place_on_the_disk(store: Store, model: Path) -> None:
    kept = store.add_model(model)
    assert kept == store.model_path(model)
    assert kept.samefile(model)
    assert is_what_its_name_says(kept)
    assert store.add_model(model) == kept


def test_a_model_is_copied_where_links_are_not_possible(
    store: Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_disk(*_: object, **__: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    kept = store.add_model(model)
    assert not kept.samefile(model)
    assert is_what_its_name_says(kept)


def test_a_replaced_model_has_another_place_and_the_old_one_stays(store: Store, model: Path) -> None:
    old = store.add_model(model)
    model.unlink()
    model.write_bytes(b"better weights")
    new = store.add_model(model)
    assert [path.read_bytes() for path in (old, new)] == [b"weights", b"better weights"]


def test_a_model_edited_in_place_is_noticed_when_its_old_content_is_back(store: Store, model: Path) -> None:
    old = store.add_model(model)
    model.write_bytes(b"better weights")  # through the hard link, the store's copy too
    new = store.add_model(model)
    assert new != old
    assert is_what_its_name_says(new)
    model.unlink()
    model.write_bytes(b"weights")
    assert store.add_model(model) == old
    assert is_what_its_name_says(old)


def test_two_models_of_the_same_content_are_both_there(store: Store, model: Path) -> None:
    twin = model.with_name("renamed.onnx")
    twin.write_bytes(model.read_bytes())
    kept = [store.add_model(model), store.add_model(twin)]
    assert [path.name for path in kept] == ["net.onnx", "renamed.onnx"]
    assert all(map(is_what_its_name_says, kept))


def test_a_model_that_is_a_relative_link_is_there(store: Store, model: Path) -> None:
    real = model.parent.parent / "big_disk" / "net.onnx"
    real.parent.mkdir()
    model.rename(real)
    model.symlink_to("../big_disk/net.onnx")
    assert is_what_its_name_says(store.add_model(model))


def test_an_environment_is_complete_only_when_it_was_marked(store: Store) -> None:
    env = store.env_path("Echo", "0123")
    env.mkdir(parents=True)
    assert not store.is_complete(env)
    store.complete(env, {"name": "Echo"})
    assert store.is_complete(env)


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_is_replaced_with_the_mode_asked_for(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "new" / "secret"
    write_atomically(file, "old", mode)
    write_atomically(file, "größer", mode)
    assert file.read_text(encoding="utf-8") == "größer"
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert list(file.parent.iterdir()) == [file]


def test_a_reader_of_a_replaced_file_keeps_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "conf"
    write_atomically(file, "old")
    with file.open() as reader:
        write_atomically(file, "new")
        assert reader.read() == "old"
