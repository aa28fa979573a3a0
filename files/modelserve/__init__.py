"""modelserve: algorithm packages served over HTTP by Ray Serve.

A package's ``backend.py`` needs the first of these names; the others are for files, streams and errors::

    import modelserve

    class algo_backend(modelserve.AlgoBackend):
        def _model_init(self, model_path_lst=None): ...
        def _model_inference(self, param_dict): ...
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelserve.replica.backend import AlgoBackend
    from modelserve.replica.exceptions import Fatal, HTTPError
    from modelserve.replica.results import Event, File
    from modelserve.replica.uploads import Upload

__version__ = "0.2.0"
__all__ = ["AlgoBackend", "Event", "Fatal", "File", "HTTPError", "Upload", "__version__"]

_MODULES = {
    "AlgoBackend": "backend",
    "Event": "results",
    "Fatal": "exceptions",
    "File": "results",
    "HTTPError": "exceptions",
    "Upload": "uploads",
}


def __getattr__(name: str) -> Any:
    # Loaded when asked for: the command line starts without the web framework, and runs where it is not installed.
    if name in _MODULES:
        return getattr(importlib.import_module(f"modelserve.replica.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'modelserve' has no attribute {name!r}")
