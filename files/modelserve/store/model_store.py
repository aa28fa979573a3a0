"""The models of the store: ``model/<hash>/<name>``, a file or a directory as its author laid it out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelserve import hashing
from modelserve.errors import UserError
from modelserve.store import integrity
from modelserve.store.hash_cache import HashCache
from modelserve.util import disk, read_only
from modelserve.util.files import copy
from modelserve.util.progress import Meter, Progress


@dataclass(frozen=True)
class Listing:
    """The content of a working model.

    Attributes:
        sha256: its hash, see :func:`hashing.of_model`.
        size: its bytes.
        files: the SHA-256 of each file of a directory, by path; empty for a file.
    """

    sha256: str
    size: int
    files: Mapping[str, str]


class ModelStore:
    """The directory ``model`` of a store, and the hashes of the working models."""

    def __init__(self, directory: Path, hashes: HashCache, progress: Progress) -> None:
        self._directory = directory
        self._hashes = hashes
        self._progress = progress

    def listing(self, source: Path) -> Listing:
        """Return the content that a working model has now. Only files that changed are read.

        Raises:
            UserError: a link in it points nowhere or to a directory that holds it, or a name cannot be used.
        """
        files = _files(source)
        sizes = {name: file.stat().st_size for name, file in files.items()}
        unread = sum(sizes[name] for name, file in files.items() if self._hashes.known(file) is None)
        meter = Meter(self._progress, f"hashing {source.name}", unread)
        try:
            hashes = {name: self._hashes.of_file(file, meter.advance) for name, file in files.items()}
        finally:
            self._hashes.save()
        size = sum(sizes.values())
        if not source.is_dir():
            return Listing(hashes[source.name], size, {})
        return Listing(hashing.of_listing(hashes.items()), size, hashes)

    def path(self, source: Path, name: str) -> Path:
        """Return the path of a model with the content that ``source`` has now.

        Args:
            source: the working file or directory.
            name: its name in the store.
        """
        return self._directory / self.listing(source).sha256 / name

    def add(self, source: Path, name: str) -> Path:
        """Copy a model into the store, unless it is there, and return the copy's path.

        A file that the store has already, in any model, is linked. Others take no space where the disk can share the
        bytes of two files.

        Args:
            source: the working file or directory.
            name: its name in the store.

        Raises:
            UserError: it was written to while it was copied, or the disk is full. Nothing is left of the copy.
        """
        listing = self.listing(source)
        target = self._directory / listing.sha256 / name
        # Earlier versions linked the working file, whose changes would change the entry.
        if integrity.verify_integrity(target) and not target.samefile(source):
            return target
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with disk.space_for(source.name, self._directory, listing.size):
                temporary.parent.mkdir(parents=True, exist_ok=True)
                self._copy(source, listing, temporary)
            remove(target)
            temporary.rename(target)
        except BaseException:
            remove(temporary)
            with contextlib.suppress(OSError):
                target.parent.rmdir()  # where it holds no model of another name
            raise
        stamp(target, listing.files)
        return target

    def _copy(self, source: Path, listing: Listing, target: Path) -> None:
        own = {file.stat().st_ino for file in _files(source).values()}
        stored = {
            sha256: file
            for sha256, file in integrity.stored_files(self._directory).items()
            if file.stat().st_ino not in own
        }
        hashes = listing.files or {source.name: listing.sha256}
        linked = [stored[sha256] for sha256 in hashes.values() if sha256 in stored]
        copying = Meter(self._progress, f"copying {source.name} into the store", listing.size)
        verifying = Meter(self._progress, f"verifying the copy of {source.name}", listing.size)
        with integrity.stamps_kept(self._directory, linked):
            for name, file in _files(source).items():
                sha256, part = hashes.get(name, ""), target / name if source.is_dir() else target
                part.parent.mkdir(parents=True, exist_ok=True)
                if sha256 in stored and _linked(stored[sha256], part):
                    continue
                copy(file, part, copying.advance)
                if hashing.of_file(part, verifying.advance) != sha256:
                    raise UserError(f"{file} was written to while it was copied", "Apply again")
        if source.is_dir() and hashing.of_listing((name, hashes[name]) for name in _files(target)) != listing.sha256:
            raise UserError(f"{source} was written to while it was copied", "Apply again")


def stamp(model: Path, files: Mapping[str, str]) -> None:
    """Record that the content of a stored model was just verified.

    Args:
        model: the file or directory.
        files: the SHA-256 of each file of a directory, by path; empty for a file.
    """
    if model.is_dir():
        integrity.write_stamp(model, {name: (integrity.file_state(model / name), files[name]) for name in files})
    else:
        integrity.write_stamp(model, integrity.file_state(model))


def remove(model: Path) -> None:
    """Remove a file or a directory, if it exists; a directory may be protected."""
    if model.is_dir():
        read_only.remove(model)
    else:
        model.unlink(missing_ok=True)


def _linked(stored: Path, target: Path) -> bool:
    """Make a hard link to a stored file; returns False where that is not possible: it has too many, for example."""
    try:
        os.link(stored, target)
    except OSError as error:
        if disk.is_full(error):
            raise
        return False
    return True


def _files(source: Path) -> dict[str, Path]:
    """Return the files of a working model by path; one that is a file has its own name."""
    if not source.is_dir():
        return {source.name: source}
    try:
        files = dict(hashing.model_files(source))
    except ValueError as error:
        raise UserError(str(error), "Correct it where the model comes from, then deploy again") from None
    if not files:
        raise UserError(f"{source} is a directory without files", "Put the model's files there")
    return files
