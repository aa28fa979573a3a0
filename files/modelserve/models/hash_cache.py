"""Hashes of models that were computed before where models are fetched: a deploy reads no model twice."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from modelserve import hashing
from modelserve.store.integrity import file_state
from modelserve.util.files import write_atomically

_LIMIT = 1000


class HashCache:
    """A record of hashes in the user's cache directory. A hash is valid while the state of every file is the same.

    Args:
        file: the record; None takes ``$XDG_CACHE_HOME/modelserve/models.json``.
    """

    def __init__(self, file: Path | None = None) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        self._file = file or Path(cache).expanduser() / "modelserve" / "models.json"

    def of_model(self, path: Path) -> str:
        """Return :func:`modelserve.hashing.of_model` of a path.

        Raises:
            OSError: there is nothing, or it cannot be read.
            ValueError: a link cannot be followed.
        """
        state = hashing.of_value(_state(path))
        hashes, key = self._read(), str(path.absolute())
        if hashes.get(key, ["", ""])[0] != state:
            hashes[key] = [state, hashing.of_model(path)]
            if hashing.of_value(_state(path)) != state:
                raise ValueError(f"{path} was written to while it was read")
            with suppress(OSError):  # a user without a directory of their own
                write_atomically(self._file, json.dumps(dict(list(hashes.items())[-_LIMIT:])), 0o600)
        return str(hashes[key][1])

    def _read(self) -> dict[str, list[str]]:
        try:
            return dict(json.loads(self._file.read_text()))
        except (OSError, ValueError, TypeError):
            return {}


def _state(path: Path) -> list[tuple[str, list[int]]]:
    files = hashing.model_files(path) if path.is_dir() else [("", path)]
    return [(name, file_state(file)) for name, file in files]
