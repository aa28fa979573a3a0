"""A conf.ini that Ansible renders: what is known of it before, without an inventory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import jinja2
import jinja2.meta
import jinja2.nodes
from jinja2.sandbox import SandboxedEnvironment

from modelserve.config import ini, parser
from modelserve.config.ini import ENV, JSON_KEYS, Ini, Lines
from modelserve.config.section import Conf
from modelserve.errors import Location, Problem, UserError

# Ansible drops the end of a line after a tag that has no plus sign.
RAW_FIX = "Write {% raw %} before and {% endraw +%} after what is no template"
_TAG = re.compile(r"\{%.*?%\}")
_UNKNOWN = "\0unknown\0"  # in the place of a value that only the inventory has
_OPENING = ("for", "if", "macro", "call", "filter")
_CLOSING = tuple(f"end{name}" for name in _OPENING)


@dataclass(frozen=True)
class Expression:
    """What stands between ``{{`` and ``}}``.

    Attributes:
        source: its text, with the braces.
        line: its line.
        in_block: whether a statement such as ``{% for %}`` is around it.
    """

    source: str
    line: int
    in_block: bool


@dataclass(frozen=True)
class Partial:
    """What is known of a conf.ini before it is rendered.

    Attributes:
        conf: the configuration, without sections whose class or route is not known.
        problems: what is wrong, whatever the inventory holds.
        unknown: the places of values that only the inventory has.
    """

    conf: Conf
    problems: list[Problem]
    unknown: list[str]


def is_template(text: str) -> bool:
    """Return whether rendering can change a text."""
    return any(opening in text for opening in ("{{", "{%", "{#"))


def problems(text: str, file: str) -> list[Problem]:
    """Return what is wrong with a template, whatever the inventory holds.

    Args:
        text: the content of conf.ini.
        file: its name in messages.
    """
    lines = Lines(text)
    environment = _environment()
    try:
        environment.parse(text)
    except jinja2.TemplateSyntaxError as error:
        return [_problem(lines, file, error.lineno, f"is no valid template: {error.message}")]
    found = []
    for line, kind, _ in environment.lex(text):
        _, key = lines.place(line)
        if kind == "comment_begin" and not lines.is_comment(line) and (key in JSON_KEYS or key.startswith(ENV)):
            problem = _problem(lines, file, line, "'{#' begins a comment of templates, which is not in the value")
            found.append(replace(problem, fix=f"{RAW_FIX}, or move the comment to a line of its own"))
    return [*found, *_joined_lines(lines, file)]


def failures(text: str, file: str, message_of: Callable[[str], str]) -> list[Problem]:
    """Return the places where the rendering of a template fails.

    Args:
        text: the content of conf.ini.
        file: its name in messages.
        message_of: renders a template; returns why that fails, or an empty text.
    """
    whole = message_of(text)
    if not whole:
        return []
    lines, expressions = Lines(text), list(_expressions(text))
    for in_block in (False, True):
        messages = [(one.line, message_of(one.source)) for one in expressions if one.in_block is in_block]
        found = [_problem(lines, file, line, message) for line, message in messages if message]
        if found:
            return found
    return [Problem(whole, RAW_FIX, file)]


def check(text: str, file: str) -> Partial:
    """Return what is known of a conf.ini without an inventory.

    Args:
        text: its content.
        file: its name in messages.

    Raises:
        UserError: it cannot be rendered, or its syntax is wrong.
    """
    if found := problems(text, file):
        raise UserError(found)
    rendered, names = _render(text, file)
    try:
        written = ini.read(rendered, file)
    except UserError as error:
        raise UserError([replace(problem, line=0) for problem in error.problems]) from None
    lines, unknown = Lines(text), _remove_unknown(written)
    conf, found = parser.validate(written, file)
    certain = [replace(problem, line=0) for problem in found if not _depends_on(problem, unknown)]
    places = [Location(file, title.replace(_UNKNOWN, "?"), key, lines.number(title, key)) for title, key in unknown]
    statements = [f"{file}: statements with {name}" for name in names]
    return Partial(conf, lines.locate(certain, file), [*map(str, places), *statements])


def read_if_known(text: str, file: str) -> Conf | None:
    """Read a conf.ini that may be a template.

    Args:
        text: its content.
        file: its name in messages.

    Returns:
        The configuration; None where only the inventory has a part of it.

    Raises:
        UserError: it has problems.
    """
    if not is_template(text):
        return parser.parse(text, file)
    partial = check(text, file)
    if partial.unknown:
        return None
    if partial.problems:
        raise UserError(partial.problems)
    return partial.conf


def _environment(undefined: type[jinja2.Undefined] = jinja2.Undefined) -> SandboxedEnvironment:
    """Return an environment as Ansible's module ``template`` has it."""
    extensions = ["jinja2.ext.do", "jinja2.ext.loopcontrols"]
    return SandboxedEnvironment(
        trim_blocks=True, keep_trailing_newline=True, extensions=extensions, undefined=undefined
    )


def _problem(lines: Lines, file: str, line: int, message: str) -> Problem:
    if lines.is_comment(line):
        fix = "A comment is rendered, too: remove the braces, or write {% raw %} before and {% endraw +%} after it"
        return Problem(message, fix, file, line=line)
    section, key = lines.place(line)
    return Problem(message, RAW_FIX, file, section, key, line)


def _joined_lines(lines: Lines, file: str) -> Iterator[Problem]:
    """Yield the lines that would have the next line at their end."""
    for number, (line, following) in enumerate(pairwise(lines.lines), 1):
        tagged = line.removesuffix("\r")
        joined = tagged.endswith("%}") and not tagged.endswith("+%}") and following.strip()
        if joined and not lines.is_comment(number) and _TAG.sub("", tagged).strip():
            problem = _problem(lines, file, number, "ends with a tag of templates, which joins it with the next line")
            yield replace(problem, fix="Write +%} at its end in the place of %}")


def _expressions(text: str) -> Iterator[Expression]:
    """Yield the expressions of a template that use no name which the template itself defines."""
    environment = _environment()
    defined = {node.name for node in environment.parse(text).find_all(jinja2.nodes.Name) if node.ctx == "store"}
    depth, start = 0, 0
    parts, names = list[str](), list[str]()
    for line, kind, value in environment.lex(text):
        if kind in ("variable_begin", "block_begin"):
            start, parts, names = line, [], []
        parts.append(value)
        if kind == "name":
            names.append(value)
        elif kind == "block_end" and names:
            depth += (names[0] in _OPENING) - (names[0] in _CLOSING)
        elif kind == "variable_end" and not defined.intersection(names):
            yield Expression("".join(parts), start, depth > 0)


def _render(text: str, file: str) -> tuple[str, list[str]]:
    """Render a template with :data:`_UNKNOWN` in the place of what only the inventory has.

    Args:
        text: the template.
        file: its name in messages.

    Returns:
        The text, and the names that statements such as ``{% for %}`` need of the inventory.

    Raises:
        UserError: its statements cannot be rendered without the inventory.
    """
    statements = text
    strict, lenient = _environment(jinja2.StrictUndefined), _environment(jinja2.ChainableUndefined)
    for source in {expression.source for expression in _expressions(text)}:
        try:
            strict.from_string(source).render()
        except Exception:  # anything: Ansible has more filters, tests and functions
            text = text.replace(source, _UNKNOWN)
        statements = statements.replace(source, "")
    names = sorted(jinja2.meta.find_undeclared_variables(lenient.parse(statements)))
    try:
        return lenient.from_string(text).render(), names
    except Exception as error:
        fix = "Deploy with --check: that reads the inventory, too"
        raise UserError(Problem(f"cannot be rendered without the inventory: {error}", fix, file)) from None


def _remove_unknown(written: Ini) -> list[tuple[str, str]]:
    """Remove the sections and keys that only the inventory has; return the section and the key of each."""
    unknown = [(title, "") for title in written.sections if _UNKNOWN in title]
    for title, _ in unknown:
        del written.sections[title]
    for title, section in written.sections.items():
        keys = [key for key, value in section.items() if _UNKNOWN in key + value]
        unknown += [(title, key) for key in keys]
        for key in keys:
            del section[key]
    return unknown


def _depends_on(problem: Problem, unknown: list[tuple[str, str]]) -> bool:
    """Return whether a problem may be due to a value that is not known."""
    keys = [key for title, key in unknown if title in (problem.section, ini.DEFAULTS_SECTION)]
    return any(key == problem.key or (key and key in problem.message) for key in keys)
