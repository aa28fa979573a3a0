"""algopkg/<Name>/packages.txt: names of Debian packages alone, and what the image lacks is one line."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelserve.author import trial
from modelserve.config import debian, parser, project
from modelserve.config.routes import Served
from modelserve.config.section import Section
from modelserve.deploy.controller import Controller
from modelserve.deploy.releases import Target
from modelserve.deploy.resolve import Resolver
from modelserve.deploy.secret_references import SecretReferences
from modelserve.environments.resolve import Environment
from modelserve.errors import UserError
from modelserve.serve.application import Application
from modelserve.settings import Settings
from modelserve.store import manifest
from modelserve.store.store import Store

ROOT = Path(__file__).resolve().parents[2]
LIST = "# what cv2 needs\nlibgl1\n\nlibglib2.0-0 # for libgthread\n"


@pytest.fixture
def algopkg(tmp_path: Path) -> Path:
    for name in ("OCR", "Sound"):
        (tmp_path / name).mkdir()
    (tmp_path / "OCR" / "packages.txt").write_text(LIST)
    (tmp_path / "OCR" / "backend.py").write_text("class OCR: pass\n")
    return tmp_path


def problems_of(algopkg: Path, text: str | bytes) -> list[str]:
    file = algopkg / "OCR" / "packages.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        debian.read(algopkg / "OCR")
    return [str(problem) for problem in caught.value.problems]


def test_a_list_has_comments_and_empty_lines(algopkg: Path) -> None:
    asked = debian.read(algopkg / "OCR")
    assert [(package.name, package.place) for package in asked] == [
        ("libgl1", "algopkg/OCR/packages.txt line 2"),
        ("libglib2.0-0", "algopkg/OCR/packages.txt line 4"),
    ]
    assert debian.read(algopkg / "Sound") == ()


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_name(algopkg: Path) -> None:
    (algopkg / "OCR" / "packages.txt").write_bytes(b"\xef\xbb\xbflibgl1\r\ng++\r\n")
    assert [package.name for package in debian.read(algopkg / "OCR")] == ["libgl1", "g++"]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("libgl1=1.6.0-1", "line 2: 'libgl1=1.6.0-1' names more than a package. Write the name alone: libgl1"),
        ("libgl1/bookworm-backports", "Write the name alone: libgl1"),
        ("libgl1 (>= 1.4)", "Write the name alone: libgl1"),
        ("libgl1:arm64", "Write the name alone: libgl1"),
        ("libgl1 ffmpeg", "'libgl1 ffmpeg' is more than one name. Write one name a line"),
        ("libGL.so.1", "'libGL.so.1' is not the name of a Debian package"),
        ("libgl1-", "is not the name of a Debian package"),
        ("-t", "is not the name of a Debian package"),
        ("$(id)", "is not the name of a Debian package"),
        ("~nlibgl1", "is not the name of a Debian package"),
    ],
)
def test_what_is_no_name_is_one_line_with_file_and_line(algopkg: Path, line: str, part: str) -> None:
    (problem,) = problems_of(algopkg, f"# first\n{line}\nffmpeg\n")
    assert problem.startswith("algopkg/OCR/packages.txt: line 2: ") and part in problem


def test_every_wrong_line_is_reported(algopkg: Path) -> None:
    assert len(problems_of(algopkg, "A\nlibgl1\nb c\n")) == 2


def test_a_file_that_is_no_text_is_one_line(algopkg: Path) -> None:
    (problem,) = problems_of(algopkg, "libgl1\n".encode("utf-16"))
    assert problem == (
        "algopkg/OCR/packages.txt: cannot be read: it is not UTF-8 text. Write a text file with one name a line"
    )


@given(st.text(max_size=20))
def test_what_is_accepted_is_a_word_that_apt_takes_for_a_name(text: str) -> None:
    try:
        names = [package.name for package in debian._checked((debian.DebianPackage(text, "f"),))]
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert names == [text] and re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", text) and not text.endswith("-")


def test_all_packages_of_a_project_and_the_variable_are_one_sorted_list(algopkg: Path) -> None:
    (algopkg / "Sound" / "packages.txt").write_text("ffmpeg\nlibgl1\n")
    places, problems = debian.read_all(algopkg, ["zip", "ffmpeg"])
    assert problems == []
    assert list(places.items()) == [
        ("ffmpeg", "modelserve_debian_packages"),
        ("libgl1", "algopkg/OCR/packages.txt line 2"),
        ("libglib2.0-0", "algopkg/OCR/packages.txt line 4"),
        ("zip", "modelserve_debian_packages"),
    ]


def test_problems_of_the_variable_and_of_all_files_are_reported_together(algopkg: Path) -> None:
    (algopkg / "OCR" / "packages.txt").write_text("A\n")
    (algopkg / "Sound" / "packages.txt").write_text("B\n")
    _, problems = debian.read_all(algopkg, ["C", None])
    assert [line.split(":")[0] for line in problems] == [
        "modelserve_debian_packages",
        "modelserve_debian_packages",
        "algopkg/OCR/packages.txt",
        "algopkg/Sound/packages.txt",
    ]


@pytest.fixture
def lookup() -> ModuleType:
    path = ROOT / "plugins" / "lookup" / "debian_packages.py"
    spec = importlib.util.spec_from_file_location("debian_packages", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ansible_gets_names_with_who_asks_for_them(lookup: ModuleType, algopkg: Path) -> None:
    (found,) = lookup.LookupModule().run([str(algopkg), ["git"], "modelserve_debian_packages"])
    assert list(found["packages"]) == ["git", "libgl1", "libglib2.0-0"] and found["problems"] == []
    assert lookup.LookupModule().run(["", [], "x"]) == [{"packages": {}, "problems": []}]
    (found,) = lookup.LookupModule().run(["", ["gcc=1"], "modelserve_build_packages"])
    assert found["problems"][0].startswith("modelserve_build_packages: 'gcc=1' names more than a package")


def test_a_check_of_the_project_reads_the_lists(algopkg: Path) -> None:
    conf = parser.parse("[MODEL SERVE]\n[algopkg.OCR]\nbackend = OCR\nroute = r\n")
    assert project.check(conf, algopkg, []) == []
    (algopkg / "OCR" / "packages.txt").write_text("libgl1 = 1\n")
    (problem,) = project.check(conf, algopkg, [])
    assert problem.file == "algopkg/OCR/packages.txt" and "line 1" in problem.message


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The list of an image that has all but libgl1."""
    file = tmp_path / "installed.txt"
    file.write_text("libc6\nlibglib2.0-0\n")
    monkeypatch.setattr(debian, "INSTALLED", file)
    return file


LACKING = (
    "algopkg/OCR/packages.txt: line 2: asks for libgl1, which this image does not have. "
    "Run site.yml: it adds a layer to the image, and restarts the nodes one after another"
)


def resolver(home: Path) -> Resolver:
    settings = Settings(home=home)
    return Resolver(settings, Store(home / "store"), SecretReferences(settings, print), print)


def test_an_apply_on_the_head_refuses_what_the_image_lacks(algopkg: Path, image: Path) -> None:
    home = algopkg / "home"
    home.mkdir()
    (home / "algopkg").symlink_to(algopkg)
    (home / "conf.ini").write_text("[MODEL SERVE]\nport = 666\n[algopkg.OCR]\nbackend = OCR\nroute = r\n")
    with pytest.raises(UserError) as caught:
        resolver(home).resolve()
    assert str(caught.value) == LACKING
    (home / "conf.ini").write_text("[MODEL SERVE]\nport = 666\n")
    assert resolver(home).read()[0].sections == (), "what is not served is not needed"


def test_a_rollback_refuses_what_the_image_lacks(algopkg: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = algopkg / "store"
    (store / "pkg").mkdir(parents=True)
    (algopkg / "OCR").rename(store / "pkg" / "OCR-1234")
    section = Section.model_validate({"name": "OCR", "backend": "OCR", "route": "r"})
    application = Application.from_section(section, store / "pkg" / "OCR-1234", [], store / "env" / "OCR-1")
    target = Target("", Served(port=666), {"OCR": application}, {}, 8000)
    monkeypatch.setattr(Store, "holds", lambda self, path: True)
    monkeypatch.setattr(manifest.Versions, "running", manifest.Versions)
    with pytest.raises(UserError) as caught:
        Controller(Settings(home=algopkg), print)._require_content(target, 3)
    assert str(caught.value) == f"release 3: {LACKING}"


def test_a_test_of_a_package_refuses_what_the_image_lacks(algopkg: Path, image: Path) -> None:
    with pytest.raises(UserError) as caught:
        trial.environment_of(Settings(home=algopkg), algopkg / "OCR", print)
    assert str(caught.value) == LACKING


def test_a_test_that_fails_for_want_of_a_library_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    error = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"
    python.write_text(f"#!/bin/sh\necho '{json.dumps({'ok': False, 'error': error})}'\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(trial, "environment_of", lambda *_: Environment("OCR", tmp_path, ""))
    section = Section.model_validate({"name": "OCR", "backend": "OCR", "route": "r"})
    result = trial.test(Settings(home=tmp_path), trial.Trial(section, tmp_path, tmp_path), {}, print)
    hint = "libGL.so.1 is in the Debian package libgl1: write libgl1 to algopkg/OCR/packages.txt, then run site.yml"
    assert result == {"ok": False, "error": f"{error}. {hint}"}


def test_a_snapshot_is_called_by_its_package_s_name(algopkg: Path) -> None:
    (algopkg / "OCR").rename(algopkg / "OCR-1234")
    (problem,) = debian.missing({"OCR": algopkg / "OCR-1234"}, {"libgl1"})
    assert problem.file == "algopkg/OCR/packages.txt"


def test_without_an_image_nothing_is_compared(algopkg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "INSTALLED", tmp_path / "none")
    assert debian.missing({"OCR": algopkg / "OCR"}, debian.installed()) == []
