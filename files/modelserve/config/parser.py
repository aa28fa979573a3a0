"""Read conf.ini: from text to a checked :class:`Conf`, or to problems with file, section and key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from modelserve.config import ini, routes, rules, values
from modelserve.config.ini import DEFAULTS_SECTION, ENV, SECRET, SERVER_SECTION, Ini, Lines
from modelserve.config.section import Conf, Section, Server
from modelserve.errors import Location, Problem, UserError, validation_problems

SECTION_PREFIX = "algopkg."
# Keys that define one algorithm: [DEFAULTS] cannot have them.
OWN_KEYS = ("backend", "model", "route", "weight", "warmup", "user_config", "batch_size", "batch_wait")

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
        content = path.read_bytes()
    except OSError as error:
        raise UserError(Problem(f"cannot be read: {error.strerror}", "", str(path))) from None
    return decode(content, file or str(path))


def decode(content: bytes, file: str) -> str:
    """Return the text of a conf.ini, wherever its bytes come from.

    Args:
        content: its bytes. Editors on Windows begin a file with a byte order mark, which is no part of the text.
        file: its name in messages.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(Problem(f"is not UTF-8 text (byte {error.start})", "Save it as UTF-8", file)) from None


def parse(text: str, file: str = "conf.ini", source: str | None = None) -> Conf:
    """Read a conf.ini.

    Args:
        text: its content. Comments start with ``#`` or ``;``, inline ones after a blank. Ansible leaves a byte order
            mark in what it renders.
        file: its name in messages.
        source: the template that ``text`` was rendered from: problems name its lines; None: ``text`` itself.

    Returns:
        The checked configuration.

    Raises:
        UserError: with every problem found, each naming file, line, section and key.
    """
    try:
        written = ini.read(text.removeprefix("\ufeff"), file)
        conf, problems = validate(written, file)
    except UserError as error:
        conf, problems = None, error.problems
    if source not in (None, text):
        problems = [replace(problem, line=0) for problem in problems]  # lines of ``text`` are not those of ``source``
    if conf is None or problems:
        raise UserError(Lines(source or text).locate(problems, file))
    return conf


def validate(written: Ini, file: str) -> tuple[Conf, list[Problem]]:
    """Return what a conf.ini whose syntax is right says, and what is wrong with it.

    Args:
        written: its sections.
        file: its name in messages.

    Returns:
        The configuration, without sections that have problems, and every problem.
    """
    problems = list(written.problems)
    server = _server(written, file, problems)
    inherited = _defaults(written, file, problems)
    sections = _sections(written, inherited, file, problems)
    problems += _route_problems(sections, file)
    return Conf(port=server.port, sections=tuple(sections)), problems


def _server(written: Ini, file: str, problems: list[Problem]) -> Server:
    if SERVER_SECTION not in written.sections:
        message = f"the section [{SERVER_SECTION}] is missing"
        problems.append(Problem(message, f"Begin with [{SERVER_SECTION}] and port = 666", file))
        return Server()
    location = Location(file, SERVER_SECTION)
    return _validated(Server, dict(written.sections[SERVER_SECTION]), location, problems, {}) or Server()


def _sections(written: Ini, inherited: dict[str, str], file: str, problems: list[Problem]) -> list[Section]:
    """Return the enabled sections of algorithms that are valid."""
    sections = []
    for title in written.sections:
        if title in (SERVER_SECTION, DEFAULTS_SECTION):
            continue
        name = title.removeprefix(SECTION_PREFIX)
        if name == title or not name.isidentifier():
            problems.append(_unknown_section(Location(file, title)))
            continue
        own = dict(written.sections[title])
        section = _validated(Section, {**inherited, **own}, Location(file, title), problems, {"name": name})
        if section is None:
            continue
        # A contradiction of [DEFAULTS] is reported once, however many sections inherit it.
        contradictions = _contradictions(section, {title: own, DEFAULTS_SECTION: inherited}, file)
        problems += [problem for problem in contradictions if problem not in problems]
        if section.enabled:
            sections.append(section)
    return sections


def _defaults(written: Ini, file: str, problems: list[Problem]) -> dict[str, str]:
    """Return the valid values of [DEFAULTS]. An invalid one is one problem, not one of each section."""
    if DEFAULTS_SECTION not in written.sections:
        return {}
    location = Location(file, DEFAULTS_SECTION)
    defaults = dict(written.sections[DEFAULTS_SECTION])
    invalid = [
        location.at(key).problem("cannot have a default", "Write it in the sections it belongs to")
        for key in OWN_KEYS
        if defaults.pop(key, None) is not None
    ]
    fields = {key: Section.model_fields[key] for key in ("name", *OWN_KEYS)}
    others = {key: "x" if field.is_required() else field.default for key, field in fields.items()}
    _validated(Section, dict(defaults), location, invalid, others)
    problems += invalid
    return {key: value for key, value in defaults.items() if key not in {problem.key for problem in invalid}}


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
