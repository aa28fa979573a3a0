"""LitServe: an API each for the echo and the model; the model's takes batches."""

import sys
from typing import Any

import litserve as ls
from minilm import MiniLM


class Echo(ls.LitAPI):
    """Answers with the request."""

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def predict(self, x: Any) -> Any:
        return x


class Embed(ls.LitAPI):
    """Batches of sentences to vectors."""

    def setup(self, device: str) -> None:
        self.model = MiniLM("/models/minilm-int8.onnx", "/models/minilm-tokenizer.json")

    def decode_request(self, request: dict[str, str]) -> str:
        return request["sentence"]

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, x: list[str]) -> Any:
        return self.model.embed(x)

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> dict[str, list[float]]:
        return {"embedding": output.tolist()}


if __name__ == "__main__":
    echo = Echo(api_path="/echo")
    embed = Embed(
        api_path="/embed",
        max_batch_size=16,
        batch_timeout=0.005,
    )
    server = ls.LitServer(
        [echo, embed],
        accelerator="cpu",
        workers_per_device=2,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="warning"
    )
