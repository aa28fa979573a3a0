"""modelserve: algorithm packages served over HTTP by Ray Serve.

A package's ``backend.py`` needs one name from here::

    import modelserve

    class algo_backend(modelserve.AlgoBackend):
        def _model_init(self, model_path_lst=None): ...
        def _model_inference(self, param_dict): ...
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelserve.replica.backend import AlgoBackend

__version__ = "0.2.0"
__all__ = ["AlgoBackend", "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: the command line starts without the web framework, and runs where it is not installed.
    if name == "AlgoBackend":
        from modelserve.replica.backend import AlgoBackend

        return AlgoBackend
    raise AttributeError(f"module 'modelserve' has no attribute {name!r}")
