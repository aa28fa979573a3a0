"""The files of a package's snapshot: its own, what links lead to, and shared code; without these it is as ever."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelserve import hashing
from modelserve.config import parser, project, sources
from modelserve.errors import UserError
from modelserve.store.store import Store

CONF = "[MODEL SERVE]\nport = 666\n[algopkg.Face]\nbackend = Face\nroute = face\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    root = tmp_path / "algopkg" / "Face"
    (root / "sub").mkdir(parents=True)
    (root / "backend.py").write_text("class Face: ...\n")
    (root / "sub" / "words.txt").write_text("good\n")
    return root


@pytest.fixture
def shared(package: Path) -> Path:
    directory = package.parent / "_shared"
    directory.mkdir()
    (directory / "text.py").write_text("X = 1\n")
    return directory


def snapshot(package: Path) -> Path:
    return Store(package.parents[1] / "store").add_package(package.name, package)


def test_a_package_without_links_and_shared_code_keeps_its_hash(package: Path) -> None:
    # A hash that an upgrade changes makes every algorithm start anew.
    (package / ".hidden").mkdir()
    (package / ".hidden" / "a.txt").write_text("a")
    (package / "old~").mkdir()
    (package / "old~" / "b.txt").write_text("b")
    (package / "sub.py").write_text("")
    (package / "tool").write_text("#!/bin/sh\n")
    (package / "tool").chmod(0o755)
    (package / "linked.txt").symlink_to("sub/words.txt")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "backend.pyc").write_text("x")
    (package / ".backend.py.swp").write_text("x")
    assert sources.hash_of(package) == hashing.of_tree(package) == "092e2f2385cc"


NAMES = st.lists(st.sampled_from(["a", "b", "a.b", "a-b", ".c", "_", "B~", "x.pyc"]), min_size=1, max_size=3)


@given(st.dictionaries(NAMES.map(tuple), st.text()))
def test_names_of_any_order_hash_as_the_tree_does(files: dict[tuple[str, ...], str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for parts, text in files.items():
            file = Path(directory, "P", *parts)
            if not any(parent.is_file() for parent in file.parents) and not file.is_dir():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
        Path(directory, "P").mkdir(exist_ok=True)
        assert sources.hash_of(Path(directory, "P")) == hashing.of_tree(Path(directory, "P"))


def test_shared_code_that_nothing_imports_changes_no_hash(package: Path) -> None:
    before = sources.hash_of(package)
    (package.parent / "_shared").mkdir()
    (package.parent / "_shared" / "text.py").write_text("X = 1\n")
    (package / "backend.py").write_text("class Face: ...\n")
    assert sources.hash_of(package) == before


def test_a_linked_directory_is_in_the_snapshot_and_in_the_hash(package: Path) -> None:
    common = package.parent / "common"
    common.mkdir()
    (common / "util.py").write_text("X = 1\n")
    (package / "common").symlink_to("../common")
    before = snapshot(package)
    assert (before / "common" / "util.py").read_text() == "X = 1\n"
    assert not (before / "common").is_symlink()
    (common / "util.py").write_text("X = 2\n")
    after = snapshot(package)
    assert after != before
    assert [path.name.rpartition("-")[2] for path in (before, after)] == [
        hashing.of_tree(before),
        hashing.of_tree(after),
    ]


def test_what_lies_in_a_link_and_what_lies_there_itself_is_the_same(package: Path) -> None:
    (package / "other").symlink_to("sub")
    linked = sources.hash_of(package)
    (package / "other").unlink()
    (package / "other").mkdir()
    (package / "other" / "words.txt").write_text("good\n")
    assert sources.hash_of(package) == linked


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        ("circle", "..", "the link leads to a directory above itself. Remove the link"),
        ("self", ".", "the link leads to a directory above itself. Remove the link"),
        ("gone", "../nowhere", "is a link to ../nowhere, which is not there. Put what it links to below algopkg/"),
        ("knot", "knot", "is a link to knot, which is not there"),
    ],
)
def test_a_link_that_cannot_be_followed_is_one_line_before_a_deploy(
    package: Path, name: str, target: str, reason: str
) -> None:
    (package / "sub" / name).symlink_to(target)
    (problem,) = project.check(parser.parse(CONF), package.parent, [])
    assert str(problem).startswith(f"algopkg/Face/sub/{name}: {reason}")
    with pytest.raises(UserError, match=f"sub/{name}"):
        sources.files(package)


def test_an_editor_s_lock_is_no_file_of_the_package(package: Path) -> None:
    before = sources.hash_of(package)
    (package / ".#backend.py").symlink_to("me@host.1234:5678")
    assert sources.hash_of(package) == before


@pytest.mark.parametrize(
    "line",
    [
        "from .._shared import text",
        "from .._shared.text import X",
        "from .. import _shared",
        "from algopkg import _shared",
        "import algopkg._shared.text",
        "from algopkg._shared.text import X",
        "import importlib; importlib.import_module('algopkg._shared.text')",
        "def late():\n    from .._shared import text",
        "this does not parse _shared",
    ],
)
def test_a_package_that_imports_shared_code_has_it_and_follows_its_edits(
    package: Path, shared: Path, line: str
) -> None:
    (package / "sub" / "deep.py").write_text(line.replace("from ..", "from ...") + "\n")
    before = snapshot(package)
    assert (before / ".shared" / "text.py").read_text() == "X = 1\n"
    assert before.name.endswith(hashing.of_tree(before))
    (shared / "text.py").write_text("X = 2\n")
    assert snapshot(package) != before


@pytest.mark.parametrize(
    "line", ["self._shared = 1", "from ._shared import x", "import my._shared", "x = '_shared'", "# algopkg._shared"]
)
def test_other_things_of_that_name_bring_no_shared_code(package: Path, shared: Path, line: str) -> None:
    (package / "other.py").write_text(f"{line}\n")
    before = sources.hash_of(package)
    (shared / "text.py").write_text("X = 2\n")
    assert sources.hash_of(package) == before


def test_the_place_of_the_shared_code_is_not_the_package_s_own(package: Path, shared: Path) -> None:
    (package / "backend.py").write_text("from .._shared import text\nclass Face: ...\n")
    (package / ".shared").mkdir()
    with pytest.raises(UserError, match=r"algopkg/Face: the snapshot has the shared code as \.shared"):
        sources.files(package)


def test_a_section_for_the_shared_code_is_refused(package: Path, shared: Path) -> None:
    (problem,) = project.check(parser.parse(CONF.replace("Face", "_shared")), package.parent, [])
    assert "algopkg/_shared is the code that packages share" in str(problem)


def test_a_package_that_is_written_to_while_it_is_copied_is_refused(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copy2

    def and_somebody_writes(source: Path, target: Path) -> None:
        (package / "sub" / "words.txt").write_text("better\n")
        copy(source, target)

    with monkeypatch.context() as disk:
        disk.setattr(shutil, "copy2", and_somebody_writes)
        with pytest.raises(UserError, match=r"was written to while it was copied\. Apply again"):
            snapshot(package)
    assert list((package.parents[1] / "store" / "pkg").iterdir()) == []


@pytest.mark.parametrize(
    "edit", [lambda root: (root / "sub" / "words.txt").write_text("bad\n"), lambda root: (root / "n").touch()]
)
def test_every_edit_is_another_snapshot(package: Path, edit: Callable[[Path], object]) -> None:
    before = snapshot(package)
    edit(package)
    assert snapshot(package) != before
