"""The archives that ``docker save`` writes, as the files of the head's store: of either image store of Docker.

Docker's older image store ("graph drivers") gives layers as they are, named by their hashes, which the image's
configuration lists as diff ids. The containerd image store gives them compressed, and an image's id is its manifest's
hash, not its configuration's. In modelserve's store, layers are not compressed, and named by their diff ids: so a head
with one kind serves workers with the other.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import tarfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

CHUNK = 1 << 20
LARGEST_CONFIGURATION = 4 << 20
GZIP = b"\x1f\x8b"
DRIVER_STATUS = ["docker", "info", "--format", "{{json .DriverStatus}}"]


class Saved(NamedTuple):
    """What an archive gave.

    Attributes:
        written: bytes of the files that are new.
        config: the hash of the image's configuration, empty when the archive has none.
    """

    written: int
    config: str


def takes_partial_archives(driver_status: str) -> bool:
    """Return whether ``docker load`` accepts an archive without the layers that the host has.

    Args:
        driver_status: what :data:`DRIVER_STATUS` printed. Where it is not understood, the answer is False: an archive
            with all layers suits every image store.
    """
    try:
        rows = json.loads(driver_status)
        return not any("io.containerd." in str(value) for row in rows for value in row)
    except (ValueError, TypeError):
        return False


def save(image: str, layers: Sequence[str], directory: Path) -> Saved:
    """Write an image's configuration and those of its layers that ``directory`` lacks, from ``docker save``.

    Args:
        image: the image's name and tag, or its id.
        layers: the diff ids, as hex digits, base first. Those of other layers of the image are left out.
        directory: gets a file per layer, named by its diff id, and the configuration, named by its hash.

    Raises:
        RuntimeError: ``docker save`` fails.
        OSError: a file cannot be written.
    """
    saver = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert saver.stdout is not None
    assert saver.stderr is not None
    saved, damage = Saved(0, ""), ""
    try:
        with tarfile.open(fileobj=saver.stdout, mode="r|") as archive:
            saved = unpack(archive, layers, directory)
    except tarfile.TarError as error:  # mostly because Docker has ended; its own message comes first
        damage = str(error)
    while saver.stdout.read(CHUNK):  # what follows the archive's end: else Docker fails to write it
        pass
    saver.stdout.close()
    message = saver.stderr.read().decode(errors="replace").strip()
    if saver.wait() != 0 or damage:
        raise RuntimeError(f"docker save failed: {message or damage}")
    return saved


def save_whole(image: str, directory: Path) -> str:
    """Write the archive of ``docker save`` as one file, named by its hash, which is returned.

    Raises:
        RuntimeError: ``docker save`` fails.
        OSError: the file cannot be written.
    """
    part = directory / ".part"
    saver = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert saver.stdout is not None
    assert saver.stderr is not None
    digest = _copy(saver.stdout, part)
    message = saver.stderr.read().decode(errors="replace").strip()
    if saver.wait() != 0:
        part.unlink()
        raise RuntimeError(f"docker save failed: {message}")
    part.rename(directory / digest)
    return digest


def unpack(archive: tarfile.TarFile, layers: Sequence[str], directory: Path) -> Saved:
    """Write the configuration and the missing layers of an archive; see :func:`save`.

    A file is identified by its content: its name in the archive differs between Docker's versions.
    """
    written, config = 0, ""
    part, inflated = directory / ".part", directory / ".part.inflated"
    for member in archive:
        source = archive.extractfile(member) if member.isfile() else None
        if source is None:
            continue
        digest = _copy(source, part)
        if digest in layers:
            written += _keep(part, directory / digest)
        elif (layer := _inflate(part, inflated, layers)) is not None:
            written += _keep(inflated, directory / layer)
        elif member.size <= LARGEST_CONFIGURATION and _is_configuration(part.read_bytes(), layers):
            config = digest
            written += _keep(part, directory / digest)
        for file in (part, inflated):
            if file.exists():
                file.unlink()
    return Saved(written, config)


def _copy(source: IO[bytes] | gzip.GzipFile, target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as stream:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            stream.write(chunk)
    return digest.hexdigest()


def _keep(part: Path, target: Path) -> int:
    """Give a file its name unless there is one. Return the bytes that are new."""
    if target.exists():
        return 0
    part.rename(target)
    return target.stat().st_size


def _inflate(part: Path, target: Path, layers: Collection[str]) -> str | None:
    """Write a compressed layer as it is without compression. Return its diff id, or None when it is none of these."""
    with part.open("rb") as stream:
        if stream.read(len(GZIP)) != GZIP:
            return None
    try:
        with gzip.open(part) as stream:
            digest = _copy(stream, target)
    except (EOFError, zlib.error, gzip.BadGzipFile):  # it only begins like one
        return None
    return digest if digest in layers else None


def _is_configuration(content: bytes, layers: Sequence[str]) -> bool:
    try:
        document: Any = json.loads(content)
        return list(document["rootfs"]["diff_ids"]) == ["sha256:" + layer for layer in layers]
    except (ValueError, TypeError, KeyError):
        return False
