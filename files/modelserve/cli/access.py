"""The commands about access: the clients' keys, the sections' secrets, and the certificate that clients trust."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from typing import TYPE_CHECKING

from modelserve.cli.options import Command, between
from modelserve.cli.output import emit, to_stderr
from modelserve.errors import UserError
from modelserve.settings import Settings

if TYPE_CHECKING:
    from modelserve.security.keys import Keys
    from modelserve.security.section_secrets import SectionSecrets


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
    secrets = command("secrets", _secrets, "List the secrets that sections can refer to, set one, or remove one.")
    secrets.add_argument("action", nargs="?", choices=("list", "set", "remove"), default="list")
    secrets.add_argument("name", nargs="?", help="for set and remove: the secret; set reads its value from stdin")
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


def _secrets(options: argparse.Namespace) -> None:
    from modelserve.security.section_secrets import SectionSecrets

    secrets = SectionSecrets(Settings.load())
    if options.action == "list":
        _list_secrets(options, secrets)
        return
    if not options.name:
        raise UserError(f"'secrets {options.action}' takes a secret's name", "modelserve secrets --help")
    if options.action == "remove":
        secrets.remove(options.name)
    else:
        secrets.set(options.name, _value_from_stdin())
    done = "removed" if options.action == "remove" else "set"
    emit(options, {"name": options.name}, f"{options.name} is {done}; 'modelserve apply' starts replicas that need it")


def _value_from_stdin() -> str:
    if sys.stdin.isatty():
        return getpass.getpass("value: ")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise UserError("the value is not UTF-8 text", "Write it as base64, which the package decodes") from None


def _list_secrets(options: argparse.Namespace, secrets: SectionSecrets) -> None:
    from modelserve.cli.tables import secrets_table
    from modelserve.config import parser
    from modelserve.security.section_secrets import uses

    conf_file = Settings.load().conf_file
    references = uses(parser.load(conf_file)[0], "conf.ini") if conf_file.exists() else []
    rows = [
        {"name": name, "from": source, "used_by": [str(place) for used, place in references if used == name]}
        for name, source in secrets.names().items()
    ]
    emit(options, {"secrets": rows}, lambda: secrets_table(rows))


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
