"""What must every node have? The list the head publishes in its store, and workers pull by.

``store/manifest.json``: which image, Python and Ray the head runs, which content is needed to run what is served or
about to be, and which content kept releases refer to.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from modelserve.errors import Problem, UserError
from modelserve.serve.application import Applications
from modelserve.store.store import Store
from modelserve.util.files import write_atomically

NAME = "manifest.json"


class Versions(BaseModel):
    """What has to be the same on every node: the image by its content's name, and what is in it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    image: str = ""
    python: str = ""
    ray: str = ""

    @classmethod
    def here(cls) -> Versions:
        """Those of this container; the image's name comes from ``$MODELSERVE_IMAGE``."""
        image = os.environ.get("MODELSERVE_IMAGE", "")
        return cls(image=image, python=platform.python_version(), ray=importlib.metadata.version("ray"))


class Content(BaseModel):
    """A piece of the store: its path below it, and its hash (``hashing.of_tree``; SHA-256 for a model)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    path: str
    hash: str


class Manifest(BaseModel):
    """What the head publishes.

    Attributes:
        versions: what the head runs.
        needed: content to have before joining, in the order to fetch it.
        kept: paths of all content that is still referred to; what is not may be removed.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    versions: Versions = Versions()
    needed: tuple[Content, ...] = ()
    kept: tuple[str, ...] = ()

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
            raise UserError(Problem(text, "Apply conf.ini: that writes it anew", str(file))) from None

    def publish(self, store: Store) -> None:
        """Write it to the store, when it says anything new."""
        file = store.root / NAME
        text = json.dumps(self.model_dump(), indent=1) + "\n"
        if not file.exists() or file.read_text() != text:
            write_atomically(file, text)


def paths_of(applications: Applications, store: Store) -> list[str]:
    """Return the paths below the store that applications refer to, environments first."""
    environments = [application.environment for application in applications.values()]
    others = [content for application in applications.values() for content in application.contents]
    return list(dict.fromkeys(str(content.path.relative_to(store.root)) for content in [*environments, *others]))


def contents(paths: Iterable[str], store: Store) -> tuple[Content, ...]:
    """Each path with its hash."""
    return tuple(Content(path=path, hash=store.hash_of(path)) for path in paths)
