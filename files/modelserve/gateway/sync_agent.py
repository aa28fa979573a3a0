"""The sync agent of a gateway: it keeps HAProxy's servers equal to the algorithms' replicas.

On the head it learns the replicas from Serve, publishes them for the other gateways, and renews the certificate. On
other hosts it loads the configuration and the replicas that the head publishes. It runs in a container of its own
beside the gateway: ``modelserve gateway sync``. Without it the gateway goes on with the replicas that it has.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from modelserve.errors import UserError
from modelserve.gateway import targets
from modelserve.gateway.gateway import Gateway
from modelserve.gateway.haproxy import Configuration, Proxy, gateway_directory
from modelserve.gateway.remote import DIRECTORY, TARGETS, decrypt, publish_targets
from modelserve.gateway.servers import Servers
from modelserve.gateway.targets import Targets
from modelserve.serve.api import RayAPI
from modelserve.settings import Settings
from modelserve.store.sync import StoreClient
from modelserve.util.files import write_atomically

# A certificate is renewed 30 days before it expires; a site's own that was replaced is loaded within a minute.
REFRESH_PERIOD_S = 60.0
SYNC_PERIOD_S = 0.5
API_TIMEOUT_S = 5.0
# Written after each round, for the container's health check.
ALIVE_FILE = "sync.alive"
ALIVE_FOR_S = 30.0


def run(home: Path, head: str = "", name: str = "") -> None:
    """Keep this host's gateway current until the process is stopped.

    Args:
        home: modelserve_home.
        head: the head's address, as this host reaches it; empty on the head itself.
        name: this host's name in the inventory.
    """
    settings = Settings.load(home)
    if head:
        configuration, replicas = ConfigurationSync(settings, head, name), PublishedTargets(settings, head)
        _in_background(lambda: repeat(configuration.sync, SYNC_PERIOD_S))
        _in_background(lambda: repeat(replicas.sync, SYNC_PERIOD_S))
        repeat(TargetsSync(settings, replicas.current).sync, SYNC_PERIOD_S)
    else:
        _in_background(lambda: repeat(lambda: Gateway(Settings.load(home)).refresh(), REFRESH_PERIOD_S))
        discovery = Discovery(settings)
        repeat(TargetsSync(settings, discovery.observe, discovery.forget).sync, SYNC_PERIOD_S)


def health(home: Path) -> None:
    """Return when the sync agent works.

    Raises:
        UserError: it has not finished a round lately.
    """
    file = gateway_directory(home) / ALIVE_FILE
    age_s = time.time() - file.stat().st_mtime if file.exists() else float("inf")
    if age_s > ALIVE_FOR_S:
        raise UserError(f"the gateway's sync agent has done nothing for {age_s:.0f} s", "Restart its container")


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


class Discovery:
    """Learns the replicas from Serve, on the head.

    Args:
        settings: the head's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._api = RayAPI(settings, API_TIMEOUT_S)
        self._known = Targets.load(gateway_directory(settings.home))

    def observe(self) -> Targets:
        """Return the replicas; those of before while Serve does not answer.

        Raises:
            UserError: Ray's answer is not a list of replicas.
        """
        try:
            details = self._api.serve_details()
        except UserError:  # the head restarts, and replicas and gateways go on without it
            return self._known
        self._known = targets.observe(details, self._known)
        return self._known

    def forget(self, gone: set[tuple[str, str]]) -> None:
        """Forget replicas that Serve does not list, and publish the others for the gateways on other hosts."""
        self._known = self._known.without(gone)
        publish_targets(self._settings, self._known)


class PublishedTargets:
    """The replicas that the head publishes for the gateways on other hosts.

    Args:
        settings: this host's data directory and token.
        head: the head's address, as this host reaches it.
    """

    def __init__(self, settings: Settings, head: str) -> None:
        self._settings = settings
        directory = gateway_directory(settings.home)
        self._client = StoreClient(settings, head, _print, directory / "followed_targets")
        self._targets = Targets.load(directory)

    def current(self) -> Targets:
        """Return the replicas that were published last."""
        return self._targets

    def sync(self) -> bool:
        """Fetch the present replicas.

        Raises:
            UserError: the head does not answer, or publishes none.
        """
        text = decrypt(self._settings, self._client.fetch_file(f"{DIRECTORY}/{TARGETS}").read_bytes())
        if text is None:
            raise UserError("the list of replicas is not of this cluster's token", "Run site.yml: it brings the token")
        self._targets = Targets.model_validate_json(text)
        return False


class TargetsSync:
    """Brings this host's HAProxy to the replicas.

    Args:
        settings: this host's settings.
        observe: returns the replicas.
        forget: called with those that HAProxy removed and that Serve does not list.
    """

    def __init__(
        self,
        settings: Settings,
        observe: Callable[[], Targets],
        forget: Callable[[set[tuple[str, str]]], None] | None = None,
    ) -> None:
        proxy = Proxy(settings.home)
        self._alive = proxy.directory / ALIVE_FILE
        self._servers = Servers(proxy, _print)
        self._observe = observe
        self._forget = forget

    def sync(self) -> bool:
        """Do one round.

        Returns:
            False: the configuration is the same.

        Raises:
            UserError: the replicas are not known.
        """
        forgotten = self._servers.reconcile(self._observe())
        if self._forget is not None:
            self._forget(forgotten)
        write_atomically(self._alive, "")
        return False


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
        self._client = StoreClient(settings, head, _print, work)
        self._name = name
        self._proxy = Proxy(settings.home)

    def sync(self) -> bool:
        """Load the head's present configuration.

        Returns:
            Whether it was new.

        Raises:
            UserError: the head does not answer or has none for this host, or HAProxy refuses it.
        """
        text = decrypt(self._settings, self._client.fetch_file(f"{DIRECTORY}/{self._name}").read_bytes())
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
