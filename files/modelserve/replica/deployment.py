"""Runs inside a replica, in the algorithm's own environment: a package's class as a Ray Serve application."""

from __future__ import annotations

import asyncio
import importlib.machinery
import importlib.util
import json
import sys
import threading
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from modelserve.replica import ray_compat
from modelserve.replica.backend import AlgoBackend, failure, json_response, logger, request_id_of
from modelserve.replica.uvicorn_compat import Client, ClientLeft
from modelserve.serve.contract import SCHEMA_PATH, AppArgs
from modelserve.store import integrity


def build(args: dict[str, Any]) -> Any:
    """Make the Serve application; Serve calls this with the configuration's ``args``, fields of :class:`AppArgs`."""
    from ray import serve

    return serve.deployment(Algorithm, name=AppArgs.model_validate(args).name).bind(args)


def load_class(name: str, package: str, backend: str) -> type:
    """Import ``backend`` from a package's ``backend.py``.

    The package is importable as ``algopkg.<name>``, relatively, and its modules by their own names, as packages
    written for the original expect.

    Args:
        name: the package's name.
        package: its directory, whatever it is called.
        backend: the class.

    Raises:
        ImportError: the package has no ``backend.py``; whatever importing it raises.
        AttributeError: there is no such class.
    """
    parent = sys.modules.setdefault("algopkg", types.ModuleType("algopkg"))
    parent.__path__ = getattr(parent, "__path__", [])
    qualified = f"algopkg.{name}"
    if package not in sys.path:
        sys.path.insert(0, package)
    init = Path(package) / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        qualified, init if init.exists() else None, submodule_search_locations=[package]
    ) or importlib.machinery.ModuleSpec(qualified, None, is_package=True)
    if not init.exists():
        spec.submodule_search_locations = [package]
    module = importlib.util.module_from_spec(spec)
    sys.modules[qualified] = module
    setattr(parent, name, module)
    if spec.loader is not None and init.exists():
        spec.loader.exec_module(module)
    found = getattr(importlib.import_module(f"{qualified}.backend"), backend)
    if not isinstance(found, type):
        raise TypeError(f"{backend} in algopkg/{name}/backend.py is not a class")
    return found


def model_path(models: list[str]) -> str:
    """The one string a backend's constructor takes: empty, or ``<directory>,<file1>,<file2>,...``.

    The store keeps every file in a directory of its own, so the files come relative to the directory above.
    """
    if not models:
        return ""
    store = Path(models[0]).parent.parent
    return ",".join([str(store), *(str(Path(model).relative_to(store)) for model in models)])


def json_request(params: dict[str, Any], method: str = "GET", path: str = "/") -> Request:
    """A request as the HTTP server would give it, with ``params`` as its JSON body."""
    body = json.dumps(params).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
    return Request(scope, receive)


class OwnLoop:
    """Runs a class written the original way on an event loop of its own.

    Such a class infers inside its coroutine; on the replica's loop that would stop health checks and queueing.
    """

    def __init__(self, backend: Callable[[Request], Awaitable[Any]], method: str) -> None:
        self._backend = backend
        self._method = method
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="inference", daemon=True).start()

    async def infer(self, params: dict[str, Any]) -> Any:
        """Answer one request given as its parameters, with whatever the class returns or raises."""
        return await self._run(json_request(params, self._method))

    async def __call__(self, request: Request) -> Response:
        await request.body()  # read here, kept by the request: its stream belongs to this loop
        try:
            answer = await self._run(request)
            return answer if isinstance(answer, Response) else json_response(answer)
        except ClientLeft as error:
            return failure(499, str(error), request_id_of(request))
        except Exception:
            request_id = request_id_of(request)
            logger.exception("inference failed, request %s", request_id)
            return failure(500, "the inference failed; its log has the cause under this request id", request_id)

    async def _run(self, request: Request) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._answer(request), self._loop))

    async def _answer(self, request: Request) -> Any:
        Client(request).require()
        return await self._backend(request)


class Backend:
    """A loaded backend of either kind: ``answer`` takes an HTTP request.

    Raises:
        ValueError: a model in the store is not the one that was deployed.
        TypeError: the section has a ``batch_size``, and the class cannot take a batch.
        Exception: whatever importing the package or loading the model raises.
    """

    def __init__(self, args: AppArgs) -> None:
        for model in args.models:
            integrity.require_integrity(model)
        found = load_class(args.name, args.package, args.backend)
        if args.batch_size > 1 and not issubclass(found, AlgoBackend):
            raise TypeError(
                f"batch_size = {args.batch_size}, but {args.backend} is no modelserve.AlgoBackend: derive it, "
                "or remove batch_size from the section"
            )
        self.instance = found(model_path(args.models))
        if args.batch_size > 1:
            self.instance.batch_requests(args.batch_size, args.batch_wait)
        self.answer: AlgoBackend | OwnLoop = (
            self.instance if isinstance(self.instance, AlgoBackend) else OwnLoop(self.instance, args.methods[0])
        )

    async def warm_up(self, params: dict[str, Any]) -> dict[str, Any]:
        """Ask one request.

        Returns:
            The answer, as a client would read it.

        Raises:
            Exception: what the inference raises.
            RuntimeError: the answer's ``status`` is 0, with its ``info``.
        """
        outcome = await self.answer.infer(params)
        response = outcome if isinstance(outcome, Response) else json_response(outcome)
        answer: dict[str, Any] = json.loads(bytes(response.body))
        if response.status_code != 200 or answer.get("status") == 0:
            raise RuntimeError(f"the warm-up request failed: {answer.get('info', answer)}")
        return answer


class Algorithm:
    """The Serve deployment: checks the method, asks the backend."""

    def __init__(self, args: dict[str, Any]) -> None:
        parsed = AppArgs.model_validate(args)
        ray_compat.spare(logger)
        self._methods = frozenset(parsed.methods)
        self._backend = Backend(parsed)
        self._name = parsed.name
        self._example: dict[str, Any] | None = None
        self._warm = False
        self._timeout_s: float | None = None

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Called by Serve at start, before traffic, and when ``config`` changes: the section's user configuration
        goes to the class, and a new replica is asked the warm-up request."""
        self._timeout_s = config.get("request_timeout")
        self._example = config.get("warmup")
        instance = self._backend.instance
        if config.get("user_config") is not None and hasattr(instance, "reconfigure"):
            outcome = instance.reconfigure(config["user_config"])
            if asyncio.iscoroutine(outcome):
                await outcome
        if config.get("warmup") is not None and not self._warm:
            await self._backend.warm_up(config["warmup"])
        self._warm = True

    async def __call__(self, request: Request) -> Response:
        below = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        about = below == SCHEMA_PATH
        methods = {"GET"} if about else self._methods
        if about and request.method in methods:
            return json_response(self._schema())
        if request.method not in methods:
            allowed = ", ".join(sorted(methods))
            info = f"{request.method} is not answered here; use {allowed}"
            return failure(405, info, request_id_of(request), {"Allow": allowed})
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._backend.answer(request)
        except TimeoutError:  # ours: those of an inference are answered already
            request_id = request_id_of(request)
            logger.warning("took longer than request_timeout, %g s, request %s", self._timeout_s, request_id)
            return failure(504, f"it took longer than {self._timeout_s:g} s (request_timeout)", request_id)

    def _schema(self) -> dict[str, Any]:
        """What ``GET <route>/schema`` answers: methods, and JSON Schemas of the request and of ``result``."""
        types = getattr(self._backend.instance, "types", None)
        document = types.document() if types is not None else {"input": {"type": "object"}, "output": {}}
        example = {} if self._example is None else {"example": self._example}
        return {"name": self._name, "methods": sorted(self._methods), **document, **example}
