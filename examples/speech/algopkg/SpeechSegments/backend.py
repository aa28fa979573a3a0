"""Where somebody speaks in a recording: Silero's voice activity detector."""

import modelserve
import pydantic
import soundfile
import soxr

from .vad import RATE, VoiceActivity, segments


class Segment(pydantic.BaseModel):
    """A stretch of speech, in seconds from the start of the recording."""

    start_s: float
    end_s: float


class Recording(pydantic.BaseModel):
    """The length of a recording and its stretches of speech."""

    duration_s: float
    segments: list[Segment]


class SpeechSegments(modelserve.AlgoBackend):
    """Return the stretches of speech in a recording."""

    def _model_init(self, model_path_lst=None):
        """Load the network."""
        self.model = VoiceActivity(model_path_lst[0])

    def _model_inference(self, audio: modelserve.Upload) -> Recording:
        """Take a WAV, FLAC, OGG or MP3 file with any rate and number of channels."""
        try:
            samples, rate = soundfile.read(audio.file, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            raise modelserve.HTTPError(422, "the file is not a recording", code="not_a_recording") from None
        mono = soxr.resample(samples.mean(axis=1), rate, RATE)
        found = segments(self.model.probabilities(mono))
        return Recording(
            duration_s=len(samples) / rate,
            segments=[Segment(start_s=round(start, 2), end_s=round(end, 2)) for start, end in found],
        )
