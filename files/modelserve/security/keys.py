"""The clients' API keys: their rights and their limits. Only hashes are stored.

A key has 256 random bits, so that a plain SHA-256 protects it. ``keys.json`` holds the keys that ``modelserve keys
add`` made; the keys of the inventory are settings.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from modelserve.config.routes import prefix_of
from modelserve.errors import Problem, UserError
from modelserve.settings import Settings
from modelserve.util.files import write_atomically

# The client of the internal service key, which has no limits: the smoke test and `modelserve bench` use it.
INTERNAL = "modelserve"
PREFIX = "ms_"
SHORTEST = 20  # characters of a key of the inventory
EVERYTHING = "*"
NAMES = "Use letters, digits, '.', '_' and '-', 63 at most; 'modelserve' is taken"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Key(BaseModel):
    """A client's key.

    Attributes:
        client: the client's name, as logs show it.
        sha256: hash of the key, in hexadecimal.
        algorithms: the sections that the client may use; empty: all.
        rate: requests per second; 0: no limit; None: the gateway's default.
        max_concurrent: concurrent requests; 0: no limit; None: the gateway's default.
        created: time of creation (UTC).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    client: str
    sha256: str
    algorithms: tuple[str, ...] = ()
    rate: int | None = None
    # Keys of modelserve 0.1 have the former name.
    max_concurrent: int | None = Field(None, validation_alias=AliasChoices("max_concurrent", "at_once"))
    created: str = ""


_KEYS = TypeAdapter(list[Key])


class Keys:
    """The clients' keys and the internal service key.

    Args:
        settings: the head's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._file = settings.home / "keys.json"
        self._internal = settings.home / "secrets" / "gateway_key"

    def all(self) -> list[Key]:
        """Return all clients' keys, sorted by client.

        Raises:
            UserError: a file of keys is damaged, or a client has two.
        """
        stored, inventory = _read(self._file), self._inventory()
        twice = {key.client for key in stored} & {key.client for key in inventory}
        if twice:
            raise UserError(
                f"{', '.join(sorted(twice))} has a key of the inventory and one made by 'modelserve keys add'",
                "Revoke the latter, or take it out of modelserve_keys",
            )
        return sorted([*stored, *inventory], key=lambda key: key.client)

    def of_inventory(self) -> set[str]:
        """Return the clients whose keys are in the inventory."""
        return {key.client for key in self._inventory()}

    def add(
        self, client: str, algorithms: Iterable[str] = (), rate: int | None = None, max_concurrent: int | None = None
    ) -> str:
        """Make a key.

        Args:
            client: the client's name: letters, digits, ``.``, ``_`` and ``-``.
            algorithms: the sections that the client may use; none: all.
            rate: requests per second; 0: no limit; None: the gateway's default.
            max_concurrent: concurrent requests; 0: no limit; None: the gateway's default.

        Returns:
            The key itself, which is stored nowhere.

        Raises:
            UserError: the client has a key already, or its name is not valid.
        """
        if not _is_name(client):
            raise UserError(f"'{client}' cannot be a client's name", NAMES)
        if any(key.client == client for key in self.all()):
            raise UserError(f"{client} has a key already", f"Revoke it first: modelserve keys revoke {client}")
        key = PREFIX + secrets.token_urlsafe(32)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        limits = {"rate": rate, "max_concurrent": max_concurrent}
        record = Key(client=client, sha256=digest(key), algorithms=tuple(algorithms), created=now, **limits)
        self._write([*_read(self._file), record])
        return key

    def revoke(self, client: str) -> None:
        """Remove a client's key.

        Args:
            client: the client's name.

        Raises:
            UserError: the client has no key, or its key is in the inventory.
        """
        kept = _read(self._file)
        if client in self.of_inventory():
            raise UserError(f"{client}'s key is the inventory's", "Take it out of modelserve_keys and deploy")
        if all(key.client != client for key in kept):
            raise UserError(f"{client} has no key", "See 'modelserve keys'")
        self._write([key for key in kept if key.client != client])

    def internal(self) -> str:
        """Return the internal service key, made at the first call."""
        if not self._internal.exists():
            write_atomically(self._internal, PREFIX + secrets.token_urlsafe(32), 0o600)
        return self._internal.read_text().strip()

    def _inventory(self) -> list[Key]:
        try:
            keys = _KEYS.validate_python(self._settings.keys)
        except ValidationError as error:
            raise UserError(f"modelserve_keys: {error.errors()[0]['msg']}", "See docs/security.md") from None
        for key in keys:
            if not _is_name(key.client):
                raise UserError(f"modelserve_keys: '{key.client}' cannot be a client's name", NAMES)
            if not re.fullmatch("[0-9a-f]{64}", key.sha256):
                message = f"modelserve_keys: {key.client} has no key of at least {SHORTEST} characters, and no sha256"
                raise UserError(message, "'openssl rand -hex 32' makes one; keep it in a vault")
        return keys

    def _write(self, keys: list[Key]) -> None:
        write_atomically(self._file, json.dumps([key.model_dump() for key in keys], indent=1) + "\n", 0o600)


def _is_name(client: str) -> bool:
    return bool(_NAME.fullmatch(client)) and client != INTERNAL


def digest(key: str) -> str:
    """Return the form of a key that is stored: its SHA-256, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def table(keys: Iterable[Key], internal: str) -> str:
    """Return HAProxy's map file, one ``<name> <value>`` per line.

    The hash of a key names its client, ``may:<client>/<algorithm>`` is a grant, and ``rate:<client>`` and
    ``max_concurrent:<client>`` are the limits that are not the defaults.

    Args:
        keys: the clients' keys.
        internal: the internal service key.
    """
    lines = [f"{digest(internal)} {INTERNAL}", f"may:{INTERNAL}/{EVERYTHING} 1"]
    lines += [f"rate:{INTERNAL} 0", f"max_concurrent:{INTERNAL} 0"]
    for key in keys:
        lines.append(f"{key.sha256} {key.client}")
        grants = [prefix_of(name).lstrip("/") for name in key.algorithms] or [EVERYTHING]
        lines += [f"may:{key.client}/{grant} 1" for grant in grants]
        limits = {"rate": key.rate, "max_concurrent": key.max_concurrent}
        lines += [f"{limit}:{key.client} {value}" for limit, value in limits.items() if value is not None]
    return "".join(f"{line}\n" for line in lines)


def _read(file: Path) -> list[Key]:
    try:
        return _KEYS.validate_json(file.read_bytes())
    except FileNotFoundError:
        return []
    except ValidationError as error:
        fix = "Correct or remove it"
        raise UserError(Problem(f"is damaged: {error.errors()[0]['msg']}", fix, os.fspath(file))) from None
