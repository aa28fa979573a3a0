"""The entry points of the containers. ``modelserve --help`` does not list them."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable

from modelserve.cli.options import Command, add_wait, json_object
from modelserve.cli.output import emit, to_stderr
from modelserve.errors import UserError
from modelserve.settings import Settings

HEALTH_POLL_S = 0.25
HEALTH_WAIT = "for health: seconds to wait until it is healthy"


def register(command: Command) -> None:
    """Add the commands."""
    node = command("node", _node, "Run Ray in this container.")
    node.add_argument("action", choices=("head", "worker", "health", "sync", "secrets"))
    node.add_argument("--role", choices=("head", "worker"), default="head", help="for health: the role of this node")
    add_wait(node, HEALTH_WAIT)
    node.add_argument("--id", default="", help="for secrets: of the values that a replica needs; prints them as JSON")
    node.add_argument("--options", type=json_object, default={}, help="options of the node, as JSON")
    gateway = command("gateway", _gateway, "Run the gateway in this container.")
    gateway.add_argument("action", choices=("run", "health", "refresh", "sync", "sync-health"))
    gateway.add_argument("--head", default="", help="for sync: address of the head (default: this host is the head)")
    gateway.add_argument("--name", default="", help="for sync: name of this host in the inventory")
    add_wait(gateway, HEALTH_WAIT)
    catalog = command("catalog", _catalog, "Run the catalog of what is served and ready in this container.")
    catalog.add_argument("action", choices=("run", "health"))
    catalog.add_argument("--address", help="for run: address to listen on (default: loopback)")
    add_wait(catalog, HEALTH_WAIT)
    store = command("store", _store, "Serve the store to the workers from this container.")
    store.add_argument("action", choices=("serve",))


def _store(_: argparse.Namespace) -> None:
    from modelserve.store import rsync_server

    rsync_server.run(Settings.load())


def _node(options: argparse.Namespace) -> None:
    from modelserve.cluster import health, join, node

    settings = Settings.load()
    if options.action == "health":
        _wait_for(options.wait, lambda: health.health(options.role, settings), lambda: health.join_progress(settings))
    elif options.action == "sync":
        join.sync_after_joining(settings, options.options["head_address"])
    elif options.action == "secrets":
        _secrets(settings, options.id)
    else:
        node.run(options.action, settings, **options.options)


def _secrets(settings: Settings, secrets_id: str) -> None:
    from modelserve.store import secret_values

    head = os.environ.get("MODELSERVE_HEAD", "")
    print(json.dumps(secret_values.read(settings, head, secrets_id, to_stderr)))


def _gateway(options: argparse.Namespace) -> None:
    from modelserve.gateway import sync_agent
    from modelserve.gateway.gateway import Gateway
    from modelserve.gateway.haproxy import Proxy

    settings = Settings.load()
    if options.action == "health":
        _wait_for(options.wait, Proxy(settings.home).health)
    elif options.action == "sync-health":
        _wait_for(options.wait, lambda: sync_agent.health(settings.home))
    elif options.action == "run":
        Proxy(settings.home).run()
    elif options.action == "sync":
        sync_agent.run(settings.home, options.head, options.name)
    else:
        changed = Gateway(settings, to_stderr).refresh()
        emit(options, {"changed": changed}, "the gateway knows the nodes" + ("" if changed else " already"))


def _catalog(options: argparse.Namespace) -> None:
    from modelserve.catalog import app

    settings = Settings.load()
    if options.action == "health":
        _wait_for(options.wait, app.health)
    else:
        app.run(settings, options.address or app.ADDRESS)


def _wait_for(seconds: float, check: Callable[[], None], state: Callable[[], str] = str) -> None:
    """Repeat a health check until it passes.

    Args:
        seconds: longest time that it may fail while ``state`` stays the same.
        check: the check.
        state: returns what the container does meanwhile; it is printed when it changes.

    Raises:
        UserError: the last failure of the check.
    """
    deadline = time.monotonic() + seconds
    last_state = ""
    while True:
        try:
            return check()
        except UserError:
            current = state()
            if current and current != last_state:
                last_state = current
                print(current, flush=True)
                deadline = time.monotonic() + seconds
            if time.monotonic() >= deadline:
                raise
        time.sleep(HEALTH_POLL_S)
