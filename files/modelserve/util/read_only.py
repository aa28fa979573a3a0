"""Trees in which nobody writes by accident: no file and no directory has a write permission.

A replica runs as the user who owns the store. What it writes into its own files would change the files of others, which
share them by hard links. An attempt ends with a PermissionError that names the file. That holds for root, too: in
modelserve's containers root has no capability to pass over permissions.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def protect(root: Path, *, but_root: bool = False) -> None:
    """Take the write permissions from a tree; links stay as they are.

    Args:
        root: a directory.
        but_root: whether the directory itself stays writable: files are still to be made in it.
    """
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            protect_one(Path(directory, name))
        if not (but_root and Path(directory) == root):
            protect_one(Path(directory))


def make_directories_writable(root: Path) -> None:
    """Let the owner add files to the directories of a tree, and remove them."""
    for directory, _, _ in os.walk(root):
        path = Path(directory)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            path.chmod(mode | stat.S_IRWXU)


def remove(root: Path) -> None:
    """Remove a tree, protected or not; what cannot be removed stays."""
    if root.is_symlink() or not root.is_dir():
        return
    make_directories_writable(root)
    shutil.rmtree(root, ignore_errors=True)


def protect_one(path: Path) -> None:
    """Take the write permissions from a file or a directory; a link stays as it is."""
    status = path.lstat()
    if not stat.S_ISLNK(status.st_mode) and status.st_mode & WRITE:
        path.chmod(stat.S_IMODE(status.st_mode) & ~WRITE)
