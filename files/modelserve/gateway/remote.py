"""How do gateways on other hosts come to answer what the head's does?

The head lays each one's configuration into the store, encrypted with a key that the cluster's token gives; each host
asks for its own twice a second, and keeps the last one when the head is off. ``/healthz`` says which one answers, so
an apply knows when all do.
"""

from __future__ import annotations

import base64
import hashlib
import time
import urllib.error
from collections.abc import Callable, Mapping
from http.client import HTTPException

from cryptography.fernet import Fernet, InvalidToken
from pydantic import ValidationError

from modelserve.errors import UserError
from modelserve.gateway.haproxy import HEALTH_PATH, VERSION_HEADER, Configuration, Proxy, reachable
from modelserve.settings import Elsewhere, Settings
from modelserve.store.sync import Puller
from modelserve.util.files import write_atomically
from modelserve.util.http import local_opener

Progress = Callable[[str], None]
DIRECTORY = "gateways"  # below the store
AWAY_S = 3
STALE_S = 20
_POLL_S = 0.1
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def url_of(address: str, port: int, tls: bool) -> str:
    """The URL of a gateway that listens on ``address``, as its own host reaches it."""
    host = reachable(address)
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"


class Others:
    """The gateways on other hosts, as the head sees them."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._away: set[str] = set()

    def publish(self, configurations: Mapping[str, Configuration]) -> bool:
        """Lay each gateway's configuration, by its host's name, where that fetches it; returns whether any is new."""
        directory = self._settings.home / "store" / DIRECTORY
        for file in directory.glob("*"):
            if file.name not in configurations:
                file.unlink()
        changed = False
        for name, configuration in configurations.items():
            file = directory / name
            text = configuration.model_dump_json()
            if not (file.exists() and opened(self._settings, file.read_bytes()) == text):
                write_atomically(file, _cipher(self._settings).encrypt(text.encode()).decode(), 0o600)
                changed = True
        return changed

    def confirm(self, configurations: Mapping[str, Configuration]) -> None:
        """Return when every gateway that answers does so with its configuration.

        Raises:
            UserError: one still answers with another.
        """
        stale = []
        for name, configuration in configurations.items():
            other = self._settings.gateways[name]
            if all(address in _LOOPBACK for address in other.bind):
                continue  # only its own host can ask it
            answered = self._wait(name, other, configuration)
            if answered is None:
                if name not in self._away:
                    self._progress(f"gateway {name}: no answer yet; it takes the configuration when it is there")
                self._away.add(name)
            elif answered:
                self._away.discard(name)
            else:
                stale.append(name)
        if stale:
            raise UserError(
                f"the gateway on {', '.join(stale)} answers, but not with its new configuration",
                "See 'docker logs modelserve_gateway_keeper' there, then apply again",
            )

    def _wait(self, name: str, other: Elsewhere, configuration: Configuration) -> bool | None:
        """Whether it answers with its configuration; None: it does not answer."""
        given = [address for address in other.bind if address not in _LOOPBACK][0]
        host = other.address if reachable(given) != given else given
        url = url_of(host, configuration.written.port, configuration.written.url.startswith("https"))
        started = time.monotonic()
        heard = False
        while True:
            version = _version(url + HEALTH_PATH)
            if version == configuration.version:
                return True
            heard |= version is not None
            waited = time.monotonic() - started
            if heard and waited > STALE_S:
                return False
            if not heard and (waited > AWAY_S or name in self._away):
                return None
            time.sleep(_POLL_S)


class Follower:
    """Keeps the gateway of this host as the head wants it.

    Args:
        settings: this host's home and token.
        head: the head's address, as this host reaches it.
        name: this host's name in the inventory.
    """

    def __init__(self, settings: Settings, head: str, name: str) -> None:
        self._settings = settings
        # In its own directory: its container has no other to write to.
        work = settings.home / "gateway" / "followed"
        self._puller = Puller(settings, head, lambda line: print(line, flush=True), work)
        self._name = name
        self._proxy = Proxy(settings.home)

    def catch_up(self) -> bool:
        """Load what the head has now; returns whether it was new.

        Raises:
            UserError: the head does not answer or has none for this host, or HAProxy refuses it.
        """
        text = opened(self._settings, self._puller.bring(f"{DIRECTORY}/{self._name}").read_bytes())
        if text is None:
            raise UserError("the configuration is not of this cluster's token", "Run site.yml: it brings the token")
        try:
            configuration = Configuration.model_validate_json(text)
        except ValidationError:
            raise UserError(
                "the head runs another modelserve than this gateway", "Run site.yml for this host"
            ) from None
        return self._proxy.load(configuration)


def _version(url: str) -> str | None:
    """Which configuration answers; None: none does."""
    try:
        with local_opener().open(url, timeout=2) as response:
            return str(response.headers.get(VERSION_HEADER, ""))
    except urllib.error.HTTPError as error:  # it reaches no ingress, which is not asked here
        return str(error.headers.get(VERSION_HEADER, ""))
    except (OSError, HTTPException):
        return None


def _cipher(settings: Settings) -> Fernet:
    # The token is random: a hash makes a key of it, and another use's key would be another.
    token = settings.token_file.read_bytes().strip()
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"modelserve gateway " + token).digest()))


def opened(settings: Settings, sealed: bytes) -> str | None:
    """What a configuration in the store says; None where it was sealed with another token."""
    try:
        return _cipher(settings).decrypt(sealed).decode()
    except InvalidToken:
        return None
