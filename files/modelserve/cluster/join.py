"""How a worker joins: it fetches missing content from the head's store, then Ray starts, then it fetches once more.

A worker that was off for a while comes back without help.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from typing import Any

from modelserve.cluster.health import end_progress, health, report_progress
from modelserve.errors import UserError
from modelserve.settings import Settings
from modelserve.store.sync import StoreClient

RETRY_S = 3
JOIN_POLL_S = 1


def wait_for_content(settings: Settings, head_address: str, name: str = "") -> None:
    """Return when this node has all content that the head's manifest names; retry until then.

    A worker that was removed from the cluster, while its host was off for example, waits until it is added again.

    Each cause of a failure is reported once, in the container's log and to
    :func:`modelserve.cluster.health.health`.

    Args:
        settings: the node's settings.
        head_address: the head, as this node reaches it.
        name: this node's name in the inventory; empty joins whatever the cluster's workers are.
    """
    reported = ""
    client = StoreClient(settings, head_address, lambda line: report_progress(settings, line))
    while True:
        try:
            _require_member(client, name)
            client.sync()
        except UserError as error:
            cause = _cause(error)
            if cause != reported:
                reported = cause
                report_progress(settings, str(error))
            time.sleep(RETRY_S)
        else:
            end_progress(settings)
            return


def sync_after_joining(settings: Settings, head_address: str) -> None:
    """Fetch what was deployed between the first synchronization and the joining; deploys reach the node from then on.

    Returns when all of it is there. Each cause of a failure is reported once in the container's log.

    Args:
        settings: the node's settings.
        head_address: the head, as this node reaches it.
    """
    reported = ""
    while True:
        time.sleep(JOIN_POLL_S)
        try:
            health("worker", settings)
        except UserError:  # Ray still starts; the container's health check reports it
            continue
        try:
            StoreClient(settings, head_address, _print).sync()
            return
        except UserError as error:
            cause = _cause(error)
            if cause != reported:
                reported = cause
                _print(f"the content deployed while this node joined is not here yet, retrying: {error}")


def start_sync_after_joining(head_address: str) -> None:
    """Start :func:`sync_after_joining` in a process that outlives this one, which becomes Ray."""
    options: dict[str, Any] = {"head_address": head_address}
    command = [sys.executable, "-m", "modelserve", "node", "sync", "--options", json.dumps(options)]
    if (child := os.fork()) == 0:  # an orphan, so that init collects it
        subprocess.Popen(command, start_new_session=True)
        os._exit(0)
    os.waitpid(child, 0)


def _require_member(client: StoreClient, name: str) -> None:
    workers = client.workers() if name else None
    if workers is not None and name not in workers:
        raise UserError(
            f"{name} was removed from the cluster and does not join it",
            "Run site.yml with it in the inventory, or remove this container and modelserve_home",
        )


def _cause(error: UserError) -> str:
    # The amount of free space changes between two attempts.
    return re.sub(r"\d+ MiB", "", str(error))


def _print(line: str) -> None:
    print(line, flush=True)
