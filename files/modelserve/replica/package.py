"""A package in a replica: its class is loaded in the thread that infers later, and answers requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from modelserve.replica.algo_runner import AlgoRunner
from modelserve.replica.author_app import AuthorApp, is_asgi
from modelserve.replica.backend import AlgoBackend
from modelserve.replica.exchange import exchange
from modelserve.replica.health import OwnCheck
from modelserve.replica.inference import runs_on_loop
from modelserve.replica.legacy import LegacyBackend, json_request
from modelserve.replica.loader import load_class, model_path
from modelserve.replica.threads import InferenceThreads
from modelserve.replica.written_files import explained
from modelserve.serve.contract import AppArgs
from modelserve.store import integrity

ANY_SCHEMAS = {"input": {"type": "object"}, "output": {}}
FIRST_ERROR = 400  # of the HTTP statuses


class Backend:
    """A loaded backend of either API.

    Attributes:
        instance: the object of the package's class.
        app: the ASGI application that the class brings; None where it has none.
        runner: answers requests with the object.
    """

    def __init__(self, args: AppArgs) -> None:
        """Load the class and its models.

        Raises:
            ValueError: a model in the store is not the one that was deployed.
            TypeError: the section has a ``batch_size``, and the class cannot take a batch.
            PermissionError: the package writes into its own files.
            Exception: whatever importing the package or loading the model raises.
        """
        for model in args.models:
            integrity.require_integrity(model)
        threads = InferenceThreads()
        with explained(args.package):
            self.instance = self._load(args, threads)
        if args.batch_size > 1:
            self.instance.batch_requests(args.batch_size, args.batch_wait)
        self._method = args.methods[0]
        self._package = Path(args.package)
        self.app = _app_of(self.instance)
        self.runner: AlgoRunner | LegacyBackend = (
            AlgoRunner(self.instance)
            if isinstance(self.instance, AlgoBackend)
            else LegacyBackend(self.instance, threads)
        )

    @staticmethod
    def _load(args: AppArgs, threads: InferenceThreads) -> Any:
        """Return an object of the package's class."""
        loaded = threads.call(load_class, args.name, args.package, args.backend)
        if args.batch_size > 1 and not issubclass(loaded, AlgoBackend):
            raise TypeError(
                f"batch_size = {args.batch_size}, but {args.backend} is no modelserve.AlgoBackend: derive it, "
                "or remove batch_size from the section"
            )
        if issubclass(loaded, AlgoBackend) and runs_on_loop(loaded._model_inference):
            return loaded(model_path(args.models))
        return threads.call(loaded, model_path(args.models))

    @property
    def takes_sub_paths(self) -> bool:
        """Whether the class answers paths below its route."""
        return isinstance(self.runner, LegacyBackend)

    @property
    def own_check(self) -> OwnCheck | None:
        """``check_health`` of the class."""
        return getattr(self.instance, "check_health", None)

    @property
    def fatal_errors(self) -> tuple[type[BaseException], ...]:
        """The class's exceptions after which the replica cannot answer any more."""
        return tuple(getattr(self.instance, "fatal_errors", ()))

    async def respond(self, request: Request) -> Response:
        """Return the answer to an HTTP request.

        Raises:
            Exception: whatever reading the request or the inference raises.
        """
        return await self.runner.respond(request)

    async def reconfigure(self, user_config: Any) -> None:
        """Pass the section's user configuration to the class, unless it has no ``reconfigure``."""
        if hasattr(self.instance, "reconfigure"):
            await self.runner.reconfigure(user_config)

    async def warm_up(self, params: dict[str, Any]) -> dict[str, Any]:
        """Run one request.

        Returns:
            The answer as a client reads it; a description of one that is not JSON.

        Raises:
            Exception: what the inference raises.
            RuntimeError: the answer's ``status`` is 0, with its ``info``, or it is one of an error.
        """
        request = json_request(params, self._method)
        if self.app is not None and not self.runner.defines_inference:
            answer = await exchange(AuthorApp(self.app).answer, request)
        else:
            answer = await exchange(await self.runner.warm_up(params, request, self._package), request)
        document = answer.document()
        if answer.status_code >= FIRST_ERROR or document.get("status") == 0:
            raise RuntimeError(f"the warm-up request failed: {document.get('info', document)}")
        return document

    def schemas(self) -> dict[str, Any]:
        """Return the JSON Schemas ``input`` and ``output``; a class of the legacy API has no types."""
        return self.runner.schemas() if isinstance(self.runner, AlgoRunner) else ANY_SCHEMAS


def _app_of(instance: Any) -> ASGIApp | None:
    """Return the ``app`` of a class; a legacy class that answers requests itself goes on doing so."""
    app = getattr(instance, "app", None)
    answers_itself = not isinstance(instance, AlgoBackend) and callable(instance)
    return app if is_asgi(app) and not answers_itself else None
