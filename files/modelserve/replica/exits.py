"""The last line of a replica that ends itself: Ray does not learn the exit code of ``os._exit``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import NoReturn

from modelserve.serve.contract import EXIT_LINE


def report_exits(log: Callable[[str], object]) -> None:
    """Have ``os._exit`` write a line to the log first, in this process and not in its forks.

    Args:
        log: writes an error line.
    """
    end, own = os._exit, os.getpid()

    def report_and_end(status: int) -> NoReturn:
        if os.getpid() == own:
            log(f"{EXIT_LINE}{status}")
            flush_logs()
        end(status)

    os._exit = report_and_end


def flush_logs() -> None:
    """Write what the handlers of Serve's logger hold back."""
    for handler in logging.getLogger("ray.serve").handlers:
        handler.flush()
