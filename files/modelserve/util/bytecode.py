"""Bytecode of trees that are about to become read-only: Python cannot write it when it imports them."""

from __future__ import annotations

import compileall
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

# Magic number, flags, modification time and size of the source: see importlib's _bootstrap_external.
HEADER = 16


def compile_tree(directory: Path, final: Path) -> None:
    """Compile the modules of a directory for the running Python; one that does not compile stays without bytecode.

    Args:
        directory: where the modules are.
        final: where they will be: tracebacks name this place.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an author's code, which Python shows when it runs
        compileall.compile_dir(str(directory), quiet=2, stripdir=str(directory), prependdir=str(final))


def stale_modules(directory: Path) -> Iterator[Path]:
    """Yield the modules below a directory that have no bytecode of their present content for the running Python."""
    for module in directory.rglob("*.py"):
        status = module.stat()
        times = (0).to_bytes(4, "little") + b"".join(
            (value & 0xFFFFFFFF).to_bytes(4, "little") for value in (int(status.st_mtime), status.st_size)
        )
        try:
            with Path(importlib.util.cache_from_source(str(module))).open("rb") as stream:
                if stream.read(HEADER) == importlib.util.MAGIC_NUMBER + times:
                    continue
        except OSError:
            pass
        yield module
