"""Serve's ``print`` in a replica: what is printed to a file is written as Python writes it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from typing import Any


def fix_print(module: Any = None) -> None:
    """Repair Serve's replacement of ``print`` in this process; nothing happens where it is right, or not there.

    ``redirected_print`` of Ray 2.60 gives the built-in ``print`` the tuple of its arguments in place of the arguments:
    ``print("a", file=file)`` writes ``('a',)``. ``traceback`` prints to a file, so a log has a traceback as tuples.

    Args:
        module: ``ray.serve._private.logging_utils``; None takes it as it is loaded in a replica.
    """
    module = module or sys.modules.get("ray.serve._private.logging_utils")
    if module is None:
        return
    printed = io.StringIO()
    module.redirected_print("a", end="", file=printed)
    if printed.getvalue() != "a":
        module.buildin_print = _taking_tuple(module.buildin_print)


def _taking_tuple(printer: Callable[..., Any]) -> Callable[..., Any]:
    def print_values(values: Iterable[object], **options: Any) -> None:
        printer(*values, **options)

    return print_values
