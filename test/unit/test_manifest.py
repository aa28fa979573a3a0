"""The manifest: what nodes must have, in the order to fetch it, written only when it says anything new."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelserve.config.section import Section
from modelserve.errors import UserError
from modelserve.serve.application import Application
from modelserve.store.manifest import NAME, Content, Manifest, Versions, contents, paths_of
from modelserve.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_applications_refer_to_is_named_once_environments_first(store: Store) -> None:
    root = store.root
    shared, own = root / "env" / "Base-1", root / "env" / "Net-2"
    model = root / "model" / "0123" / "net.onnx"
    applications = {
        name: Application.from_section(
            Section(name=name, backend=name, route=name.lower()), root / "pkg" / f"{name}-1", models, environment
        )
        for name, models, environment in [("Echo", [], shared), ("Net", [model], own), ("Twin", [model], shared)]
    }
    paths = ["env/Base-1", "env/Net-2", "pkg/Echo-1", "pkg/Net-1", "model/0123/net.onnx", "pkg/Twin-1"]
    assert paths_of(applications, store) == paths
    assert paths_of({}, store) == []


def test_each_path_has_the_hash_of_its_content(store: Store) -> None:
    env = store.root / "env" / "Echo-1"
    env.mkdir(parents=True)
    store.complete(env, {})
    paths = ["pkg/Echo-0123", "model/4567/net.onnx", "env/Echo-1"]
    assert contents(paths, store) == tuple(Content(path=path, hash=store.hash_of(path)) for path in paths)


def test_what_is_published_is_what_is_loaded(store: Store) -> None:
    published = Manifest(
        versions=Versions(image="modelserve:1", python="3.13.1", ray="2.60.0"),
        needed=(Content(path="pkg/Echo-0123", hash="0123"),),
        kept=("pkg/Echo-0123", "pkg/Echo-4567"),
    )
    published.publish(store)
    assert Manifest.load(store.root / NAME) == published


def test_it_is_written_only_when_it_says_anything_new(store: Store) -> None:
    file = store.root / NAME
    Manifest(kept=("pkg/Echo-0123",)).publish(store)
    before = file.stat()
    Manifest(kept=("pkg/Echo-0123",)).publish(store)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    Manifest(kept=("pkg/Echo-4567",)).publish(store)
    assert file.stat().st_ino != before.st_ino
    assert Manifest.load(file).kept == ("pkg/Echo-4567",)
    assert list(store.root.iterdir()) == [file]


def test_where_there_is_none_it_names_nothing(tmp_path: Path) -> None:
    assert Manifest.load(tmp_path / NAME) == Manifest()


def test_one_of_a_later_version_is_read(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"of_tomorrow": 1, "versions": {"image": "modelserve:2", "cuda": "13"}}')
    assert Manifest.load(tmp_path / NAME) == Manifest(versions=Versions(image="modelserve:2"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"needed": [{"path": "pkg/Echo-1"}]}', '{"kept": 1}', "\0\0\0"])
def test_a_broken_one_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / NAME
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        Manifest.load(file)
    (problem,) = caught.value.problems
    assert problem.file == str(file)
    assert "\n" not in str(problem)
