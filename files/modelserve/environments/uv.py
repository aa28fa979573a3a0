"""Run uv, the image's resolver and installer of Python packages."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from modelserve.settings import Settings
from modelserve.store.store import Store
from modelserve.util.proxies import without_proxies

IMAGE_PREFIX = Path("/opt/venv")


def run(arguments: Sequence[str], settings: Settings, store: Store) -> subprocess.CompletedProcess[str]:
    """Run uv with its cache in the store, so that environments share files by hard links.

    Args:
        arguments: uv's.
        settings: say where packages come from, and through which proxy.
        store: the store with the cache.

    Returns:
        The completed process, whatever its exit status.
    """
    environment = {**os.environ, "UV_CACHE_DIR": str(store.root / "cache" / "uv"), "UV_NO_PROGRESS": "1"}
    environment["UV_LINK_MODE"] = "hardlink"
    # Not on the command line, which every user of the host can read: index and proxy may hold a password.
    if settings.index_url:
        environment["UV_DEFAULT_INDEX"] = settings.index_url
    if settings.proxy_environment:
        environment = {**without_proxies(environment), **settings.proxy_environment}
    command = [str(IMAGE_PREFIX / "bin" / "uv"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def one_line(text: str) -> str:
    """Return uv's explanation of a failure without its layout."""
    return " ".join(text.replace("error:", "").replace("×", "").replace("╰─▶", "").split()).rstrip(".")[:700]
