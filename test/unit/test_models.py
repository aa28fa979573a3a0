"""models.yml: models come from where it says, are what their sha256 says, and are fetched once."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from modelserve import hashing
from modelserve.errors import UserError
from modelserve.models import zoo as models

if TYPE_CHECKING:
    from conftest import Site

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = tmp_path / "Model_ZOO"
    directory.mkdir()
    return directory


def describe(zoo: Path, file: str = "net.onnx", sha256: str = SHA256, **source: str) -> None:
    (zoo / "models.yml").write_text(yaml.safe_dump([{"file": file, "sha256": sha256, **source}]))


def fetch(zoo: Path) -> list[str]:
    return models.fetch(zoo, lambda line: None)


def failure(zoo: Path) -> str:
    """What a fetch that must fail says; it must leave no file behind."""
    before = {path: path.read_bytes() for path in zoo.iterdir()}
    with pytest.raises(UserError) as caught:
        fetch(zoo)
    assert {path: path.read_bytes() for path in zoo.iterdir()} == before
    return str(caught.value)


@pytest.mark.parametrize("text", [None, "", "# nothing yet\n"])
def test_without_entries_there_is_nothing_to_fetch(zoo: Path, text: str | None) -> None:
    if text is not None:
        (zoo / "models.yml").write_text(text)
    assert fetch(zoo) == []


def test_a_model_comes_from_a_path_relative_to_the_project(zoo: Path) -> None:
    (zoo.parent / "trained").mkdir()
    (zoo.parent / "trained" / "best").write_bytes(CONTENT)
    describe(zoo, path="trained/best")
    assert fetch(zoo) == ["net.onnx"]
    assert (zoo / "net.onnx").read_bytes() == CONTENT


def test_a_model_comes_from_a_url_and_is_fetched_once(zoo: Path, site: Site) -> None:
    site.answers["/net"] = (200, CONTENT)
    describe(zoo, url=f"{site.url}/net")
    assert [fetch(zoo), fetch(zoo)] == [["net.onnx"], []]
    assert (zoo / "net.onnx").read_bytes() == CONTENT
    assert len(site.asked) == 1


def test_a_model_that_was_changed_is_fetched_again(zoo: Path, site: Site) -> None:
    site.answers["/net"] = (200, CONTENT)
    describe(zoo, url=f"{site.url}/net")
    (zoo / "net.onnx").write_bytes(b"something else")
    assert fetch(zoo) == ["net.onnx"]
    assert (zoo / "net.onnx").read_bytes() == CONTENT


@pytest.mark.parametrize("there", [None, b"the file from before"])
def test_what_is_not_the_model_described_leaves_everything_as_it_was(
    zoo: Path, site: Site, there: bytes | None
) -> None:
    site.answers["/net"] = (200, b"tampered with")
    describe(zoo, url=f"{site.url}/net")
    if there is not None:
        (zoo / "net.onnx").write_bytes(there)
    message = failure(zoo)
    assert "models.yml [net.onnx]" in message
    assert hashlib.sha256(b"tampered with").hexdigest() in message


def require(zoo: Path, *used: str) -> None:
    models.require_described(zoo, used, hashing.of_file)


def test_a_file_that_is_not_the_one_described_is_refused(zoo: Path) -> None:
    describe(zoo, path="x")
    (zoo / "net.onnx").write_bytes(CONTENT)
    require(zoo, "net.onnx", "without_an_entry")
    (zoo / "net.onnx").write_bytes(b"other")
    with pytest.raises(UserError) as caught:
        require(zoo, "net.onnx")
    (problem,) = caught.value.problems
    assert (problem.file, problem.section) == ("Model_ZOO/models.yml", "net.onnx")
    assert problem.fix
    assert SHA256 in problem.message
    assert hashlib.sha256(b"other").hexdigest() in problem.message


def test_a_file_that_nothing_uses_is_not_read(zoo: Path) -> None:
    describe(zoo, path="x")
    require(zoo)


def test_a_source_that_has_no_such_file_is_named(zoo: Path, site: Site, closed_port: int) -> None:
    for source, words in (
        ({"url": f"{site.url}/net"}, "404"),
        ({"url": f"http://127.0.0.1:{closed_port}/net"}, "refused"),
        ({"url": f"{site.url}/a file"}, "cannot be fetched"),
        ({"path": "nowhere"}, "nowhere"),
    ):
        describe(zoo, **source)
        message = failure(zoo)
        assert "models.yml [net.onnx]" in message
        assert words in message


needs_pip = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this Python has no pip")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A wheel with a model in it, on an index that has nothing else."""
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "tiny_net-1.0-py3-none-any.whl", "w") as archive:
        info = "tiny_net-1.0.dist-info"
        archive.writestr("tiny_net/model.onnx", CONTENT)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-net\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return "tiny-net==1.0"


@needs_pip
def test_a_model_comes_out_of_a_wheel(zoo: Path, wheel: str) -> None:
    describe(zoo, wheel=wheel, member="tiny_net/model.onnx")
    assert [fetch(zoo), fetch(zoo)] == [["net.onnx"], []]
    assert (zoo / "net.onnx").read_bytes() == CONTENT


@needs_pip
@pytest.mark.parametrize(
    ("package", "member", "words"),
    [("tiny-net==1.0", "tiny_net/other", "tiny_net/other"), ("tiny-net==2.0", "x", "tiny-net==2.0")],
)
def test_a_wheel_that_cannot_serve_is_named(zoo: Path, wheel: str, package: str, member: str, words: str) -> None:
    describe(zoo, wheel=package, member=member)
    assert words in failure(zoo)


@pytest.mark.parametrize(
    ("entry", "section", "key", "words"),
    [
        ({"file": "a", "sha256": SHA256}, "a", "", "exactly one of 'wheel', 'url', 'path',"),
        ({"file": "a", "sha256": SHA256, "path": "x", "url": "http://x"}, "a", "", "exactly one of"),
        ({"file": "a", "sha256": SHA256, "wheel": "x"}, "a", "", "'wheel' and 'member' go together"),
        ({"file": "a", "sha256": "abc", "path": "x"}, "a", "sha256", "pattern"),
        ({"file": "a/b", "sha256": SHA256, "path": "x"}, "a/b", "file", "pattern"),
        ({"file": "..", "sha256": SHA256, "path": "x"}, "..", "file", ""),
        ({"file": "a", "sha256": SHA256, "url": "ftp://x"}, "a", "url", "pattern"),
        ({"file": "a", "path": "x"}, "a", "sha256", "is missing"),
        ({"sha256": SHA256, "path": "x"}, "entry 2", "file", "is missing"),
        ({"file": "a", "sha256": SHA256, "paht": "x", "path": "y"}, "a", "paht", "is not a known key"),
        ("a.onnx", "entry 2", "", ""),
    ],
)
def test_a_wrong_entry_is_named(zoo: Path, entry: object, section: str, key: str, words: str) -> None:
    good = {"file": "good", "sha256": SHA256, "path": "x"}
    (zoo / "models.yml").write_text(yaml.safe_dump([good, entry]))
    with pytest.raises(UserError) as caught:
        models.read(zoo)
    (problem,) = caught.value.problems
    assert (problem.file, problem.section, problem.key) == ("Model_ZOO/models.yml", section, key)
    assert words in problem.message


@pytest.mark.parametrize("text", ["file: a\n", "- [", "just words"])
def test_a_manifest_that_is_no_list_is_refused(zoo: Path, text: str) -> None:
    (zoo / "models.yml").write_text(text)
    with pytest.raises(UserError, match=r"Model_ZOO/models\.yml"):
        models.read(zoo)


def test_a_file_described_twice_is_refused(zoo: Path) -> None:
    entry = {"file": "a", "sha256": SHA256, "path": "x"}
    (zoo / "models.yml").write_text(yaml.safe_dump([entry, {**entry, "sha256": "0" * 64}]))
    with pytest.raises(UserError, match=r"models\.yml \[a\]"):
        models.read(zoo)
