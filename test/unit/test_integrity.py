"""A stored model is loaded as it was deployed, or not at all; the check costs nothing while nothing wrote to it."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from modelserve import hashing
from modelserve.store import integrity

SHA256 = hashlib.sha256(b"weights").hexdigest()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "store" / "model" / SHA256 / "net.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    return file


def test_the_content_is_hashed_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    of_file = hashing.of_file

    def counted(path: Path) -> str:
        hashed.append(path)
        return of_file(path)

    monkeypatch.setattr(hashing, "of_file", counted)
    assert [integrity.verify_integrity(model) for _ in range(3)] == [True] * 3
    assert hashed == [model]
    os.utime(model)
    assert integrity.verify_integrity(model)
    assert integrity.verify_integrity(model)
    assert hashed == [model, model]


def test_what_was_written_to_is_noticed_however_alike_it_looks(model: Path) -> None:
    assert integrity.verify_integrity(model)
    times = model.stat()
    with model.open("r+b") as stream:
        stream.write(b"W")
    os.utime(model, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert model.stat().st_mtime_ns == times.st_mtime_ns
    assert model.stat().st_size == times.st_size
    assert not integrity.verify_integrity(model)
    with pytest.raises(ValueError, match=f"not the one that was deployed.*not {SHA256}.*Deploy again"):
        integrity.require_integrity(str(model))


def test_what_was_put_in_its_place_is_noticed(model: Path) -> None:
    assert integrity.verify_integrity(model)
    other = model.with_name("other")
    other.write_bytes(b"Weights")
    other.replace(model)
    assert not integrity.verify_integrity(model)


def test_a_moved_store_is_believed_after_a_look_at_its_content(model: Path, tmp_path: Path) -> None:
    assert integrity.verify_integrity(model)
    shutil.copytree(tmp_path / "store", tmp_path / "restored" / "store")
    assert integrity.verify_integrity(tmp_path / "restored" / model.relative_to(tmp_path))


def test_a_damaged_seal_counts_as_none(model: Path) -> None:
    model.with_name(".net.onnx.seal").write_text("[")
    integrity.require_integrity(str(model))
    model.write_bytes(b"other")
    assert not integrity.verify_integrity(model)


def test_a_model_that_is_gone_is_named(model: Path) -> None:
    model.unlink()
    with pytest.raises(ValueError, match="it is missing"):
        integrity.require_integrity(str(model))


def test_files_outside_a_store_are_nobodys_promise(tmp_path: Path) -> None:
    integrity.require_integrity(str(tmp_path / "Model_ZOO" / "net.onnx"))
