"""The immutable store: packages, models and environments, named by their content.

Its entries are ``pkg/<Name>-<hash>/``, ``model/<hash>/<name>`` and ``env/<Name>-<hash>/``; ``set/<hash>/`` has hard
links of models that are named together. An entry with its final name is complete: packages and models are written under
another name and renamed, environments have a record that is written last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelserve import hashing
from modelserve.config import sources
from modelserve.errors import UserError
from modelserve.store import integrity, joined
from modelserve.store.hash_cache import HashCache
from modelserve.store.model_store import Listing, ModelStore
from modelserve.util import bytecode, read_only
from modelserve.util.disk import space_for
from modelserve.util.files import write_atomically
from modelserve.util.progress import Progress, ignore

ENVIRONMENT_RECORD = "modelserve.json"
KINDS = ("env", "pkg", "model", joined.KIND)


class Store:
    """The store in a directory.

    Attributes:
        root: the directory.
        models: the directory of the models in it.
    """

    def __init__(self, root: Path, progress: Progress = ignore) -> None:
        """Use the store in a directory, which need not exist.

        Args:
            root: the directory.
            progress: gets lines about steps that take some seconds.
        """
        self.root = root
        self.models = root / "model"
        self._model_store = ModelStore(self.models, HashCache(root / "model_hashes.json"), progress)

    def package_path(self, name: str, source: Path) -> Path:
        """Return the path of a package with the content that ``source`` has now.

        Raises:
            UserError: a link in it leads to nothing or into a circle.
        """
        return self.root / "pkg" / f"{name}-{sources.hash_of(source)}"

    def add_package(self, name: str, source: Path) -> Path:
        """Copy a package into the store, unless it is there, and return its directory, in which nothing can be written.

        Raises:
            UserError: as :meth:`package_path`, or a file was written to while it was copied.
        """
        target = self.package_path(name, source)
        if not target.is_dir():
            with self._temporary(target) as temporary:
                for file, path in sources.files(source).items():
                    copy = temporary / file
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, copy)
                if f"{name}-{hashing.of_tree(temporary)}" != target.name:
                    raise UserError(f"{source} was written to while it was copied", "Apply again")
                bytecode.compile_tree(temporary, target)
                read_only.protect(temporary)
        return target

    def model_path(self, source: Path, name: str = "") -> Path:
        """Return the path of a model with the content that ``source`` has now.

        Args:
            source: the working file or directory.
            name: its name in the store; empty takes that of ``source``.

        Raises:
            UserError: a link in a directory cannot be followed.
        """
        return self._model_store.path(source, name or source.name)

    def add_model(self, source: Path, name: str = "") -> Path:
        """Copy a model into the store, unless it is there, and return the copy's path.

        A later change of the model leaves the copy as it is.

        Args:
            source: the working file or directory.
            name: its name in the store; empty takes that of ``source``.

        Raises:
            UserError: the model was written to while it was copied, or the disk is full.
        """
        return self._model_store.add(source, name or source.name)

    def join_models(self, models: Sequence[Path]) -> None:
        """Have stored models that a section names together lie together.

        Raises:
            UserError: the disk is full, or its file system has no hard links.
        """
        names = ", ".join(model.name for model in models)
        try:
            with space_for(f"the directory of {names}", self.root):
                joined.join(models)
        except OSError as error:
            fix = "Put modelserve_home on a file system with hard links, such as ext4, XFS or Btrfs"
            raise UserError(f"{names} cannot be put into one directory of {self.root}: {error.strerror}", fix) from None

    def env_path(self, name: str, environment_hash: str) -> Path:
        """Return the path of an environment."""
        return self.root / "env" / f"{name}-{environment_hash}"

    @staticmethod
    def is_complete(env: Path) -> bool:
        """Return whether the build of an environment ended well."""
        return (env / ENVIRONMENT_RECORD).is_file()

    @staticmethod
    def complete(env: Path, record: dict[str, object]) -> None:
        """Take the write permissions from an environment, and write the record that makes it complete."""
        # An earlier build of that name had other bytes.
        env.with_name(f".{env.name}.hash").unlink(missing_ok=True)
        read_only.protect(env, but_root=True)
        write_atomically(env / ENVIRONMENT_RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n", 0o444)
        read_only.protect_one(env)

    def hash_of(self, path: str) -> str:
        """Return the content hash of an entry.

        The names of packages and models have it. That of an environment is computed once, and kept beside it.

        Args:
            path: ``env/<Name>-<hash>``, ``pkg/<Name>-<hash>`` or ``model/<hash>/<name>``.
        """
        kind, name = path.split("/")[:2]
        if kind == "model":
            return name
        if kind == "pkg":
            return name.rpartition("-")[2]
        hash_file = self.root / kind / f".{name}.hash"
        if not hash_file.exists():
            write_atomically(hash_file, hashing.of_tree(self.root / path))
        return hash_file.read_text()

    def holds(self, entry: str) -> bool:
        """Return whether an entry is in the store and complete.

        Args:
            entry: its path below the store.
        """
        kind, path = entry.split("/")[0], self.root / entry
        if kind == "model":
            return integrity.verify_integrity(path)
        return self.is_complete(path) if kind == "env" else path.exists()

    def collect_garbage(self, kept: Iterable[str]) -> list[str]:
        """Remove the entries that nothing refers to.

        Args:
            kept: paths below the store that stay, as in a manifest.

        Returns:
            The paths of the removed entries.
        """
        stay = {"/".join(path.split("/")[:2]) for path in kept}
        for interrupted in self.root.glob("*/.removed-*"):
            read_only.remove(interrupted)
        unneeded = [
            path
            for kind in KINDS
            for path in sorted(self.root.glob(f"{kind}/[!.]*"))
            if f"{kind}/{path.name}" not in stay
        ]
        for path in unneeded:
            # Renamed first: an interrupted removal must not look complete.
            renamed = path.with_name(f".removed-{path.name}")
            path.rename(renamed)
            # A link that goes changes the time of the file, which other models and sets have, too.
            with integrity.stamps_kept(self.models, _linked_files(renamed)):
                read_only.remove(renamed)
            path.with_name(f".{path.name}.hash").unlink(missing_ok=True)
        return [f"{path.parent.name}/{path.name}" for path in unneeded]

    def sha256(self, path: Path) -> str:
        """Return the hash of a working model, a file or a directory, see :func:`hashing.of_model`."""
        return self.listing(path).sha256

    def listing(self, path: Path) -> Listing:
        """Return the content of a working model. Only what changed since the last time is read.

        Raises:
            UserError: a link in a directory cannot be followed.
        """
        return self._model_store.listing(path)

    @contextmanager
    def _temporary(self, target: Path) -> Iterator[Path]:
        """Yield a directory that becomes ``target`` when all went well."""
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        read_only.remove(temporary)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            temporary.rename(target)
        finally:
            read_only.remove(temporary)


def _linked_files(entry: Path) -> list[Path]:
    """Return the files of a model or a set that have other hard links."""
    if entry.parent.name not in ("model", joined.KIND):
        return []
    return [path for path in entry.rglob("*") if path.is_file() and path.stat().st_nlink > 1]
