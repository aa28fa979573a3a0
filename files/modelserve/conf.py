"""Reads conf.ini: which algorithms are served, and how. Text in, a checked :class:`Conf` or named problems out."""

from __future__ import annotations

import configparser
import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from modelserve.errors import Problem, UserError

SERVER_SECTION = "MODEL SERVE"
SECTION_PREFIX = "algopkg."
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# Paths that Ray Serve ("-") or the gateway answer themselves.
RESERVED_ROUTES = ("-", "healthz", "readyz", "docs", "metrics")


class Server(BaseModel):
    """The section ``[MODEL SERVE]``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: int = Field(666, ge=1, le=65535, description="The HTTP port clients call.")


class Section(BaseModel):
    """A section ``[algopkg.<Name>]``: one algorithm, served as one Ray Serve application."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(exclude=True)
    backend: str = Field(description="The class in `algopkg/<Name>/backend.py`.")
    model: tuple[str, ...] = Field((), description="File names in `Model_ZOO`, comma separated; may be empty.")
    replicas: int = Field(1, ge=1, le=1000, description="Replicas running in parallel.")
    gpu_cost: float = Field(
        0, ge=0, allow_inf_nan=False, description="Share of a GPU per replica: 0, a fraction below 1, or whole GPUs."
    )
    cpu_cost: float = Field(
        0, ge=0, allow_inf_nan=False, description="CPU cores reserved per replica; 0 reserves none."
    )
    route: str = Field(description="Answers at `http://<head>:<port>/<route>`.")
    method: tuple[str, ...] = Field(
        ("GET",), description="HTTP methods, comma separated; parameters are the JSON body."
    )
    warmup: dict[str, Any] | None = Field(
        None, description="A JSON request asked of each new replica before it takes traffic, and by the smoke test."
    )
    user_config: Any = Field(None, description="JSON given to the class's `reconfigure`; a change restarts nothing.")

    @field_validator("model", "method", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("warmup", "user_config", mode="before")
    @classmethod
    def _json(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value, parse_constant=_refuse_constant)
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"is not JSON: {error} (a blank and '#' or ';' begin a comment)") from None

    @field_validator("backend")
    @classmethod
    def _identifier(cls, value: str) -> str:
        if not value.isidentifier():
            raise ValueError(f"'{value}' is not the name of a class")
        return value

    @field_validator("model")
    @classmethod
    def _plain_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if "/" in name or name in (".", ".."):
                raise ValueError(f"'{name}' is a path; give the file name in Model_ZOO alone")
        if len(set(value)) < len(value):
            raise ValueError("names a file twice")
        return value

    @field_validator("gpu_cost")
    @classmethod
    def _whole_or_fraction(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"{value} is neither a fraction below 1 nor a whole number of GPUs")
        return value

    @field_validator("route")
    @classmethod
    def _path(cls, value: str) -> str:
        route = value.strip("/")
        if not re.fullmatch(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*", route) or {".", ".."} & set(route.split("/")):
            raise ValueError(f"'{value}' is not a path of letters, digits, '.', '_', '~', '-' and '/'")
        if route.split("/")[0] in RESERVED_ROUTES:
            raise ValueError(f"'{route.split('/')[0]}' is answered by the server itself")
        return route

    @field_validator("method")
    @classmethod
    def _known_methods(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        methods = tuple(sorted({method.upper() for method in value}))
        unknown = [method for method in methods if method not in METHODS]
        if not methods:
            raise ValueError("names no method; leave the key out for GET")
        if unknown:
            raise ValueError(f"'{', '.join(unknown)}' is not one of {', '.join(METHODS)}")
        return methods


class Conf(BaseModel):
    """A whole conf.ini.

    Attributes:
        port: the HTTP port clients call.
        sections: the algorithms, in the file's order.
    """

    model_config = ConfigDict(frozen=True)

    port: int
    sections: tuple[Section, ...]


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
    shown = file or str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except OSError as error:
        raise UserError(Problem(f"cannot be read: {error.strerror}", "", str(path))) from None
    except UnicodeDecodeError as error:
        raise UserError(Problem(f"is not UTF-8 text (byte {error.start})", "Save it as UTF-8", shown)) from None
    return parse(text, shown), text


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
        server = _validated(Server, dict(parser[SERVER_SECTION]), file, SERVER_SECTION, problems) or server
    sections = []
    for title in parser.sections():
        if title == SERVER_SECTION:
            continue
        name = title.removeprefix(SECTION_PREFIX)
        if name == title or not name.isidentifier():
            problems.append(_unknown_section(title, file))
            continue
        section = _validated(Section, {**parser[title]}, file, title, problems, name=name)
        if section is not None:
            sections.append(section)
    problems += _duplicate_routes(sections, file)
    if problems:
        raise UserError(problems)
    return Conf(port=server.port, sections=tuple(sections))


def _validated(
    model: type[BaseModel], values: dict[str, str], file: str, title: str, problems: list[Problem], **fixed: str
) -> Any:
    known = [key for key in model.model_fields if key not in fixed]
    for key in list(values):
        if key not in known:
            near = difflib.get_close_matches(key.lower(), known, n=1)
            fix = f"Did you mean '{near[0]}'?" if near else f"Known keys: {', '.join(known)}"
            problems.append(Problem("unknown key", fix, file, title, key))
            del values[key]
    try:
        return model.model_validate({**values, **fixed})
    except ValidationError as error:
        for detail in error.errors():
            key = str(detail["loc"][0]) if detail["loc"] else ""
            problems.append(_value_problem(detail, values.get(key, ""), Problem("", "", file, title, key)))
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
    elif "ge" in context or "le" in context:
        bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
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
    near = difflib.get_close_matches(title, [SERVER_SECTION, SECTION_PREFIX], n=1, cutoff=0.7)
    if title.lower().startswith(SECTION_PREFIX):
        fix = "Write [algopkg.<Name>], <Name> being the directory under algopkg/: letters, digits and '_'"
    elif near == [SERVER_SECTION]:
        fix = f"Did you mean [{SERVER_SECTION}]?"
    else:
        fix = f"Sections are [{SERVER_SECTION}] and [algopkg.<Name>]"
    return Problem("unknown section", fix, file, title)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _duplicate_routes(sections: Iterable[Section], file: str) -> list[Problem]:
    owners: dict[str, str] = {}
    problems = []
    for section in sections:
        if section.route in owners:
            problems.append(
                Problem(
                    f"'{section.route}' is the route of [{SECTION_PREFIX}{owners[section.route]}] too",
                    "Give each algorithm a route of its own",
                    file,
                    SECTION_PREFIX + section.name,
                    "route",
                )
            )
        owners.setdefault(section.route, section.name)
    return problems
