"""Read conf.ini: from text to a checked :class:`Conf`, or to problems with file, section and key."""

from __future__ import annotations

import configparser
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from modelserve.config import routes, rules, values
from modelserve.config.section import Conf, Section, Server
from modelserve.errors import Location, Problem, UserError, validation_problems

SERVER_SECTION = "MODEL SERVE"
DEFAULTS_SECTION = "DEFAULTS"
SECTION_PREFIX = "algopkg."
# Keys that define one algorithm: [DEFAULTS] cannot have them.
OWN_KEYS = ("backend", "model", "route", "weight", "warmup", "user_config", "batch_size", "batch_wait")
# Keys that set an environment variable, ``env.<NAME>`` and ``secret.<NAME>``.
ENV, SECRET = "env.", "secret."

M = TypeVar("M", bound=BaseModel)


def load(path: Path, file: str | None = None) -> tuple[Conf, str]:
    """Read a conf.ini from disk.

    Args:
        path: the file.
        file: its name in messages; None takes the path.

    Returns:
        The checked configuration, and the text.

    Raises:
        UserError: it cannot be read, or has problems.
    """
    text = read(path, file)
    return parse(text, file or str(path)), text


def read(path: Path, file: str | None = None) -> str:
    """Return the text of a conf.ini, unchecked.

    Args:
        path: the file.
        file: its name in messages; None takes the path.

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
    ini = _read_ini(text, file)
    problems: list[Problem] = []
    server = _server(ini, file, problems)
    inherited = _defaults(ini, file, problems)
    sections = _sections(ini, inherited, file, problems)
    problems += _route_problems(sections, file)
    if problems:
        raise UserError(problems)
    return Conf(port=server.port, sections=tuple(sections))


def parse_unless_template(text: str, file: str) -> Conf | None:
    """Read a conf.ini that Ansible may not have rendered yet.

    Args:
        text: its content.
        file: its name in messages.

    Returns:
        The checked configuration; None for a template that cannot be read before it is rendered.

    Raises:
        UserError: it is no template, and has problems.
    """
    try:
        return parse(text, file)
    except UserError:
        if "{{" in text or "{%" in text:
            return None
        raise


def _read_ini(text: str, file: str) -> configparser.ConfigParser:
    ini = configparser.ConfigParser(
        interpolation=None, inline_comment_prefixes=("#", ";"), delimiters=("=", ":"), default_section="\0none"
    )
    ini.optionxform = str  # type: ignore[assignment, method-assign] # keys are case-sensitive, as in the original
    try:
        ini.read_string(text, source=file)
    except configparser.Error as error:
        raise UserError(_syntax_problem(error, text, file)) from None
    return ini


def _server(ini: configparser.ConfigParser, file: str, problems: list[Problem]) -> Server:
    if SERVER_SECTION not in ini:
        message = f"the section [{SERVER_SECTION}] is missing"
        problems.append(Problem(message, f"Begin with [{SERVER_SECTION}] and port = 666", file))
        return Server()
    location = Location(file, SERVER_SECTION)
    return _validated(Server, dict(ini[SERVER_SECTION]), location, problems, {}) or Server()


def _sections(
    ini: configparser.ConfigParser, inherited: dict[str, str], file: str, problems: list[Problem]
) -> list[Section]:
    """Return the enabled sections of algorithms that are valid."""
    sections = []
    for title in ini.sections():
        if title in (SERVER_SECTION, DEFAULTS_SECTION):
            continue
        name = title.removeprefix(SECTION_PREFIX)
        if name == title or not name.isidentifier():
            problems.append(_unknown_section(Location(file, title)))
            continue
        own = dict(ini[title])
        section = _validated(Section, {**inherited, **own}, Location(file, title), problems, {"name": name})
        if section is None:
            continue
        # A contradiction of [DEFAULTS] is reported once, however many sections inherit it.
        contradictions = _contradictions(section, {title: own, DEFAULTS_SECTION: inherited}, file)
        problems += [problem for problem in contradictions if problem not in problems]
        if section.enabled:
            sections.append(section)
    return sections


def _defaults(ini: configparser.ConfigParser, file: str, problems: list[Problem]) -> dict[str, str]:
    """Return the valid values of [DEFAULTS]. An invalid one is one problem, not one of each section."""
    if DEFAULTS_SECTION not in ini:
        return {}
    location = Location(file, DEFAULTS_SECTION)
    written = dict(ini[DEFAULTS_SECTION])
    invalid = [
        location.at(key).problem("cannot have a default", "Write it in the sections it belongs to")
        for key in OWN_KEYS
        if written.pop(key, None) is not None
    ]
    fields = {key: Section.model_fields[key] for key in ("name", *OWN_KEYS)}
    others = {key: "x" if field.is_required() else field.default for key, field in fields.items()}
    _validated(Section, dict(written), location, invalid, others)
    problems += invalid
    return {key: value for key, value in written.items() if key not in {problem.key for problem in invalid}}


def _contradictions(section: Section, written: dict[str, dict[str, str]], file: str) -> Iterable[Problem]:
    """Yield each contradiction at the first of ``written``'s sections that has one of its keys."""
    own = next(iter(written.values()))
    for contradiction in rules.contradictions(section, own):
        locations = [
            Location(file, title, key) for title, keys in written.items() for key in contradiction.keys if key in keys
        ]
        yield locations[0].problem(contradiction.message, contradiction.fix)


def _variables(field: str, written: dict[str, str], location: Location, problems: list[Problem]) -> dict[str, str]:
    """Remove the ``env.<NAME>`` or ``secret.<NAME>`` keys from a section and return their values by name."""
    prefix = {"env": ENV, "secret": SECRET}[field]
    variables = {}
    for key in [key for key in written if key.startswith(prefix)]:
        name, value = key.removeprefix(prefix), written.pop(key)
        if field == "secret":
            message, fix = values.secret_problem(name, value)
        else:
            message, fix = values.variable_problem(name, value), "Choose another name"
        if message:
            problems.append(location.at(key).problem(message, fix))
        else:
            variables[name] = value
    return variables


def _validated(
    model: type[M],
    written: dict[str, str],
    location: Location,
    problems: list[Problem],
    fixed: Mapping[str, Any],
) -> M | None:
    """Return a section as ``model``, or None after adding its problems.

    Args:
        model: the class of the section.
        written: the section's keys and values; unknown keys are removed.
        location: the section.
        problems: gets what is wrong.
        fixed: values of fields that are not keys of the section.
    """
    known = [key for key in model.model_fields if key not in fixed]
    for field in [field for field in ("env", "secret") if field in known]:
        known.remove(field)
        variables = _variables(field, written, location, problems)
        fixed = {**fixed, field: variables} if variables else fixed
    for key in [key for key in written if key not in known]:
        near = difflib.get_close_matches(key.lower(), known, n=1)
        names = [model.model_fields[name].title or name for name in model.model_fields if name not in fixed]
        fix = f"Did you mean '{near[0]}'?" if near else f"Known keys: {', '.join(names)}"
        problems.append(location.at(key).problem("unknown key", fix))
        del written[key]
    try:
        return model.model_validate({**written, **fixed})
    except ValidationError as error:
        problems += validation_problems(error, location, written)
        return None


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


def _unknown_section(location: Location) -> Problem:
    title = location.section
    near = difflib.get_close_matches(title, [SERVER_SECTION, DEFAULTS_SECTION, SECTION_PREFIX], n=1, cutoff=0.7)
    if title.lower().startswith(SECTION_PREFIX):
        fix = "Write [algopkg.<Name>], <Name> being the directory under algopkg/: letters, digits and '_'"
    elif near and near != [SECTION_PREFIX]:
        fix = f"Did you mean [{near[0]}]?"
    else:
        fix = f"Sections are [{SERVER_SECTION}], [{DEFAULTS_SECTION}] and [algopkg.<Name>]"
    return location.problem("unknown section", fix)


def _route_problems(sections: Iterable[Section], file: str) -> list[Problem]:
    return [
        Location(file, SECTION_PREFIX + conflict.section.name, conflict.key).problem(conflict.message, conflict.fix)
        for conflict in routes.conflicts(sections)
    ]
