"""The immutable store: packages, models and environments under names that are their content.

``store/pkg/<Name>-<hash>/``, ``store/model/<sha256>/<file>``, ``store/env/<Name>-<hash>/``. What has its final
name is complete: packages and models are made aside and renamed, environments carry a mark written last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from modelserve import hashing
from modelserve.errors import UserError
from modelserve.store import integrity
from modelserve.util.files import copy, write_atomically

ENV_MARK = "modelserve.json"


class Store:
    """The store under ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = root / "model"
        self._hash_cache = root / "model_hashes.json"

    def package_path(self, name: str, source: Path) -> Path:
        """Where the package lies, or will lie, with the content ``source`` has now."""
        return self.root / "pkg" / f"{name}-{hashing.of_tree(source)}"

    def add_package(self, name: str, source: Path) -> Path:
        """Take a snapshot of a package, unless it is there already; returns its directory."""
        target = self.package_path(name, source)
        if not target.is_dir():
            with self._made_aside(target) as aside:
                for path in hashing.tree_files(source):
                    copy = aside / path.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, copy)
        return target

    def model_path(self, source: Path) -> Path:
        """Where a model file lies, or will lie, with the content it has now."""
        return self.models / self.sha256(source) / source.name

    def add_model(self, source: Path) -> Path:
        """Put a copy of a model file into the store; returns its path. What is written to the file later does not
        change the copy. Where the disk can share the bytes of two files, it takes no place.

        Raises:
            UserError: the file was written to meanwhile.
        """
        target = self.model_path(source)
        # A link to the working file, as earlier versions made it, would change with it.
        if not integrity.is_intact(target) or target.samefile(source):
            target.parent.mkdir(parents=True, exist_ok=True)
            aside = target.with_name(f".{target.name}.{os.getpid()}")
            copy(source, aside)
            found = hashing.of_file(aside)
            if found != target.parent.name:
                aside.unlink()
                raise UserError(f"{source} was written to while it was copied", "Apply again")
            aside.rename(target)
            integrity.seal(target, integrity.mark(target))
        return target

    def env_path(self, name: str, identity: str) -> Path:
        """Where the environment of that name and identity lies, or will lie."""
        return self.root / "env" / f"{name}-{identity}"

    @staticmethod
    def is_complete(env: Path) -> bool:
        """Whether an environment's build reached its end."""
        return (env / ENV_MARK).is_file()

    @staticmethod
    def complete(env: Path, record: dict[str, object]) -> None:
        """Mark an environment as complete; ``record`` says what it is."""
        # One of that name that was there before had other bytes.
        env.with_name(f".{env.name}.hash").unlink(missing_ok=True)
        write_atomically(env / ENV_MARK, json.dumps(record, indent=1, sort_keys=True) + "\n")

    def hash_of(self, path: str) -> str:
        """The content hash of a piece of the store: in a package's and a model's name, computed for an environment,
        and remembered beside it.

        Args:
            path: ``env/<Name>-<hash>``, ``pkg/<Name>-<hash>`` or ``model/<sha256>/<file>``.
        """
        kind, name = path.split("/")[:2]
        if kind == "model":
            return name
        if kind == "pkg":
            return name.rpartition("-")[2]
        remembered = self.root / kind / f".{name}.hash"
        if not remembered.exists():
            write_atomically(remembered, hashing.of_tree(self.root / path))
        return remembered.read_text()

    def holds(self, content: Mapping[str, str]) -> bool:
        """Whether a piece of the store is there, whole."""
        kind, path = content["path"].split("/")[0], self.root / content["path"]
        if kind == "model":
            return integrity.is_intact(path)
        return self.is_complete(path) if kind == "env" else path.exists()

    def collect(self, kept: Iterable[str]) -> list[str]:
        """Remove the packages, models and environments that nothing refers to.

        Args:
            kept: paths below the store that stay, as in a manifest.

        Returns:
            The paths that were removed.
        """
        stay = {"/".join(path.split("/")[:2]) for path in kept}
        removed = []
        for half in self.root.glob("*/.removed-*"):  # of a removal that ended in the middle
            shutil.rmtree(half, ignore_errors=True)
        for kind in ("env", "pkg", "model"):
            for path in sorted(self.root.glob(f"{kind}/[!.]*")):
                name = f"{kind}/{path.name}"
                if name not in stay:
                    # Under another name first: what is half removed must not look whole.
                    aside = path.with_name(f".removed-{path.name}")
                    path.rename(aside)
                    shutil.rmtree(aside, ignore_errors=True)
                    path.with_name(f".{path.name}.hash").unlink(missing_ok=True)
                    removed.append(name)
        return removed

    def sha256(self, path: Path) -> str:
        """SHA-256 of a working model file."""
        # Models are large, and hashed at every plan: the hash is kept with what tells that a file was written to.
        mark = integrity.mark(path)
        try:
            known = json.loads(self._hash_cache.read_text())
        except (OSError, ValueError):
            known = {}
        key = str(path)
        if known.get(key, [None])[0] != mark:
            known[key] = [mark, hashing.of_file(path)]
            known = {name: value for name, value in known.items() if os.path.exists(name)}
            self.root.mkdir(parents=True, exist_ok=True)
            write_atomically(self._hash_cache, json.dumps(known))
        return str(known[key][1])

    @contextmanager
    def _made_aside(self, target: Path) -> Iterator[Path]:
        aside = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            yield aside
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
