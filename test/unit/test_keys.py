"""Keys: each one grants its algorithms and no others, and none is stored in the clear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelserve.errors import UserError
from modelserve.security.keys import Key, Keys, digest, table
from modelserve.settings import Settings


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(Settings(home=tmp_path))


def test_a_key_is_made_once_and_kept_as_a_hash(keys: Keys, tmp_path: Path) -> None:
    key = keys.add("phone", ["Echo"], rate=5)
    (kept,) = keys.all()
    assert (kept.client, kept.sha256, kept.algorithms, kept.rate, kept.max_concurrent) == (
        "phone",
        digest(key),
        ("Echo",),
        5,
        None,
    )
    file = tmp_path / "keys.json"
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert keys.add("tablet") != key
    assert [one.client for one in keys.all()] == ["phone", "tablet"]
    keys.revoke("phone")
    assert [one.client for one in keys.all()] == ["tablet"]


@pytest.mark.parametrize("client", ["", "modelserve", "a b", "a/b", "-a", "ä", "x" * 64])
def test_a_name_that_cannot_be_is_refused(keys: Keys, client: str) -> None:
    with pytest.raises(UserError, match="cannot be a client's name"):
        keys.add(client)


@pytest.mark.parametrize("name", ["max_concurrent", "at_once"])
def test_a_key_of_the_inventory_limits_its_concurrent_requests(tmp_path: Path, name: str) -> None:
    given = {"client": "phone", "sha256": digest("x" * 20), name: 3}
    assert "max_concurrent:phone 3\n" in table(Keys(Settings(home=tmp_path, keys=[given])).all(), "own")


def test_a_client_has_one_key(keys: Keys, tmp_path: Path) -> None:
    keys.add("phone")
    with pytest.raises(UserError, match=r"phone has a key already.*keys revoke phone"):
        keys.add("phone")
    with pytest.raises(UserError, match="tablet has no key"):
        keys.revoke("tablet")
    given_too = Keys(Settings(home=tmp_path, keys=[{"client": "phone", "sha256": digest("x" * 20)}]))
    with pytest.raises(UserError, match="phone has a key of the inventory and one made by"):
        given_too.all()


def test_the_inventory_s_keys_are_not_revoked_here(tmp_path: Path) -> None:
    keys = Keys(Settings(home=tmp_path, keys=[{"client": "phone", "sha256": digest("x" * 20)}]))
    assert keys.of_inventory() == {"phone"}
    with pytest.raises(UserError, match="the inventory's"):
        keys.revoke("phone")


@pytest.mark.parametrize(
    ("given_key", "says"),
    [
        ({"client": "phone", "sha256": ""}, "phone has no key of at least 20 characters"),
        ({"client": "a b", "sha256": digest("x")}, "'a b' cannot be a client's name"),
        ({"client": "phone"}, "modelserve_keys: "),
    ],
)
def test_a_wrong_key_of_the_inventory_is_named(tmp_path: Path, given_key: dict[str, str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        Keys(Settings(home=tmp_path, keys=[given_key])).all()
    assert says in str(caught.value)


def test_a_damaged_file_is_named(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("[{}]")
    with pytest.raises(UserError, match=r"keys\.json.*is damaged"):
        keys.all()


def test_the_controller_s_own_key_stays(keys: Keys, tmp_path: Path) -> None:
    own = keys.internal()
    assert keys.internal() == own
    assert (tmp_path / "secrets/gateway_key").stat().st_mode & 0o777 == 0o600


@given(
    st.lists(
        st.builds(
            Key,
            client=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True),
            sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
            algorithms=st.lists(st.sampled_from(["A", "B", "Ä"]), unique=True).map(tuple),
            rate=st.none() | st.integers(0, 9),
            max_concurrent=st.none() | st.integers(0, 9),
        ),
        unique_by=lambda key: key.client,
    )
)
def test_a_table_has_one_value_for_each_question(keys: list[Key]) -> None:
    lines = [line.split(" ") for line in table(keys, "own").splitlines()]
    assert all(len(line) == 2 for line in lines)
    found = dict(lines)
    for key in keys:
        assert (f"may:{key.client}/*" in found) is (not key.algorithms)
        assert (f"may:{key.client}/A" in found) is ("A" in key.algorithms)
        assert found.get(f"rate:{key.client}") == (None if key.rate is None else str(key.rate))
    assert found[digest("own")] == "modelserve"
    assert found["may:modelserve/*"]
    for key in keys:
        limit = None if key.max_concurrent is None else str(key.max_concurrent)
        assert found.get(f"max_concurrent:{key.client}") == limit


def test_keys_of_the_version_before_keep_their_limit(tmp_path: Path) -> None:
    """They lie in ``keys.json``, and in the settings of an inventory that still has the old name."""
    made = {"client": "phone", "sha256": "a" * 64, "algorithms": ["Echo"], "rate": 5, "at_once": 2, "created": ""}
    (tmp_path / "keys.json").write_text(json.dumps([made]))
    given = {"client": "tablet", "sha256": "b" * 64, "at_once": None}
    keys = Keys(Settings(home=tmp_path, keys=[given]))
    phone, tablet = keys.all()
    assert (phone.max_concurrent, phone.rate, tablet.max_concurrent) == (2, 5, None)
    assert "max_concurrent:phone 2\n" in table(keys.all(), "internal")
    keys.add("watch", max_concurrent=3)
    stored = json.loads((tmp_path / "keys.json").read_text())
    assert [(key["client"], key["max_concurrent"]) for key in stored] == [("phone", 2), ("watch", 3)]
    assert not any("at_once" in key for key in stored)
