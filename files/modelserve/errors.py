"""What went wrong, in one line a user can act on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing a user can put right.

    Attributes:
        message: what is wrong.
        fix: the way out, an imperative sentence without a full stop.
        file: the file to edit, as the user knows it.
        section: the conf.ini section, without brackets.
        key: the key in that section.
    """

    message: str
    fix: str = ""
    file: str = ""
    section: str = ""
    key: str = ""

    def __str__(self) -> str:
        where = self.file
        if self.section:
            where += f" [{self.section}]"
        if self.key:
            where += f" {self.key}"
        return (f"{where.strip()}: " if where else "") + self.message + (f". {self.fix}" if self.fix else "")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class UserError(Exception):
    """Raised for errors the user causes and can mend; printed line by line, never as a traceback."""

    def __init__(self, problems: Problem | str | Sequence[Problem], fix: str = "") -> None:
        if isinstance(problems, str):
            problems = Problem(problems, fix)
        self.problems: list[Problem] = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(map(str, self.problems)))
