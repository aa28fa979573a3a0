"""A full disk is one line that says what had no space and where; nothing is left of what did not fit."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from modelserve.cli import main as cli
from modelserve.config.routes import Served
from modelserve.deploy.releases import Releases, Target
from modelserve.errors import UserError
from modelserve.store.manifest import Manifest
from modelserve.store.store import Store
from modelserve.util import disk, files

SIZE = 1 << 20  # of the disk


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A directory with a file system of 1 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "modelserve-test", str(directory)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def fill(directory: Path, left: int = 0) -> None:
    """Leave so many bytes of a disk."""
    with (directory / "filler").open("wb") as stream:
        stream.write(bytes(shutil.disk_usage(directory).free - left))


def everything(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def line(error: BaseException) -> str:
    (text,) = str(error).splitlines()
    return text


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_model_that_does_not_fit_leaves_nothing(small: Path, tmp_path: Path, kind: str) -> None:
    model = tmp_path / "net"
    if kind == "file":
        model.write_bytes(os.urandom(2 * SIZE))
    else:
        model.mkdir()
        for number in range(4):
            (model / str(number)).write_bytes(os.urandom(SIZE // 2))
    served = tmp_path / "served"
    served.write_text("what is served")
    store = Store(small / "store")
    kept = store.add_model(served)
    before = everything(small)
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            store.add_model(model)
        shape = rf"no space left for \w+: it needs \S+iB, \S+B are free at {small}/store/model\S*\. Free some there, .*"
        assert re.fullmatch(shape, line(caught.value))
        assert everything(small) - before <= {"store/model_hashes.json"}
    assert kept.read_text() == "what is served"
    assert store.holds(str(kept.relative_to(store.root)))


def test_a_disk_that_becomes_full_during_a_copy_is_not_written_to_again(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the check beforehand cannot see: something else fills the disk."""
    source = small / "net"
    source.write_bytes(os.urandom(SIZE // 2))
    fill(small, left=SIZE // 4)
    monkeypatch.setattr(disk, "require_space", lambda *_: None)
    monkeypatch.setattr(shutil, "copyfileobj", lambda *_: pytest.fail("it was copied a second time"))
    with pytest.raises(UserError, match="no space left for net: it needs"):
        files.copy(source, small / "copy")
    assert everything(small) == {"filler", "net"}


def test_a_model_is_hashed_though_no_hash_can_be_kept(small: Path, tmp_path: Path) -> None:
    model = tmp_path / "net"
    model.write_bytes(b"weights")
    store = Store(small)
    fill(small)
    assert store.sha256(model) == store.sha256(model)
    assert everything(small) == {"filler"}


def test_a_package_that_does_not_fit_leaves_nothing(small: Path, tmp_path: Path) -> None:
    package = tmp_path / "Echo"
    package.mkdir()
    (package / "backend.py").write_text("x = 1\n")
    (package / "data").write_bytes(bytes(2 * SIZE))
    with pytest.raises(OSError, match="No space left") as caught:
        Store(small).add_package("Echo", package)
    assert disk.is_full(caught.value)
    assert everything(small) == set()


def test_manifest_and_release_stay_as_they_were(small: Path) -> None:
    store, releases = Store(small / "store"), Releases(small / "releases", 5)
    Manifest(kept=("model/1/a",)).publish(store)
    target = Target("", Served(port=666), {}, {})
    releases.record(target)
    fill(small)
    before = everything(small)
    text = "x" * 10_000
    for write in (lambda: Manifest(kept=(text,)).publish(store), lambda: releases.record(target, [text])):
        with pytest.raises(OSError, match="No space left") as caught:
            write()
        assert disk.is_full(caught.value) and caught.value.filename
    assert everything(small) == before
    assert Manifest.load(store.root / "manifest.json").kept == ("model/1/a",)
    assert releases.numbers() == [1] and releases.latest() is not None


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError(errno.ENOSPC, "full", "{}/releases/7.json"), "no space left for 7.json: "),
        (OSError(errno.EDQUOT, "full"), "no space left for this command: "),
    ],
)
def test_wherever_the_disk_is_full_a_command_ends_with_one_line(
    error: OSError, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if error.filename:
        error.filename = error.filename.format(tmp_path)
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path))

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("modelserve.settings.Settings.load", full)
    assert cli.main(["status"]) == 1
    (text,) = capsys.readouterr().err.splitlines()
    assert text.startswith(f"error: {shown}") and text.endswith("Free some there, then run this again")
    assert f"are free at {tmp_path}" in text


def test_what_other_programs_say_of_a_full_disk_is_understood() -> None:
    assert disk.is_full(
        UserError("packages cannot be installed: failed to copy: No space left on device (os error 28)")
    )
    assert not disk.is_full(UserError("packages cannot be installed: no such version"))
    assert not disk.is_full(FileNotFoundError(errno.ENOENT, "No such file", "x"))
