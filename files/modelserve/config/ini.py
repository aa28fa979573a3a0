"""The syntax of conf.ini: sections, keys, comments and quotes, and the line of each key."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from modelserve.errors import Problem, UserError

SERVER_SECTION = "MODEL SERVE"
DEFAULTS_SECTION = "DEFAULTS"
# Keys that set an environment variable, ``env.<NAME>`` and ``secret.<NAME>``.
ENV, SECRET = "env.", "secret."
# Their values are JSON, whose texts may hold what begins a comment elsewhere.
JSON_KEYS = ("warmup", "user_config")
# A comment begins at one of these, at the start of a line or after a blank.
_COMMENT = re.compile(r"(?:^|(?<=\s))[#;]")
_JSON_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_HEADER = re.compile(r"\[(?P<header>(?:(?!\s[#;]).)+)\]")
_DELIMITER = re.compile(r"[=:]")
# Single quotes and double ones alone have always been part of a value.
_QUOTES = ('"""', "'''")
_QUOTE_FIX = 'Write the value as """...""" to keep it, or move the comment to a line of its own'
_RAW_TAG = re.compile(r"\{%[-+]?\s*(?:end)?raw\s*[-+]?%\}")


class Lines:
    """Where the sections and keys of a conf.ini are, which may be a template.

    Args:
        text: its content.
    """

    def __init__(self, text: str) -> None:
        self.lines = text.removeprefix("\ufeff").split("\n")
        self._numbers = _numbers(self.lines)

    def number(self, section: str, key: str = "") -> int:
        """Return the line of a key, else of its default, else of its section; 0 where the file has none of them."""
        names = (key, key.partition(".")[0]) if key else ()  # an error may be inside a value: "labels.zone"
        places = [(title, name) for title in (section, DEFAULTS_SECTION) for name in names]
        return next((self._numbers[place] for place in [*places, (section, "")] if place in self._numbers), 0)

    def place(self, number: int) -> tuple[str, str]:
        """Return the section and the key that a line belongs to; empty where it belongs to none."""
        before = [place for place, line in self._numbers.items() if line <= number]
        return max(before, key=lambda place: self._numbers[place], default=("", ""))

    def is_comment(self, number: int) -> bool:
        """Return whether a line is a comment, or does not exist."""
        return not 0 < number <= len(self.lines) or self.lines[number - 1].lstrip()[:1] in ("#", ";")

    def locate(self, problems: Iterable[Problem], file: str) -> list[Problem]:
        """Return problems with their lines.

        Args:
            problems: those of another file, or without a section, stay as they are.
            file: the file's name in messages.
        """
        return [
            replace(problem, line=self.number(problem.section, problem.key))
            if problem.section and problem.file == file and not problem.line
            else problem
            for problem in problems
        ]


@dataclass
class Ini:
    """A conf.ini whose syntax is right.

    Attributes:
        sections: keys and values of each section. Values have neither comments nor quotes.
        problems: values that cannot be told from a comment; ``sections`` lacks them.
    """

    sections: dict[str, dict[str, str]]
    problems: list[Problem] = field(default_factory=list)


class _Parser(configparser.ConfigParser):
    SECTCRE = _HEADER

    def __init__(self) -> None:
        # Comments in values are removed afterwards: what begins one depends on the key.
        super().__init__(interpolation=None, delimiters=("=", ":"), default_section="\0none")

    def optionxform(self, optionstr: str) -> str:
        """Return the key unchanged: keys are case-sensitive, as in the original."""
        return optionstr


def read(text: str, file: str) -> Ini:
    """Return the sections of a conf.ini.

    Args:
        text: its content, without a byte order mark.
        file: its name in messages.

    Raises:
        UserError: a line is neither a section nor a key with a value, or one appears twice.
    """
    parser, lines = _Parser(), Lines(text)
    try:
        parser.read_string(text, source=file)
    except configparser.Error as error:
        raise UserError(_syntax_problem(error, lines, file)) from None
    ini = Ini({})
    for title in parser.sections():
        section = ini.sections[title] = {}
        for key, written in parser[title].items():
            number = lines.number(title, key)
            if _COMMENT.search(key, 1):  # as "key ; text = value", a key and a comment
                raise UserError(_not_a_setting(lines, number, file))
            value, message, fix = _value(key, written, _begins_after_blank(lines.lines[number - 1]))
            if message:
                ini.problems.append(Problem(message, fix, file, title, key, number))
            else:
                section[key] = value
    return ini


def _numbers(lines: list[str]) -> dict[tuple[str, str], int]:
    """Return the number of the line of each key, and of each section under an empty key, as configparser sees them."""
    numbers: dict[tuple[str, str], int] = {}
    section = key = ""
    indent = 0
    for number, line in enumerate(lines, 1):
        content = line.strip()
        if not content or content[0] in "#;":
            continue
        here = len(line) - len(line.lstrip())
        if key and here > indent:  # the value goes on
            continue
        indent, header = here, _HEADER.match(content)
        if header:
            section, key = header["header"], ""
        else:
            key = _DELIMITER.split(content, maxsplit=1)[0].rstrip()
        numbers.setdefault((section, key), number)
    return numbers


def _begins_after_blank(line: str) -> bool:
    """Return whether a blank follows the delimiter of a key's line: in ``key =#fff`` the sign begins no comment."""
    _, _, value = line.partition(delimiter[0] if (delimiter := _DELIMITER.search(line)) else "=")
    return value[:1].isspace()


def _value(key: str, written: str, after_blank: bool) -> tuple[str, str, str]:
    """Return the value of a key without comments and quotes, and a message and a fix where it is ambiguous.

    Args:
        key: the key.
        written: what configparser read, with its lines.
        after_blank: whether a blank is in front of it.
    """
    first, *others = written.split("\n")
    value = "\n".join(
        [_uncommented(first, key, after_blank), *(_uncommented(line, key, True) for line in others)]
    ).rstrip()
    if not key.startswith(ENV):
        return value, "", ""
    quotes = written[:3]
    if _RAW_TAG.search(written):
        return "", "has a tag of templates, and this file is read as it is", "Remove {% raw %} and {% endraw %}"
    if quotes in _QUOTES:
        inner, closing, rest = first[3:].partition(quotes)
        if not closing:
            return "", f"begins with {quotes} and has no second {quotes} in that line", "Write it in one line"
        if others or _uncommented(f" {rest}", key, True).strip():
            return "", f"goes on after the second {quotes}", "Remove the rest, or take the other kind of quotes"
        return inner, "", ""
    if value != written:
        return "", "has a blank and '#' or ';', which begin a comment", _QUOTE_FIX
    return value, "", ""


def _uncommented(line: str, key: str, after_blank: bool) -> str:
    """Return a line of a value without the comment at its end."""
    searched = _JSON_TEXT.sub(lambda text: "x" * len(text[0]), line) if key in JSON_KEYS else line
    comment = _COMMENT.search(searched, 0 if after_blank else 1)
    return line[: comment.start()].rstrip() if comment else line


def _syntax_problem(error: configparser.Error, lines: Lines, file: str) -> Problem:
    if isinstance(error, configparser.DuplicateSectionError):
        first = lines.number(str(error.section))
        return Problem(
            f"appears twice, first in line {first}", "Remove one", file, str(error.section), "", error.lineno or 0
        )
    if isinstance(error, configparser.DuplicateOptionError):
        message = f"is set twice, first in line {lines.number(error.section, error.option)}"
        return Problem(message, "Remove one", file, error.section, error.option, error.lineno or 0)
    if isinstance(error, configparser.MissingSectionHeaderError):
        message = f"this line stands before any section: {error.line.strip()!r}"
        return Problem(message, f"Begin the file with [{SERVER_SECTION}]", file, line=error.lineno)
    if isinstance(error, configparser.ParsingError):
        return _not_a_setting(lines, error.errors[0][0], file)
    return Problem(str(error), "", file)


def _not_a_setting(lines: Lines, number: int, file: str) -> Problem:
    message = f"this line is not 'key = value': {lines.lines[number - 1].strip()!r}"
    return Problem(message, "Correct or comment it out", file, line=number)
