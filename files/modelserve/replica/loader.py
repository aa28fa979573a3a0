"""Loading of an algorithm's package: its class, and the string that names its models."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelserve.store import joined

# The directory of the package ``algopkg``, which finds the algorithm's package here and in child processes.
IMPORT_PATH = str(Path(__file__).parent / "import_path")
PACKAGE_VARIABLE = "MODELSERVE_PACKAGE"


def load_class(name: str, package: str, backend: str) -> type:
    """Return the class ``backend`` of a package's ``backend.py``.

    The package can be imported as ``algopkg.<name>`` and relatively, and its modules by their own names, as packages
    of the original framework expect. A process that is started from here can import the same.

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
    make_importable(name, package)
    qualified = f"algopkg.{name}"
    _complete_main(qualified)
    loaded = getattr(importlib.import_module(f"{qualified}.backend"), backend)
    if not isinstance(loaded, type):
        raise TypeError(f"{backend} in algopkg/{name}/backend.py is not a class")
    return loaded


def make_importable(name: str, package: str) -> None:
    """Make a package importable in this process and in those that it starts.

    Args:
        name: the package's name.
        package: its directory, of any name.
    """
    # multiprocessing and loky hand sys.path to their children. Another child has it from its environment.
    for directory in (IMPORT_PATH, package):
        if directory not in sys.path:
            sys.path.insert(0, directory)
    os.environ.update(import_variables(name, package, os.environ.get("PYTHONPATH", "")))
    for module in [module for module in sys.modules if module == "algopkg" or module.startswith("algopkg.")]:
        if module == "algopkg" or module.split(".")[1] in (name, "_shared"):
            del sys.modules[module]


def import_variables(name: str, package: str, python_path: str = "") -> dict[str, str]:
    """Return the environment variables with which a Python imports ``algopkg.<name>``.

    Args:
        name: the package's name.
        package: its directory.
        python_path: the ``PYTHONPATH`` that stays.
    """
    others = [directory for directory in python_path.split(os.pathsep) if directory not in ("", IMPORT_PATH)]
    return {PACKAGE_VARIABLE: f"{name}={package}", "PYTHONPATH": os.pathsep.join([IMPORT_PATH, *others])}


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


def _complete_main(qualified: str) -> None:
    """Have ``__main__`` find the names of the package that it lacks.

    A pickle that a script wrote refers to the script's classes as ``__main__.<class>``. In a replica ``__main__`` is
    Ray's program, in ``modelserve test`` it is modelserve's.
    """
    main = sys.modules.get("__main__")
    if main is not None:
        vars(main)["__getattr__"] = _names_of(qualified)


def _names_of(qualified: str) -> Callable[[str], Any]:
    def find(name: str) -> Any:
        others = sorted(module for module in sys.modules if module.startswith(f"{qualified}."))
        for module in (f"{qualified}.backend", *others):
            names = vars(sys.modules[module]) if module in sys.modules else {}
            if name in names and not name.startswith("__"):
                return names[name]
        raise AttributeError(f"module '__main__' has no attribute '{name}'")

    return find
