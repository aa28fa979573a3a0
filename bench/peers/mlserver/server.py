"""MLServer: an echo over a route of its own, and the model over the V2 protocol with adaptive batching."""

from __future__ import annotations

import asyncio
import sys

import orjson
from minilm import MiniLM
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse
from starlette.requests import Request
from starlette.responses import Response


class Echo(MLModel):
    """Answers with the request, whatever JSON that is."""

    @custom_handler(rest_path="/echo")
    async def echo(self, request: Request) -> Response:
        return Response(orjson.dumps(orjson.loads(await request.body())), media_type="application/json")


class Embed(MLModel):
    """Batches of sentences to vectors."""

    async def load(self) -> bool:
        self.model = MiniLM("/models/minilm-int8.onnx", "/models/minilm-tokenizer.json")
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        sentences = StringCodec.decode_input(payload.inputs[0])
        vectors = await asyncio.to_thread(self.model.embed, sentences)
        output = NumpyCodec.encode_output("embedding", vectors)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main(port: int) -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=port + 1,
        metrics_endpoint=None,
        parallel_workers=1,
        debug=False,
        load_models_at_startup=False,
    )
    server = MLServer(settings)
    models = [
        ModelSettings(name="echo", implementation=Echo, parallel_workers=0),
        ModelSettings(name="embed", implementation=Embed, max_batch_size=16, max_batch_time=0.005),
    ]
    await server.start(models)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
