"""The catalog of a cluster: the readiness of its algorithms, and the OpenAPI document."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from modelserve import __version__
from modelserve.catalog import openapi
from modelserve.catalog.readiness import Observer, Snapshot, shares_of
from modelserve.catalog.schemas import Schemas
from modelserve.errors import UserError
from modelserve.gateway.haproxy import gateway_directory
from modelserve.serve.status import Statuses
from modelserve.settings import Settings

# Longest age of a snapshot, for any number of requests.
MAX_AGE_S = 1.0


class Catalog:
    """Takes at most one snapshot of the cluster per second, outside the event loop.

    Args:
        settings: the head's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._observer = Observer(settings)
        self._schemas = Schemas(gateway_directory(settings.home))
        self._lock = asyncio.Lock()
        self._snapshot = Snapshot()
        self._taken = float("-inf")
        # Serve's last details: types, methods and examples do not change while Ray's API is down.
        self._applications: Statuses | None = None

    async def snapshot(self) -> Snapshot:
        """Return what is served and whether it is ready, at most a second old."""
        async with self._lock:
            if time.monotonic() - self._taken > MAX_AGE_S:
                self._snapshot = await asyncio.to_thread(self._observer.snapshot)
                self._taken = time.monotonic()
                if self._snapshot.applications is not None:
                    self._applications = self._snapshot.applications
            return self._snapshot

    async def document(self) -> dict[str, Any]:
        """Return the OpenAPI document of what is served.

        Raises:
            UserError: it is not known what is served.
        """
        snapshot = await self.snapshot()
        served = snapshot.served
        if served is None and snapshot.degraded_reason:
            raise UserError(snapshot.degraded_reason)
        if served is None or not served.routes:
            return openapi.document({}, __version__)
        if self._applications is None:
            raise UserError(f"nothing is known of the algorithms yet: {snapshot.degraded_reason}")
        current = snapshot.applications is not None
        algorithms = await asyncio.to_thread(
            self._schemas.algorithms, shares_of(served).values(), self._applications, current
        )
        routes = {
            route: [(algorithms[share.name], share.weight) for share in shares if share.name in algorithms]
            for route, shares in served.routes.items()
        }
        answered = {route: answering for route, answering in routes.items() if answering}
        return openapi.document(answered, __version__, served.keys)
