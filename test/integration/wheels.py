"""Wheels of one module. A build backend of the tests imports it, in a Python that has nothing else."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path


def wheel(directory: Path, name: str, version: str, module: str = "", requires: tuple[str, ...] = ()) -> Path:
    """Write a wheel of one module, whose text defaults to its version, and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: serve\n"
    contents = {
        f"{name}.py": module or f"VERSION = {version!r}\n",
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {text}\n" for text in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in contents.items())
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    with zipfile.ZipFile(file, "w") as archive:
        for path, text in contents.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return file


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
