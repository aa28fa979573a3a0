"""Models that a section names together lie together for its class, in the store as in Model_ZOO."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from modelserve import hashing
from modelserve.config.section import Section
from modelserve.replica.loader import model_path
from modelserve.serve.application import Application, args_of
from modelserve.store import integrity, joined
from modelserve.store.manifest import contents, sets_of
from modelserve.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def add(store: Store, name: str, content: bytes = b"weights") -> Path:
    source = store.root.parent / "Model_ZOO" / name
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(content)
    return store.add_model(source)


@pytest.fixture
def onnx(store: Store) -> list[Path]:
    bert = store.root.parent / "Model_ZOO" / "bert" / "sub"
    bert.mkdir(parents=True)
    (bert / "vocab.txt").write_text("good")
    return [add(store, "net.onnx"), add(store, "net.onnx.data", b"data"), store.add_model(bert.parent)]


def paths_for_the_class(models: list[Path]) -> list[Path]:
    """The paths that a class of the original framework makes of its constructor's argument."""
    directory, *names = model_path([str(model) for model in models]).split(",")
    return [Path(directory, name) for name in names]


def test_files_that_are_named_together_lie_together(store: Store, onnx: list[Path]) -> None:
    store.join_models(onnx)
    paths = paths_for_the_class(onnx)
    assert [path.name for path in paths] == ["net.onnx", "net.onnx.data", "bert"]
    (directory,) = {path.parent for path in paths}
    assert sorted(path.name for path in directory.iterdir()) == ["bert", "net.onnx", "net.onnx.data"]
    assert paths[0].samefile(onnx[0]) and not paths[0].is_symlink()
    assert (paths[2] / "sub" / "vocab.txt").read_text() == "good"


def test_joining_costs_no_hashing_and_leaving_neither(
    store: Store, onnx: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "of_file", lambda path: pytest.fail(f"{path} was hashed"))
    store.join_models(onnx)
    store.join_models(onnx)
    assert all(map(integrity.verify_integrity, onnx))
    removed = store.collect_garbage([str(model.relative_to(store.root)) for model in onnx])
    assert [path.split("/")[0] for path in removed] == ["set"]
    assert all(map(integrity.verify_integrity, onnx))


def test_one_model_and_those_of_an_author_stay_where_they_are(store: Store, tmp_path: Path) -> None:
    model = add(store, "net.onnx")
    assert paths_for_the_class([model]) == [model]
    assert joined.directory_of([model]) is None
    zoo = [tmp_path / "Model_ZOO" / "net.onnx", tmp_path / "Model_ZOO" / "b"]
    assert paths_for_the_class(zoo) == zoo


def test_models_that_were_never_joined_are_loaded_where_they_are(onnx: list[Path]) -> None:
    """Those of a version that joined none, until the next apply."""
    assert paths_for_the_class(onnx) == onnx


@pytest.mark.parametrize("damage", ["missing", "additional", "another"])
def test_a_damaged_directory_is_not_used_and_made_anew(store: Store, onnx: list[Path], damage: str) -> None:
    store.join_models(onnx)
    directory = paths_for_the_class(onnx)[0].parent
    if damage == "additional":
        (directory / "more").touch()
    else:
        (directory / "net.onnx").unlink()
    if damage == "another":
        (directory / "net.onnx").write_bytes(b"weights")
    assert paths_for_the_class(onnx) == onnx
    store.join_models(onnx)
    assert paths_for_the_class(onnx)[0].parent == directory
    assert sorted(path.name for path in directory.iterdir()) == ["bert", "net.onnx", "net.onnx.data"]


def test_the_arguments_of_an_application_are_those_of_a_version_that_joined_none(
    store: Store, onnx: list[Path]
) -> None:
    """An upgrade restarts no replica."""
    section = Section(name="Net", backend="Net", route="net", model=("net.onnx", "net.onnx.data"))
    paths = [store.root / "model" / hashlib.sha256(text).hexdigest() for text in (b"weights", b"data")]
    args = args_of(section, store.root / "pkg" / "Net-1", onnx[:2]).to_serve()
    assert args["models"] == [str(paths[0] / "net.onnx"), str(paths[1] / "net.onnx.data")]
    store.join_models(onnx[:2])
    assert args_of(section, store.root / "pkg" / "Net-1", onnx[:2]).to_serve() == args


def test_the_manifest_names_what_is_joined(store: Store, onnx: list[Path]) -> None:
    """Every node makes the directories of its own."""
    environment = store.root / "env" / "Base-1"
    applications = {
        name: Application.from_section(
            Section(name=name, backend=name, route=name.lower()), store.root / "pkg" / f"{name}-1", models, environment
        )
        for name, models in [("Net", onnx), ("Twin", onnx), ("One", onnx[:1]), ("None", [])]
    }
    directory = joined.directory_of(onnx)
    assert directory is not None
    paths = tuple(str(model.relative_to(store.root)) for model in onnx)
    assert sets_of(applications, store) == {str(directory.relative_to(store.root)): paths}
    sizes = {content.path: (content.directory, content.size) for content in contents(paths, store)}
    assert list(sizes.values()) == [(False, 7), (False, 4), (True, 4)]
