"""Makes the image's own conda channel, and installs a channel's Python into the image.

The channel holds one package: ``python``, which is the image's interpreter. The package is two files, a link
``bin/python`` and a ``pyvenv.cfg`` (PEP 405), so an environment made from it has exactly the cluster's Python,
which Ray requires, and needs no public channel. The build string ends in ``_cp3XX`` as conda-forge's
``python_abi`` expects.

    make_channel.py pack PYTHON CHANNEL_DIR
    make_channel.py install VERSION PREFIX

The channels to install from, which may hold passwords, are in the environment: CONDA_CHANNELS="CHANNEL CHANNEL ...".
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from hashlib import sha256
from pathlib import Path

from rattler import VirtualPackage, install, solve
from rattler.index import index_fs
from rattler.platform import Platform


def describe(python: str) -> dict[str, str]:
    """Ask an interpreter who it is.

    Args:
        python: path of the interpreter.

    Returns:
        Its full version (``3.13.5``), ``major.minor``, real path and the directory it lives in.
    """
    code = "import json,platform,sys,os;print(json.dumps([platform.python_version(),os.path.realpath(sys.executable)]))"
    version, real = json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)
    return {
        "version": version,
        "minor": ".".join(version.split(".")[:2]),
        "executable": real,
        "home": str(Path(real).parent),
    }


def pack(python: str, channel: Path) -> None:
    """Write the channel with its one package, and index it."""
    who = describe(python)
    abi = "cp" + who["minor"].replace(".", "")
    platform = str(Platform.current())
    name, build = "python", f"system_{abi}"
    links = {f"bin/{alias}": who["executable"] for alias in ("python", "python3", f"python{who['minor']}")}
    settings = f"home = {who['home']}\ninclude-system-site-packages = false\nversion = {who['version']}\n"
    files = {"pyvenv.cfg": settings.encode()}
    index = {
        "arch": platform.partition("-")[2],
        "build": build,
        "build_number": 0,
        "depends": [],
        "license": "PSF-2.0",
        "name": name,
        "platform": platform.partition("-")[0],
        "subdir": platform,
        "timestamp": int(time.time() * 1000),
        "version": who["version"],
    }
    paths = {
        "paths": [
            {"_path": path, "path_type": "softlink", "sha256": sha256(b"").hexdigest(), "size_in_bytes": 0}
            for path in sorted(links)
        ]
        + [
            {"_path": path, "path_type": "hardlink", "sha256": sha256(data).hexdigest(), "size_in_bytes": len(data)}
            for path, data in files.items()
        ],
        "paths_version": 1,
    }
    info = {
        "info/about.json": {"summary": "The Python interpreter of the modelserve image"},
        "info/index.json": index,
        "info/paths.json": paths,
    }
    (channel / platform).mkdir(parents=True, exist_ok=True)
    (channel / "noarch").mkdir(exist_ok=True)
    documents = {path: json.dumps(value, indent=1).encode() for path, value in info.items()}
    write_package(channel / platform / f"{name}-{who['version']}-{build}.tar.bz2", links, {**files, **documents})
    asyncio.run(index_fs(channel))


def write_package(file: Path, links: dict[str, str], contents: dict[str, bytes]) -> None:
    """Write a conda package: an archive of links (their targets by path) and files (their contents by path)."""
    with tarfile.open(file, "w:bz2") as archive:
        for path, target in links.items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
            archive.addfile(entry)
        for path, data in contents.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))


async def install_python(version: str, prefix: str, channels: list[str]) -> None:
    """Install a channel's ``python`` of that version (``3.12`` or ``3.12.9``) into ``prefix``."""
    spec = f"python {version}.*" if version.count(".") < 2 else f"python =={version}"
    records = await solve(channels, [spec], virtual_packages=VirtualPackage.detect())
    await install(records, prefix, show_progress=False)


if __name__ == "__main__":
    if sys.argv[1] == "pack":
        pack(sys.argv[2], Path(sys.argv[3]))
    else:
        asyncio.run(install_python(sys.argv[2], sys.argv[3], os.environ["CONDA_CHANNELS"].split()))
    # py-rattler 0.28's threads outlive the interpreter: an ordinary exit crashes once in forty times.
    os._exit(0)
