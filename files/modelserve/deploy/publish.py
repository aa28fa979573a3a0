"""Publishes the content that nodes need, and has the workers fetch it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable

from modelserve.deploy.releases import Releases
from modelserve.deploy.secret_references import SecretReferences
from modelserve.environments.resolve import EnvironmentResolver
from modelserve.errors import UserError
from modelserve.serve.application import Applications
from modelserve.settings import Settings
from modelserve.store import distribute, manifest
from modelserve.store.store import Store
from modelserve.util.files import write_atomically

Progress = Callable[[str], None]
# Among the paths that every worker has: the number of replicas per node that its manifest names.
SHARED_BY = "replicas_per_node="


class Publisher:
    """Writes the store's manifest and the secrets' values, and replicates the store to the workers."""

    def __init__(
        self, settings: Settings, store: Store, releases: Releases, secrets: SecretReferences, progress: Progress
    ) -> None:
        self._settings = settings
        self._store = store
        self._releases = releases
        self._secrets = secrets
        self._progress = progress
        # Paths that every worker has: those that were alive fetched them, those that joined later did so before.
        self._distributed_file = settings.home / "spread.json"

    def publish(self, *needed: Applications, kept: Applications | None = None) -> tuple[str, ...]:
        """Write the manifest, and what replicas find of their secrets.

        Args:
            needed: applications to run; every node fetches their content before it joins.
            kept: applications whose content stays, beside that of the kept releases.

        Returns:
            The paths below the store that stay.
        """
        latest = self._releases.latest()  # an apply that was interrupted may return to it
        self._secrets.publish([*needed, *([latest.target.applications] if latest else [])])
        base = str(EnvironmentResolver(self._settings, self._store).base().path.relative_to(self._store.root))
        paths = [base, *(path for applications in needed for path in manifest.paths_of(applications, self._store))]
        complete = dict.fromkeys(path for path in paths if (self._store.root / path).exists())
        stay = dict.fromkeys([*complete, *self._paths(kept or {})])
        sets = {}
        for directory, models in self._sets(needed).items():
            if complete.keys() >= set(models):
                self._store.join_models([self._store.root / model for model in models])
                sets[directory] = models
        stay |= dict.fromkeys(sets)
        for release in self._releases:
            stay |= dict.fromkeys(self._paths(release.target.applications))
        contents = manifest.contents(complete, self._store)
        versions = manifest.Versions.running()  # the controller runs in the head's container
        shared_by = replicas_per_node(needed[0], 1 + len(self._settings.workers))
        manifest.Manifest(
            versions=versions, needed=contents, kept=tuple(stay), sets=sets, replicas_per_node=shared_by
        ).publish(self._store)
        # A worker that restarts deletes what is not kept.
        distributed = self._distributed()
        self._write_distributed(path for path in distributed if path in stay or path.startswith(SHARED_BY))
        return tuple(stay)

    def distribute(self) -> None:
        """Have every live worker fetch what the manifest names, before Serve may start replicas there.

        Raises:
            UserError: a worker could not.
        """
        if not self._settings.workers:
            return
        published = manifest.Manifest.load(self._store.root / manifest.NAME)
        paths = [*(content.path for content in published.needed), *published.sets]
        shared_by = f"{SHARED_BY}{published.replicas_per_node}"
        distributed = set(self._distributed())
        lacks_content = not distributed.issuperset(paths)
        if not lacks_content and shared_by in distributed:
            return
        self._progress("distributing new content to the workers")
        try:
            distribute.replicate_to_workers(self._progress, self._settings.fetch_timeout_s)
        except UserError:
            if lacks_content:
                raise
            return  # the number of replicas alone is no reason to stop a deploy
        self._write_distributed([*paths, shared_by])

    def _paths(self, applications: Applications) -> list[str]:
        return [*manifest.paths_of(applications, self._store), *manifest.sets_of(applications, self._store)]

    def _sets(self, needed: Iterable[Applications]) -> dict[str, tuple[str, ...]]:
        """Return the models that sections name together, by the path of their common directory."""
        sets: dict[str, tuple[str, ...]] = {}
        for applications in needed:
            sets |= manifest.sets_of(applications, self._store)
        return sets

    def _distributed(self) -> list[str]:
        try:
            return list(json.loads(self._distributed_file.read_text()))
        except (OSError, ValueError):
            return []

    def _write_distributed(self, paths: Iterable[str]) -> None:
        write_atomically(self._distributed_file, json.dumps(sorted(paths)))


def replicas_per_node(applications: Applications, nodes: int) -> int:
    """Return how many replicas a node has where all applications have as many as they may, rounded up.

    Args:
        applications: the applications to run.
        nodes: number of nodes, the head included.
    """
    numbers = (app.autoscaling.maximum if app.autoscaling else app.replicas for app in applications.values())
    return math.ceil(sum(numbers) / nodes)
