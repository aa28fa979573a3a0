"""The check of the image's Ray and uvicorn: it finds what moved, and reports an unexpected error in one line.

The checks that need Ray run for real when an image is built, and in the default scenario.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from uvicorn.protocols.http import h11_impl, httptools_impl

FILE = Path(__file__).resolve().parents[2] / "files" / "image" / "check_contract.py"


@pytest.fixture(scope="module")
def contract() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_contract", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_uvicorn_s_requests_have_their_connection(contract: ModuleType) -> None:
    assert list(contract.server()) == []


def test_a_request_without_its_connection_is_found(contract: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (h11_impl, httptools_impl):

        class Moved(module.RequestResponseCycle):  # type: ignore[misc,name-defined]
            @property
            def disconnected(self) -> None:
                return None

            @disconnected.setter
            def disconnected(self, value: bool) -> None:
                """Ignore it."""

        monkeypatch.setattr(module, "RequestResponseCycle", Moved)
    assert list(contract.server()) == [
        "uvicorn's request (h11) has no disconnected",
        "uvicorn's request (httptools) has no disconnected",
    ]


def test_keys_that_a_schema_drops_are_found(contract: ModuleType) -> None:
    written = {"port": 1, "apps": [{"name": "A", "old": 1}, {"name": "B", "deep": {"x": 1, "gone": 2}}]}
    read = {"port": 1, "apps": [{"name": "A"}, {"name": "B", "deep": {"x": 1}}]}
    assert list(contract._dropped(written, read)) == ["apps.old", "apps.deep.gone"]
    assert list(contract._dropped(read, written)) == []


@pytest.mark.parametrize(
    ("value", "text", "equal"),
    [(False, "0", True), (True, "0", False), (2, "2", True), (10.0, "10", True), (3, "2", False), ("1s", "1s", True)],
)
def test_a_variable_s_value_is_compared(contract: ModuleType, value: object, text: str, equal: bool) -> None:
    assert contract._equal(value, text) is equal


def test_an_error_of_a_check_is_one_line(contract: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def moved() -> Iterator[str]:
        yield "the first"
        raise AttributeError("module has no\nattribute X")

    monkeypatch.setattr(contract, "CHECKS", (moved,))
    assert list(contract.problems()) == ["the first", "moved: AttributeError: module has no attribute X"]


def test_the_exit_code_tells(
    contract: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contract, "version", lambda _: "1.0")
    for lines, code in (([], 0), (["no X"], 1)):
        monkeypatch.setattr(contract, "CHECKS", (lambda lines=lines: iter(lines),))
        assert contract.main() == code
    passed, failed = capsys.readouterr().out.splitlines()
    assert passed == "contract: 1 checks passed with Ray 1.0, uvicorn 1.0"
    assert failed == "error: contract with Ray 1.0, uvicorn 1.0: no X"


def test_the_image_s_build_runs_it() -> None:
    lines = (FILE.parent / "Dockerfile").read_text().splitlines()
    assert "RUN /opt/venv/bin/python /opt/lib/check_contract.py" in lines
