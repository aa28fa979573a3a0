"""Answers with the request."""

import modelserve


class Echo(modelserve.AlgoBackend):
    """The smallest backend there is."""

    def _model_inference(self, param_dict):
        return param_dict
