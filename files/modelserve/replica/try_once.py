"""Loads a package and asks it one request, without Serve: run by the algorithm's own Python.

    python -m modelserve.replica.try_once '{"app": {...AppArgs...}, "params": {...}}'

Prints one line of JSON: ``{"ok": true, "answer": {...}}`` or ``{"ok": false, "error": "..."}`` with the traceback on
standard error.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from typing import Any

from modelserve.replica.deployment import Backend
from modelserve.serve.contract import AppArgs


def try_once(app: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Load a backend and ask it one request.

    Args:
        app: fields of :class:`modelserve.serve.contract.AppArgs`.
        params: the request.

    Returns:
        ``answer``, and the seconds ``load_s`` and ``answer_s``.

    Raises:
        Exception: whatever loading raises; RuntimeError for an answer with ``status`` 0.
    """
    started = time.perf_counter()
    backend = Backend(AppArgs.model_validate(app))
    loaded = time.perf_counter()
    answer = asyncio.run(backend.warm_up(params))
    return {"answer": answer, "load_s": loaded - started, "answer_s": time.perf_counter() - loaded}


def main(argument: str) -> int:
    question = json.loads(argument)
    try:
        print(json.dumps({"ok": True, **try_once(question["app"], question["params"])}))
        return 0
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({"ok": False, "error": f"{type(error).__name__}: {error}"}))
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
