"""Whether the Ray node of this container works, and what a worker that has not joined yet waits for."""

from __future__ import annotations

import contextlib
import urllib.error
from pathlib import Path

from modelserve.cluster.gpus import require_access
from modelserve.errors import UserError
from modelserve.ports import PORTS
from modelserve.settings import Settings
from modelserve.util.files import write_atomically
from modelserve.util.http import direct_opener


def health(role: str, settings: Settings) -> None:
    """Return when the node's raylet is alive, on the head its control service too, and its GPUs can be opened.

    Args:
        role: ``head`` or ``worker``.
        settings: the node's settings.

    Raises:
        UserError: a service does not answer, the container lost its GPUs, or a worker has not joined yet.
    """
    if role == "worker" and (progress := join_progress(settings)):
        raise UserError(f"not joined yet: {progress}")
    urls = [f"http://127.0.0.1:{PORTS['dashboard-agent-listen-port']}/api/local_raylet_healthz"]
    if role == "head":
        urls.append(f"{settings.dashboard_url}/api/gcs_healthz")
    opener = direct_opener()
    for url in urls:
        try:
            opener.open(url, timeout=5).close()
        except urllib.error.HTTPError as error:
            raise UserError(f"{url} answers {error.code}: {error.read()[:200].decode(errors='replace')}") from None
        except OSError as error:
            raise UserError(f"{url} does not answer: {getattr(error, 'reason', error)}") from None
    require_access()


def join_progress(settings: Settings) -> str:
    """Return the last line that a worker reported before it joined; empty once it has joined."""
    try:
        return _progress_file(settings).read_text()
    except FileNotFoundError:
        return ""


def report_progress(settings: Settings, line: str) -> None:
    """Write a line to the container's log, and keep it for :func:`health` until the worker joins."""
    print(line, flush=True)
    # A full disk is reported in the log at least.
    with contextlib.suppress(OSError):
        write_atomically(_progress_file(settings), line)


def end_progress(settings: Settings) -> None:
    """Remove the last line: the worker joins."""
    _progress_file(settings).unlink(missing_ok=True)


def _progress_file(settings: Settings) -> Path:
    return settings.home / "node" / "state"
