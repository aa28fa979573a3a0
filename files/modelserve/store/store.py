"""The immutable store: packages, models and environments, named by their content.

Its entries are ``pkg/<Name>-<hash>/``, ``model/<sha256>/<file>`` and ``env/<Name>-<hash>/``. An entry with its final
name is complete: packages and models are written under another name and renamed, environments have a record that is
written last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from modelserve import hashing
from modelserve.config import sources
from modelserve.errors import UserError
from modelserve.store import integrity
from modelserve.util import bytecode, read_only
from modelserve.util.files import copy, write_atomically

ENVIRONMENT_RECORD = "modelserve.json"


class Store:
    """The store in a directory.

    Attributes:
        root: the directory.
        models: the directory of the models in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = root / "model"
        self._hash_cache = root / "model_hashes.json"

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

    def model_path(self, source: Path) -> Path:
        """Return the path of a model with the content that ``source`` has now."""
        return self.models / self.sha256(source) / source.name

    def add_model(self, source: Path) -> Path:
        """Copy a model file into the store, unless it is there, and return the copy's path.

        A later change of the file leaves the copy as it is. The copy takes no space where the disk can share the bytes
        of two files.

        Raises:
            UserError: the file was written to while it was copied.
        """
        target = self.model_path(source)
        # Earlier versions linked the working file, whose changes would change the entry.
        if not integrity.verify_integrity(target) or target.samefile(source):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            copy(source, temporary)
            if hashing.of_file(temporary) != target.parent.name:
                temporary.unlink()
                raise UserError(f"{source} was written to while it was copied", "Apply again")
            temporary.rename(target)
            integrity.write_stamp(target, integrity.file_state(target))
        return target

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
            path: ``env/<Name>-<hash>``, ``pkg/<Name>-<hash>`` or ``model/<sha256>/<file>``.
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
        removed = []
        for interrupted in self.root.glob("*/.removed-*"):
            read_only.remove(interrupted)
        for kind in ("env", "pkg", "model"):
            for path in sorted(self.root.glob(f"{kind}/[!.]*")):
                name = f"{kind}/{path.name}"
                if name not in stay:
                    # Renamed first: an interrupted removal must not look complete.
                    renamed = path.with_name(f".removed-{path.name}")
                    path.rename(renamed)
                    read_only.remove(renamed)
                    path.with_name(f".{path.name}.hash").unlink(missing_ok=True)
                    removed.append(name)
        return removed

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a working model file."""
        # Models are large, and every plan needs their hashes: a hash is valid while the file's state is the same.
        state = integrity.file_state(path)
        try:
            hashes = json.loads(self._hash_cache.read_text())
        except (OSError, ValueError):
            hashes = {}
        key = str(path)
        if hashes.get(key, [None])[0] != state:
            hashes[key] = [state, hashing.of_file(path)]
            hashes = {name: value for name, value in hashes.items() if Path(name).exists()}
            self.root.mkdir(parents=True, exist_ok=True)
            write_atomically(self._hash_cache, json.dumps(hashes))
        return str(hashes[key][1])

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
