"""Have models that a section names together lie together: ``set/<hash>/`` holds them by hard links.

Each model has an entry of its own in the store, whatever else a section names. Formats of several files look for one
another in one directory, and refuse symbolic links out of it (external data of ONNX). Hard links take no space, and are
the verified files themselves. The paths of the entries stay the arguments of an application: a version that joins files
restarts no replica.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from modelserve import hashing
from modelserve.store import integrity

KIND = "set"


def directory_of(models: Sequence[Path]) -> Path | None:
    """Return the directory of models that are named together; None where they need none.

    Args:
        models: paths ``<store>/model/<hash>/<name>``.
    """
    stores = {model.parent.parent for model in models}
    if len(models) < 2 or len(stores) > 1 or not all(integrity.is_stored(str(model)) for model in models):
        return None
    if len({model.name for model in models}) < len(models):
        return None
    name = hashing.of_listing((model.name, model.parent.name) for model in models)
    return stores.pop().parent / KIND / name


def join(models: Sequence[Path]) -> None:
    """Make the directory of models that are named together, unless it is there.

    Raises:
        OSError: the disk has no space for directories, or its file system has no hard links.
    """
    target = directory_of(models)
    if target is None or _holds(target, models):
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    files = [file for model in models for _, file in _files(model)]
    try:
        with integrity.stamps_kept(models[0].parent.parent, files):
            for model in models:
                for name, file in _files(model):
                    link = temporary / name
                    link.parent.mkdir(parents=True, exist_ok=True)
                    os.link(file, link)
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def joined(models: Sequence[str]) -> list[str]:
    """Return the paths of models where they lie together; as they are where they do not."""
    paths = [Path(model) for model in models]
    directory = directory_of(paths)
    if directory is None or not _holds(directory, paths):
        return list(models)
    return [str(directory / path.name) for path in paths]


def _files(model: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a model, each with its path below the model's directory in the store."""
    if not model.is_dir():
        yield model.name, model
        return
    for name, file in hashing.model_files(model):
        yield f"{model.name}/{name}", file


def _holds(directory: Path, models: Iterable[Path]) -> bool:
    """Return whether a directory has the files of these models, the same ones, and no others."""
    if not directory.is_dir():
        return False
    try:
        links = {name: file.stat().st_ino for name, file in hashing.model_files(directory)}
        return links == {name: file.stat().st_ino for model in models for name, file in _files(model)}
    except (OSError, ValueError):
        return False
