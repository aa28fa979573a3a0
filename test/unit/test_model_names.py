"""Models by name: files and directories, in any form of Unicode, and links that can be followed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from modelserve import hashing
from modelserve.cli.main import main
from modelserve.config.section import Section
from modelserve.models import directory
from modelserve.store.store import Store

COMPOSED, DECOMPOSED = "caf\u00e9.bin", "cafe\u0301.bin"
BACKEND = "class Echo:\n    pass\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "algopkg" / "Echo").mkdir(parents=True)
    (tmp_path / "algopkg" / "Echo" / "backend.py").write_text(BACKEND)
    (tmp_path / "Model_ZOO").mkdir()
    return tmp_path


def check(project: Path, model: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the problems that a check of the project shows."""
    text = f"[MODEL SERVE]\n[algopkg.Echo]\nbackend = Echo\nroute = r\nmodel = {model}\n"
    (project / "conf.ini").write_text(text, encoding="utf-8")
    status = main(["check", "--json", "--project", str(project)])
    output = capsys.readouterr()
    assert json.loads(output.out)["ok"] == (status == 0)
    return output.err.splitlines()


@pytest.mark.parametrize("on_disk", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("in_conf", [COMPOSED, DECOMPOSED])
def test_a_name_is_the_same_in_both_forms(
    project: Path, on_disk: str, in_conf: str, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo = project / "Model_ZOO"
    (zoo / on_disk).write_bytes(b"weights")
    assert check(project, in_conf, capsys) == []
    assert directory.find(zoo, in_conf).read_bytes() == b"weights"
    stored = Store(project / "store").add_model(directory.find(zoo, in_conf), in_conf)
    assert stored.name == in_conf  # whatever machine it was copied from: replicas do not restart


@pytest.mark.parametrize("described", [COMPOSED, DECOMPOSED])
def test_a_described_name_is_the_same_in_both_forms(
    project: Path, described: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"file": described, "sha256": "0" * 64, "path": "trained"}
    (project / "Model_ZOO" / "models.yml").write_text(yaml.safe_dump([entry], allow_unicode=True), encoding="utf-8")
    assert check(project, COMPOSED, capsys) == []


def test_a_directory_is_a_model(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "Model_ZOO" / "bert").mkdir()
    (project / "Model_ZOO" / "bert" / "config.json").write_text("{}")
    assert check(project, "bert/", capsys) == []
    (problem,) = check(project, "berd", capsys)
    assert problem.endswith("[algopkg.Echo] model: 'berd' is not in Model_ZOO. Did you mean 'bert'?")


def test_links_to_another_disk_are_models(
    project: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    other, zoo = tmp_path_factory.mktemp("disk"), project / "Model_ZOO"
    (other / "x.bin").write_bytes(b"x")
    (other / "bert").mkdir()
    (other / "bert" / "weights").symlink_to("../x.bin")
    for link, place in (("x.bin", other / "x.bin"), ("bert", other / "bert"), ("y.bin", "x.bin")):
        (zoo / link).symlink_to(place)
    assert check(project, "x.bin, bert, y.bin", capsys) == []
    assert hashing.of_model(zoo / "bert") == hashing.of_listing([("weights", hashing.of_file(other / "x.bin"))])


def test_links_that_cannot_be_followed_are_refused_before_a_deploy(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo = project / "Model_ZOO"
    (zoo / "a.bin").write_bytes(b"a")
    (zoo / "gone.bin").symlink_to("/not/mounted/gone.bin")
    (zoo / "bert").mkdir()
    (zoo / "bert" / "again").symlink_to(zoo / "bert")
    assert check(project, "a.bin", capsys) == [
        f"error: Model_ZOO: {zoo}/bert/again is a link to a directory that holds it. Put it there, or remove the link",
        "error: Model_ZOO: gone.bin is a link to /not/mounted/gone.bin, which does not exist. "
        "Put it there, or remove the link",
    ]


def test_a_section_with_names_of_before_is_read_as_before() -> None:
    section = Section(name="Echo", backend="Echo", route="echo", model=f"a.pb, {DECOMPOSED}")  # type: ignore[arg-type]
    assert section.model == ("a.pb", DECOMPOSED)
