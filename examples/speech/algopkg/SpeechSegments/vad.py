"""Silero's voice activity detector, run by ONNX Runtime alone."""

import numpy as np
import onnxruntime

RATE = 16000  # samples per second that the network was trained with
WINDOW, CONTEXT = 512, 64  # samples: one step of the network, and what it sees of the step before
START, END = 0.5, 0.35  # probabilities at which speech begins and ends
LEAST_PAUSE_S, LEAST_SPEECH_S = 0.1, 0.25


class VoiceActivity:
    """The network with its state.

    Args:
        path: the ONNX file.
    """

    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a step is too small to share
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def probabilities(self, samples):
        """Return the probability of speech in each window of 32 ms.

        Args:
            samples: float32, one channel, :data:`RATE` samples per second, from -1 to 1.
        """
        padded = np.pad(samples, (CONTEXT, -len(samples) % WINDOW))
        state, rate, values = np.zeros((2, 1, 128), np.float32), np.array(RATE, np.int64), []
        for end in range(CONTEXT + WINDOW, len(padded) + 1, WINDOW):
            window = padded[None, end - WINDOW - CONTEXT : end]
            value, state = self._session.run(None, {"input": window, "state": state, "sr": rate})
            values.append(float(value[0, 0]))
        return values


def segments(probabilities):
    """Return the start and end of each stretch of speech, in seconds."""
    step = WINDOW / RATE
    found = []
    speaking = False
    for number, value in enumerate(probabilities):
        if value >= (END if speaking else START):
            if speaking or (found and number * step - found[-1][1] < LEAST_PAUSE_S):
                found[-1][1] = (number + 1) * step
            else:
                found.append([number * step, (number + 1) * step])
            speaking = True
        else:
            speaking = False
    return [(start, end) for start, end in found if end - start >= LEAST_SPEECH_S]
