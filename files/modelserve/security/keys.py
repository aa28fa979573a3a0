"""Who may ask the gateway, for which algorithms, and how much? Keys are kept as hashes alone.

A key is 256 random bits, so a plain SHA-256 keeps it: there is nothing to guess. ``keys.json`` holds those that
``modelserve keys add`` made; those of the inventory are settings.
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

# The controller's own: the smoke test and `modelserve bench` ask with it, without limits.
OWN = "modelserve"
PREFIX = "ms_"
SHORTEST = 20  # the characters of a key that the inventory gives
EVERYTHING = "*"
NAMES = "Use letters, digits, '.', '_' and '-', 63 at most; 'modelserve' is taken"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Key(BaseModel):
    """A client's key.

    Attributes:
        client: the client's name, as logs show it.
        sha256: of the key, in hexadecimal.
        algorithms: the sections it may ask; empty: all.
        rate: requests a second; 0: no limit; None: the gateway's default.
        at_once: requests at the same time; 0: no limit; None: the gateway's default.
        created: when it was made (UTC).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    client: str
    sha256: str
    algorithms: tuple[str, ...] = ()
    rate: int | None = None
    at_once: int | None = Field(None, validation_alias=AliasChoices("at_once", "max_concurrent"))
    created: str = ""


_KEYS = TypeAdapter(list[Key])


class Keys:
    """The clients' keys, and the controller's own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._file = settings.home / "keys.json"
        self._own = settings.home / "secrets" / "gateway_key"

    def all(self) -> list[Key]:
        """All keys but the controller's own, by client.

        Raises:
            UserError: a file of keys is damaged, or a client has two.
        """
        here, given = _read(self._file), self._given()
        twice = {key.client for key in here} & {key.client for key in given}
        if twice:
            raise UserError(
                f"{', '.join(sorted(twice))} has a key of the inventory and one made by 'modelserve keys add'",
                "Revoke the latter, or take it out of modelserve_keys",
            )
        return sorted([*here, *given], key=lambda key: key.client)

    def of_inventory(self) -> set[str]:
        """The clients whose keys the inventory names."""
        return {key.client for key in self._given()}

    def add(
        self, client: str, algorithms: Iterable[str] = (), rate: int | None = None, at_once: int | None = None
    ) -> str:
        """Make a key.

        Args:
            client: who will use it; letters, digits, ``.``, ``_`` and ``-``.
            algorithms: the sections it may ask; none: all.
            rate: requests a second; 0: no limit; None: the gateway's default.
            at_once: requests at the same time; likewise.

        Returns:
            The key itself, which is kept nowhere.

        Raises:
            UserError: the client has one already, or such a name cannot be.
        """
        if not _is_name(client):
            raise UserError(f"'{client}' cannot be a client's name", NAMES)
        if any(key.client == client for key in self.all()):
            raise UserError(f"{client} has a key already", f"Revoke it first: modelserve keys revoke {client}")
        key = PREFIX + secrets.token_urlsafe(32)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        made = Key(
            client=client, sha256=digest(key), algorithms=tuple(algorithms), rate=rate, at_once=at_once, created=now
        )
        self._write([*_read(self._file), made])
        return key

    def revoke(self, client: str) -> None:
        """Forget a client's key.

        Raises:
            UserError: it has none, or the inventory names it.
        """
        kept = _read(self._file)
        if client in self.of_inventory():
            raise UserError(f"{client}'s key is the inventory's", "Take it out of modelserve_keys and deploy")
        if all(key.client != client for key in kept):
            raise UserError(f"{client} has no key", "See 'modelserve keys'")
        self._write([key for key in kept if key.client != client])

    def own(self) -> str:
        """The controller's own key, made when it is needed first."""
        if not self._own.exists():
            write_atomically(self._own, PREFIX + secrets.token_urlsafe(32), 0o600)
        return self._own.read_text().strip()

    def _given(self) -> list[Key]:
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
    return bool(_NAME.fullmatch(client)) and client != OWN


def digest(key: str) -> str:
    """A key as it is kept: its SHA-256, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def table(keys: Iterable[Key], own: str) -> str:
    """What HAProxy looks up, ``<what> <value>`` a line: a key's hash leads to its client, ``may:<client>/<algorithm>``
    to a grant, ``rate:<client>`` and ``at_once:<client>`` to the limits that are not the defaults."""
    lines = [f"{digest(own)} {OWN}", f"may:{OWN}/{EVERYTHING} 1", f"rate:{OWN} 0", f"at_once:{OWN} 0"]
    for key in keys:
        lines.append(f"{key.sha256} {key.client}")
        grants = [prefix_of(name).lstrip("/") for name in key.algorithms] or [EVERYTHING]
        lines += [f"may:{key.client}/{grant} 1" for grant in grants]
        limits = {"rate": key.rate, "at_once": key.at_once}
        lines += [f"{what}:{key.client} {value}" for what, value in limits.items() if value is not None]
    return "".join(f"{line}\n" for line in lines)


def _read(file: Path) -> list[Key]:
    try:
        return _KEYS.validate_json(file.read_bytes())
    except FileNotFoundError:
        return []
    except ValidationError as error:
        fix = "Correct or remove it"
        raise UserError(Problem(f"is damaged: {error.errors()[0]['msg']}", fix, os.fspath(file))) from None
