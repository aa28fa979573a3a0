"""Copy and link installed Python packages from one prefix to another."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.utils import canonicalize_name

from modelserve.util import read_only


def copy_packages(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copy packages with their bytecode and scripts, and ``modelserve.pth``.

    Args:
        source: the prefix that has them.
        target: the prefix that gets them.
        names: the packages' names, in any spelling.
    """
    packages, copies = site_packages(source), site_packages(target)
    copied = {canonicalize_name(name) for name in names}
    for distribution in importlib.metadata.distributions(path=[str(packages)]):
        if canonicalize_name(distribution.metadata["Name"]) not in copied:
            continue
        for file in distribution.files or []:
            origin, copy = packages / file, copies / file
            if not origin.exists():
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            if ".." in file.parts:
                _copy_script(origin, copy, source, target)
            else:
                shutil.copy2(origin, copy)
                _copy_bytecode(origin, copy)
    shutil.copy2(packages / "modelserve.pth", copies / "modelserve.pth")


def link_packages(source: Path, target: Path) -> None:
    """Make hard links to all packages, and copies of their scripts.

    What is installed over them replaces files and leaves the source as it is.

    Args:
        source: the prefix that has them.
        target: the prefix that gets them.
    """
    shutil.copytree(site_packages(source), site_packages(target), copy_function=os.link, dirs_exist_ok=True)
    read_only.make_directories_writable(site_packages(target))
    for script in (source / "bin").iterdir():
        if not script.is_symlink() and script.is_file():
            _copy_script(script, target / "bin" / script.name, source, target)


def site_packages(prefix: Path) -> Path:
    """Return the directory of a prefix that Python packages are installed in."""
    return prefix / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _copy_bytecode(origin: Path, copy: Path) -> None:
    if origin.suffix != ".py":
        return
    compiled = origin.parent / "__pycache__" / f"{origin.stem}.{sys.implementation.cache_tag}.pyc"
    if compiled.exists():
        (copy.parent / "__pycache__").mkdir(exist_ok=True)
        shutil.copy2(compiled, copy.parent / "__pycache__" / compiled.name)


def _copy_script(origin: Path, copy: Path, old_prefix: Path, new_prefix: Path) -> None:
    content = origin.read_bytes()
    copy.resolve().write_bytes(content.replace(bytes(old_prefix) + b"/bin/python", bytes(new_prefix) + b"/bin/python"))
    copy.resolve().chmod(stat.S_IMODE(origin.stat().st_mode) | stat.S_IWUSR)  # uv may replace its content
