"""Parts of commands: the registration of one, and the types of options' values."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from typing import Any, Protocol

Run = Callable[[argparse.Namespace], int | None]


class Command(Protocol):
    """Adds a command."""

    def __call__(self, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
        """Return the parser of a new command.

        Args:
            name: the command's name.
            run: runs it, and returns its exit code; None is 0.
            summary: one sentence for ``--help``.
        """


def json_object(text: str) -> dict[str, Any]:
    """Return an option's value that is a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value


def between(least: float, most: float, kind: Callable[[str], float]) -> Callable[[str], float]:
    """Return the type of an option that is a number within bounds.

    Args:
        least: smallest value.
        most: largest value.
        kind: ``int`` or ``float``.
    """

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value

    return number


def duration(text: str) -> float:
    """Return an option's value that is a duration, in seconds: ``90s``, ``15min``, ``2h``, ``1d``."""
    match = re.fullmatch(r"(\d{1,9})\s*(s|m|min|h|d)", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not a duration: write 90s, 15min, 2h or 1d")
    return int(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}[match[2]]


def add_wait(parser: argparse.ArgumentParser, summary: str) -> None:
    """Add ``--wait`` to a command; its value is in seconds."""
    parser.add_argument("--wait", type=float, default=0, metavar="S", help=summary)
