"""Read environment.yml, the conda environment file of a package."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from modelserve.errors import Problem, UserError


@dataclass(frozen=True)
class CondaFile:
    """What an ``environment.yml`` asks for.

    Attributes:
        specs: conda specs, without Python and pip.
        channels: conda channels, the first with priority.
        pip: requirement lines of its ``pip`` list.
    """

    specs: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()


def read(file: Path, shown: str) -> CondaFile:
    """Read an ``environment.yml``.

    Args:
        file: the file; one that is missing asks for nothing.
        shown: its name in messages.

    Raises:
        UserError: it is not a conda environment file, or asks for another Python than the cluster's.
    """
    if not file.exists():
        return CondaFile()
    try:
        document = yaml.safe_load(file.read_bytes()) or {}
        dependencies = document.get("dependencies") or []
        pip = [line for item in dependencies if isinstance(item, dict) for line in item.get("pip") or []]
        specs = [str(item) for item in dependencies if not isinstance(item, dict)]
        channels = [str(channel) for channel in document.get("channels") or [] if channel != "defaults"]
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        text = " ".join(str(error).split())
        raise UserError(Problem(text, "It must be a conda environment file", shown)) from None
    kept = tuple(spec for spec in specs if _is_solved(spec, shown))
    return CondaFile(kept, tuple(channels), tuple(map(str, pip)))


def _is_solved(spec: str, shown: str) -> bool:
    """Return whether conda solves a spec: all but Python, which is the image's, and pip, in whose place is uv."""
    import rattler
    from rattler.exceptions import InvalidMatchSpecError, InvalidVersionSpecError

    try:
        match = rattler.MatchSpec(spec)
        name = match.name.normalized if match.name else ""
        if name == "python":
            _require_python(spec, match.version or "", shown)
    except (InvalidMatchSpecError, InvalidVersionSpecError) as error:
        text = " ".join(str(error).split())
        raise UserError(Problem(f"'{spec}' is not a conda package: {text}", "Write name=version", shown)) from None
    return name not in ("python", "pip")


def _require_python(spec: str, version: str, shown: str) -> None:
    import rattler

    # conda reads "python 3.13" as 3.13.0; who writes it means any 3.13.
    exact = re.fullmatch(r"==([\d.]+)", version)
    if exact and "==" not in spec:
        version = f"{exact[1]}.*"
    running = platform.python_version()
    if version and not rattler.VersionSpec(version).matches(rattler.Version(running)):
        asked = re.sub(r"^(?:\S+::)?python\s*", "", spec.strip(), flags=re.IGNORECASE)
        message = f"asks for python{asked}, but the cluster runs Python {running}"
        fix = "Remove the line; another Python for the whole cluster is modelserve_base_release or modelserve_python"
        raise UserError(Problem(message, fix, shown))
