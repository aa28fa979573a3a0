"""Remember the SHA-256 of working files while nothing writes to them. Models are large, and every plan needs theirs."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from modelserve import hashing
from modelserve.store.integrity import State, file_state
from modelserve.util.files import write_atomically

# Kernels before 6.13 count time in ticks of 4 to 10 ms: a write in the tick of the one before does not show.
TICK_NS = 20_000_000
SAVED_EVERY_S = 5.0


class HashCache:
    """The hashes of files, kept in a file of JSON: by path, a file's state and its SHA-256."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._hashes: dict[str, tuple[State, str]] | None = None
        self._saved = time.monotonic()
        self._changed = False

    def known(self, path: Path) -> str | None:
        """Return the SHA-256 of a file that nothing wrote to since it was hashed; None of any other."""
        if self._hashes is None:
            self._hashes = self._read()
        state, sha256 = self._hashes.get(str(path)) or (None, "")
        return sha256 if state == file_state(path) else None

    def of_file(self, path: Path, advance: Callable[[int], None] | None = None) -> str:
        """Return the SHA-256 of a file.

        Args:
            path: the file.
            advance: gets the number of bytes of each part that had to be read.
        """
        sha256 = self.known(path)
        if sha256 is not None:
            return sha256
        state = file_state(path)
        is_settled = time.time_ns() - state[2] > TICK_NS
        sha256 = hashing.of_file(path, advance)
        if is_settled and self._hashes is not None:
            self._hashes[str(path)] = (state, sha256)
            self._changed = True
            if time.monotonic() - self._saved > SAVED_EVERY_S:  # an interrupted command does not lose them
                self.save()
        return sha256

    def save(self) -> None:
        """Write the new hashes to the disk. On a full disk they are computed again next time."""
        if not self._changed:
            return
        hashes = {**self._read(), **(self._hashes or {})}
        hashes = {name: value for name, value in hashes.items() if Path(name).exists()}
        with contextlib.suppress(OSError):
            write_atomically(self._file, json.dumps(hashes))
        self._saved, self._changed = time.monotonic(), False

    def _read(self) -> dict[str, tuple[State, str]]:
        try:
            return {name: (state, sha256) for name, (state, sha256) in json.loads(self._file.read_text()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}
