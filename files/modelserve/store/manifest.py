"""The manifest: what the head runs, and which entries of the store every node needs.

``store/manifest.json`` names the head's image, Python and Ray, the entries of the applications that run or are about
to, and the entries that kept releases refer to.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from modelserve import hashing
from modelserve.errors import Problem, UserError
from modelserve.serve.application import Applications
from modelserve.store import joined
from modelserve.store.store import Store
from modelserve.util.files import write_atomically

NAME = "manifest.json"


class Versions(BaseModel):
    """What has to be the same on every node: the image, named by its content, and what is in it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    image: str = ""
    python: str = ""
    ray: str = ""

    @classmethod
    def running(cls) -> Versions:
        """Return the versions of this container; the image's name is ``$MODELSERVE_IMAGE``."""
        image = os.environ.get("MODELSERVE_IMAGE", "")
        return cls(image=image, python=platform.python_version(), ray=importlib.metadata.version("ray"))


class Content(BaseModel):
    """An entry of the store.

    Attributes:
        path: its path below the store.
        hash: its ``hashing.of_tree``; ``hashing.of_model`` of a model.
        directory: whether it is a model that is a directory.
        size: bytes of a model; 0 where that is not known.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    path: str
    hash: str
    directory: bool = False
    size: int = 0


class Manifest(BaseModel):
    """What the head publishes.

    Attributes:
        versions: what the head runs.
        needed: entries to have before joining, in the order to fetch them.
        kept: paths of all entries that something refers to; the others may be removed.
        sets: by the path of their common directory, the paths of models that are named together.
        replicas_per_node: replicas of all applications, divided by the nodes; 0: unknown. Replicas share a node's cores
            by it.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    versions: Versions = Versions()
    needed: tuple[Content, ...] = ()
    kept: tuple[str, ...] = ()
    sets: dict[str, tuple[str, ...]] = {}
    replicas_per_node: int = 0

    @property
    def cores_shared_by(self) -> int:
        """The replicas that share a node's cores, at least 1, as :mod:`modelserve.replica.cpu_threads` counts them."""
        packages = sum(content.path.startswith("pkg/") for content in self.needed)
        return max(1, self.replicas_per_node or packages)

    @classmethod
    def load(cls, file: Path) -> Manifest:
        """Read a manifest; an empty one where there is none yet.

        Raises:
            UserError: the file is not a manifest.
        """
        if not file.exists():
            return cls()
        try:
            return cls.model_validate_json(file.read_text())
        except ValidationError as error:
            text = " ".join(str(error).split())[:300]
            raise UserError(Problem(text, "Apply conf.ini: that writes it again", str(file))) from None

    def publish(self, store: Store) -> None:
        """Write the manifest to the store, unless the same is there."""
        file = store.root / NAME
        text = json.dumps(self.model_dump(), indent=1) + "\n"
        if not file.exists() or file.read_text() != text:
            write_atomically(file, text)


def paths_of(applications: Applications, store: Store) -> list[str]:
    """Return the paths below the store that applications refer to, environments first."""
    environments = [application.environment for application in applications.values()]
    others = [content for application in applications.values() for content in application.contents]
    return list(dict.fromkeys(str(content.path.relative_to(store.root)) for content in [*environments, *others]))


def sets_of(applications: Applications, store: Store) -> dict[str, tuple[str, ...]]:
    """Return the models that sections name together, as :class:`Manifest` has them."""
    sets = {}
    for application in applications.values():
        models = [content.path for content in application.models]
        if directory := joined.directory_of(models):
            paths = tuple(str(model.relative_to(store.root)) for model in models)
            sets[str(directory.relative_to(store.root))] = paths
    return sets


def contents(paths: Iterable[str], store: Store) -> tuple[Content, ...]:
    """Return each path with its hash, and the size of models."""
    return tuple(_content(path, store) for path in paths)


def _content(path: str, store: Store) -> Content:
    entry, content_hash = store.root / path, store.hash_of(path)
    if not path.startswith("model/"):
        return Content(path=path, hash=content_hash)
    files = [file for _, file in hashing.model_files(entry)] if entry.is_dir() else [entry]
    size = sum(file.stat().st_size for file in files if file.exists())
    return Content(path=path, hash=content_hash, directory=entry.is_dir(), size=size)
