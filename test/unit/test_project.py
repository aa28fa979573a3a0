"""conf.ini against algopkg/ and Model_ZOO/: what it names and the project lacks is found before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelserve.config import parser, project
from modelserve.errors import Problem

BACKEND = "class Echo:\n    pass\n"


@pytest.fixture
def algopkg(tmp_path: Path) -> Path:
    (tmp_path / "Echo").mkdir()
    (tmp_path / "Echo" / "backend.py").write_text(BACKEND)
    return tmp_path


def check(algopkg: Path, name: str = "Echo", backend: str = "Echo", model: str = "") -> list[Problem]:
    text = f"[MODEL SERVE]\n[algopkg.{name}]\nbackend = {backend}\nmodel = {model}\nroute = r\n"
    return project.check(parser.parse(text), algopkg, ["words.json", "net.onnx"], "my.ini")


def test_a_project_that_has_everything_has_no_problem(algopkg: Path) -> None:
    assert check(algopkg, model="net.onnx, words.json") == []


@pytest.mark.parametrize(
    ("asked", "key", "fix"),
    [
        ({"name": "Ecco"}, "", "Did you mean [algopkg.Echo]?"),
        ({"name": "Zzz"}, "", "Packages there: Echo"),
        ({"backend": "Ecco"}, "backend", "Did you mean 'Echo'?"),
        ({"backend": "Zzz"}, "backend", "Classes there: Echo"),
        ({"model": "word.json"}, "model", "Did you mean 'words.json'?"),
        ({"model": "zzz"}, "model", "models.yml"),
    ],
)
def test_what_is_missing_is_named_with_the_way_out(algopkg: Path, asked: dict[str, str], key: str, fix: str) -> None:
    (found,) = check(algopkg, **asked)
    assert (found.file, found.section, found.key) == ("my.ini", f"algopkg.{asked.get('name', 'Echo')}", key)
    assert fix in found.fix
    assert next(iter(asked.values())) in found.message


def test_every_missing_model_is_named(algopkg: Path) -> None:
    assert [found.message.split("'")[1] for found in check(algopkg, model="a, words.json, b")] == ["a", "b"]


def test_a_package_without_backend_py_is_named(algopkg: Path) -> None:
    (algopkg / "Echo" / "backend.py").rename(algopkg / "Echo" / "Backend.py")
    (found,) = check(algopkg)
    assert "algopkg/Echo/backend.py is missing" in found.message


@pytest.mark.parametrize(
    ("source", "line"), [("x = 1\nclass Echo\n", "line 2"), ("class Echo:\n  def f(self):\n  pass\n", "line 3")]
)
def test_a_backend_that_does_not_parse_is_named_with_its_line(algopkg: Path, source: str, line: str) -> None:
    (algopkg / "Echo" / "backend.py").write_text(source)
    (found,) = check(algopkg)
    assert found.file == "algopkg/Echo/backend.py"
    assert line in found.message


@pytest.mark.parametrize("source", [b"\0", b"x = '\xff'\n"], ids=["null byte", "not UTF-8"])
def test_a_backend_that_is_no_text_is_named(algopkg: Path, source: bytes) -> None:
    (algopkg / "Echo" / "backend.py").write_bytes(source)
    (found,) = check(algopkg)
    assert found.file == "algopkg/Echo/backend.py"


@pytest.mark.parametrize(
    "source",
    [
        "from .core import Echo\n",
        "from .core import Other as Echo\n",
        "from .core import *\n",
        "from . import core\nEcho = core.Echo\n",
        "try:\n    from .fast import Echo\nexcept ImportError:\n    from .slow import Echo\n",
        "if True:\n    class Echo: ...\n",
    ],
)
def test_a_class_may_come_from_elsewhere(algopkg: Path, source: str) -> None:
    (algopkg / "Echo" / "backend.py").write_text(source)
    assert check(algopkg) == []


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(b"\xef\xbb\xbf" + BACKEND.encode(), id="byte order mark"),
        pytest.param(b"# -*- coding: latin-1 -*-\nNAME = 'caf\xe9'\n" + BACKEND.encode(), id="declared encoding"),
    ],
)
def test_a_backend_that_python_imports_is_accepted_however_it_is_encoded(algopkg: Path, source: bytes) -> None:
    (algopkg / "Echo" / "backend.py").write_bytes(source)
    assert check(algopkg) == []


@pytest.mark.parametrize(
    "source", ["class Other:\n    class Echo: ...\n", "def make():\n    class Echo: ...\n", "def f():\n    Echo = 1\n"]
)
def test_a_name_inside_a_class_or_function_is_not_the_module_s(algopkg: Path, source: str) -> None:
    (algopkg / "Echo" / "backend.py").write_text(source)
    (found,) = check(algopkg)
    assert found.key == "backend"
