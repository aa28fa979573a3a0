"""Stands for a model that works 20 ms on each request, one at a time."""

import time

import modelserve


class Slow(modelserve.AlgoBackend):
    """Answers with the request."""

    def _model_inference(self, param_dict):
        time.sleep(0.02)
        return param_dict
