"""A real model: all-MiniLM-L6-v2 as int8 ONNX, run by ONNX Runtime without torch."""

import modelserve
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

MAX_TOKENS = 256  # what the model was trained for; longer sentences are cut


class TextEmbedding(modelserve.AlgoBackend):
    """Answers ``{"sentence": s}`` with its embedding, 384 numbers of length 1, and ``{"sentences": [a, b]}`` with
    the cosine similarity of the two, from -1 to 1."""

    def _model_init(self, model_path_lst=None):
        model, tokenizer = model_path_lst
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # replicas are the parallelism
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = {node.name for node in self.session.get_inputs()}
        self.tokenizer = Tokenizer.from_file(tokenizer)
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding()

    def _model_inference_batch(self, param_dicts):
        """Embed all sentences of all requests in one run of the model."""
        asked = [self._sentences(param_dict) for param_dict in param_dicts]
        good = [sentences for sentences in asked if not isinstance(sentences, Exception)]
        vectors = iter(self._embed([sentence for sentences in good for sentence in sentences]) if good else [])
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

    def _embed(self, sentences):
        encoded = self.tokenizer.encode_batch(sentences)
        mask = np.array([encoding.attention_mask for encoding in encoded], dtype=np.int64)
        arrays = {
            "input_ids": np.array([encoding.ids for encoding in encoded], dtype=np.int64),
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }
        output = self.session.run(None, {name: arrays[name] for name in self.inputs})[0]
        if output.ndim == 3:  # one vector per token: their mean, padding left out
            weights = mask[:, :, None].astype(np.float32)
            output = (output * weights).sum(1) / weights.sum(1)
        return output / np.linalg.norm(output, axis=1, keepdims=True)
