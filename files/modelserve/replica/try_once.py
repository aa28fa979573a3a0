"""Loads a package and runs one request, without Serve. The algorithm's own Python runs it.

    python -m modelserve.replica.try_once '{"app": {...AppArgs...}, "params": {...}}'

The last line of standard output is JSON: ``{"ok": true, "answer": {...}}`` or ``{"ok": false, "error": "..."}``.
Standard error has the traceback.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from typing import Any

from modelserve.replica.arguments import TryOnceArgs
from modelserve.replica.author_app import Lifespan
from modelserve.replica.deployment import Algorithm
from modelserve.serve.contract import AppArgs


def try_once(app: AppArgs, params: dict[str, Any]) -> dict[str, Any]:
    """Load a backend and run one request.

    Args:
        app: what the replica is made of.
        params: the request.

    Returns:
        ``answer``, the durations ``load_s`` and ``answer_s`` in seconds, and the number ``cpu_threads``.

    Raises:
        Exception: whatever loading raises.
        RuntimeError: the answer's ``status`` is 0.
        UnhealthyError: the class's own ``check_health`` fails.
    """
    return asyncio.run(_try_once(app, params))


async def _try_once(app: AppArgs, params: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    # On the event loop, as in a replica: a class with an async inference is loaded there.
    algorithm = Algorithm(app.model_dump())
    async with Lifespan(algorithm.application):
        loaded = time.perf_counter()
        answer = await algorithm.backend.warm_up(params)
        answered = time.perf_counter()
        await algorithm.check_health()
    return {
        "answer": answer,
        "load_s": loaded - started,
        "answer_s": answered - loaded,
        "cpu_threads": algorithm.cpu_threads,
    }


def main(argument: str) -> int:
    """Run the request of the argument and return the exit code."""
    arguments = TryOnceArgs.model_validate_json(argument)
    try:
        print(json.dumps({"ok": True, **try_once(arguments.app, arguments.params)}))
    except Exception as error:
        traceback.print_exc()  # the author's own code
        print(json.dumps({"ok": False, "error": f"{type(error).__name__}: {error}"}))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
