"""The commands about access: the clients' keys, and the certificate that clients trust."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from modelserve.cli.options import Command, between
from modelserve.cli.output import emit, to_stderr
from modelserve.errors import UserError
from modelserve.settings import Settings

if TYPE_CHECKING:
    from modelserve.security.keys import Keys


def register(command: Command) -> None:
    """Add the commands."""
    keys = command("keys", _keys, "List the clients' keys, add one, or revoke one; takes effect immediately.")
    keys.add_argument("action", nargs="?", choices=("list", "add", "revoke"), default="list")
    keys.add_argument("client", nargs="?", help="for add and revoke: the client's name")
    keys.add_argument(
        "--algorithms", default="", metavar="A,B", help="for add: the algorithms it may use (default: all)"
    )
    limit = between(0, 1_000_000, int)
    keys.add_argument("--rate", type=limit, metavar="N", help="for add: requests per second, 0 for any number")
    keys.add_argument(
        "--max-concurrent", type=limit, metavar="N", help="for add: concurrent requests, 0 for any number"
    )
    certificate = command(
        "certificate", _certificate, "Print the certificate of the cluster's CA, which clients trust."
    )
    certificate.add_argument(
        "--node",
        metavar="NAME",
        help="print the certificate of a node for Ray, its key and the CA's certificate, as JSON",
    )
    certificate.add_argument("--address", default="", help="for --node: the address of the node in the cluster")


def _keys(options: argparse.Namespace) -> None:
    from modelserve.gateway.gateway import Gateway
    from modelserve.security.keys import Keys

    settings = Settings.load()
    keys = Keys(settings)
    if options.action == "list":
        _list_keys(options, keys)
        return
    if not options.client:
        raise UserError(f"'keys {options.action}' takes a client's name", "modelserve keys --help")
    if options.action == "revoke":
        keys.revoke(options.client)
        Gateway(settings).refresh()
        emit(options, {"client": options.client}, f"{options.client}'s key is revoked")
        return
    algorithms = [name.strip() for name in options.algorithms.split(",") if name.strip()]
    key = keys.add(options.client, algorithms, options.rate, options.max_concurrent)
    Gateway(settings).refresh()
    emit(options, {"client": options.client, "key": key}, key)
    if not options.json:
        to_stderr(f"the key of {options.client}, shown this once: send it as the header X-API-Key")
        if not settings.gateway_keys:
            to_stderr("the gateway requires no key: modelserve_gateway_keys is off")


def _list_keys(options: argparse.Namespace, keys: Keys) -> None:
    from modelserve.cli.tables import keys_table

    kept = keys.all()
    rows = [key.model_dump(exclude={"sha256"}) for key in kept]
    emit(options, {"keys": rows}, lambda: keys_table(kept, keys.of_inventory()))


def _certificate(options: argparse.Namespace) -> None:
    from modelserve.security.certificates import authority, node, node_authority

    settings = Settings.load()
    if options.node:
        issued = node(settings, options.node, options.address)
        print(json.dumps({"ok": True, "node": issued, "authority": node_authority(settings)}))
        return
    pem = authority(settings)
    if not pem:
        cause = "the gateway shows the site's own" if settings.gateway_tls else "modelserve_gateway_tls is off"
        raise UserError(f"there is no CA of the cluster: {cause}", "See docs/security.md")
    emit(options, {"certificate": pem}, pem.removesuffix("\n"))
