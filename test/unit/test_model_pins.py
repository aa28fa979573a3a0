"""Entries of models.yml that can move or do not fit are refused, and a pin writes what is missing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelserve import hashing
from modelserve.errors import UserError
from modelserve.models import zoo as models

CONTENT = b"weights" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = tmp_path / "Model_ZOO"
    directory.mkdir()
    return directory


def describe(zoo: Path, **entry: Any) -> None:
    (zoo / "models.yml").write_text(yaml.safe_dump([{"sha256": SHA256, **entry}]))


COMMENTED = """\
# The team's models
- file: net   # the new one
  path: net
- {directory: bert, path: trained}
"""


def test_a_pin_writes_the_hash_and_leaves_the_rest_of_the_file(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(CONTENT)
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "config.json").write_text("{}")
    bert = hashing.of_model(tmp_path / "trained")
    (zoo / "models.yml").write_text(COMMENTED)
    with pytest.raises(UserError, match="--pin net"):
        models.fetch(zoo, print)
    assert models.pin(zoo, "net", lambda line: None) == {"sha256": SHA256}
    assert models.pin(zoo, "bert", lambda line: None) == {"sha256": bert}
    text = (zoo / "models.yml").read_text()
    assert text == COMMENTED.replace("- file: net ", f"- file: net\n  sha256: {SHA256} ").replace(
        "bert,", f"bert, sha256: {bert},"
    )
    assert models.fetch(zoo, print) == []
    (tmp_path / "net").write_bytes(b"newer")
    models.pin(zoo, "net", lambda line: None)
    assert (zoo / "net").read_bytes() == b"newer"
    assert (zoo / "models.yml").read_text() == text.replace(SHA256, hashlib.sha256(b"newer").hexdigest())


def test_a_pin_of_what_is_not_described_names_what_is(zoo: Path) -> None:
    (zoo / "models.yml").write_text(COMMENTED)
    with pytest.raises(UserError, match=r"\[nett\]: is not described. Entries there: net, bert"):
        models.pin(zoo, "nett", lambda line: None)


@pytest.mark.parametrize(
    ("entry", "key", "words"),
    [
        ({"hf": "org/net"}, "revision", "is missing; the 40 digits of a commit are needed"),
        ({"hf": "org/net", "revision": "main"}, "revision", "'main' is a branch or tag, which can move"),
        ({"mlflow": "models:/net@champion"}, "mlflow", "can move; a version is needed"),
        ({"mlflow": "models:/net/Production"}, "mlflow", "can move; a version is needed"),
        ({"oci": "registry.example.org/net:1.0"}, "oci", "is a tag, which can move"),
    ],
)
def test_what_can_move_is_refused_with_the_way_to_pin_it(
    zoo: Path, entry: dict[str, str], key: str, words: str
) -> None:
    describe(zoo, file="net", **entry)
    with pytest.raises(UserError) as caught:
        models.read(zoo)
    (problem,) = caught.value.problems
    assert (problem.section, problem.key) == ("net", key)
    assert words in problem.message and "models --pin net" in problem.fix


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"file": "a", "directory": "b", "path": "x"}, "exactly one of 'file' and 'directory'"),
        ({"file": "a", "hf": "org/net", "path": "x"}, "exactly one of 'wheel', 'url', 'path', 'hf', 'mlflow' and"),
        ({"directory": "a", "url": "https://x/y.zip"}, "add 'archive: true'"),
        ({"file": "a", "url": "https://x/y.zip", "archive": True}, "needs 'member'"),
        ({"file": "a", "hf": "org/net", "archive": True}, "'archive' goes with"),
        ({"file": "a", "path": "x", "member": "y"}, "'member' goes with"),
        ({"file": "a", "path": "x", "files": ["y"]}, "go with 'hf'"),
        ({"file": "a", "path": "x", "fetch_on": "head"}, "must be absolute"),
        ({"file": "a", "wheel": "x", "member": "../y"}, "must be a path inside"),
        ({"file": "models.yml", "path": "x"}, "has another meaning"),
        ({"directory": ".fetching", "path": "x"}, "has another meaning"),
    ],
)
def test_keys_that_do_not_go_together_are_named(zoo: Path, entry: dict[str, Any], words: str) -> None:
    describe(zoo, **entry)
    with pytest.raises(UserError) as caught:
        models.read(zoo)
    assert words in str(caught.value)
