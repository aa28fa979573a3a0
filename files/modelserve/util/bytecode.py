"""Bytecode of trees that are about to become read-only: Python cannot write it when it imports them."""

from __future__ import annotations

import compileall
import warnings
from pathlib import Path


def compile_tree(directory: Path, final: Path) -> None:
    """Compile the modules of a directory for the running Python; one that does not compile stays without bytecode.

    Args:
        directory: where the modules are.
        final: where they will be: tracebacks name this place.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an author's code, which Python shows when it runs
        compileall.compile_dir(str(directory), quiet=2, stripdir=str(directory), prependdir=str(final))
