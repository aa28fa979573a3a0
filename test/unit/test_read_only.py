"""Read-only trees: no accident writes into them, and they can be removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from modelserve.store.store import Store
from modelserve.util import bytecode, read_only

Run = Callable[..., subprocess.CompletedProcess[str]]
WRITES = """\
import sys, pathlib
failed = []
for number, write in enumerate([
    lambda root: (root / "sub" / "file.py").open("a"),
    lambda root: (root / "sub" / "file.py").write_text("x = 2"),
    lambda root: (root / "sub" / "new.py").write_text(""),
    lambda root: (root / "sub" / "file.py").unlink(),
    lambda root: (root / "sub").rename(root / "other"),
    lambda root: (root / "new").mkdir(),
]):
    try:
        write(pathlib.Path(sys.argv[1]))
    except PermissionError as error:
        failed.append(number)
print(failed)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "file.py").write_text("x = 1\n")
    (root / "tool").write_text("#!/bin/sh\n")
    (root / "tool").chmod(0o755)
    (root / "python").symlink_to(sys.executable)
    (root / "dangling").symlink_to("/not/there")
    return root


def test_nothing_writes_into_a_protected_tree(tree: Path, without_capabilities: Run) -> None:
    before = Path(sys.executable).stat().st_mode
    read_only.protect(tree)
    assert without_capabilities(sys.executable, "-c", WRITES, str(tree)).stdout == "[0, 1, 2, 3, 4, 5]\n"
    assert (tree / "sub" / "file.py").read_text() == "x = 1\n"
    assert os.access(tree / "tool", os.X_OK)
    assert Path(sys.executable).stat().st_mode == before  # a link's target is not the tree's


def test_a_protected_tree_is_removed(tree: Path, without_capabilities: Run) -> None:
    read_only.protect(tree)
    code = "import sys, pathlib; from modelserve.util import read_only; read_only.remove(pathlib.Path(sys.argv[1]))"
    files = str(Path(read_only.__file__).parents[2])
    without_capabilities(sys.executable, "-c", code, str(tree), PYTHONPATH=files)
    assert not tree.exists()


def test_a_package_s_snapshot_is_protected_and_has_its_bytecode(
    tmp_path: Path, tree: Path, without_capabilities: Run
) -> None:
    store = Store(tmp_path / "store")
    snapshot = store.add_package("tree", tree / "sub")
    assert without_capabilities("find", str(snapshot), "-writable").stdout == ""
    (compiled,) = snapshot.rglob("*.pyc")
    code = f"import sys; sys.path[0] = {str(snapshot)!r}; import file"
    # With -v Python names what it reads, and what it compiles because the bytecode is not that of the source.
    assert f"code object from '{compiled}'" in without_capabilities(sys.executable, "-v", "-c", code).stderr
    (tree / "sub" / "file.py").write_text("x = 2\n")
    kept = store.add_package("tree", tree / "sub")
    assert store.collect_garbage([str(kept.relative_to(store.root))]) == [f"pkg/{snapshot.name}"]
    assert [path.name for path in (store.root / "pkg").iterdir()] == [kept.name]


def test_a_traceback_names_the_place_where_the_code_is(tmp_path: Path) -> None:
    source = tmp_path / "Echo"
    source.mkdir()
    (source / "raising.py").write_text("def fail():\n    raise ValueError\n")
    (source / "broken.py").write_text("def (:\n")
    snapshot = Store(tmp_path / "store").add_package("Echo", source)
    code = f"import sys; sys.path[0] = {str(snapshot)!r}; import raising; print(raising.fail.__code__.co_filename)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(snapshot / "raising.py")


def test_an_author_s_questionable_code_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text("x = '\\d' is 'b'\n")
    (tmp_path / "b.py").write_text("def (:\n")
    bytecode.compile_tree(tmp_path, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_complete_environment_is_protected(tmp_path: Path, tree: Path, without_capabilities: Run) -> None:
    store = Store(tmp_path / "store")
    env = store.env_path("Echo", "1")
    shutil.copytree(tree, env, symlinks=True)
    store.complete(env, {"name": "Echo"})
    assert store.is_complete(env)
    assert without_capabilities("find", str(env), "-writable", "-not", "-type", "l").stdout == ""


def test_a_directory_that_cannot_be_read_is_one_line(tmp_path: Path, without_capabilities: Run) -> None:
    source = tmp_path / "algopkg" / "Echo"
    (source / "closed").mkdir(parents=True)
    (source / "closed").chmod(0)
    code = (
        "import sys, pathlib\nfrom modelserve.config import sources\nfrom modelserve.errors import UserError\n"
        "try: sources.files(pathlib.Path(sys.argv[1]))\nexcept UserError as error: print(error)"
    )
    files = str(Path(read_only.__file__).parents[2])
    said = without_capabilities(sys.executable, "-c", code, str(source), PYTHONPATH=files).stdout
    (source / "closed").chmod(0o755)
    assert said == "algopkg/Echo/closed: cannot be read: Permission denied. Correct its permissions\n"


def test_what_has_no_bytecode_of_its_present_content_is_stale(tmp_path: Path) -> None:
    for name in ("fresh", "edited", "new"):
        (tmp_path / f"{name}.py").write_text("x = 1\n")
    (tmp_path / "new.py").rename(tmp_path / "later")
    bytecode.compile_tree(tmp_path, tmp_path)
    (tmp_path / "later").rename(tmp_path / "new.py")
    (tmp_path / "edited.py").write_text("x = 10\n")
    assert sorted(path.name for path in bytecode.stale_modules(tmp_path)) == ["edited.py", "new.py"]
