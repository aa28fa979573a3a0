"""The commands about who may ask: clients' keys, and the certificate they are to trust."""

from __future__ import annotations

import argparse
import json
import sys

from modelserve.cli.author import Command, between
from modelserve.errors import UserError
from modelserve.settings import Settings


def register(command: Command) -> None:
    """Add the commands."""
    keys = command("keys", _keys, "List the clients' keys, make one, or revoke one; takes effect at once.")
    keys.add_argument("action", nargs="?", choices=("list", "add", "revoke"), default="list")
    keys.add_argument("client", nargs="?", help="for add and revoke: the client's name")
    keys.add_argument("--algorithms", default="", metavar="A,B", help="for add: what it may ask (default: all)")
    limit = between(0, 1_000_000, int)
    keys.add_argument("--rate", type=limit, metavar="N", help="for add: requests a second, 0 for any number")
    keys.add_argument(
        "--max-concurrent", type=limit, metavar="N", help="for add: concurrent requests, 0 for any number"
    )
    certificate = command(
        "certificate", _certificate, "Print the certificate of the cluster's CA, for clients to trust."
    )
    certificate.add_argument(
        "--node", metavar="NAME", help="that of a node, for Ray, with its key and the CA's, as JSON"
    )
    certificate.add_argument("--address", default="", help="for --node: its address in the cluster")


def _keys(options: argparse.Namespace) -> None:
    from modelserve.cli.output import keys_table
    from modelserve.gateway.gateway import Gateway
    from modelserve.security.keys import Keys

    settings = Settings.load()
    keys = Keys(settings)
    if options.action == "list":
        rows = [key.model_dump(exclude={"sha256"}) for key in keys.all()]
        print(json.dumps({"ok": True, "keys": rows}) if options.json else keys_table(keys.all(), keys.of_inventory()))
        return
    if not options.client:
        raise UserError(f"'keys {options.action}' takes a client's name", "modelserve keys --help")
    if options.action == "revoke":
        keys.revoke(options.client)
        document, text = {"client": options.client}, f"{options.client}'s key is revoked"
    else:
        algorithms = [name.strip() for name in options.algorithms.split(",") if name.strip()]
        key = keys.add(options.client, algorithms, options.rate, options.max_concurrent)
        document, text = {"client": options.client, "key": key}, key
    Gateway(settings).refresh()
    if options.json:
        print(json.dumps({"ok": True, **document}))
        return
    print(text)
    if options.action == "add":
        print(f"the key of {options.client}, shown this once: send it as the header X-API-Key", file=sys.stderr)
        if not settings.gateway_keys:
            print("the gateway asks for no key: modelserve_gateway_keys is off", file=sys.stderr)


def _certificate(options: argparse.Namespace) -> None:
    from modelserve.security.certificates import authority, node, node_authority

    settings = Settings.load()
    if options.node:
        issued = node(settings, options.node, options.address)
        print(json.dumps({"ok": True, "node": issued, "authority": node_authority(settings)}))
        return
    pem = authority(settings)
    if not pem:
        why = "the gateway shows the site's own" if settings.gateway_tls else "modelserve_gateway_tls is off"
        raise UserError(f"there is no CA of the cluster: {why}", "See docs/security.md")
    print(json.dumps({"ok": True, "certificate": pem}) if options.json else pem, end="\n" if options.json else "")
