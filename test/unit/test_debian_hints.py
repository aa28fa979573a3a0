"""A failure for want of a library, a command or a compiler names the Debian package and where to write it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from modelserve.config import debian_hints
from modelserve.environments import failures
from modelserve.settings import Settings

FILE = "algopkg/OCR/requirements.txt"
# Messages of the libraries themselves.
FAILURES = {
    "ImportError: libGL.so.1: cannot open shared object file: No such file or directory": "libgl1",
    "ImportError: libgthread-2.0.so.0: cannot open shared object file: No such file or directory": "libglib2.0-0t64",
    "OSError: libgomp.so.1: cannot open shared object file: No such file or directory": "libgomp1",
    "OSError: sndfile library not found": "libsndfile1",
    "OSError: cannot load library 'libsndfile.so': libsndfile.so: cannot open shared object file": "libsndfile1",
    "OSError: PortAudio library not found": "libportaudio2",
    "ImportError: failed to find libmagic.  Check your installation": "libmagic1t64",
    "ImportError: Unable to find zbar shared library": "libzbar0t64",
    "FileNotFoundError: [Errno 2] No such file or directory: 'ffmpeg'": "ffmpeg",
    "FileNotFoundError: [Errno 2] No such file or directory: 'git'": "git",
    "RuntimeError: sh: 1: sox: not found": "sox",
    "RuntimeError: bash: line 1: flac: command not found": "flac",
    "TesseractNotFoundError: tesseract is not installed or it's not in your PATH. See README": "tesseract-ocr",
    "PDFInfoNotInstalledError: Unable to get page count. Is poppler installed and in PATH?": "poppler-utils",
    "ImportError: libodbc.so.2: cannot open shared object file: No such file or directory": "libodbc2",
    "JVMNotFoundException: No JVM shared library file (libjvm.so) found": "default-jre-headless",
    'OSError: no library called "cairo-2" was found': "libcairo2",
}


@pytest.fixture(autouse=True)
def trixie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian_hints, "_release", lambda: "trixie")


@pytest.mark.parametrize(("text", "package"), FAILURES.items())
def test_a_failure_names_the_package_and_the_file(text: str, package: str) -> None:
    hinted = debian_hints.with_hint(text, "OCR")
    assert hinted.startswith(text.rstrip(". "))
    assert f"write {package} to algopkg/OCR/packages.txt, then run site.yml" in hinted
    assert debian_hints.with_hint(hinted, "OCR") == hinted, "the hint is added once"


def test_a_library_that_is_not_in_the_list_comes_with_the_search_for_it() -> None:
    hint = debian_hints.of_failure("ImportError: libfoo.so.7: cannot open shared object file: No such file", "OCR")
    assert "'apt-file search libfoo.so.7'" in hint and "algopkg/OCR/packages.txt" in hint


@pytest.mark.parametrize(
    "text",
    [
        "FileNotFoundError: [Errno 2] No such file or directory: 'words.json'",
        "FileNotFoundError: [Errno 2] No such file or directory: '/models/git'",
        "ValueError: the model file: not found",
        "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory",
        "ModuleNotFoundError: No module named 'cv2'",
        "",
    ],
)
def test_other_failures_stay_as_they_are(text: str) -> None:
    assert debian_hints.with_hint(text, "OCR") == text


def test_a_release_with_other_names_gets_its_own() -> None:
    assert debian_hints.packages_of("trixie")["libglib-2.0.so.0"] == "libglib2.0-0t64"
    assert debian_hints.packages_of("bookworm")["libglib-2.0.so.0"] == "libglib2.0-0"
    assert debian_hints.packages_of("bookworm")["libGL.so.1"] == debian_hints.packages_of("trixie")["libGL.so.1"]


def test_every_line_of_the_list_has_a_package_and_is_there_once() -> None:
    rows = [line.split() for line in debian_hints.DATA.read_text().splitlines() if line and line[0] != "#"]
    assert all(len(row) in (2, 3) for row in rows), "scripts/debian_files.py fills the columns"
    assert len({row[0] for row in rows}) == len(rows) > 200
    assert set(debian_hints._IN_WORDS.values()) | set(debian_hints._BUILD_IN_WORDS.values()) <= {row[0] for row in rows}


# uv's messages, shortened where they repeat themselves.
GCC = """\
error: Failed to build `regex==2024.11.6`
  cause: The build backend returned an error
  cause: Call to `setuptools.build_meta:__legacy__.build_wheel` failed (exit status: 1)

         [stdout]
         building 'zznative' extension
         x86_64-linux-gnu-gcc -Wall -fPIC -I/usr/include/python3.13 -c zz.c -o build/temp.linux-x86_64-cpython-313/zz.o

         [stderr]
         error: [Errno 2] No such file or directory: 'x86_64-linux-gnu-gcc'

hint: Build failures usually indicate a problem with the package or the build environment
"""
HEADER = GCC.replace(
    "error: [Errno 2] No such file or directory: 'x86_64-linux-gnu-gcc'",
    "zz.c:1:10: fatal error: Python.h: No such file or directory",
)
OTHER_HEADER = HEADER.replace("Python.h", "libpq-fe.h")


GIT = """\
error: Failed to download and build `x @ git+https://git.example/x.git`
  cause: Git operation failed
  cause: Git executable not found. Ensure that Git is installed and available.
"""
FOR_GIT = "what comes from a Git repository needs git"
MESON = "ERROR: Unknown compiler(s): [['cc'], ['gcc'], ['clang']]"
NO_WHEEL = "regex==2024.11.6 has no wheel for this Python, and its build needs x86_64-linux-gnu-gcc"


@pytest.mark.parametrize(
    ("text", "has_compiler", "message", "packages"),
    [
        (GCC, False, NO_WHEEL, "Add build-essential, python3-dev to"),
        (HEADER, True, "needs Python.h", "Add python3-dev to"),
        (OTHER_HEADER, True, "needs libpq-fe.h", "Add libpq-dev to"),
        (OTHER_HEADER, False, "needs libpq-fe.h", "Add build-essential, python3-dev, libpq-dev to"),
        (MESON, False, "needs gcc", "Add build-essential, python3-dev to"),
        (GIT, False, FOR_GIT, "Add git to"),
        ("Error: pg_config executable not found.", True, "needs pg_config", "Add libpq-dev to"),
        ("error: can't find Rust compiler", True, "needs cargo", "Add cargo to"),
    ],
)
def test_a_build_names_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, text: str, has_compiler: bool, message: str, packages: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if has_compiler else None)
    problem = debian_hints.of_build(text, FILE)
    assert problem is not None
    assert message in problem.message
    assert problem.fix.startswith(packages + " modelserve_build_packages and run site.yml, or ")
    assert len(str(problem).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "Because idna==9 does not exist, requirements cannot be met", "error: no space"])
def test_a_build_that_fails_otherwise_is_explained_otherwise(text: str) -> None:
    assert debian_hints.of_build(text, FILE) is None


def test_a_resolution_that_lacks_git_names_it(tmp_path: Path) -> None:
    text = "error: Git executable not found. Ensure that Git is installed and available."
    problem = failures.resolution_problem("OCR", text, {"ray": "2.60.0"}, Settings(home=tmp_path))
    assert "Add git to modelserve_build_packages" in problem.fix and problem.file == FILE
