"""Ray Serve as it comes, without what modelserve adds: an echo, and the model with Serve's own batching."""

import asyncio
import sys

import ray
from minilm import MiniLM
from ray import serve
from starlette.requests import Request

IN_FLIGHT = 100  # per replica, as modelserve sets it; with the default, 5, it does a tenth


@serve.deployment(max_ongoing_requests=IN_FLIGHT)
class Echo:
    """Answers with the request, as Ray Serve's own documentation would write it."""

    async def __call__(self, request: Request) -> object:
        return await request.json()


@serve.deployment(max_ongoing_requests=IN_FLIGHT, num_replicas=2)
class Embed:
    """Batches of sentences to vectors."""

    def __init__(self) -> None:
        self.model = MiniLM("/models/minilm-int8.onnx", "/models/minilm-tokenizer.json")

    @serve.batch(
        max_batch_size=16,
        batch_wait_timeout_s=0.005,
    )
    async def embed(self, sentences: list[str]) -> list[list[float]]:
        vectors = await asyncio.to_thread(self.model.embed, sentences)
        return vectors.tolist()

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        params = await request.json()
        return {"embedding": await self.embed(params["sentence"])}


async def forever() -> None:
    await asyncio.Event().wait()


if __name__ == "__main__":
    ray.init(include_dashboard=False, num_cpus=4, logging_level="ERROR")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Echo.bind(), name="echo", route_prefix="/echo")
    serve.run(Embed.bind(), name="embed", route_prefix="/embed")
    asyncio.run(forever())
