"""The store: what has its final name is complete, and is the content its name says."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from pathlib import Path

import pytest
from modelserve import hashing
from modelserve.errors import UserError
from modelserve.store.store import Store
from modelserve.util.files import write_atomically


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
    files = {str(path.relative_to(copy)): path.read_text() for path in hashing.tree_files(copy)}
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
    assert len(list(hashing.tree_files(store.add_package("Echo", package)))) == 2


def test_a_model_is_kept_as_a_copy_of_its_own(store: Store, model: Path) -> None:
    kept = store.add_model(model)
    assert kept == store.model_path(model)
    assert not kept.samefile(model)
    assert is_what_its_name_says(kept)
    before = kept.stat()
    assert store.add_model(model) == kept
    assert kept.stat() == before


def test_a_model_is_copied_where_the_kernel_cannot(store: Store, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_disk(source: int, target: int, _: int) -> int:
        os.write(target, os.read(source, 2))  # it got that far
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", other_disk)
    assert is_what_its_name_says(store.add_model(model))


def test_a_link_to_the_working_file_becomes_a_copy(store: Store, model: Path) -> None:
    target = store.model_path(model)
    target.parent.mkdir(parents=True)
    os.link(model, target)
    assert not store.add_model(model).samefile(model)


def test_a_file_written_to_while_it_is_copied_is_refused(
    store: Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = os.copy_file_range

    def and_somebody_writes(source: int, target: int, count: int) -> int:
        with model.open("r+b") as stream:
            stream.write(b"W")
        return copy(source, target, count)

    monkeypatch.setattr(os, "copy_file_range", and_somebody_writes)
    with pytest.raises(UserError, match="was written to while it was copied"):
        store.add_model(model)
    assert [path for path in store.models.rglob("*") if path.is_file()] == []


def test_a_stored_model_that_was_changed_is_not_held_and_is_made_anew(store: Store, model: Path) -> None:
    kept = store.add_model(model)
    content = relative(store, kept)
    assert store.holds(content)
    kept.write_bytes(b"Weights")
    assert not store.holds(content)
    assert store.add_model(model) == kept
    assert is_what_its_name_says(kept)
    assert store.holds(content)


def test_a_replaced_model_has_another_place_and_the_old_one_stays(store: Store, model: Path) -> None:
    old = store.add_model(model)
    model.unlink()
    model.write_bytes(b"better weights")
    new = store.add_model(model)
    assert [path.read_bytes() for path in (old, new)] == [b"weights", b"better weights"]


def test_a_model_edited_in_place_leaves_the_stored_one_as_it_was(store: Store, model: Path) -> None:
    old = store.add_model(model)
    times = model.stat()
    model.write_bytes(b"Weights")
    os.utime(model, ns=(times.st_atime_ns, times.st_mtime_ns))  # as long, and as old: the edit shows all the same
    new = store.add_model(model)
    assert new != old
    assert is_what_its_name_says(old)
    assert is_what_its_name_says(new)


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


def make_env(store: Store, name: str, text: str = "code") -> str:
    env = store.root / "env" / name
    env.mkdir(parents=True)
    (env / "file").write_text(text)
    store.complete(env, {"name": name})
    return f"env/{name}"


def relative(store: Store, path: Path) -> str:
    return str(path.relative_to(store.root))


def test_a_hash_says_what_the_content_is(store: Store, package: Path, model: Path) -> None:
    copy, kept, env = store.add_package("Echo-Two", package), store.add_model(model), make_env(store, "Echo-1")
    assert store.hash_of(relative(store, copy)) == hashing.of_tree(copy)
    assert store.hash_of(relative(store, kept)) == hashing.of_file(kept)
    assert store.hash_of(env) == hashing.of_tree(store.root / env)


def test_an_environments_hash_is_that_of_its_build(store: Store) -> None:
    env = make_env(store, "Echo-1")
    built = store.hash_of(env)
    (store.root / env / "file").write_text("damage")
    assert store.hash_of(env) == built  # so that damage shows
    shutil.rmtree(store.root / env)
    make_env(store, "Echo-1", "built again")
    assert store.hash_of(env) == hashing.of_tree(store.root / env) != built


def test_what_is_there_whole_is_held(store: Store, package: Path, model: Path) -> None:
    copy, kept = relative(store, store.add_package("Echo", package)), relative(store, store.add_model(model))
    env = make_env(store, "Echo-1")
    begun = store.env_path("Echo", "2")
    begun.mkdir()
    paths = [copy, kept, env, "env/Echo-2", "env/Echo-3", "pkg/Echo-1", "model/0123/net.onnx", f"{kept}.other"]
    assert [path for path in paths if store.holds(path)] == [copy, kept, env]


def everything(store: Store) -> set[str]:
    """What lies in the store's three directories, hidden names too."""
    return {relative(store, path) for path in store.root.glob("*/*")}


def test_what_nothing_refers_to_is_removed(store: Store, package: Path, model: Path) -> None:
    old = [make_env(store, "Echo-1"), relative(store, store.add_package("Echo", package))]
    old.append(relative(store, store.add_model(model)))
    (package / "backend.py").write_text("x = 2\n")
    model.unlink()
    model.write_bytes(b"better weights")
    new = [make_env(store, "Echo-2"), relative(store, store.add_package("Echo", package))]
    new.append(relative(store, store.add_model(model)))
    for env in (old[0], new[0]):
        store.hash_of(env)
    directories = ["/".join(path.split("/")[:2]) for path in old]
    assert store.collect_garbage(new) == directories
    assert everything(store) == {"env/Echo-2", "env/.Echo-2.hash", new[1], str(Path(new[2]).parent)}
    assert [path for path in new if (store.root / path).exists()] == new
    assert store.collect_garbage(new) == []


def test_models_of_one_content_stay_as_long_as_one_is_referred_to(store: Store, model: Path) -> None:
    twin = model.with_name("renamed.onnx")
    twin.write_bytes(model.read_bytes())
    kept = [relative(store, store.add_model(model)), relative(store, store.add_model(twin))]
    assert store.collect_garbage(kept[:1]) == []
    assert store.collect_garbage([]) == [str(Path(kept[0]).parent)]


def test_a_store_that_was_never_filled_has_nothing_to_remove(store: Store) -> None:
    assert store.collect_garbage([]) == []


def test_what_a_build_does_at_the_moment_is_left_alone(store: Store) -> None:
    (store.root / "pkg" / ".Echo-0123.17").mkdir(parents=True)
    (store.root / "cache" / "uv").mkdir(parents=True)
    assert store.collect_garbage([]) == []
    assert everything(store) == {"pkg/.Echo-0123.17", "cache/uv"}


def test_a_removal_that_is_cut_off_leaves_nothing_that_looks_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make_env(store, "Echo-1")

    def power_fails(path: Path, **_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", power_fails)
        with pytest.raises(KeyboardInterrupt):
            store.collect_garbage([])
    assert not store.holds(env)
    assert list(store.root.glob("env/[!.]*")) == []
    make_env(store, "Echo-1")  # it is wanted again, and later not any more
    assert store.holds(env)
    assert store.collect_garbage([]) == [env]
    assert everything(store) == set()


def test_what_a_cut_off_removal_left_is_removed_though_nothing_else_is(store: Store) -> None:
    env = make_env(store, "Echo-1")
    (store.root / "env" / ".removed-Echo-0" / "bin").mkdir(parents=True)
    assert store.collect_garbage([env]) == []
    assert everything(store) == {env}


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
