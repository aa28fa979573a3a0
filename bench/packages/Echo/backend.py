"""Answers with the request."""

import modelserve


class Echo(modelserve.AlgoBackend):
    """The smallest backend there is."""

    async def _model_inference(self, param_dict):
        return param_dict
