"""Models from buckets: ``s3://``, ``gs://`` and ``az://``, with fsspec."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from modelserve.models.sources.request import Request, human, library

# The library of each kind of address.
CLIENTS = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}


def fetch(request: Request) -> Path:
    """Download an object, or all objects below an address that is a directory.

    Credentials come from where the provider's own tools take them: ``AWS_*``, ``~/.aws``, a host's role, and so on.
    After an interruption the objects that are complete are not fetched again.

    Returns:
        The file or the directory.

    Raises:
        FileNotFoundError: there is nothing at the address.
    """
    model = request.model
    scheme = model.url.split("://")[0]
    library(CLIENTS[scheme], f"{scheme}://")
    system, root = library("fsspec.core", f"{scheme}://").url_to_fs(model.url)
    objects = _objects(system, root, bool(model.directory) and not model.archive)
    total = sum(objects.values())
    request.require_space(total)
    request.report(f"{model.name}: {len(objects)} files, {human(total)}")
    if root in objects:
        shutil.rmtree(request.content, ignore_errors=True)
        _get(system, root, request.content, objects[root])
        return request.content
    for name, size in objects.items():
        _get(system, name, _inside(request.content, name.removeprefix(root).lstrip("/")), size)
    return request.content


def _objects(system: Any, root: str, is_directory: bool) -> dict[str, int]:
    """Return the objects to fetch, each with its size in bytes."""
    if not is_directory:
        return {root: int(system.info(root)["size"] or 0)}
    found = system.find(root, detail=True)
    # Some tools make an empty object to stand for a directory.
    objects = {name: int(info["size"] or 0) for name, info in found.items() if not name.endswith("/") and name != root}
    if not objects:
        raise FileNotFoundError("there is nothing below this address")
    return objects


def _get(system: Any, name: str, target: Path, size: int) -> None:
    if target.is_file() and target.stat().st_size == size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    system.get_file(name, str(part))
    part.rename(target)


def _inside(directory: Path, name: str) -> Path:
    if ".." in Path(name).parts:
        raise ValueError(f"the object {name} would lie outside of the model")
    return directory / name
