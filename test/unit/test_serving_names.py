"""Names that Serve's state and kept releases hold resolve, whatever moves in the package."""

from __future__ import annotations

import importlib
import pickle

from modelserve import serving
from modelserve.replica import deployment


def test_a_release_s_import_path_resolves() -> None:
    module, name = ["modelserve.serving", "build"]
    assert getattr(importlib.import_module(module), name) is serving.build


def test_serve_s_state_refers_to_the_class_by_its_stable_name() -> None:
    assert b"modelserve.serving" in pickle.dumps(serving.Algorithm)
    # As the state of a version that had the class in this module has it.
    assert pickle.loads(b"cmodelserve.serving\nAlgorithm\n.") is deployment.Algorithm
