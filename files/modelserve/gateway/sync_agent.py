"""The sync agent of a gateway: on the head it renews the certificate, on other hosts it loads the head's configuration.

It runs in a container of its own beside the gateway: ``modelserve gateway sync``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from modelserve.errors import UserError
from modelserve.gateway.gateway import Gateway
from modelserve.gateway.haproxy import Configuration, Proxy
from modelserve.gateway.remote import DIRECTORY, decrypt
from modelserve.settings import Settings
from modelserve.store.sync import Puller

# A certificate is renewed 30 days before it expires; a site's own that was replaced is loaded within a minute.
REFRESH_PERIOD_S = 60.0
SYNC_PERIOD_S = 0.5


def run(home: Path, head: str = "", name: str = "") -> None:
    """Keep this host's gateway current until the process is stopped.

    Args:
        home: modelserve_home.
        head: the head's address, as this host reaches it; empty on the head itself.
        name: this host's name in the inventory.
    """
    if head:
        repeat(ConfigurationSync(Settings.load(home), head, name).sync, SYNC_PERIOD_S)
    else:
        repeat(lambda: Gateway(Settings.load(home)).refresh(), REFRESH_PERIOD_S)


class ConfigurationSync:
    """Loads the configuration that the head publishes for this host.

    Args:
        settings: this host's data directory and token.
        head: the head's address, as this host reaches it.
        name: this host's name in the inventory.
    """

    def __init__(self, settings: Settings, head: str, name: str) -> None:
        self._settings = settings
        # The container can write to this directory alone.
        work = settings.home / "gateway" / "followed"
        self._puller = Puller(settings, head, _print, work)
        self._name = name
        self._proxy = Proxy(settings.home)

    def sync(self) -> bool:
        """Load the head's present configuration.

        Returns:
            Whether it was new.

        Raises:
            UserError: the head does not answer or has none for this host, or HAProxy refuses it.
        """
        text = decrypt(self._settings, self._puller.bring(f"{DIRECTORY}/{self._name}").read_bytes())
        if text is None:
            raise UserError("the configuration is not of this cluster's token", "Run site.yml: it brings the token")
        try:
            configuration = Configuration.model_validate_json(text)
        except ValidationError:
            raise UserError(
                "the head runs another modelserve than this gateway", "Run site.yml for this host"
            ) from None
        return self._proxy.load(configuration)


def repeat(sync: Callable[[], bool], period_s: float, times: int = 0) -> None:
    """Call ``sync`` again and again, and print each cause of a failure once. The gateway keeps its configuration then.

    Args:
        sync: returns whether the gateway has a new configuration.
        period_s: seconds between two calls.
        times: number of calls; 0: no limit.
    """
    reported = ""
    calls = 0
    while not times or calls < times:
        calls += 1
        try:
            if sync():
                _print("the gateway has a new configuration")
            reported = ""
        except UserError as error:
            if str(error) != reported:
                reported = str(error)
                _print(reported)
        time.sleep(period_s)


def _print(line: str) -> None:
    print(line, flush=True)
