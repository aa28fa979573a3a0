"""Loading of an algorithm's package: its class, and the string that names its models."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path

from modelserve.store import joined


def load_class(name: str, package: str, backend: str) -> type:
    """Return the class ``backend`` of a package's ``backend.py``.

    The package can be imported as ``algopkg.<name>`` and relatively, and its modules by their own names, as packages
    of the original framework expect.

    Args:
        name: the package's name.
        package: its directory, of any name.
        backend: the class.

    Raises:
        ImportError: the package has no ``backend.py``.
        AttributeError: there is no such class.
        TypeError: it is not a class.
        Exception: whatever importing the package raises.
    """
    parent = sys.modules.setdefault("algopkg", types.ModuleType("algopkg"))
    parent.__path__ = getattr(parent, "__path__", [])
    qualified = f"algopkg.{name}"
    if package not in sys.path:
        sys.path.insert(0, package)
    spec = _spec_of(qualified, package)
    module = importlib.util.module_from_spec(spec)
    sys.modules[qualified] = module
    setattr(parent, name, module)
    if spec.loader is not None:
        spec.loader.exec_module(module)
    loaded = getattr(importlib.import_module(f"{qualified}.backend"), backend)
    if not isinstance(loaded, type):
        raise TypeError(f"{backend} in algopkg/{name}/backend.py is not a class")
    return loaded


def model_path(models: list[str]) -> str:
    """Return the argument of a backend's constructor: empty, or ``<directory>,<name1>,<name2>,...``.

    Models that a section names together lie in one directory, which classes may list. Without one, the names are
    relative to the directory above.
    """
    if not models:
        return ""
    paths = [Path(model) for model in joined.joined(models)]
    parents = {path.parent for path in paths}
    directory = paths[0].parent if len(parents) == 1 else paths[0].parent.parent
    return ",".join([str(directory), *(str(path.relative_to(directory)) for path in paths)])


def _spec_of(qualified: str, package: str) -> importlib.machinery.ModuleSpec:
    init = Path(package) / "__init__.py"
    if init.exists():
        spec = importlib.util.spec_from_file_location(qualified, init, submodule_search_locations=[package])
        if spec is not None:
            return spec
    # A namespace of one directory: importlib makes no spec from a directory without an __init__.py.
    namespace = importlib.machinery.ModuleSpec(qualified, None, is_package=True)
    namespace.submodule_search_locations = [package]
    return namespace
