"""Remembers what was deployed: ``releases/<n>.json``, one document per apply that changed something."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from modelserve.store import write_atomically


class Releases:
    """The releases under ``directory``; a number is given once and never again."""

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = directory
        self._keep = keep

    def numbers(self) -> list[int]:
        """The numbers of the kept releases, oldest first."""
        return sorted(int(path.stem) for path in self._directory.glob("*.json") if path.stem.isdigit())

    def latest(self) -> dict[str, Any] | None:
        """The last release, or None before the first."""
        numbers = self.numbers()
        return self.read(numbers[-1]) if numbers else None

    def read(self, number: int) -> dict[str, Any]:
        """One release.

        Raises:
            FileNotFoundError: there is none of that number, or it is kept no more.
        """
        document: dict[str, Any] = json.loads((self._directory / f"{number}.json").read_text())
        return document

    def record(self, conf_text: str, port: int, serve_config: dict[str, Any]) -> int:
        """Write the next release and drop the oldest beyond those kept.

        Args:
            conf_text: conf.ini as it was applied.
            port: the gateway's port.
            serve_config: the whole configuration given to Serve; its paths carry the content hashes.

        Returns:
            The release's number.
        """
        numbers = self.numbers()
        number = numbers[-1] + 1 if numbers else 1
        document = {
            "number": number,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "by": os.environ.get("MODELSERVE_USER") or f"controller@{socket.gethostname()}",
            "conf": conf_text,
            "port": port,
            "serve": serve_config,
        }
        write_atomically(self._directory / f"{number}.json", json.dumps(document, indent=1) + "\n")
        for old in numbers[: max(0, len(numbers) + 1 - self._keep)]:
            (self._directory / f"{old}.json").unlink()
        return number
