"""Releases: what was deployed can be read back, and a number means one release for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelserve.config.routes import Served, Share, routes_of
from modelserve.config.section import Section
from modelserve.deploy.plan import Plan, compare
from modelserve.deploy.releases import Releases, Target
from modelserve.errors import UserError
from modelserve.serve.application import Application, limits_of

SERVED = Served(port=666, routes={"face": (Share(name="A", prefix="/A", weight=90), Share(name="B", prefix="/B"))})


def target(conf: str = "", package: str = "/store/pkg/Echo-1") -> Target:
    echo = Section(name="Echo", backend="Echo", route="echo")
    application = Application.from_section(echo, Path(package), [], Path("/store/env/Base-1"))
    return Target(conf, SERVED, {"Echo": application}, {"python": "3.13.5", "ray": "2.60.0"})


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
    assert release.target.applications["Echo"].package.path == Path("/store/pkg/Echo-1")
    assert release.serves(target("another comment"))
    assert not release.serves(target(package="/store/pkg/Echo-2"))


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


def test_a_release_of_the_version_before_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = Path(__file__).parent / "data" / "release_of_the_version_before.json"
    (tmp_path / "1.json").write_text(file.read_text())
    release = Releases(tmp_path, keep=3).read(1)
    written, read = json.loads(file.read_text()), json.loads(json.dumps(release.as_dict()))
    # This version adds the gateway's limits, as the applications have them, and Serve's proxy runs on the head alone.
    for share in (share for shares in read["served"]["routes"].values() for share in shares):
        assert share.pop("limits") == limits_of(release.target.applications[share["name"]]).model_dump()
    assert read["serve"].pop("proxy_location") == "HeadOnly"
    assert written["serve"].pop("proxy_location") == "EveryNode"
    assert json.dumps(read) == json.dumps(written)
    assert list(release.target.applications) == ["Plain", "Fixed", "Scaled", "Zero", "Start", "Größe"]
    assert release.target.serve_port == 8000
    (fixed,) = (share for shares in release.target.served.routes.values() for share in shares if share.name == "Fixed")
    assert (fixed.limits.max_ongoing_requests, fixed.limits.request_timeout) == (8, 30)


DAMAGED = ["", "{", "[]", "null", '{"conf": ""}', '{"conf": "", "serve": {"applications": [{"name": "Echo"}]}}', "\xff"]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_release_is_one_line_and_stops_no_other(tmp_path: Path, text: str) -> None:
    said: list[str] = []
    releases = Releases(tmp_path, 10, said.append)
    for conf in ("one", "two", "three"):
        releases.record(target(conf))
    (tmp_path / "2.json").write_bytes(text.encode("latin-1"))
    assert [release.number for release in releases] == [1, 3]
    assert [release.number for release in releases] == [1, 3]
    (line,) = said
    assert f"{tmp_path / '2.json'}: release 2 is damaged" in line
    assert "delete it" in line
    assert "\n" not in line
    with pytest.raises(UserError, match="release 2 is damaged"):
        releases.choose(None)
    (tmp_path / "3.json").write_bytes(text.encode("latin-1"))
    latest = releases.latest()
    assert latest is not None
    assert latest.number == 1
    assert releases.record(target("four")) == 4


def test_a_release_whose_file_cannot_be_read_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "1.json").mkdir()
    with pytest.raises(UserError, match="release 1 is damaged"):
        Releases(tmp_path, 10).read(1)


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


def section(name: str, **keys: Any) -> Section:
    return Section(**{"name": name, "backend": "B", "route": name.lower(), **keys})


SECTIONS = st.lists(
    st.builds(
        section,
        name=st.sampled_from("ABCD"),
        replicas=st.integers(1, 3),
        gpu_cost=st.sampled_from([0, 0.5, 1]),
        user_config=st.none() | st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False), max_size=2),
        warmup=st.none() | st.dictionaries(st.text(), st.text(), max_size=2),
        max_replicas=st.none() | st.integers(3, 5),
        request_timeout=st.none() | st.floats(0.1, 10),
        env=st.dictionaries(st.sampled_from("XY"), st.text()),
        labels=st.dictionaries(st.sampled_from("LM"), st.sampled_from("ab")),
        route=st.sampled_from(["x", "y/z"]),
        weight=st.integers(1, 100),
    ),
    unique_by=lambda one: one.name,
)


def target_of(sections: list[Section], code: str, port: int) -> Target:
    made = {
        one.name: Application.from_section(one, Path(f"/pkg/{one.name}-{code}"), [], Path("/env/1")) for one in sections
    }
    return Target("", Served(port=port, routes=routes_of(sections)), made, {})


def plan(wanted: Target, running: Target) -> Plan:
    return compare(wanted.applications, running.applications, wanted.served, running.served)


@settings(max_examples=40)
@given(SECTIONS, SECTIONS, st.sampled_from("12"), st.sampled_from([666, 667]))
def test_a_rollback_restores_the_plan(
    tmp_path_factory: pytest.TempPathFactory, old: list[Section], new: list[Section], code: str, port: int
) -> None:
    releases = Releases(tmp_path_factory.mktemp("releases"), keep=2)
    before, after = target_of(old, "1", 666), target_of(new, code, port)
    first = releases.record(before)
    releases.record(after)
    kept = releases.read(first)
    # Returning leads to just what was served, from where conf.ini, unchanged, plans the same as it did then.
    assert kept.serves(before)
    assert not plan(before, kept.target)
    assert not plan(kept.target, before)
    assert plan(after, kept.target) == plan(after, before)
    assert bool(plan(after, kept.target)) is bool(plan(kept.target, after))
