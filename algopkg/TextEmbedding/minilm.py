"""The model itself: sentences in, vectors out."""

import itertools

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

MAX_TOKENS = 256  # what the model was trained for; longer sentences are cut


class MiniLM:
    """all-MiniLM-L6-v2 with its tokenizer. ``embed`` may be called from several threads at once."""

    def __init__(self, model, tokenizer):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # several runs at once use several cores better than one run does
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_file(tokenizer)
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.no_padding()  # padded below, by what runs together

    def embed(self, sentences):
        """One row of 384 numbers, of length 1, for each sentence.

        Only sentences of about the same length run together: the model works on padding as hard as on words.
        """
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(sentences)]
        by_length = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        vectors = np.empty((len(tokens), 384), dtype=np.float32)
        for _, group in itertools.groupby(by_length, key=lambda i: len(tokens[i]) // 8):
            group = list(group)
            vectors[group] = self._run([tokens[i] for i in group])
        return vectors

    def _run(self, rows):
        ids = np.zeros((len(rows), len(rows[-1])), dtype=np.int64)  # the last is the longest; 0 is padding
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (output,) = self.session.run(None, inputs)  # a vector per token
        mean = (mask[:, None, :].astype(np.float32) @ output)[:, 0]  # their sum, padding left out
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)
