"""A real model: all-MiniLM-L6-v2 as int8 ONNX, run by ONNX Runtime without torch."""

import modelserve

from .minilm import MiniLM


class TextEmbedding(modelserve.AlgoBackend):
    """Answers ``{"sentence": s}`` with its embedding, 384 numbers of length 1, and ``{"sentences": [a, b]}`` with
    the cosine similarity of the two, from -1 to 1."""

    threads = 2  # one batch is computed beside another; the model allows it

    def _model_init(self, model_path_lst=None):
        self.model = MiniLM(*model_path_lst)

    def _model_inference_batch(self, param_dicts):
        """Embed all sentences of all requests at once."""
        asked = [self._sentences(param_dict) for param_dict in param_dicts]
        good = [sentences for sentences in asked if not isinstance(sentences, Exception)]
        vectors = iter(self.model.embed([sentence for sentences in good for sentence in sentences]))
        return [
            sentences if isinstance(sentences, Exception) else self._result([next(vectors) for _ in sentences])
            for sentences in asked
        ]

    def _sentences(self, param_dict):
        """The sentences of a request, or what is wrong with it: that fails this request alone."""
        sentences = [param_dict["sentence"]] if "sentence" in param_dict else param_dict.get("sentences")
        if isinstance(sentences, list) and 1 <= len(sentences) <= 2 and all(isinstance(s, str) for s in sentences):
            return sentences
        return ValueError('ask with {"sentence": "..."} or {"sentences": ["...", "..."]}')

    def _result(self, vectors):
        if len(vectors) == 1:
            return {"embedding": vectors[0]}
        return {"similarity": float(vectors[0] @ vectors[1])}
