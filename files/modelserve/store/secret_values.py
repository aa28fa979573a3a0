"""The values of secrets on their way from the head to the replicas.

The head keeps the values that an application's replicas need in one file, named by the application's ``secrets_id``.
The store has the same, encrypted with the cluster's token, and replicas on workers fetch it from there when they start.
A file is never changed: while a deploy with another value fails, replicas of before still find theirs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from modelserve.errors import UserError
from modelserve.security import encryption
from modelserve.settings import Settings
from modelserve.store.sync import MissingError, StoreClient
from modelserve.util.files import write_atomically

DIRECTORY = "secrets"  # below the store
_USE = "secrets"  # of what is encrypted
FIX = "Apply conf.ini again: that makes them anew"
# Seconds that a replica waits for a store that restarts, and for one that is busy.
OUTAGE_S, BUSY_S = 60, 120

Values = Mapping[str, str]


def held(settings: Settings) -> set[str]:
    """Return the ids of the values that the head keeps."""
    return {path.stem for path in _served(settings).glob("[!.]*.json")}


def publish(settings: Settings, values: Mapping[str, Values], kept: Collection[str]) -> None:
    """Write values for replicas to fetch, and remove the others.

    Args:
        settings: the head's settings.
        values: values to add, by id: each by environment variable.
        kept: ids of those that stay.
    """
    for secrets_id, variables in values.items():
        write_atomically(_served(settings) / f"{secrets_id}.json", json.dumps(dict(variables)), 0o600)
    for secrets_id in held(settings) - {*values, *kept}:
        (_served(settings) / f"{secrets_id}.json").unlink()
    publish_again(settings)


def publish_again(settings: Settings) -> None:
    """Encrypt what the head keeps into the store: with the present token, where that is another one than before."""
    published = settings.home / "store" / DIRECTORY
    ids = held(settings)
    for file in published.glob("[!.]*"):
        if file.name not in ids:
            file.unlink()
    for secrets_id in ids:
        file, text = published / secrets_id, (_served(settings) / f"{secrets_id}.json").read_text()
        if not (file.exists() and encryption.decrypt(settings, _USE, file.read_bytes()) == text):
            write_atomically(file, encryption.encrypt(settings, _USE, text), 0o600)


def read(settings: Settings, head: str, secrets_id: str, progress: Callable[[str], None]) -> dict[str, str]:
    """Return the values of an application's secrets, by environment variable.

    Args:
        settings: this host's settings.
        head: the head's address, as this host reaches it; empty on the head.
        secrets_id: their id.
        progress: gets a line for what takes long.

    Raises:
        UserError: they are not there, or the store does not answer or refuses this host.
    """
    text = _fetch(settings, head, secrets_id, progress) if head else _read(settings, secrets_id)
    values: dict[str, str] = json.loads(text)
    return values


def _read(settings: Settings, secrets_id: str) -> str:
    try:
        return (_served(settings) / f"{secrets_id}.json").read_text()
    except FileNotFoundError:
        raise UserError("the head has no values of these secrets", FIX) from None


def _fetch(settings: Settings, head: str, secrets_id: str, progress: Callable[[str], None]) -> str:
    limited = settings.model_copy(update={"fetch_timeout_s": BUSY_S})
    # Encrypted values alone lie on a worker's disk, and not for long.
    with tempfile.TemporaryDirectory(prefix="secrets-") as directory:
        client = StoreClient(limited, head, progress, Path(directory), outage_s=OUTAGE_S)
        try:
            encrypted = client.fetch_file(f"{DIRECTORY}/{secrets_id}").read_bytes()
        except MissingError:
            raise UserError("the head's store has no values of these secrets", FIX) from None
    text = encryption.decrypt(settings, _USE, encrypted)
    if text is None:
        raise UserError(
            "the values of these secrets are not of this cluster's token", "Run site.yml: it brings the token"
        )
    return text


def _served(settings: Settings) -> Path:
    return settings.home / "secrets" / "served"
