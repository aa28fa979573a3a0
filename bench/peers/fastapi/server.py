"""FastAPI on uvicorn, one process. FastAPI has no batching: its threads run the model side by side."""

import sys

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from minilm import MiniLM

app = FastAPI()
model = MiniLM("/models/minilm-int8.onnx", "/models/minilm-tokenizer.json")


def answer(content: object) -> Response:
    """A JSON answer, by the fastest encoder there is; no model of the answer to validate."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@app.post("/echo")
async def echo(request: Request) -> Response:
    return answer(orjson.loads(await request.body()))


@app.post("/embed")
def embed(params: dict[str, str]) -> Response:
    return answer({"embedding": model.embed([params["sentence"]])[0]})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
