"""Releases: what was deployed can be read back, and a number means one release for ever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelserve.errors import UserError
from modelserve.release import Releases, Target
from modelserve.routes import Served, Share

SERVED = Served(port=666, routes={"face": (Share(name="A", prefix="/A", weight=90), Share(name="B", prefix="/B"))})


def target(conf: str = "", package: str = "/store/pkg/Echo-1") -> Target:
    application = {"name": "Echo", "args": {"package": package}}
    return Target(conf, SERVED, {"applications": [application]}, {"python": "3.13.5", "ray": "2.60.0"})


def test_before_the_first_there_is_none(tmp_path: Path) -> None:
    releases = Releases(tmp_path / "releases", keep=3)
    assert releases.latest() is None
    assert releases.numbers() == []


def test_a_release_says_what_was_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVE_USER", "mia")
    releases = Releases(tmp_path / "releases", keep=3)
    number = releases.record(target("[MODEL SERVE]\n"), ["+ Echo"], rollback_of=7)
    release = releases.read(number)
    assert release == releases.latest()
    assert (tmp_path / "releases" / f"{number}.json").stat().st_mode & 0o777 == 0o600
    assert (release.number, release.by, release.changes, release.rollback_of) == (number, "mia", ("+ Echo",), 7)
    assert release.target == target("[MODEL SERVE]\n")
    assert release.target.applications["Echo"]["args"] == {"package": "/store/pkg/Echo-1"}
    assert release.serves(target("another comment")) and not release.serves(target(package="/store/pkg/Echo-2"))


def test_a_release_of_before_the_gateway_had_the_routes_is_read(tmp_path: Path) -> None:
    releases = Releases(tmp_path, keep=3)
    file = tmp_path / f"{releases.record(target())}.json"
    document = json.loads(file.read_text())
    del document["served"]
    document["port"] = 667
    document["serve"]["applications"][0]["route_prefix"] = "/a/b"
    file.write_text(json.dumps(document))
    latest = releases.latest()
    assert latest is not None
    assert latest.target.served == Served(port=667, routes={"a/b": (Share(name="Echo", prefix="/a/b"),)})


def test_the_release_to_return_to_is_the_one_before_the_last(tmp_path: Path) -> None:
    releases = Releases(tmp_path, keep=3)
    with pytest.raises(UserError, match="no release before"):
        releases.choose(None)
    numbers = [releases.record(target(str(n))) for n in range(4)]
    assert releases.choose(None).number == numbers[-2]
    assert releases.choose(numbers[-3]).target.conf == "1"
    assert [release.number for release in releases] == numbers[1:]
    with pytest.raises(UserError, match=r"no release 1: kept are 2 to 4.*modelserve releases"):
        releases.choose(numbers[0])


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_last_ones_are_kept_and_numbers_go_on(tmp_path: Path, keep: int) -> None:
    releases = Releases(tmp_path, keep)
    given_numbers = [releases.record(target(f"conf {n}")) for n in range(12)]
    assert given_numbers == sorted(set(given_numbers))
    assert releases.numbers() == given_numbers[-keep:]
    assert [releases.read(number).target.conf for number in releases.numbers()] == [f"conf {n}" for n in range(12)][
        -keep:
    ]
    with pytest.raises(UserError):
        releases.read(given_numbers[0])


def test_a_new_controller_goes_on_where_the_last_stopped(tmp_path: Path) -> None:
    first = Releases(tmp_path, 3).record(target())
    assert Releases(tmp_path, 3).record(target()) == first + 1


def test_other_files_in_the_directory_are_no_releases(tmp_path: Path) -> None:
    for name in ("notes.json", ".3.json.123", "7.txt"):
        (tmp_path / name).write_text("{}")
    assert Releases(tmp_path, 3).numbers() == []


@given(conf=st.text())
def test_any_conf_is_read_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, conf: str) -> None:
    releases = Releases(tmp_path_factory.mktemp("releases"), keep=1)
    assert releases.read(releases.record(target(conf))).target.conf == conf
