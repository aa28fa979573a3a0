"""The schemas of the algorithms, which their replicas answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelserve.catalog.openapi import JSON, UNTYPED, Algorithm
from modelserve.catalog.readiness import get, serving_replicas
from modelserve.config.routes import Share
from modelserve.gateway.targets import Targets
from modelserve.serve.contract import SCHEMA_PATH, UserConfig
from modelserve.serve.status import ApplicationStatus, Statuses, at_target, status_text

TIMEOUT_S = 5.0
# Time until a schema is requested again that was not available, or that an old replica may have answered.
RETRY_S = 5.0
PARALLEL = 8


@dataclass(frozen=True)
class _Entry:
    """A schema document in the cache.

    Attributes:
        config: the configuration of the application that answered.
        document: its schemas; None: it answered none.
        final: whether all replicas have that configuration.
        at: time of the request.
    """

    config: str
    document: Mapping[str, Any] | None
    final: bool
    at: float

    def is_valid(self, config: str) -> bool:
        """Return whether the entry can be used for a configuration without a new request."""
        complete = self.final and self.document is not None
        return self.config == config and (complete or time.monotonic() - self.at < RETRY_S)


class Schemas:
    """A cache of the algorithms' schemas. A replica is asked when the configuration has changed.

    Args:
        gateway: the directory of the head's gateway, which knows the replicas.
    """

    def __init__(self, gateway: Path) -> None:
        self._gateway = gateway
        self._entries: dict[str, _Entry] = {}

    def algorithms(self, shares: Iterable[Share], applications: Statuses, current: bool) -> dict[str, Algorithm]:
        """Return the algorithms that Serve knows, by name.

        Args:
            shares: the algorithms behind the routes.
            applications: Serve's details by name.
            current: whether the details are of now; no replica is asked otherwise.
        """
        known = {share.name: share for share in shares if share.name in applications}
        with ThreadPoolExecutor(PARALLEL) as pool:
            found = pool.map(lambda share: self._algorithm(share, applications[share.name], current), known.values())
            return dict(zip(known, found, strict=True))

    def _algorithm(self, share: Share, details: ApplicationStatus, current: bool) -> Algorithm:
        application = details.application
        options = application.user_config if application else UserConfig()
        config = json.dumps(details.deployed_app_config, sort_keys=True)
        entry = self._entries.get(share.name)
        # An application that is scaled to zero is not started for its schemas.
        if current and not (entry and entry.is_valid(config)) and serving_replicas(details):
            entry = _Entry(config, self._request(share), _is_updated(details), time.monotonic())
            self._entries[share.name] = entry
        schemas = (entry.document if entry and entry.config == config else None) or {}
        return Algorithm(
            name=share.name,
            methods=tuple(application.args.methods) if application else ("GET",),
            input=schemas.get("input", UNTYPED),
            output=schemas.get("output", {}),
            example=options.warmup,
            queue=options.max_queued_requests,
            timeout_s=options.request_timeout,
            note=_note(schemas),
            consumes=_media_types(schemas.get("consumes")),
            produces=_media_types(schemas.get("produces")),
            streams=bool(schemas.get("streams")),
        )

    def _request(self, share: Share) -> Mapping[str, Any] | None:
        for target in Targets.load(self._gateway).of(share.backend):
            if target.serving:
                try:
                    document = json.loads(get(f"http://{target.endpoint}{share.prefix}{SCHEMA_PATH}", TIMEOUT_S))
                except (OSError, ValueError):
                    continue
                return document if isinstance(document, dict) else None
        return None


def _note(schemas: Mapping[str, Any]) -> str:
    """Return what the reader needs to know beside the types."""
    if not schemas:
        return "Its types are known once a replica runs."
    return "It answers its own paths at and below its route." if schemas.get("app") else ""


def _media_types(value: Any) -> tuple[str, ...]:
    """Return the media types of a schema document; one of an older version has none, and knows JSON alone."""
    return tuple(value) if isinstance(value, list) and value else (JSON,)


def _is_updated(details: ApplicationStatus) -> bool:
    # During an update, old replicas answer too.
    target = details.application
    return target is not None and status_text(details) == "RUNNING" and at_target(details, target)
