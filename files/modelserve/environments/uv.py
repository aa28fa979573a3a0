"""Run uv, the image's resolver and installer of Python packages."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from modelserve.store.store import Store

IMAGE_PREFIX = Path("/opt/venv")


def run(arguments: Sequence[str], index_url: str, store: Store) -> subprocess.CompletedProcess[str]:
    """Run uv with its cache in the store, so that environments share files by hard links.

    Args:
        arguments: uv's.
        index_url: the package index; empty takes uv's default.
        store: the store with the cache.

    Returns:
        The completed process, whatever its exit status.
    """
    environment = {**os.environ, "UV_CACHE_DIR": str(store.root / "cache" / "uv"), "UV_NO_PROGRESS": "1"}
    environment["UV_LINK_MODE"] = "hardlink"
    if index_url:  # not on the command line, which every user of the host can read: it may hold a password
        environment["UV_DEFAULT_INDEX"] = index_url
    command = [str(IMAGE_PREFIX / "bin" / "uv"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def one_line(text: str) -> str:
    """Return uv's explanation of a failure without its layout."""
    return " ".join(text.replace("error:", "").replace("×", "").replace("╰─▶", "").split()).rstrip(".")[:700]
