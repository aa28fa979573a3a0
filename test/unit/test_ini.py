"""The syntax of conf.ini: what is a comment and what is a value, and the line of each problem."""

from __future__ import annotations

import configparser

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from modelserve.config import ini
from modelserve.config.ini import ENV, JSON_KEYS, Lines
from modelserve.config.parser import decode, parse
from modelserve.config.section import Section
from modelserve.errors import Problem, UserError

TEXT = "[MODEL SERVE]\nport = 666\n\n[algopkg.Echo]\nbackend = Echo\nroute = echo\n"


def section(lines: str) -> Section:
    """The one section of a conf.ini, with ``lines`` beside the keys it needs; they begin in line 7."""
    (only,) = parse(TEXT + lines).sections
    return only


def problem(lines: str, before: str = "") -> Problem:
    """The one problem of such a section."""
    with pytest.raises(UserError) as caught:
        parse(before + TEXT + lines, "my.ini")
    (only,) = caught.value.problems
    return only


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("Server=db", "Server=db"),
        ('"""Server=db ; Uid=a"""', "Server=db ; Uid=a"),
        ("'''C # minor'''", "C # minor"),
        ('"""C # minor""" # a key', "C # minor"),
        ('""" a """', " a "),
        ('""""""', ""),
        (r'"""C:\new ; \"d\ """', r"C:\new ; \"d\ "),
        ("""'''say \"\"\"hi\"\"\" ; now'''""", 'say """hi""" ; now'),
        ("pass#word;1", "pass#word;1"),
        ("https://a/b#c", "https://a/b#c"),
        # As they have always been: quotes alone are a part of the value.
        ('"hello"', '"hello"'),
        ("'hello'", "'hello'"),
        ('""', '""'),
        ("a\n  b", "a\nb"),
    ],
)
def test_a_variable_has_the_value_that_is_written(written: str, value: str) -> None:
    assert section(f"env.A = {written}\n").env == {"A": value}


def test_a_sign_without_a_blank_before_it_begins_no_comment() -> None:
    assert section("env.COLOR =#fff\nenv.B:;\n").env == {"COLOR": "#fff", "B": ";"}


@pytest.mark.parametrize(
    "written",
    ["Server=db ; Uid=a", "C # minor", "4 ; cores", '"C # minor"', "#fff", "; none", "a\n  b # c", "a\t#b"],
)
def test_a_variable_that_a_comment_would_cut_is_refused_with_both_ways_out(written: str) -> None:
    assert str(problem(f"env.A = {written}\n")) == (
        "my.ini:7 [algopkg.Echo] env.A: has a blank and '#' or ';', which begin a comment. "
        'Write the value as """...""" to keep it, or move the comment to a line of its own'
    )


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ('"""a', 'has no second """ in that line'),
        ('"""a\n  b"""', "Write it in one line"),
        ('"""a"""b', 'goes on after the second """'),
        ("'''a''' 'b'", "goes on after the second '''"),
        ('"""a"""\n  b', "goes on after"),
        ("{% raw %}a{% endraw %}", "Remove {% raw %} and {% endraw %}"),
    ],
)
def test_quotes_that_do_not_end_the_value_are_refused(written: str, words: str) -> None:
    found = problem(f"env.A = {written}\n")
    assert (found.line, found.key) == (7, "env.A")
    assert words in str(found)


def test_a_variable_of_the_defaults_is_refused_once_and_there() -> None:
    defaults = "[DEFAULTS]\nenv.A = x ; y\n"
    other = "[algopkg.Other]\nbackend = B\nroute = b\n"
    found = problem(other, defaults)
    assert (found.section, found.key, found.line) == ("DEFAULTS", "env.A", 2)


@pytest.mark.parametrize(
    "written",
    [
        '{"text": "hi ; there"}',
        '{"text": "hi ; there"} # a comment; "quoted"',
        '{"text":  # a comment\n  "hi ; there"}',
        '{\n  "text": "hi ; there" ; a comment\n  }',
    ],
)
def test_a_text_in_json_may_hold_what_begins_a_comment(written: str) -> None:
    assert section(f"warmup = {written}\n").warmup == {"text": "hi ; there"}


def test_json_with_an_escaped_quote_is_read() -> None:
    assert section(r'user_config = ["say \" # hi", "\\"] # "' "\n").user_config == ['say " # hi', "\\"]


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ("replicas = 0\n", 7),
        ('\n# a comment\n  ; another\nwarmup = {\n  "a": 1\n  }\nreplicas = 0\n', 13),
        ("zone = a\n", 7),
        ("secret.A = B\n", 7),
        ("\tcpu_cost = 1\n", 6),  # an indented line is a part of the value before it: the route
        ("max_replicas = 2\nmin_replicas = 3\n", 8),
    ],
)
def test_a_problem_has_the_line_of_its_key(lines: str, line: int) -> None:
    found = problem(lines)
    assert found.line == line
    assert str(found).startswith(f"my.ini:{line} [algopkg.Echo] {found.key}: ")


def test_a_problem_of_an_inherited_value_has_the_line_of_the_default() -> None:
    assert Lines("[DEFAULTS]\ncpu_cost = 2\n" + TEXT).number("algopkg.Echo", "cpu_cost") == 2
    found = problem("", "[DEFAULTS]\nmax_replicas = 2\nmin_replicas = 3\n")
    assert (found.section, found.line) == ("DEFAULTS", 3)


def test_a_missing_key_has_the_line_of_its_section() -> None:
    with pytest.raises(UserError) as caught:
        parse(TEXT.replace("backend = Echo\n", ""))
    assert str(caught.value) == "conf.ini:4 [algopkg.Echo] backend: is missing. Add 'backend'"


def test_an_unknown_section_has_its_line() -> None:
    assert str(problem("[algo.X]\n")).startswith("my.ini:7 [algo.X]: unknown section")


def test_a_comment_after_a_section_s_title_is_no_part_of_it() -> None:
    assert section("").name == parse(TEXT.replace("Echo]", "Echo] ; as in [b]")).sections[0].name


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert parse("\ufeff" + TEXT) == parse(decode(b"\xef\xbb\xbf" + TEXT.encode(), "f")) == parse(TEXT)
    assert problem("replicas = 0\n", "\ufeff").line == 7


VALUES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\n\0"), max_size=20)


@given(VALUES, st.sampled_from(['"""', "'''"]), st.sampled_from(["", " # a comment", "\t; b"]))
@example("Server=db ; Uid=a", '"""', "")
@example('"', "'''", "")
def test_a_value_in_quotes_survives(value: str, quotes: str, comment: str) -> None:
    assume((value + quotes).find(quotes) == len(value))
    assert section(f"env.A = {quotes}{value}{quotes}{comment}\n").env == {"A": value}


PIECES = st.sampled_from(
    [
        "[a]",
        "[b] ; c [d]",
        "k",
        "l.m",
        " ",
        "  ",
        "\t",
        "=",
        ":",
        "#",
        ";",
        " ;",
        "\n",
        "\n\n",
        "\n  ",
        "\r\n",
        "x",
        '"',
    ]
)


@given(st.lists(PIECES, max_size=30).map("".join))
@example("[a]\nk=#x\nl = #x\n  y # z\n")
def test_other_values_are_read_as_the_standard_library_does(text: str) -> None:
    """Inline comments are removed after configparser; for keys that are neither JSON nor variables nothing changes."""
    standard = configparser.ConfigParser(
        interpolation=None, inline_comment_prefixes=("#", ";"), delimiters=("=", ":"), default_section="\0none"
    )
    standard.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        standard.read_string(text)
    except configparser.Error:
        with pytest.raises(UserError):
            ini.read(text, "f")
        return
    written = ini.read(text, "f").sections
    assert written == {title: dict(standard[title]) for title in standard.sections()}
    lines = Lines(text)
    for title, keys in written.items():
        assert f"[{title}]" in lines.lines[lines.number(title) - 1]
        for key in keys:
            assert not key.startswith((ENV, *JSON_KEYS))
            assert lines.lines[lines.number(title, key) - 1].lstrip().startswith(key)
