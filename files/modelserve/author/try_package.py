"""Does a package load and answer in its own environment? Tried before any deploy, beside what is served."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

from modelserve.author import trial
from modelserve.settings import Settings


def try_package(
    settings: Settings, tried: trial.Trial, params: dict[str, Any], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Load a package and ask it one request.

    Args:
        settings: the cluster's settings; its store keeps the environment.
        tried: the package, and what it is tried with.
        params: the request.
        progress: called with a line where something takes long.

    Returns:
        ``ok`` with ``answer``, ``load_s`` and ``answer_s``, or not ``ok`` with ``error``.

    Raises:
        UserError: the environment cannot be built.
    """
    environment = trial.environment_of(settings, tried.package, progress)
    python = environment.path / "bin" / "python"
    question = json.dumps({"app": tried.app(), "params": params})
    variables = {**os.environ, **tried.section.env}
    command = [str(python), "-m", "modelserve.replica.try_once", question]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=variables, check=False)
    last = run.stdout.strip().splitlines()[-1:]
    try:
        result: dict[str, Any] = json.loads(last[0])
    except (IndexError, ValueError):
        return {"ok": False, "error": f"the package ended its Python (exit code {run.returncode}) before it answered"}
    return result
