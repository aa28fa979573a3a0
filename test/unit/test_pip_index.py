"""The lookup pip_index: the package index that pip itself is configured with on this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
INDEX = "https://user:pa'ss=word@index.example/simple"


@pytest.fixture
def lookup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The lookup's module, with no configuration but that of ``pip.conf`` in ``tmp_path``."""
    for name in ("PIP_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    path = ROOT / "plugins" / "lookup" / "pip_index.py"
    spec = importlib.util.spec_from_file_location("pip_index", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_and_before_them_the_environment_name_the_index(
    lookup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {INDEX}\n")
    assert lookup.LookupModule().run([]) == [INDEX]
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example/simple")
    assert lookup.LookupModule().run([]) == ["https://other.example/simple"]


def test_without_an_index_there_is_an_empty_string(lookup: ModuleType) -> None:
    assert lookup.index_url(":env:.cert='/etc/ca.pem'\nglobal.extra-index-url='https://other.example'\n") == ""
