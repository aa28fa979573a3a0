"""The output of commands: one JSON document with ``--json``, else text."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelserve.errors import Problem

# Exit codes: success, failure of what was asked for, and a wrong command line (the code of argparse).
DONE, FAILED, WRONG = 0, 1, 2


def emit(
    options: argparse.Namespace, document: Mapping[str, Any], text: str | Callable[[], str], ok: bool = True
) -> None:
    """Print the result of a command.

    Args:
        options: the options of the command; ``json`` selects the document.
        document: the result.
        text: the result for people; a function is called only where its text is printed.
        ok: the ``ok`` of the document.
    """
    if options.json:
        print(json.dumps({"ok": ok, **document}))
    else:
        print(text if isinstance(text, str) else text())


def emit_problems(as_json: bool, problems: Sequence[Problem]) -> None:
    """Print the problems of a command that failed.

    Args:
        as_json: whether standard output gets a document, too.
        problems: each is a line on standard error.
    """
    if as_json:
        print(json.dumps({"ok": False, "problems": [problem.as_dict() for problem in problems]}))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)


def progress_of(options: argparse.Namespace) -> Callable[[str], None]:
    """Return a function that prints a line of progress: on standard error where standard output has a document."""
    return to_stderr if options.json else _to_stdout


def to_stderr(line: str) -> None:
    """Print a line on standard error at once."""
    print(line, file=sys.stderr, flush=True)


def _to_stdout(line: str) -> None:
    print(line, flush=True)
