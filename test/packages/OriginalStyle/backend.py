"""The original way: the class does everything, imports in its methods, and swallows what goes wrong while loading."""

import os
import socket
import traceback


class algo_backend:
    """Looks words up."""

    def __init__(self, model_path):
        self.words = None
        self.prefix = "unset"
        try:
            if model_path:
                parts = model_path.split(",")
                self._model_init([os.path.join(parts[0], name) for name in parts[1:]])
            else:
                self._model_init()
        except Exception:
            traceback.print_exc()

    def reconfigure(self, config):
        self.prefix = config["prefix"]

    def _model_init(self, model_path_lst=None):
        from algopkg.OriginalStyle.words import load

        self.words = load(model_path_lst[0])

    def _model_inference(self, param_dict):
        from .words import load  # noqa: F401 # packages import relatively too: it must work

        return f"{self.prefix}:{self.words[param_dict['word']]}"

    async def __call__(self, starlette_request):
        info = f"Result from {socket.gethostname()}"
        try:
            param_dict = await starlette_request.json()
            return {"status": 1, "result": self._model_inference(param_dict), "info": info}
        except Exception as error:
            return {"status": 0, "info": f"{info}: {error!r}"}
