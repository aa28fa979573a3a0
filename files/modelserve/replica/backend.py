"""The base class of algorithm packages: the author writes two methods, and the class answers requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from modelserve.replica.answers import answer_of
from modelserve.replica.closing import ClosingResponse
from modelserve.replica.generators import Judge, Stream, note
from modelserve.replica.inference import Inference, runs_on_loop
from modelserve.replica.inputs import read_params
from modelserve.replica.responses import failure_of
from modelserve.replica.threads import InferenceThreads, current
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
    request id, and the log has its traceback. The model is loaded and the inferences run in ``threads`` threads beside
    the event loop; with one thread, all of it happens in the same. An ``async def _model_inference`` runs on the loop,
    where the model is then loaded, too, up to the section's ``max_ongoing_requests`` at the same time.

    Where the first parameter is annotated with a pydantic model, a dataclass or a ``TypedDict``, the inference gets an
    instance of it. A request that does not fit is answered 422 with the field, and the model does not see it.
    """

    #: Number of inferences that a replica runs at the same time. More than 1 only for models that allow it.
    threads: int = 1
    #: Exceptions of an inference after which the replica cannot answer any more: it is replaced.
    fatal_errors: tuple[type[BaseException], ...] = ()

    def __init__(self, model_path: str = "") -> None:
        """Load the model.

        Args:
            model_path: empty, or ``<directory>,<name1>,<name2>,...``.

        Raises:
            TypeError: the batch form is a coroutine.
        """
        directory, *files = model_path.split(",")
        paths = [str(Path(directory, file)) for file in files]
        own = type(self)
        if runs_on_loop(own._model_inference_batch):
            raise TypeError(f"{own.__name__}._model_inference_batch cannot be async; _model_inference can")
        batch = own._model_inference is AlgoBackend._model_inference
        self.types = Types(self._model_inference_batch if batch else self._model_inference, batch)
        # A replica makes the object within the threads of the inference; other callers make it anywhere.
        threads = current() or InferenceThreads()
        threads.grow(self.threads)
        self._modelserve = Inference(self, threads)
        arguments = (paths,) if paths else ()
        if self._modelserve.on_loop:
            self._model_init(*arguments)
        else:
            threads.call(self._model_init, *arguments)

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
        self._modelserve.batch(self._model_inference_batch, size, wait_s)

    async def infer(self, params: dict[str, Any]) -> Any:
        """Return the result of one request; an ``app`` of the class calls this.

        Args:
            params: the JSON object of the request.

        Returns:
            The result of the inference; where it is a generator an async iterator of its items, with ``aclose``.

        Raises:
            InvalidInputError: the request does not fit the annotation.
            Exception: whatever the inference raises.
        """
        result = await self._modelserve.run(self.types.check(params), NO_CLIENT)
        return note(result) if isinstance(result, Stream) else result

    async def __call__(self, request: Request) -> Response:
        """Answer an HTTP request; :func:`modelserve.replica.responses.failure_of` has the answers to errors."""
        try:
            return await respond(self, request)
        except Exception as error:
            return failure_of(error, request)


async def respond(backend: AlgoBackend, request: Request, judge: Judge | None = None) -> Response:
    """Return the answer of a backend to an HTTP request.

    Args:
        backend: infers.
        request: the request.
        judge: gets each error of a stream after its first item.

    Raises:
        ClientDisconnectedError: the client closed its connection.
        Exception: whatever reading the request or the inference raises.
    """
    params = await read_params(request, backend.types)
    result = await backend._modelserve.run(params, Client(request))
    return answered(result, request, judge)


def answered(result: Any, request: Request, judge: Judge | None = None) -> Response:
    """Return the answer to a request, which closes a generator at its end.

    Args:
        result: what the inference returned.
        request: the request.
        judge: gets each error of a stream after its first item.

    Raises:
        InvalidResultError: the result holds a value that JSON cannot express.
    """
    if isinstance(result, Stream):
        result.judge = judge
        return ClosingResponse(answer_of(result, request), result)
    return answer_of(result, request)
