"""Sources of models that need no library: downloads that break off, logins, archives, directories, full disks."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from model_site import ModelSite, served
from modelserve import hashing
from modelserve.errors import UserError
from modelserve.models import zoo as models
from modelserve.models.entry import PARTIAL
from modelserve.models.sources import fetching, http

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(http, "FIRST_PAUSE_S", 0.001)
    directory = tmp_path / "Model_ZOO"
    directory.mkdir()
    return directory


@pytest.fixture
def site() -> Iterator[ModelSite]:
    with served(ModelSite(CONTENT)) as site:
        yield site


def describe(zoo: Path, **entry: Any) -> None:
    (zoo / "models.yml").write_text(yaml.safe_dump([{"sha256": SHA256, **entry}]))


def fetch(zoo: Path, **options: Any) -> list[str]:
    return models.fetch(zoo, lambda line: None, **options)


def refused(zoo: Path) -> str:
    """Return what a fetch that must fail says."""
    with pytest.raises(UserError) as caught:
        fetch(zoo)
    (problem,) = caught.value.problems
    assert problem.fix and problem.file == "Model_ZOO/models.yml" and problem.section and "\n" not in str(problem)
    return str(problem)


def tree(root: Path) -> Path:
    """Make a model that is a directory, and return it."""
    (root / "1_Pooling").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "1_Pooling" / "config.json").write_text("[]")
    return root


# --- downloads


def test_a_download_that_breaks_off_goes_on_where_it_stopped(zoo: Path, site: ModelSite) -> None:
    site.breaks = [4000, 100]
    describe(zoo, file="net", url=site.url)
    assert fetch(zoo) == ["net"]
    assert [download.range for download in site.downloads] == ["", "bytes=4000-", "bytes=4100-"]
    assert {download.if_range for download in site.downloads[1:]} == {site.etag}
    assert sorted(path.name for path in zoo.iterdir()) == ["models.yml", "net"]


def test_the_next_fetch_goes_on_with_what_the_last_one_left(
    zoo: Path, site: ModelSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ATTEMPTS", 1)
    site.breaks = [4000]
    describe(zoo, file="net", url=site.url)
    assert "the server closed the connection after 4000 of 10240 bytes" in refused(zoo)
    assert not (zoo / "net").exists()
    assert fetch(zoo) == ["net"]
    assert site.downloads[-1].range == "bytes=4000-"
    assert not (zoo / PARTIAL).exists()


def interrupted(zoo: Path, site: ModelSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a part of a download of another version of the file."""
    with monkeypatch.context() as patch:
        patch.setattr(http, "ATTEMPTS", 1)
        content, site.content = site.content, b"other" * 2048
        site.breaks = [4000]
        describe(zoo, file="net", url=site.url)
        refused(zoo)
        site.content = content


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(
    zoo: Path, site: ModelSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(zoo, site, monkeypatch)
    site.etag = '"2"'
    assert fetch(zoo) == ["net"]
    assert len(site.downloads) == 2


@pytest.mark.parametrize("etag", ["", 'W/"1"'])
def test_parts_of_two_versions_are_noticed_where_the_server_tells_nothing(
    zoo: Path, site: ModelSite, monkeypatch: pytest.MonkeyPatch, etag: str
) -> None:
    site.etag = etag
    interrupted(zoo, site, monkeypatch)
    assert fetch(zoo) == ["net"]
    assert [download.range for download in site.downloads] == ["", "bytes=4000-", ""]


def test_a_server_without_ranges_and_a_file_that_became_shorter_are_fetched_anew(
    zoo: Path, site: ModelSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(zoo, site, monkeypatch)
    site.ranges = False
    assert fetch(zoo) == ["net"]
    (zoo / "net").unlink()
    interrupted(zoo, site, monkeypatch)
    site.ranges, site.content, site.etag = True, b"short", '"3"'
    assert hashlib.sha256(b"short").hexdigest() in refused(zoo)


def test_what_no_entry_describes_any_more_is_not_kept(
    zoo: Path, site: ModelSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(zoo, site, monkeypatch)
    assert (zoo / PARTIAL).is_dir()
    (zoo / "models.yml").write_text("")
    fetch(zoo)
    assert not (zoo / PARTIAL).exists()


def test_a_login_comes_from_netrc_and_goes_to_no_other_host(
    zoo: Path, site: ModelSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine localhost login me password secret\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    describe(zoo, file="net", url=site.moved)
    assert fetch(zoo) == ["net"]
    assert [bool(download.authorization) for download in site.downloads] == [True, False]


def test_a_password_in_the_address_is_shown_nowhere(zoo: Path, site: ModelSite) -> None:
    describe(zoo, file="net", url=site.url.replace("http://", "http://me:geheim@") + "?token=geheim")
    lines: list[str] = []
    with pytest.raises(UserError) as caught:
        models.fetch(zoo, lines.append)
    assert "401" in str(caught.value) and "~/.netrc" in str(caught.value)
    assert "geheim" not in str(caught.value) + "".join(lines)
    assert site.downloads[-1].authorization.startswith("Basic ")


# --- archives and directories


def archives(root: Path, aside: Path) -> Iterator[Path]:
    for form, ending in (("zip", "zip"), ("gztar", "tar.gz"), ("tar", "tar")):
        shutil.make_archive(str(aside), form, root)
        yield aside.with_name(f"{aside.name}.{ending}")


def test_a_directory_comes_out_of_an_archive(zoo: Path, tmp_path: Path) -> None:
    root = tree(tmp_path / "packed" / "bert")
    sha256 = hashing.of_model(root)
    for archive in archives(root.parent, tmp_path / "archive"):
        describe(zoo, directory="bert", sha256=sha256, path=str(archive), archive=True, member="bert")
        assert [fetch(zoo), fetch(zoo)] == [["bert"], []]
        assert hashing.of_model(zoo / "bert") == sha256
        assert archive.exists()
        shutil.rmtree(zoo / "bert")
    describe(zoo, file="c", sha256=hashlib.sha256(b"[]").hexdigest(), path=str(archive), archive=True,
             member="bert/1_Pooling/config.json")  # fmt: skip
    assert fetch(zoo) == ["c"]


def hostile_tar(file: Path, member: tarfile.TarInfo) -> None:
    with tarfile.open(file, "w") as archive:
        archive.addfile(member, io.BytesIO(b""))


def test_an_archive_writes_nothing_outside(zoo: Path, tmp_path: Path) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    for member in (tarfile.TarInfo("../../../escaped"), link):
        hostile_tar(tmp_path / "archive", member)
        describe(zoo, directory="bert", path="archive", archive=True)
        assert "cannot be unpacked" in refused(zoo)
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("../../../../escaped", "x")
    refused(zoo)
    assert not list(tmp_path.parent.rglob("escaped")) and not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    ("content", "member", "words"),
    [(b"no archive", "", "neither a tar nor a zip"), (None, "other", "no 'other' in the archive")],
)
def test_an_archive_that_does_not_fit_is_named(
    zoo: Path, tmp_path: Path, content: bytes | None, member: str, words: str
) -> None:
    (archive,) = [path for path in archives(tree(tmp_path / "packed"), tmp_path / "archive") if path.suffix == ".zip"]
    archive = Path(shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "packed"))
    if content is not None:
        archive.write_bytes(content)
    describe(zoo, directory="bert", path=str(archive), archive=True, member=member)
    assert words in refused(zoo)


def test_a_directory_comes_from_a_path_and_takes_the_place_of_what_is_there(zoo: Path, tmp_path: Path) -> None:
    root = tree(tmp_path / "trained")
    (root / "weights").symlink_to(tmp_path / "weights")
    (tmp_path / "weights").write_bytes(CONTENT)
    describe(zoo, directory="bert", sha256=hashing.of_model(root), path="trained")
    for there in ("nothing", "file", "directory", "link"):
        if there == "file":
            shutil.rmtree(zoo / "bert")
            (zoo / "bert").write_text("old")
        elif there == "directory":
            (zoo / "bert" / "more").write_text("old")
        elif there == "link":
            shutil.rmtree(zoo / "bert")
            (zoo / "bert").symlink_to(tmp_path)
        assert fetch(zoo) == ["bert"]
        assert hashing.of_model(zoo / "bert") == hashing.of_model(root)
        assert (zoo / "bert" / "weights").is_file() and not (zoo / "bert" / "weights").is_symlink()
    assert tmp_path.is_dir() and fetch(zoo) == []


def test_a_directory_of_other_content_leaves_what_is_there(zoo: Path, tmp_path: Path) -> None:
    tree(zoo / "bert")
    before = hashing.of_model(zoo / "bert")
    (tree(tmp_path / "trained") / "config.json").write_text("changed")
    describe(zoo, directory="bert", sha256="0" * 64, path="trained")
    assert "the fetched directory has sha256" in refused(zoo)
    assert hashing.of_model(zoo / "bert") == before
    assert sorted(path.name for path in zoo.iterdir()) == ["bert", "models.yml"]


@pytest.mark.parametrize(("kind", "word"), [("file", "directory"), ("directory", "file")])
def test_a_file_for_a_directory_and_the_reverse_are_named(zoo: Path, tmp_path: Path, kind: str, word: str) -> None:
    tree(tmp_path / "trained")
    describe(zoo, **{kind: "bert"}, path="trained" if kind == "file" else "trained/config.json")
    assert f"the source has a {word}" in refused(zoo)


# --- disks, places, libraries


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    zoo: Path, site: ModelSite, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(request: fetching.Request) -> Path:
        request.content.write_bytes(CONTENT[:100])
        raise RuntimeError("the library's own") from OSError(number, os.strerror(number))

    monkeypatch.setitem(fetching._SOURCES, "http", full)
    (zoo / "net").write_text("old")
    describe(zoo, file="net", url=site.url)
    message = refused(zoo)
    assert "no space is left" in message and "Free some there" in message
    assert (zoo / "net").read_text() == "old"
    assert sorted(path.name for path in zoo.iterdir()) == ["models.yml", "net"]


def test_a_file_larger_than_the_disk_is_not_begun(zoo: Path, site: ModelSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined]
    describe(zoo, file="net", url=site.url)
    assert "10.2 kB are to be fetched, 1 B are free" in refused(zoo)
    assert not (zoo / PARTIAL).exists()


def test_each_place_fetches_its_own_models(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(CONTENT)
    places = {"a": {}, "b": {"fetch_on": "head"}, "c": {"fetch_on": "operator"}}
    path = str(tmp_path / "net")
    entries = [{"file": name, "sha256": SHA256, "path": path, **more} for name, more in places.items()]
    (zoo / "models.yml").write_text(yaml.safe_dump(entries))
    assert fetch(zoo, place="head") == ["b"]
    assert fetch(zoo, place="operator") == ["a", "c"]
    for name in "abc":
        (zoo / name).unlink()
    assert fetch(zoo, place="head", default="head") == ["a", "b"]
    assert fetch(zoo) == ["c"]


@pytest.mark.parametrize(
    ("source", "module", "name"),
    [
        ({"hf": "org/net", "revision": "0" * 40}, "huggingface_hub", "hf"),
        ({"url": "s3://bucket/net"}, "s3fs", "s3://"),
        ({"url": "gs://bucket/net"}, "gcsfs", "gs://"),
        ({"url": "az://bucket/net"}, "adlfs", "az://"),
        ({"mlflow": "models:/net/1"}, "mlflow", "mlflow"),
        ({"oci": f"registry/net@sha256:{SHA256}"}, "oras", "oci"),
    ],
)
def test_a_missing_library_is_one_line_with_the_command(
    zoo: Path, monkeypatch: pytest.MonkeyPatch, source: dict[str, str], module: str, name: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    describe(zoo, file="net", **source)
    message = refused(zoo)
    assert f"'{name}' needs the library {module}, which this Python lacks" in message
    assert "-m pip install --require-hashes -r " in message and "requirements-models.lock" in message
    assert not (zoo / PARTIAL).exists()


def test_a_model_is_read_again_only_when_it_changed(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "trained")
    describe(zoo, directory="bert", sha256=hashing.of_model(root), path="trained")
    fetch(zoo)
    fetch(zoo)
    read: list[Path] = []
    of_file: Callable[[Path], str] = hashing.of_file
    monkeypatch.setattr(hashing, "of_file", lambda path: read.append(path) or of_file(path))  # type: ignore[func-returns-value]
    assert (fetch(zoo), read) == ([], [])
    (zoo / "bert" / "config.json").write_text("{ }")
    assert fetch(zoo) == ["bert"]


def test_a_second_fetch_waits_for_the_first_and_reports_it(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(CONTENT)
    describe(zoo, file="net", path="net")
    descriptor = os.open(zoo, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    lines: list[str] = []

    def report(line: str) -> None:
        if not lines:
            os.close(descriptor)  # the first fetch ends
        lines.append(line)

    assert models.fetch(zoo, report) == ["net"]
    assert "another process fetches models" in lines[0]
