"""The names by which Serve's state and kept releases know an application.

``modelserve.serving:build`` and ``modelserve.serving.Algorithm`` must not move: a head that restarts with a new image
loads both from Ray's state.
"""

from modelserve.replica.deployment import Algorithm, build

__all__ = ["Algorithm", "build"]

Algorithm.__module__ = __name__  # pickle refers to a class by its module: by this one, wherever the class is written
