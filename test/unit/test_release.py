"""Releases: what was deployed can be read back, and a number means one release for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelserve.release import Releases


def test_before_the_first_there_is_none(tmp_path: Path) -> None:
    releases = Releases(tmp_path / "releases", keep=3)
    assert releases.latest() is None
    assert releases.numbers() == []


def test_a_release_says_what_was_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVE_USER", "mia")
    releases = Releases(tmp_path / "releases", keep=3)
    number = releases.record("[MODEL SERVE]\n", 666, {"applications": []})
    release = releases.read(number)
    assert release == releases.latest()
    assert (release["number"], release["by"]) == (number, "mia")
    assert (release["conf"], release["port"], release["serve"]) == ("[MODEL SERVE]\n", 666, {"applications": []})


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_last_ones_are_kept_and_numbers_go_on(tmp_path: Path, keep: int) -> None:
    releases = Releases(tmp_path, keep)
    given_numbers = [releases.record(f"conf {n}", 666, {}) for n in range(12)]
    assert given_numbers == sorted(set(given_numbers))
    assert releases.numbers() == given_numbers[-keep:]
    assert [releases.read(number)["conf"] for number in releases.numbers()] == [f"conf {n}" for n in range(12)][-keep:]
    with pytest.raises(FileNotFoundError):
        releases.read(given_numbers[0])


def test_a_new_controller_goes_on_where_the_last_stopped(tmp_path: Path) -> None:
    first = Releases(tmp_path, 3).record("", 666, {})
    assert Releases(tmp_path, 3).record("", 666, {}) == first + 1


def test_other_files_in_the_directory_are_no_releases(tmp_path: Path) -> None:
    for name in ("notes.json", ".3.json.123", "7.txt"):
        (tmp_path / name).write_text("{}")
    assert Releases(tmp_path, 3).numbers() == []


@given(conf=st.text())
def test_any_conf_is_read_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, conf: str) -> None:
    releases = Releases(tmp_path_factory.mktemp("releases"), keep=1)
    assert releases.read(releases.record(conf, 666, {}))["conf"] == conf
