"""Ray Serve without what modelserve adds: an echo. Runs in a container of the modelserve image, on its own port."""

import asyncio
import sys

import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=100)  # as modelserve sets it; with the default, 5, it does a tenth
class Echo:
    """Answers with the request, as Ray Serve's own documentation would write it."""

    async def __call__(self, request: Request) -> object:
        return await request.json()


async def forever() -> None:
    await asyncio.Event().wait()


if __name__ == "__main__":
    ray.init(include_dashboard=False, num_cpus=2, logging_level="ERROR")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Echo.bind(), route_prefix="/echo")
    print("ready", flush=True)
    asyncio.run(forever())
