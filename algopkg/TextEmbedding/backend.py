"""A real model: all-MiniLM-L6-v2 as int8 ONNX, run by ONNX Runtime without torch."""

import modelserve
import pydantic

from .minilm import MiniLM


class Sentence(pydantic.BaseModel):
    """Asks for the embedding of one sentence."""

    sentence: str


class Sentences(pydantic.BaseModel):
    """Asks for the similarity of two; one alone is embedded."""

    sentences: list[str] = pydantic.Field(min_length=1, max_length=2)


class TextEmbedding(modelserve.AlgoBackend):
    """Return the embedding of a sentence or the cosine similarity of two.

    ``{"sentence": s}`` gives 384 numbers of length 1, ``{"sentences": [a, b]}`` a similarity from -1 to 1.
    """

    threads = 2  # one batch is computed beside another; the model allows it

    def _model_init(self, model_path_lst=None):
        self.model = MiniLM(*model_path_lst)

    def _model_inference_batch(self, requests: list[Sentence | Sentences]):
        """Embed all sentences of all requests at once. What does not fit the types is answered 422 before."""
        asked = [[request.sentence] if isinstance(request, Sentence) else request.sentences for request in requests]
        vectors = iter(self.model.embed([sentence for sentences in asked for sentence in sentences]))
        return [self._result([next(vectors) for _ in sentences]) for sentences in asked]

    def _result(self, vectors):
        if len(vectors) == 1:
            return {"embedding": vectors[0]}
        return {"similarity": float(vectors[0] @ vectors[1])}
