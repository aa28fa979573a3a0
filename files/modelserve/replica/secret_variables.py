"""Sets the environment variables of a section's secrets in a replica, before the package is imported.

The values are in this process's memory alone. The image's Python fetches them, which has what that takes, whatever the
algorithm's environment has, and hands them over a pipe.
"""

from __future__ import annotations

import json
import os
import subprocess

from modelserve.serve.contract import AppArgs

COMMAND = ("/opt/venv/bin/modelserve", "node", "secrets", "--id")
TIMEOUT_S = 300  # the command itself gives up before
# What the command needs to know of its host. A section's variables do not concern it.
_PASSED_ON = ("HOME", "TZ", "MODELSERVE_HOME", "MODELSERVE_HEAD", "MODELSERVE_IMAGE")


def set_variables(args: AppArgs) -> None:
    """Set the variables of a section's secrets in ``os.environ``; return at once where it has none.

    Raises:
        RuntimeError: the values are not available, with the cause. It never holds a value.
    """
    if not args.secrets:
        return
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment["PATH"] = "/usr/local/bin:/usr/bin:/bin"
    try:
        result = subprocess.run(
            [*COMMAND, args.secrets_id], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{_names(args)} cannot be fetched: {type(error).__name__}") from None
    values = _values(result.stdout) if result.returncode == 0 else {}
    if values.keys() != args.secrets.keys():
        lines = result.stderr.strip().splitlines() or [f"the command ended with {result.returncode}"]
        raise RuntimeError(f"{_names(args)} cannot be fetched: {lines[-1].removeprefix('error: ')}")
    os.environ.update(values)


def _values(output: str) -> dict[str, str]:
    try:
        return {str(name): str(value) for name, value in json.loads(output).items()}
    except (ValueError, AttributeError):
        return {}


def _names(args: AppArgs) -> str:
    names = sorted({secret.name for secret in args.secrets.values()})
    return f"the secret{'s' * (len(names) > 1)} {', '.join(names)}"
