"""BentoML: one service; the model's API is batchable."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import bentoml
from minilm import MiniLM


@bentoml.service(workers=2, traffic={"timeout": 60}, metrics={"enabled": False})
class Bench:
    """Echo and model."""

    def __init__(self) -> None:
        self.model = MiniLM("/models/minilm-int8.onnx", "/models/minilm-tokenizer.json")

    @bentoml.api
    async def echo(self, params: dict[str, Any], /) -> dict[str, Any]:
        return params

    @bentoml.api(
        batchable=True,
        max_batch_size=16,
        max_latency_ms=10_000,
    )
    def embed(self, sentences: list[str]) -> list[list[float]]:
        return self.model.embed(sentences).tolist()


if __name__ == "__main__":
    bentoml.serve(
        "server:Bench", working_dir=str(Path(__file__).parent), host="127.0.0.1", port=int(sys.argv[1]), blocking=True
    )
