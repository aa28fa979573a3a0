"""What is known of a host before anything is changed on it: whose the data directory is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def facts() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "modelserve_host_facts", ROOT / "plugins" / "modules" / "modelserve_host_facts.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("files", "content"),
    [
        ([], "empty"),
        (["lost+found/"], "empty"),
        ([".modelserve", "secrets/ray_token"], "marked"),
        (["secrets/ray_token", "user/", "tmp/", "store/env/"], "unmarked"),
        (["image/files/modelserve/__init__.py"], "unmarked"),
        (["photos/cat.jpg"], "foreign"),
        (["secrets/", "user/", "tmp/"], "foreign"),
        (["image/cat.jpg"], "foreign"),
    ],
)
def test_a_directory_that_modelserve_did_not_make_is_foreign(
    facts: ModuleType, tmp_path: Path, files: list[str], content: str
) -> None:
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if name.endswith("/") else path.touch()
    assert facts.home_content(str(tmp_path)) == content


def test_a_directory_that_is_not_there_is_absent(facts: ModuleType, tmp_path: Path) -> None:
    assert facts.home_content(str(tmp_path / "modelserve")) == "absent"
