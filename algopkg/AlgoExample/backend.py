"""The template: copy this directory, rename it, and fill in two methods."""

import json

import modelserve


class algo_backend(modelserve.AlgoBackend):
    """Scores a text's sentiment with a tiny word list: the smallest thing that has a model and answers."""

    def _model_init(self, model_path_lst=None):
        """Called once per replica, with the paths of the section's `model` files."""
        if not model_path_lst:
            raise ValueError("AlgoExample needs its word list: write 'model = example_words.json' in conf.ini")
        with open(model_path_lst[0], encoding="utf-8") as stream:
            self.weights = json.load(stream)

    def _model_inference(self, param_dict):
        """Called for each request, with its JSON object; returns anything JSON can express."""
        words = param_dict["text"].lower().split()
        known = {word: self.weights[word] for word in words if word in self.weights}
        return {"score": sum(known.values()), "words": known}
