"""Models from a path on this machine's disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from modelserve import hashing
from modelserve.models.sources.request import Request
from modelserve.util.files import copy


def fetch(request: Request) -> Path:
    """Copy a file or a directory; the disk shares the bytes where it can.

    Returns:
        The copy; of an archive, the file itself, which is only read.

    Raises:
        OSError: there is nothing at the path, or it cannot be read.
        ValueError: a link in the directory cannot be followed.
    """
    source, target = request.project / request.model.path, request.content
    if request.model.archive:
        source.open("rb").close()
        return source
    if not source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        copy(source, target)
        return target
    target.mkdir(exist_ok=True)
    for name, file in hashing.model_files(source):
        copied = target / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        copy(file, copied)
    return target
