"""Says which numpy it runs on."""

import os
import sys

import modelserve
import numpy


class WhichNumpy(modelserve.AlgoBackend):
    """Answers with the version of numpy and where its Python is."""

    def _model_inference(self, param_dict):
        return {"numpy": numpy.__version__, "prefix": sys.prefix, "pid": os.getpid(), "sum": numpy.arange(4).sum()}
