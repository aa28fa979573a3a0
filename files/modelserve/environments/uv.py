"""Run uv, the image's resolver and installer of Python packages."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from modelserve.environments import credentials
from modelserve.errors import Problem
from modelserve.settings import Settings
from modelserve.store.store import Store
from modelserve.util.proxies import without_proxies

IMAGE_PREFIX = Path("/opt/venv")


def run(
    arguments: Sequence[str],
    settings: Settings,
    store: Store,
    *,
    own_index: bool = False,
    directory: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run uv with its cache in the store, so that environments share files by hard links.

    Args:
        arguments: uv's.
        settings: say where packages come from, through which proxy, and where passwords are.
        store: the store with the cache.
        own_index: the requirements name the index that takes the place of the cluster's.
        directory: its working directory; None: that of this process.

    Returns:
        The completed process, whatever its exit status.
    """
    environment = {**os.environ, "UV_CACHE_DIR": str(store.root / "cache" / "uv"), "UV_NO_PROGRESS": "1"}
    environment["UV_LINK_MODE"] = "hardlink"
    # Not on the command line, which every user of the host can read: index and proxy may hold a password.
    if settings.index_url and not own_index:
        environment["UV_DEFAULT_INDEX"] = settings.index_url
    if settings.index_strategy:
        environment["UV_INDEX_STRATEGY"] = settings.index_strategy
    environment["GIT_TERMINAL_PROMPT"] = "0"  # a question would wait for ever
    if settings.proxy_environment:
        environment = {**without_proxies(environment), **settings.proxy_environment}
    command = [str(IMAGE_PREFIX / "bin" / "uv"), *arguments]
    with credentials.netrc(settings) as (variables, descriptors):
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**environment, **variables},
            cwd=directory,
            pass_fds=descriptors,
            check=False,
        )


def unreachable(text: str, settings: Settings, file: str) -> Problem | None:
    """Return that a package index is not reached or wants a password; None where uv failed for another reason.

    Args:
        text: uv's explanation.
        settings: name the index and the proxy.
        file: what the problem is about.
    """
    if refused := re.search(r"401 Unauthorized|403 Forbidden", text):
        fix = f"Set the secret {credentials.NETRC} of modelserve_secrets: machine HOST login USER password PASSWORD"
        return Problem(f"a package index wants another user or password ({refused[0]}): {one_line(text)}", fix, file)
    if "error sending request" not in text:
        return None
    causes = re.findall(r"^\W*(?:cause|Caused by): (.+)", text, re.MULTILINE) or [one_line(text)]
    cause = ": ".join(dict.fromkeys((causes[0], causes[-1])))
    name = "http_proxy" if settings.index_url.startswith("http://") else "https_proxy"
    proxy = settings.proxy_environment.get(name, "")
    if not proxy:
        fix = "Check modelserve_python_index; where the head has no direct route, set modelserve_http_proxy"
        return Problem(f"the package index is not reachable: {cause}", fix, file)
    through = f"through the proxy {urlsplit(proxy).netloc.rpartition('@')[2]}"
    fix = f"Correct modelserve_{name}, or let the head reach it"
    return Problem(f"the package index is not reachable {through}: {cause}", fix, file)


def one_line(text: str) -> str:
    """Return uv's explanation of a failure without its layout."""
    return " ".join(text.replace("error:", "").replace("×", "").replace("╰─▶", "").split()).rstrip(".")[:700]
