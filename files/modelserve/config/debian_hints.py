"""The Debian package that a failure lacks: of a library or a command at run time, of a compiler in a build."""

from __future__ import annotations

import functools
import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from modelserve.config import debian
from modelserve.errors import Problem

DATA = Path(__file__).with_name("debian_files.txt")
ABSENT = "-"
BUILD_VARIABLE = "modelserve_build_packages"
COMPILER = ("build-essential", "python3-dev")
# Releases whose libraries are named as bookworm's; the others' are named as trixie's.
_FORMER = ("bookworm", "jammy")
# The GPU's driver and CUDA's libraries are no packages of Debian's main archive, and come another way.
_GPU = re.compile(r"lib(cu(da|dart|dnn|blas|fft|rand|solver|sparse|pti)|nccl|nvinfer|nvidia|nvrtc|nvToolsExt)")
_LIBRARY = re.compile(r"(lib[\w.+-]+\.so(?:\.[\w.]+)*): cannot open shared object file")
_COMMANDS = (
    re.compile(r"No such file or directory: b?['\"]([\w.+-]+)['\"]"),
    re.compile(r"\b(?:ba|da)?sh: (?:(?:line )?\d+: )?([\w.+-]+): (?:command )?not found"),
)
# What libraries say in words of their own, and the file that they miss.
_IN_WORDS = {
    r"sndfile library not found|cannot load library '(?:lib)?sndfile": "libsndfile.so.1",
    r"PortAudio library not found": "libportaudio.so.2",
    r"failed to find libmagic|could not find any magic files": "libmagic.so.1",
    r"Unable to find zbar shared library": "libzbar.so.0",
    r"Unable to find dmtx shared library": "libdmtx.so.0",
    r"tesseract is not installed or it's not in your PATH": "tesseract",
    r"Is poppler installed and in PATH": "pdftoppm",
    r"Couldn't find ffmpeg or avconv|ffmpeg was not found|No ffmpeg exe could be found": "ffmpeg",
    r"libgobject-2\.0-0|cannot load library 'gobject-2\.0": "libgobject-2.0.so.0",
    r"cannot load library '(?:lib)?pango-1\.0": "libpango-1.0.so.0",
    r"no library called \"cairo": "libcairo.so.2",
    r"No JVM shared library file|Java gateway process exited|JAVA_HOME is not set|Unable to find Java": "java",
    r"failed to execute .*dot.*make sure the Graphviz executables": "dot",
    r"espeak not installed|Failed to find eSpeak": "espeak-ng",
    r"MagickWand shared library not found": "libMagickWand-7.Q16.so.10",
    r"Could not find geos_c library|Could not find lib geos_c": "libgeos_c.so.1",
    r"OSError: Could not find libspatialindex|could not find or load spatialindex_c": "libspatialindex_c.so.8",
    r"No wkhtmltopdf executable found": "wkhtmltopdf",
    r"Git executable not found|git executable must be|Bad git executable|Cannot find command 'git'": "git",
}
_BUILD_COMMANDS = (
    re.compile(r"command '(?:/\S*/)?([\w.+-]+)' failed: No such file"),
    re.compile(r"make(?:\[\d+\])?: ([\w.+-]+): No such file or directory"),
    re.compile(r"error: linker [`'\"]([\w.+-]+)[`'\"] not found"),
    *_COMMANDS,
)
_HEADER = re.compile(r"fatal error: '?([\w./+-]+?)'?(?: file not found|: No such file or directory)")
_COMPILER = re.compile(r"(?:^|-)(cc|gcc|g\+\+|c\+\+|clang|clang\+\+|ld|make|as)(?:-\d+)?$")
_BUILD_IN_WORDS = {
    r"Git executable not found|Cannot find command 'git'": "git",
    r"pg_config executable not found": "pg_config",
    r"mysql_config not found|Can not find valid pkg-config name": "mysql.h",
    r"Unknown compiler|No CMAKE_C(?:XX)?_COMPILER could be found|no acceptable C compiler": "gcc",
    r"CMake must be installed|Could not find CMake|CMake is not available|Missing CMake": "cmake",
    r"can't find Rust compiler|Cargo, the Rust package manager, is not installed": "cargo",
    r"Python headers|Development\.Module|Python dependency not found": "Python.h",
}


def packages_of(release: str = "") -> Mapping[str, str]:
    """Return the Debian package of each known library, command and header.

    Args:
        release: the release's code name; empty takes this machine's.
    """
    return _table((release or _release()) in _FORMER)


def of_failure(text: str, name: str) -> str:
    """Return which Debian package an algorithm lacks and where to write it, as a sentence; empty where none is missing.

    Args:
        text: why the algorithm failed.
        name: the package's name.
    """
    missing = _missing(text)
    if not missing or _GPU.match(missing):
        return ""
    file = f"algopkg/{name}/{debian.FILE}"
    table = packages_of()
    # Python's ctypes and cffi look for a library without its version, too.
    package = table.get(missing) or next((table[file] for file in table if file.startswith(f"{missing}.")), "")
    if package and package != ABSENT:
        return f"{missing} is in the Debian package {package}: write {package} to {file}, then run site.yml"
    if ".so" not in missing:
        return ""
    search = f"'apt-file search {missing}' or packages.debian.org names the Debian package that has {missing}"
    return f"{search}: write it to {file}, then run site.yml"


def with_hint(text: str, name: str) -> str:
    """Return why an algorithm failed, with the Debian package that it lacks."""
    hint = of_failure(text, name)
    return f"{text.rstrip('. ')}. {hint}" if hint and hint not in text else text


def of_build(text: str, file: str) -> Problem | None:
    """Return that the build of a Python package lacks a Debian package; None where it failed for another reason.

    Args:
        text: uv's explanation.
        file: the file that asks for the Python package.
    """
    missing = _missing_in_build(text)
    if not missing:
        return None
    known = packages_of().get(missing, ABSENT)
    compiles = _COMPILER.search(missing) or missing == "Python.h"
    if not compiles and known == ABSENT:
        return None
    # Without a compiler, the next build would lack it.
    first = COMPILER if shutil.which("gcc") is None and known != "git" else ()
    needed = dict.fromkeys([*first, *(() if known == ABSENT else (known,))]) or dict.fromkeys(COMPILER)
    built = re.search(r"Failed to (?:build|download and build) [`']([^`']+)[`']", text)
    what = f"{built[1]} has no wheel for this Python, and its build" if built else "a build"
    if known == "git":
        what, fix = "what comes from a Git repository", "name a version on a package index"
    else:
        fix = "pin a version that has a wheel for this Python"
    message = f"{what} needs {missing}, which the head's image does not have"
    return Problem(message, f"Add {', '.join(needed)} to {BUILD_VARIABLE} and run site.yml, or {fix}", file)


def _missing(text: str) -> str:
    if library := _LIBRARY.search(text):
        return library[1]
    table = packages_of()
    for pattern in _COMMANDS:
        for command in pattern.findall(text):
            if command in table:
                return str(command)
    return next((file for words, file in _IN_WORDS.items() if re.search(words, text, re.IGNORECASE)), "")


def _missing_in_build(text: str) -> str:
    table = packages_of()
    for header in _HEADER.findall(text):
        if header in table:
            return str(header)
    for pattern in _BUILD_COMMANDS:
        for command in pattern.findall(text):
            if command in table or _COMPILER.search(command):
                return str(command)
    return next((file for words, file in _BUILD_IN_WORDS.items() if re.search(words, text)), "")


@functools.cache
def _table(former: bool) -> Mapping[str, str]:
    rows = [line.split() for line in DATA.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {row[0]: row[2] if former and len(row) > 2 else row[1] for row in rows}


@functools.cache
def _release() -> str:
    try:
        return platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    except OSError:
        return ""
