"""Time, in UTC."""

from __future__ import annotations

import calendar
import time

_FORM = "%Y-%m-%dT%H:%M:%SZ"


def utc_now() -> str:
    """Return the time as ``2026-11-25T09:40:00Z``."""
    return utc(time.time())


def utc(seconds: float) -> str:
    """Return a time in seconds since the epoch as ``2026-11-25T09:40:00Z``."""
    return time.strftime(_FORM, time.gmtime(seconds))


def seconds(text: str) -> float:
    """Return a time as :func:`utc` writes it in seconds since the epoch; 0 for a text that is none."""
    try:
        return calendar.timegm(time.strptime(text, _FORM))
    except ValueError:
        return 0
