"""Problems that a user can solve: what is wrong, where, and the fix, in one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


@dataclass(frozen=True)
class Location:
    """A place that a user can edit.

    Attributes:
        file: the file, by the name that the user knows.
        section: the conf.ini section, without brackets, or the entry of a list.
        key: the key in that section.
        line: the line in that file, from 1; 0 where it is not known.
    """

    file: str = ""
    section: str = ""
    key: str = ""
    line: int = 0

    def __str__(self) -> str:
        file = f"{self.file}:{self.line}" if self.file and self.line else self.file
        parts = (file, f"[{self.section}]" if self.section else "", self.key)
        return " ".join(filter(None, parts))

    def at(self, key: str) -> Location:
        """Return the location of a key in the same section."""
        return replace(self, key=key, line=0)

    def problem(self, message: str, fix: str = "") -> Problem:
        """Return a problem at this location."""
        return Problem(message, fix, self.file, self.section, self.key, self.line)


@dataclass(frozen=True)
class Problem:
    """One problem that a user can solve.

    Attributes:
        message: what is wrong.
        fix: what to do, an imperative sentence without a full stop.
        file: see :class:`Location`, as ``section``, ``key`` and ``line``.
        section: the section or entry.
        key: the key.
        line: the line in the file.
    """

    message: str
    fix: str = ""
    file: str = ""
    section: str = ""
    key: str = ""
    line: int = 0

    @property
    def location(self) -> Location:
        """Return where the problem is."""
        return Location(self.file, self.section, self.key, self.line)

    def __str__(self) -> str:
        location = str(self.location)
        return (f"{location}: " if location else "") + self.message + (f". {self.fix}" if self.fix else "")

    def as_dict(self) -> dict[str, str | int]:
        """Return the problem as the command line prints it with ``--json``."""
        return asdict(self)


class UserError(Exception):
    """Errors that a user causes and can solve. They are printed line by line, without a traceback."""

    def __init__(self, problems: Problem | str | Sequence[Problem], fix: str = "") -> None:
        if isinstance(problems, str):
            problems = Problem(problems, fix)
        self.problems: list[Problem] = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def validation_problems(
    error: ValidationError, location: Location, written: Mapping[str, Any] | None = None
) -> list[Problem]:
    """Return what pydantic found wrong with a user's input.

    Args:
        error: pydantic's error.
        location: what was validated: a file, a section or an entry.
        written: the values as the user wrote them, by key; None takes them from ``error``.

    Returns:
        A problem per key, with the key in its location: ``outer.inner`` for a nested one.
    """
    problems = []
    for detail in error.errors():
        key = ".".join(map(str, detail["loc"]))
        value = detail["input"] if written is None else written.get(key, "")
        message, fix = _explained(detail, key, value)
        problems.append(location.at(key).problem(message, fix))
    return problems


def _explained(detail: ErrorDetails, key: str, value: Any) -> tuple[str, str]:
    """Return message and fix for one of pydantic's errors."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _MESSAGES:
        message, fix = _MESSAGES[kind]
        return message.format(value=value), fix.format(key=key, **context)
    if kind == "value_error":
        return str(context["error"]), ""
    bounds = [f"{words} {context[limit]}" for limit, words in _BOUNDS.items() if limit in context]
    if bounds:
        return f"{value} is out of range", f"It must be {' and '.join(bounds)}"
    shown = f"'{value}': " if isinstance(value, str | int | float) else ""
    return shown + detail["msg"], ""


# pydantic's error types (https://docs.pydantic.dev/latest/errors/validation_errors/) with message and fix.
_MESSAGES = {
    "missing": ("is missing", "Add '{key}'"),
    "extra_forbidden": ("is not a known key", "Remove it"),
    "int_parsing": ("'{value}' is not a whole number", "Write a whole number"),
    "int_from_float": ("'{value}' is not a whole number", "Write a whole number"),
    "float_parsing": ("'{value}' is not a number", "Write a number"),
    "bool_parsing": ("'{value}' is neither true nor false", "Write true or false"),
    "literal_error": ("'{value}' is not known", "Write {expected}"),
}
_BOUNDS = {"gt": "more than", "ge": "at least", "le": "at most"}
