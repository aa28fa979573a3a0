"""Unpack tar and zip archives."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path


def unpack(archive: Path, target: Path, member: str = "") -> None:
    """Unpack an archive; nothing is written outside of the target.

    Args:
        archive: a tar archive, compressed or not, or a zip archive.
        target: the directory to make.
        member: only this file, or this directory and what is below it; empty: everything.

    Raises:
        KeyError: there is no such member.
        ValueError: the file is neither tar nor zip, is damaged, or would write outside of the target.
    """
    target.mkdir(exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, target, member)
        elif tarfile.is_tarfile(archive):
            _unpack_tar(archive, target, member)
        else:
            raise ValueError("is neither a tar nor a zip archive")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"the archive cannot be unpacked: {error}") from None


def _unpack_zip(archive: Path, target: Path, member: str) -> None:
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if _belongs(name, member)]
        if not names:
            raise KeyError(f"there is no '{member}' in the archive")
        for name in names:
            opened.extract(name, target)


def _unpack_tar(archive: Path, target: Path, member: str) -> None:
    with tarfile.open(archive) as opened:
        members = [info for info in opened if _belongs(info.name, member)]
        if not members:
            raise KeyError(f"there is no '{member}' in the archive")
        # The filter refuses links and names that lead out, devices, and owners.
        opened.extractall(target, members=members, filter="data")


def _belongs(name: str, member: str) -> bool:
    inner = name.removeprefix("./").rstrip("/")
    chosen = member.rstrip("/")
    return not chosen or inner == chosen or inner.startswith(f"{chosen}/")
