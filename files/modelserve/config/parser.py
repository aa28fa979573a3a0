"""Reads conf.ini: which algorithms are served, and how. Text in, a checked :class:`Conf` or named problems out."""

from __future__ import annotations

import configparser
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from modelserve.config import routes, rules, values
from modelserve.config.section import Conf, Section, Server
from modelserve.errors import Problem, UserError

SERVER_SECTION = "MODEL SERVE"
DEFAULTS_SECTION = "DEFAULTS"
SECTION_PREFIX = "algopkg."
# Keys that say what one algorithm is: [DEFAULTS] cannot have them.
OWN_KEYS = ("backend", "model", "route", "weight", "warmup", "user_config", "batch_size", "batch_wait")
ENV = "env."


def load(path: Path, file: str | None = None) -> tuple[Conf, str]:
    """Read a conf.ini from disk.

    Args:
        path: where it lies.
        file: its name in messages; None takes the path.

    Returns:
        The checked configuration, and the text.

    Raises:
        UserError: it cannot be read, or has problems.
    """
    text = read(path, file)
    return parse(text, file or str(path)), text


def read(path: Path, file: str | None = None) -> str:
    """The text of a conf.ini, unchecked.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except OSError as error:
        raise UserError(Problem(f"cannot be read: {error.strerror}", "", str(path))) from None
    except UnicodeDecodeError as error:
        raise UserError(
            Problem(f"is not UTF-8 text (byte {error.start})", "Save it as UTF-8", file or str(path))
        ) from None


def parse(text: str, file: str = "conf.ini") -> Conf:
    """Read a conf.ini.

    Args:
        text: its content. Comments start with ``#`` or ``;``, inline ones after a blank.
        file: its name in messages.

    Returns:
        The checked configuration.

    Raises:
        UserError: with every problem found, each naming file, section and key.
    """
    parser = configparser.ConfigParser(
        interpolation=None, inline_comment_prefixes=("#", ";"), delimiters=("=", ":"), default_section="\0none"
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign] # keys are case-sensitive, as in the original
    try:
        parser.read_string(text, source=file)
    except configparser.Error as error:
        raise UserError(_syntax_problem(error, text, file)) from None

    problems: list[Problem] = []
    server = Server()
    if SERVER_SECTION not in parser:
        problems.append(
            Problem(f"the section [{SERVER_SECTION}] is missing", f"Begin with [{SERVER_SECTION}] and port = 666", file)
        )
    else:
        server = _validated(Server, dict(parser[SERVER_SECTION]), file, SERVER_SECTION, problems, {}) or server
    inherited = _defaults(parser, file, problems)
    sections = []
    for title in parser.sections():
        if title in (SERVER_SECTION, DEFAULTS_SECTION):
            continue
        name = title.removeprefix(SECTION_PREFIX)
        if name == title or not name.isidentifier():
            problems.append(_unknown_section(title, file))
            continue
        own = dict(parser[title])
        section = _validated(Section, {**inherited, **own}, file, title, problems, {"name": name})
        if section is not None and section.enabled:
            sections.append(section)
        if section is not None:
            # What [DEFAULTS] has wrong by itself is one problem, however many sections have it.
            found = _contradictions(section, {title: own, DEFAULTS_SECTION: inherited}, file)
            problems += [one for one in found if one not in problems]
    problems += _shares(sections, file)
    if problems:
        raise UserError(problems)
    return Conf(port=server.port, sections=tuple(sections))


def _defaults(parser: configparser.ConfigParser, file: str, problems: list[Problem]) -> dict[str, str]:
    """The values of [DEFAULTS] that are sound; what is not is a problem of its own, not one of every section."""
    if DEFAULTS_SECTION not in parser:
        return {}
    written = dict(parser[DEFAULTS_SECTION])
    found = [
        Problem("cannot have a default", "Write it in the sections it belongs to", file, DEFAULTS_SECTION, key)
        for key in OWN_KEYS
        if written.pop(key, None) is not None
    ]
    fields = {key: Section.model_fields[key] for key in ("name", *OWN_KEYS)}
    others = {key: "x" if field.is_required() else field.default for key, field in fields.items()}
    _validated(Section, dict(written), file, DEFAULTS_SECTION, found, others)
    problems += found
    return {key: value for key, value in written.items() if key not in {problem.key for problem in found}}


def _contradictions(section: Section, written: dict[str, dict[str, str]], file: str) -> Iterable[Problem]:
    """Name each contradiction where one of its keys is written: in the first place of ``written`` that has one."""
    for found in rules.contradictions(section, next(iter(written.values()))):
        places = [(title, key) for title, own in written.items() for key in found.keys if key in own]
        yield Problem(found.message, found.fix, file, *places[0])


def _environment(written: dict[str, str], at: Problem, problems: list[Problem]) -> dict[str, str]:
    """Take the ``env.<NAME>`` keys out of a section: the variables by name."""
    variables = {}
    for key in [key for key in written if key.startswith(ENV)]:
        name, value = key.removeprefix(ENV), written.pop(key)
        problem = values.variable_problem(name, value)
        if problem:
            problems.append(Problem(problem, "Choose another name", at.file, at.section, key))
        else:
            variables[name] = value
    return variables


def parse_unless_template(text: str, file: str) -> Conf | None:
    """Read a conf.ini that Ansible may not have rendered yet; None for a template that says nothing without that.

    Raises:
        UserError: it is no template, and has problems.
    """
    try:
        return parse(text, file)
    except UserError:
        if "{{" in text or "{%" in text:
            return None
        raise


def _validated(
    model: type[BaseModel],
    written: dict[str, str],
    file: str,
    title: str,
    problems: list[Problem],
    fixed: Mapping[str, Any],
) -> Any:
    known = [key for key in model.model_fields if key not in fixed]
    if "env" in known:
        known.remove("env")
        variables = _environment(written, Problem("", "", file, title), problems)
        fixed = {**fixed, "env": variables} if variables else fixed
    for key in list(written):
        if key not in known:
            near = difflib.get_close_matches(key.lower(), known, n=1)
            names = [model.model_fields[name].title or name for name in model.model_fields if name not in fixed]
            fix = f"Did you mean '{near[0]}'?" if near else f"Known keys: {', '.join(names)}"
            problems.append(Problem("unknown key", fix, file, title, key))
            del written[key]
    try:
        return model.model_validate({**written, **fixed})
    except ValidationError as error:
        for detail in error.errors():
            key = str(detail["loc"][0]) if detail["loc"] else ""
            problems.append(_value_problem(detail, written.get(key, ""), Problem("", "", file, title, key)))
    return None


def _value_problem(detail: Any, value: str, at: Problem) -> Problem:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        message, fix = "is missing", f"Add a line '{at.key} = ...' to the section"
    elif kind == "value_error":
        message, fix = str(context["error"]), ""
    elif kind in ("int_parsing", "float_parsing", "int_from_float"):
        number = "whole number" if kind.startswith("int") else "number"
        message, fix = f"'{value}' is not a {number}", f"Write a {number}"
    elif kind == "bool_parsing":
        message, fix = f"'{value}' is neither true nor false", "Write true or false"
    elif kind == "literal_error":
        message, fix = f"'{value}' is not known", f"Write {context['expected']}"
    elif {"gt", "ge", "le"} & set(context):
        words = {"gt": "more than", "ge": "at least", "le": "at most"}
        bound = " and ".join(f"{words[limit]} {context[limit]}" for limit in words if limit in context)
        message, fix = f"{value} is out of range", f"It must be {bound}"
    else:
        message, fix = f"'{value}': {detail['msg']}", ""
    return Problem(message, fix, at.file, at.section, at.key)


def _syntax_problem(error: configparser.Error, text: str, file: str) -> Problem:
    if isinstance(error, configparser.DuplicateSectionError):
        return Problem(f"appears twice (again in line {error.lineno})", "Remove one", file, str(error.section))
    if isinstance(error, configparser.DuplicateOptionError):
        return Problem(f"is set twice (again in line {error.lineno})", "Remove one", file, error.section, error.option)
    if isinstance(error, configparser.MissingSectionHeaderError):
        return Problem(
            f"line {error.lineno} stands before any section: {error.line.strip()!r}",
            f"Begin the file with [{SERVER_SECTION}]",
            file,
        )
    if isinstance(error, configparser.ParsingError):
        number = error.errors[0][0]
        line = text.split("\n")[number - 1].strip()
        return Problem(f"line {number} is not 'key = value': {line!r}", "Correct or comment it out", file)
    return Problem(str(error), "", file)


def _unknown_section(title: str, file: str) -> Problem:
    near = difflib.get_close_matches(title, [SERVER_SECTION, DEFAULTS_SECTION, SECTION_PREFIX], n=1, cutoff=0.7)
    if title.lower().startswith(SECTION_PREFIX):
        fix = "Write [algopkg.<Name>], <Name> being the directory under algopkg/: letters, digits and '_'"
    elif near and near != [SECTION_PREFIX]:
        fix = f"Did you mean [{near[0]}]?"
    else:
        fix = f"Sections are [{SERVER_SECTION}], [{DEFAULTS_SECTION}] and [algopkg.<Name>]"
    return Problem("unknown section", fix, file, title)


def _shares(sections: Iterable[Section], file: str) -> list[Problem]:
    return [
        Problem(one.message, one.fix, file, SECTION_PREFIX + one.section.name, one.key)
        for one in routes.mistakes(sections)
    ]
