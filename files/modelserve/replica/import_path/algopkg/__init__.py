"""The package ``algopkg`` in a replica and in every Python that it starts.

It has the algorithm's own package, as ``algopkg.<Name>``, and the shared code, as ``algopkg._shared``. Where they are
stands in an environment variable, so that a child process imports what its parent does. Standard library only: a child
imports nothing else of modelserve.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

# ``<Name>=<directory of the package>``
VARIABLE = "MODELSERVE_PACKAGE"
SHARED = "_shared"
# In a snapshot the shared code lies inside the package; in a project, beside it.
SHARED_IN_SNAPSHOT = ".shared"


class _Finder:
    """Finds the two packages below ``algopkg``; their modules are found by their own ``__path__``."""

    @staticmethod
    def find_spec(fullname: str, *_context: object) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of ``algopkg.<Name>`` or ``algopkg._shared``; None for every other module."""
        parent, _, name = fullname.rpartition(".")
        if parent != __name__:
            return None
        package, _, directory = os.environ.get(VARIABLE, "").partition("=")
        if not directory:
            return None
        if name == SHARED:
            inside = Path(directory, SHARED_IN_SNAPSHOT)
            shared = inside if inside.is_dir() else Path(directory).parent / SHARED
            return _spec_of(fullname, shared) if shared.is_dir() else None
        return _spec_of(fullname, Path(directory)) if name == package else None


def _spec_of(fullname: str, directory: Path) -> importlib.machinery.ModuleSpec:
    init, locations = directory / "__init__.py", [str(directory)]
    if init.exists():
        spec = importlib.util.spec_from_file_location(fullname, init, submodule_search_locations=locations)
        if spec is not None:
            return spec
    # A namespace of one directory: importlib makes no spec from a directory without an __init__.py.
    namespace = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
    namespace.submodule_search_locations = locations
    return namespace


sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != __name__]
sys.meta_path.insert(0, _Finder())
