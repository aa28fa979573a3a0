"""Time, in UTC."""

from __future__ import annotations

import time


def utc_now() -> str:
    """Return the time as ``2026-11-25T09:40:00Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
