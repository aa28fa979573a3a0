"""Does a package load and answer in its own environment? Tried before any deploy, beside what is served."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelserve import conf, project
from modelserve.env import Environments
from modelserve.errors import UserError
from modelserve.settings import Settings
from modelserve.store import Store


def try_package(
    settings: Settings,
    name: str,
    backend: str,
    models: list[str],
    params: dict[str, Any],
    root: Path | None,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Load a package and ask it one request.

    Args:
        settings: the cluster's settings; its store keeps the environment.
        name: the package under ``algopkg/``.
        backend: the class in its ``backend.py``.
        models: file names in ``Model_ZOO``.
        params: the request.
        root: the directory that holds ``algopkg`` and ``Model_ZOO``; None takes modelserve_home.
        progress: called with a line where something takes long.

    Returns:
        ``ok`` with ``answer``, ``load_s`` and ``answer_s``, or not ``ok`` with ``error``.

    Raises:
        UserError: the package, class or a model is missing, or the environment cannot be built.
    """
    root = root or settings.home
    text = f"[MODEL SERVE]\n[algopkg.{name}]\nbackend = {backend}\nmodel = {','.join(models)}\nroute = test\n"
    zoo = root / "Model_ZOO"
    there = [path.name for path in zoo.glob("*")]
    problems = project.check(conf.parse(text, "the test"), root / "algopkg", there, "the test")
    if problems:
        raise UserError(problems)
    package = root / "algopkg" / name
    environments = Environments(settings, Store(settings.home / "store"))
    environment = environments.of_package(name, package)
    environments.build(environment, progress)
    python = environment.path / "bin" / "python"
    app = {"name": name, "package": str(package), "backend": backend, "models": [str(zoo / m) for m in models]}
    question = json.dumps({"app": app, "params": params})
    run = subprocess.run([str(python), "-m", "modelserve.trial", question], stdout=subprocess.PIPE, text=True)
    last = run.stdout.strip().splitlines()[-1:]
    try:
        result: dict[str, Any] = json.loads(last[0])
    except (IndexError, ValueError):
        return {"ok": False, "error": f"the package ended its Python (exit code {run.returncode}) before it answered"}
    return result
