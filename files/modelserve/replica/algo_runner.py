"""Answers requests with an :class:`AlgoBackend` in a replica."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from modelserve.replica.backend import NO_CLIENT, AlgoBackend, answered, respond
from modelserve.replica.generators import Judge
from modelserve.replica.health import Running
from modelserve.replica.inputs import warmup_params


class AlgoRunner:
    """Runs an :class:`AlgoBackend`.

    Attributes:
        running: the inferences that run now.
        judge: gets each error of a stream after its first item.
    """

    def __init__(self, instance: AlgoBackend) -> None:
        """Make the runner.

        Args:
            instance: the loaded backend.
        """
        self.running: Running = instance._modelserve.running
        self.judge: Judge | None = None
        self._instance = instance
        self._overridden = type(instance).__call__ is not AlgoBackend.__call__

    @property
    def defines_inference(self) -> bool:
        """Whether the class defines an inference; one with an ``app`` need not."""
        own = type(self._instance)
        return (
            own._model_inference is not AlgoBackend._model_inference
            or own._model_inference_batch is not AlgoBackend._model_inference_batch
        )

    def schemas(self) -> dict[str, Any]:
        """Return the JSON Schemas ``input`` and ``output``."""
        return self._instance.types.document()

    async def respond(self, request: Request) -> Response:
        """Return the answer to an HTTP request.

        Raises:
            Exception: whatever reading the request or the inference raises.
        """
        if self._overridden:
            return await self._instance(request)
        return await respond(self._instance, request, self.judge)

    async def warm_up(self, params: Mapping[str, Any], request: Request, package: Path) -> Response:
        """Return the answer to a warm-up request.

        Args:
            params: the section's ``warmup``.
            request: the request in HTTP's form.
            package: the package's directory, which has the file that ``warmup`` may name.

        Raises:
            Exception: whatever reading the request or the inference raises.
        """
        if self._overridden:
            return await self._instance(request)
        checked = warmup_params(self._instance.types, params, package)
        return answered(await self._instance._modelserve.run(checked, NO_CLIENT), request, self.judge)

    async def reconfigure(self, user_config: Any) -> None:
        """Pass the section's user configuration to the class, where its inference runs."""
        reconfigure = self._instance.reconfigure  # type: ignore[attr-defined]
        inference = self._instance._modelserve
        if inspect.iscoroutinefunction(reconfigure) or inference.on_loop:
            outcome = reconfigure(user_config)
        else:
            outcome = await inference.threads.run(reconfigure, user_config)
        if inspect.isawaitable(outcome):
            await outcome
