"""Hashes: content decides, and nothing else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelserve import hashing


def tree(root: Path) -> Path:
    (root / "sub").mkdir(parents=True)
    (root / "backend.py").write_text("x = 1\n")
    (root / "sub" / "words.txt").write_text("good\n")
    return root


def test_a_file_s_hash_is_its_sha256(tmp_path: Path) -> None:
    file = tmp_path / "model"
    content = os.urandom(100_000)
    file.write_bytes(content)
    assert hashing.of_file(file) == hashlib.sha256(content).hexdigest()


@given(st.dictionaries(st.text(), st.integers()))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert hashing.of_value(value) == hashing.of_value(dict(reversed(value.items())))


def test_values_that_differ_have_different_hashes() -> None:
    values = [1, "1", None, [], {}, [1], {"a": 1}, {"a": [1]}, [1, 2], [2, 1], [[1], 2]]
    assert len({hashing.of_value(value) for value in values}) == len(values)


def test_the_same_content_has_the_same_hash_anywhere_and_any_time(tmp_path: Path) -> None:
    here, there = tree(tmp_path / "here"), tree(tmp_path / "there")
    os.utime(there / "backend.py", (0, 0))
    assert hashing.of_tree(here) == hashing.of_tree(there)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda root: (root / "backend.py").write_text("x = 2\n"), id="content"),
        pytest.param(lambda root: (root / "backend.py").rename(root / "other.py"), id="name"),
        pytest.param(lambda root: (root / "backend.py").rename(root / "sub" / "backend.py"), id="place"),
        pytest.param(lambda root: (root / "backend.py").chmod(0o755), id="executable"),
        pytest.param(lambda root: (root / "new.py").write_text(""), id="new file"),
        pytest.param(lambda root: (root / "sub" / "words.txt").unlink(), id="removed file"),
    ],
)
def test_an_edit_changes_a_tree_s_hash(tmp_path: Path, edit: Callable[[Path], object]) -> None:
    root = tree(tmp_path / "package")
    before = hashing.of_tree(root)
    edit(root)
    assert hashing.of_tree(root) != before


@pytest.mark.parametrize("left", ["__pycache__/backend.cpython-313.pyc", ".git/HEAD", ".backend.py.swp", "backend.py~"])
def test_what_running_and_editing_leave_behind_does_not_count(tmp_path: Path, left: str) -> None:
    root = tree(tmp_path / "package")
    before = hashing.of_tree(root)
    (root / "sub" / left).parent.mkdir(exist_ok=True)
    (root / "sub" / left).write_text("left behind")
    assert hashing.of_tree(root) == before


def model(root: Path) -> Path:
    (root / "1_Pooling").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "1_Pooling" / "config.json").write_text("[]")
    (root / ".hidden").write_text("h")
    return root


def test_a_model_directory_s_hash_is_that_of_what_sha256sum_prints(tmp_path: Path) -> None:
    root = model(tmp_path / "bert")
    lines = [
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in ((".hidden", b"h"), ("1_Pooling/config.json", b"[]"), ("config.json", b"{}"))
    ]
    assert hashing.of_model(root) == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert hashing.of_model(root / "config.json") == hashlib.sha256(b"{}").hexdigest()


@pytest.mark.parametrize("left", [".git/HEAD", ".cache/huggingface/x.lock", ".gitattributes", "1_Pooling/.DS_Store"])
def test_what_tools_keep_beside_a_model_does_not_count(tmp_path: Path, left: str) -> None:
    root = model(tmp_path / "bert")
    before = hashing.of_model(root)
    (root / left).parent.mkdir(parents=True, exist_ok=True)
    (root / left).write_text("kept")
    (root / "empty").mkdir()
    assert hashing.of_model(root) == before


def test_links_in_a_model_count_as_what_they_point_to(tmp_path: Path) -> None:
    root, linked = model(tmp_path / "bert"), tmp_path / "linked"
    linked.mkdir()
    for path in root.iterdir():
        (linked / path.name).symlink_to(path)
    assert hashing.of_model(linked) == hashing.of_model(root)


def test_the_form_of_a_name_s_accents_does_not_matter(tmp_path: Path) -> None:
    for form in ("caf\u00e9", "cafe\u0301"):
        (tmp_path / form / form).mkdir(parents=True)
        (tmp_path / form / form / form).write_text("x")
    assert len({hashing.of_model(path) for path in tmp_path.iterdir()}) == 1


def test_links_that_cannot_be_followed_are_named(tmp_path: Path) -> None:
    root = model(tmp_path / "bert")
    (root / "again").symlink_to(root)
    with pytest.raises(ValueError, match="again is a link to a directory that holds it"):
        hashing.of_model(root)
    (root / "again").unlink()
    (root / "weights").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="weights is a link to a file that does not exist"):
        hashing.of_model(root)
