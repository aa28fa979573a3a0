"""The base class of algorithm packages: the author writes two methods, and the class answers requests."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from modelserve.replica.batching import Batcher, call_inference
from modelserve.replica.responses import InvalidBodyError, failure_of, json_response, success
from modelserve.replica.types import Types
from modelserve.replica.uvicorn_compat import Client

NO_CLIENT = Client()


class AlgoBackend:
    """Base class of a backend: loads a model and answers requests.

    A subclass defines ``_model_init(self, model_path_lst=None)``, called once per replica with the paths of the model
    files, and one of two inferences. ``_model_inference(self, param_dict)`` turns the JSON object of a request into a
    result that JSON can express (numpy arrays included). ``_model_inference_batch(self, list_of_param_dicts)`` returns
    one result per request, in order; an exception in the place of a result fails that request alone.

    An exception in ``_model_init`` fails the deployment. One in an inference is answered 500 with ``status`` 0 and a
    request id, and the log has its traceback. Inferences run in ``threads`` threads beside the event loop; an
    ``async def _model_inference`` runs on the loop, up to the section's ``max_ongoing_requests`` at the same time.

    Where the first parameter is annotated with a pydantic model, a dataclass or a ``TypedDict``, the inference gets an
    instance of it. A request that does not fit is answered 422 with the field, and the model does not see it.
    """

    #: Number of inferences that a replica runs at the same time. More than 1 only for models that allow it.
    threads: int = 1
    _batcher: Batcher | None = None

    def __init__(self, model_path: str = "") -> None:
        """Load the model.

        Args:
            model_path: empty, or ``<directory>,<file1>,<file2>,...``.

        Raises:
            TypeError: the batch form is a coroutine.
        """
        directory, *files = model_path.split(",")
        paths = [str(Path(directory, file)) for file in files]
        own = type(self)
        if inspect.iscoroutinefunction(own._model_inference_batch):
            raise TypeError(f"{own.__name__}._model_inference_batch cannot be async; _model_inference can")
        self._awaited = inspect.iscoroutinefunction(own._model_inference)
        batch = own._model_inference is AlgoBackend._model_inference
        self.types = Types(self._model_inference_batch if batch else self._model_inference, batch)
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="inference")
        if paths:
            self._model_init(paths)
        else:
            self._model_init()

    def _model_init(self, model_path_lst: list[str] | None = None) -> None:
        """Load what the inference needs; nothing by default."""

    def _model_inference(self, param_dict: dict[str, Any]) -> Any:
        """Return the result of one request."""
        if type(self)._model_inference_batch is AlgoBackend._model_inference_batch:
            raise NotImplementedError(f"{type(self).__name__} defines neither _model_inference nor its _batch form")
        (result,) = self._model_inference_batch([param_dict])
        if isinstance(result, Exception):
            raise result
        return result

    def _model_inference_batch(self, param_dicts: list[dict[str, Any]]) -> Sequence[Any]:
        """Return the results of several requests; by default of one after the other."""
        return [self._model_inference(param_dict) for param_dict in param_dicts]

    def batch_requests(self, size: int, wait_s: float) -> None:
        """Turn batching on: concurrent requests go to ``_model_inference_batch`` together.

        Args:
            size: largest number of requests in a batch.
            wait_s: longest time in seconds that the first request waits for others while nothing runs.

        Raises:
            TypeError: the class does not define ``_model_inference_batch``.
        """
        if type(self)._model_inference_batch is AlgoBackend._model_inference_batch:
            raise TypeError(
                f"batch_size = {size}, but {type(self).__name__} has no _model_inference_batch: define it, or remove "
                "batch_size from the section"
            )
        self.types = Types(self._model_inference_batch, batch=True)
        self._batcher = Batcher(self._model_inference_batch, self._executor, self.threads, size, wait_s)

    async def infer(self, params: dict[str, Any], client: Client = NO_CLIENT) -> dict[str, Any]:
        """Return the content of the answer to one request.

        Args:
            params: the JSON object of the request.
            client: the sender; its connection is checked when the inference is about to begin.

        Raises:
            InvalidInputError: the request does not fit the annotation.
            ClientDisconnectedError: the client closed its connection.
            Exception: whatever the inference raises.
        """
        checked = self.types.check(params)
        if self._batcher is not None:
            result = await self._batcher.submit(checked, client)
        elif self._awaited:
            result = await self._await_inference(checked)
        else:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._executor, call_inference, self._model_inference, checked, client)
        return success(result)

    async def _await_inference(self, params: Any) -> Any:
        try:
            return await self._model_inference(params)
        except SystemExit as error:  # it would end the replica
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    async def __call__(self, request: Request) -> Response:
        """Answer an HTTP request; :func:`modelserve.replica.responses.failure_of` has the answers to errors."""
        body = await request.body()
        try:
            return json_response(await self.infer(_parsed(body), Client(request)))
        except Exception as error:
            return failure_of(error, request)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        params = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidBodyError(f"the request's body is not JSON: {error}") from None
    if not isinstance(params, dict):
        raise InvalidBodyError("the request's body must be a JSON object")
    return params
