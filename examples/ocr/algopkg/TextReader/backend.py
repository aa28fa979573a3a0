"""Text in an image: PP-OCR's detection and recognition, run by RapidOCR on ONNX Runtime."""

from pathlib import Path

import modelserve
import numpy as np
import pydantic
from PIL import Image, ImageOps, UnidentifiedImageError
from rapidocr import RapidOCR

# The networks of one pass: where text is, which way up it is, and what it says.
STEPS = {"Det": "det", "Cls": "cls", "Rec": "rec"}


class Picture(pydantic.BaseModel):
    """Asks for the text of an image."""

    image: modelserve.Upload
    min_score: float = pydantic.Field(0.5, ge=0, le=1)


class Line(pydantic.BaseModel):
    """A line of text, its confidence from 0 to 1, and its corners in pixels: top left, then clockwise."""

    text: str
    score: float
    corners: list[tuple[float, float]]


class TextReader(modelserve.AlgoBackend):
    """Return the lines of text in an image, from top to bottom."""

    def _model_init(self, model_path_lst=None):
        """Load the networks of the model directory."""
        files = sorted(Path(model_path_lst[0]).rglob("*.onnx"))
        params = {
            f"{step}.model_path": str(next(file for file in files if f"_{part}_" in file.name))
            for step, part in STEPS.items()
        }
        self.reader = RapidOCR(params={**params, "Global.log_level": "warning"})

    def _model_inference(self, picture: Picture) -> list[Line]:
        """Read an image of any kind that Pillow knows."""
        try:
            image = ImageOps.exif_transpose(Image.open(picture.image.file)).convert("RGB")
        except (UnidentifiedImageError, OSError):
            raise modelserve.HTTPError(422, "the file is not an image", code="not_an_image") from None
        found = self.reader(np.asarray(image)[:, :, ::-1])  # OpenCV's order: blue, green, red
        if found.txts is None:
            return []
        lines = [
            Line(text=text, score=score, corners=corners.tolist())
            for text, score, corners in zip(found.txts, found.scores, found.boxes, strict=True)
        ]
        return [line for line in lines if line.score >= picture.min_score]
