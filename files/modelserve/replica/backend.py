"""The class algorithm packages derive from: two methods of the user's, the rest is done here."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import socket
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from modelserve.replica.batching import Batcher, guarded
from modelserve.replica.types import InvalidInput, Types
from modelserve.replica.uvicorn_compat import Answer, Client, ClientLeft

logger = logging.getLogger("ray.serve")
HOSTNAME = socket.gethostname()
NOBODY = Client()


def json_response(content: dict[str, Any], status_code: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; numpy arrays and scalars in ``content`` become lists and numbers.

    Raises:
        TypeError: ``content`` holds a value that JSON has no form for.
    """
    body = orjson.dumps(content, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return Answer(body, status_code, headers, media_type="application/json")


def failure(
    status_code: int, info: str, request_id: str, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """The answer to a request that failed: ``status`` 0, what happened, and the id to find it in the log by."""
    content = {"status": 0, "info": f"Result from {HOSTNAME}: {info}", "request_id": request_id, **more}
    return json_response(content, status_code, {"X-Request-ID": request_id, **(headers or {})})


def request_id_of(request: Request) -> str:
    """The id the caller or the ingress gave the request, else a new one."""
    return request.headers.get("x-request-id") or uuid.uuid4().hex


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # tensors, non-contiguous arrays
        return value.tolist()
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if hasattr(value, "model_dump"):  # pydantic's models
        return value.model_dump(mode="json")
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"a result of type {type(value).__name__} is not JSON; return numbers, strings, lists and dicts")


class AlgoBackend:
    """Base class of a backend: load a model, answer a request.

    A subclass defines ``_model_init(self, model_path_lst=None)``, called once per replica with the model files'
    paths, and ``_model_inference(self, param_dict)``, which turns a request's JSON object into a result that JSON
    can express (numpy arrays included), or instead ``_model_inference_batch(self, list_of_param_dicts)``, which
    returns one result per item, in order; an exception in the place of a result fails that item alone.

    An exception in ``_model_init`` fails the deployment; one in an inference answers 500 with ``status`` 0 and a
    request id, and its traceback goes to the log. Inference runs beside the event loop, ``threads`` at a time; one that
    is written ``async def _model_inference`` runs on it, as many at once as the section's ``max_ongoing_requests``.

    Where the parameter is annotated with a pydantic model, a dataclass or a ``TypedDict``, the inference gets one of
    these, and a request that does not fit is answered 422, naming the field, before the model sees it.
    """

    #: Inferences a replica runs at the same time. More than 1 only for models that allow it.
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
        paths = [os.path.join(directory, file) for file in files]
        own = type(self)
        if inspect.iscoroutinefunction(own._model_inference_batch):
            raise TypeError(f"{own.__name__}._model_inference_batch cannot be async; _model_inference can")
        self._awaited = inspect.iscoroutinefunction(own._model_inference)
        batch = own._model_inference is AlgoBackend._model_inference
        self.types = Types(own._model_inference_batch if batch else own._model_inference, batch)
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="inference")
        if paths:
            self._model_init(paths)
        else:
            self._model_init()

    def _model_init(self, model_path_lst: list[str] | None = None) -> None:
        """Load what the inference needs; nothing by default."""

    def _model_inference(self, param_dict: dict[str, Any]) -> Any:
        """Answer one request."""
        if type(self)._model_inference_batch is AlgoBackend._model_inference_batch:
            raise NotImplementedError(f"{type(self).__name__} defines neither _model_inference nor its _batch form")
        (result,) = self._model_inference_batch([param_dict])
        if isinstance(result, Exception):
            raise result
        return result

    def _model_inference_batch(self, param_dicts: list[dict[str, Any]]) -> Sequence[Any]:
        """Answer several requests at once; one after the other by default."""
        return [self._model_inference(param_dict) for param_dict in param_dicts]

    def batch_requests(self, size: int, wait_s: float) -> None:
        """From now on, gather concurrent requests for ``_model_inference_batch``.

        Args:
            size: the most items of a batch.
            wait_s: the longest the first one waits for others while nothing runs.

        Raises:
            TypeError: the class does not define ``_model_inference_batch``.
        """
        if type(self)._model_inference_batch is AlgoBackend._model_inference_batch:
            raise TypeError(
                f"batch_size = {size}, but {type(self).__name__} has no _model_inference_batch: define it, or remove "
                "batch_size from the section"
            )
        self.types = Types(type(self)._model_inference_batch, batch=True)
        self._batcher = Batcher(self._model_inference_batch, self._executor, self.threads, size, wait_s)

    async def infer(self, params: dict[str, Any], client: Client = NOBODY) -> dict[str, Any]:
        """Answer one request.

        Args:
            params: its JSON object.
            client: who is asked whether it still waits when the inference is about to begin.

        Raises:
            InvalidInput: the request does not fit what the inference is annotated with.
            ClientLeft: nobody waits for the answer any more.
            Exception: whatever the inference raises.
        """
        checked = self.types.check(params)
        if self._batcher is not None:
            result = await self._batcher.ask(checked, client)
        elif self._awaited:
            result = await self._await_inference(checked)
        else:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._executor, guarded, self._model_inference, checked, client)
        return {"status": 1, "result": result, "info": f"Result from {HOSTNAME}"}

    async def _await_inference(self, params: Any) -> Any:
        try:
            return await self._model_inference(params)
        except SystemExit as error:  # it would end the replica
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    async def __call__(self, request: Request) -> Response:
        """Answer an HTTP request: 200, 400 for a body that is no JSON object, 422 for one that does not fit the
        annotations, 500 for a failed inference."""
        try:
            params = orjson.loads(await request.body())
        except orjson.JSONDecodeError as error:
            return failure(400, f"the request's body is not JSON: {error}", request_id_of(request))
        if not isinstance(params, dict):
            return failure(400, "the request's body must be a JSON object", request_id_of(request))
        try:
            return json_response(await self.infer(params, Client(request)))
        except ClientLeft as error:
            return failure(499, str(error), request_id_of(request))
        except InvalidInput as error:
            return failure(422, str(error), request_id_of(request), errors=error.errors)
        except Exception:
            request_id = request_id_of(request)
            logger.exception("inference failed, request %s", request_id)
            return failure(500, "the inference failed; its log has the cause under this request id", request_id)
