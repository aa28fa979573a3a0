"""A package's class as a Ray Serve deployment. It runs inside a replica, in the algorithm's environment."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from modelserve.replica import ray_compat
from modelserve.replica.backend import AlgoBackend
from modelserve.replica.legacy import LegacyBackend
from modelserve.replica.loader import load_class, model_path
from modelserve.replica.responses import json_response, logger, method_not_allowed, timed_out
from modelserve.serve.contract import SCHEMA_PATH, AppArgs, UserConfig
from modelserve.store import integrity

SCHEMA_METHODS = frozenset({"GET"})
ANY_SCHEMAS = {"input": {"type": "object"}, "output": {}}


def build(args: dict[str, Any]) -> Any:
    """Return the Serve application.

    Args:
        args: fields of :class:`AppArgs`, from the configuration of Serve.
    """
    from ray import serve

    return serve.deployment(Algorithm, name=AppArgs.model_validate(args).name).bind(args)


class Backend:
    """A loaded backend of either API.

    Attributes:
        instance: the object of the package's class.
        answer: answers an HTTP request.
    """

    def __init__(self, args: AppArgs) -> None:
        """Load the class and its models.

        Raises:
            ValueError: a model in the store is not the one that was deployed.
            TypeError: the section has a ``batch_size``, and the class cannot take a batch.
            Exception: whatever importing the package or loading the model raises.
        """
        for model in args.models:
            integrity.require_integrity(model)
        loaded = load_class(args.name, args.package, args.backend)
        if args.batch_size > 1 and not issubclass(loaded, AlgoBackend):
            raise TypeError(
                f"batch_size = {args.batch_size}, but {args.backend} is no modelserve.AlgoBackend: derive it, "
                "or remove batch_size from the section"
            )
        self.instance = loaded(model_path(args.models))
        if args.batch_size > 1:
            self.instance.batch_requests(args.batch_size, args.batch_wait)
        self.answer: AlgoBackend | LegacyBackend = (
            self.instance if isinstance(self.instance, AlgoBackend) else LegacyBackend(self.instance, args.methods[0])
        )

    async def reconfigure(self, user_config: Any) -> None:
        """Pass the section's user configuration to the class, unless it has no ``reconfigure``."""
        if hasattr(self.instance, "reconfigure"):
            outcome = self.instance.reconfigure(user_config)
            if asyncio.iscoroutine(outcome):
                await outcome

    async def warm_up(self, params: dict[str, Any]) -> dict[str, Any]:
        """Run one request.

        Returns:
            The answer as a client reads it.

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

    def schemas(self) -> dict[str, Any]:
        """Return the JSON Schemas ``input`` and ``output``; a class of the legacy API has no types."""
        return self.answer.types.document() if isinstance(self.answer, AlgoBackend) else ANY_SCHEMAS


class Algorithm:
    """The Serve deployment: checks the method and the time limit of a request, and lets the backend answer it."""

    def __init__(self, args: dict[str, Any]) -> None:
        """Load the backend.

        Args:
            args: fields of :class:`AppArgs`.
        """
        parsed = AppArgs.model_validate(args)
        ray_compat.skip_access_log(logger)
        self._methods = frozenset(parsed.methods)
        self._backend = Backend(parsed)
        self._name = parsed.name
        self._example: dict[str, Any] | None = None
        self._warm = False
        self._timeout_s: float | None = None

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Take a user configuration. Serve calls this before a replica takes traffic and when ``config`` changes.

        The section's part of it goes to the class. A new replica then runs the warm-up request.

        Args:
            config: fields of :class:`UserConfig`.
        """
        parsed = UserConfig.model_validate(config)
        self._timeout_s = parsed.request_timeout
        self._example = parsed.warmup
        if parsed.user_config is not None:
            await self._backend.reconfigure(parsed.user_config)
        if parsed.warmup is not None and not self._warm:
            await self._backend.warm_up(parsed.warmup)
        self._warm = True

    async def __call__(self, request: Request) -> Response:
        """Answer an HTTP request: its schema below the route, 405 for other methods, 504 after the time limit."""
        if request.scope["path"].removeprefix(request.scope.get("root_path", "")) == SCHEMA_PATH:
            if request.method not in SCHEMA_METHODS:
                return method_not_allowed(request, SCHEMA_METHODS)
            return json_response(self._schema())
        if request.method not in self._methods:
            return method_not_allowed(request, self._methods)
        timeout_s = self._timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self._backend.answer(request)
        except TimeoutError:
            # The backend answers a timeout within the inference itself: this one is the section's.
            if timeout_s is None:
                raise
            return timed_out(request, timeout_s)

    def _schema(self) -> dict[str, Any]:
        example = {} if self._example is None else {"example": self._example}
        return {"name": self._name, "methods": sorted(self._methods), **self._backend.schemas(), **example}
