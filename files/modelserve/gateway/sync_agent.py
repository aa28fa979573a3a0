"""What does a gateway need while nobody applies anything? On the head its certificate renewed, on other hosts what the
head has."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from modelserve.errors import UserError
from modelserve.gateway.gateway import Gateway
from modelserve.gateway.remote import Follower
from modelserve.settings import Settings

# A certificate is renewed 30 days before its end; a site's own that was replaced is seen after that long.
RENEW_S = 60.0
FOLLOW_S = 0.5


def keep(home: Path, head: str = "", name: str = "") -> None:
    """See to it until told to stop.

    Args:
        home: modelserve_home.
        head: the head's address, as this host reaches it; empty on the head itself.
        name: this host's name in the inventory.
    """
    if head:
        follower = Follower(Settings.load(home), head, name)
        repeat(follower.catch_up, FOLLOW_S)
    else:
        repeat(lambda: Gateway(Settings.load(home)).refresh(), RENEW_S)


def repeat(look: Callable[[], bool], every_s: float, times: int = 0) -> None:
    """Call ``look`` again and again. What hinders it is said once per cause; the gateway goes on as it is meanwhile.

    Args:
        look: returns whether the gateway has a new configuration.
        every_s: seconds between two calls.
        times: how often; 0: without end.
    """
    said = ""
    calls = 0
    while not times or calls < times:
        calls += 1
        try:
            if look():
                _say("the gateway has a new configuration")
            said = ""
        except UserError as error:
            if str(error) != said:
                said = str(error)
                _say(said)
        time.sleep(every_s)


def _say(line: str) -> None:
    print(line, flush=True)
