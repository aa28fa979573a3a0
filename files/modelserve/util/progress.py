"""Report how far a long step has come."""

from __future__ import annotations

import time
from collections.abc import Callable

from modelserve.util.disk import size_text

Progress = Callable[[str], None]
INTERVAL_S = 5.0


def ignore(line: str) -> None:
    """Take a line of progress that nobody reads."""


class Meter:
    """Counts the bytes of a step, and reports a line every few seconds; a short step reports nothing."""

    def __init__(self, progress: Progress, step: str, total: int) -> None:
        """Begin a step.

        Args:
            progress: gets the lines.
            step: what is done, such as "hashing net.onnx".
            total: its bytes.
        """
        self._progress = progress
        self._step = step
        self._total = total
        self._done = 0
        self._started = self._reported = time.monotonic()

    def advance(self, count: int) -> None:
        """Count some more bytes."""
        self._done += count
        now = time.monotonic()
        if now - self._reported >= INTERVAL_S:
            self._reported = now
            rate = size_text(int(self._done / (now - self._started)))
            self._progress(f"{self._step}: {size_text(self._done)} of {size_text(self._total)}, {rate}/s")
