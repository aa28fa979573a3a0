"""Routes: who answers one, with what share, and what becomes of it when an algorithm comes, goes or fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelserve.config.parser import parse
from modelserve.config.routes import Served, Share, prefix_of, routes_of
from modelserve.errors import UserError


def conf(*sections: str) -> str:
    """A conf.ini of sections, each ``name route [weight]``."""
    text = "[MODEL SERVE]\nport = 666\n"
    for section in sections:
        name, route, *weight = section.split()
        text += f"[algopkg.{name}]\nbackend = B\nroute = {route}\n" + "".join(f"weight = {one}\n" for one in weight)
    return text


def served(*sections: str) -> Served:
    return Served(port=666, routes=routes_of(parse(conf(*sections)).sections))


@pytest.mark.parametrize(
    ("sections", "weights"),
    [
        (["A x", "B y"], {"A": ("x", 1), "B": ("y", 1)}),
        (["A x", "B x 10"], {"A": ("x", 90), "B": ("x", 10)}),
        (["B x 10", "A x", "C x 0"], {"A": ("x", 90), "B": ("x", 10), "C": ("x", 0)}),
        (["A x 1", "B x 2"], {"A": ("x", 1), "B": ("x", 2)}),
        (["A x 10"], {"A": ("x", 1)}),
    ],
)
def test_sections_share_a_route(sections: list[str], weights: dict[str, tuple[str, int]]) -> None:
    assert served(*sections).places() == weights


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        (
            ["A x", "B x"],
            "[algopkg.B] route: 'x' is the route of [algopkg.A] too. Give each",
        ),
        (["A x", "B x 40", "C x 60"], "[algopkg.C] weight: the weights of 'x' add up to 100 and leave nothing"),
        (["A x 0", "B x 0"], "[algopkg.B] weight: no algorithm would answer 'x': all its weights are 0"),
        (["A x 0"], "[algopkg.A] weight: no algorithm would answer 'x': its weight is 0"),
        (["A x -1", "B x"], "[algopkg.A] weight: -1 is out of range"),
    ],
)
def test_shares_that_cannot_be_are_named(sections: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(conf(*sections))
    assert says in str(caught.value)


def test_a_section_that_is_not_enabled_has_no_share() -> None:
    text = conf("A x", "B x 10") + "enabled = false\n"
    assert Served(port=666, routes=routes_of(parse(text).sections)) == served("A x")


def test_who_leaves_gives_its_requests_to_the_others() -> None:
    assert served("A x", "B x 10", "C y").without(["B", "C"]).places() == {"A": ("x", 90)}


def test_who_fails_answers_where_it_did() -> None:
    old = served("A x", "B x 10", "C y")
    assert served("A x", "B x 50", "C z").keeping(old, ["C"]).places()["C"] == ("y", 1)
    # Its route is another's by now: it answers to its name alone.
    assert served("A x", "New y").keeping(old, ["C"]).places() == {"A": ("x", 1), "New": ("y", 1), "C": ("y", 0)}
    assert served("A x", "New z").keeping(old, ["New"]).places() == {"A": ("x", 1)}, "it answered nowhere"


def test_shares_are_told_in_percent() -> None:
    assert served("A x 1", "B x 3", "C y").percentages() == {"A": ("x", 25), "B": ("x", 75), "C": ("y", 100)}


@given(st.lists(st.text(min_size=1).filter(str.isidentifier), unique=True))
def test_every_name_has_a_prefix_of_its_own_in_plain_letters(names: list[str]) -> None:
    prefixes = [prefix_of(name) for name in names]
    assert len(set(prefixes)) == len(names)
    assert all(prefix.isascii() and prefix[1:].replace("-", "_").isidentifier() for prefix in prefixes)


WEIGHTS = st.lists(st.none() | st.integers(0, 120), min_size=1, max_size=4)


@given(WEIGHTS)
def test_any_weights_are_a_sound_split_or_a_named_problem(weights: list[int | None]) -> None:
    sections = [f"A{number} x {'' if weight is None else weight}" for number, weight in enumerate(weights)]
    try:
        shares = served(*sections).routes["x"]
    except UserError as error:
        assert "[algopkg.A" in str(error)
    else:
        assert all(share.weight >= 0 for share in shares)
        assert sum(share.weight for share in shares) > 0
        assert [share.prefix for share in shares] == [f"/{share.name}" for share in shares]
        assert Share.model_validate(shares[0].model_dump()) == shares[0]
