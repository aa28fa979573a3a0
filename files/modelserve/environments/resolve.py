"""Resolve what a package asks for to exact versions, by uv, and name the environment after all that goes in."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from modelserve import hashing
from modelserve.config import debian_hints
from modelserve.environments import conda_file, requirements, uv
from modelserve.environments.conda_file import CondaFile
from modelserve.errors import Problem, UserError
from modelserve.settings import Settings
from modelserve.store.store import Store
from modelserve.util.files import write_atomically

BASE_NAME = "AlgoExample"
IMAGE_CHANNEL = Path("/opt/channel")
# Packages whose version is the cluster's: every environment has them as the base lock pins them.
CLUSTER_PACKAGES = ("ray",)
BASE_REQUIREMENTS = ("ray[serve]", "orjson", "pydantic", "python-multipart")


@dataclass(frozen=True)
class Environment:
    """An environment that exists or can be built.

    Attributes:
        name: the package it is for; ``AlgoExample`` for the base.
        path: its prefix, with its hash in the name.
        lock: requirements with exact versions and hashes, as uv resolved them.
        specs: conda specs beside Python, from ``environment.yml``.
        channels: conda channels, the first with priority.
    """

    name: str
    path: Path
    lock: str
    specs: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


class EnvironmentResolver:
    """Find the environment of a package. Runs in the image, whose Python every environment has."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._locks = store.root / "lock"
        self._base_lock = (uv.IMAGE_PREFIX / "base.lock").read_text()

    def base(self) -> Environment:
        """Return the base environment: Ray and what ``modelserve`` needs, from the image."""
        channels = (str(IMAGE_CHANNEL),)
        path = self._store.env_path(BASE_NAME, self._environment_hash(self._base_lock, (), channels))
        return Environment(BASE_NAME, path, self._base_lock, (), channels)

    def of_package(self, name: str, package: Path) -> Environment:
        """Return the environment of a package: the base where the package asks for nothing more.

        Args:
            name: the package's name.
            package: its directory, with ``requirements.txt`` and ``environment.yml``, both optional.

        Raises:
            UserError: the requirements contradict each other or the cluster, or a package is not available.
        """
        shown = f"algopkg/{name}/environment.yml"
        listed = requirements.read(package / "requirements.txt", f"algopkg/{name}/requirements.txt")
        conda = conda_file.read(package / "environment.yml", shown)
        if not listed and not conda.specs and not conda.pip:
            return self.base()
        channels = (str(IMAGE_CHANNEL), *self._settings.conda_channels, *conda.channels)
        listed_by_conda = requirements.with_includes(conda.pip, package, shown)
        # The names of locks and environments hold this value: another form resolves and builds each of them again.
        inputs = [listed, listed_by_conda, self._base_lock, platform.python_version(), platform.machine()]
        lock_file = self._locks / f"{name}-{hashing.of_value(inputs)}.txt"
        if not lock_file.exists():
            write_atomically(lock_file, self._resolve(name, package, conda))
        lock = lock_file.read_text()
        path = self._store.env_path(name, self._environment_hash(lock, conda.specs, channels))
        return Environment(name, path, lock, conda.specs, channels)

    def _environment_hash(self, lock: str, specs: tuple[str, ...], channels: tuple[str, ...]) -> str:
        return hashing.of_value([lock, self._base_lock, specs, channels, platform.python_version(), platform.machine()])

    def _resolve(self, name: str, package: Path, conda: CondaFile) -> str:
        work = self._locks / f".{name}.{os.getpid()}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            pins = pinned(self._base_lock)
            cluster = [f"{package}=={pins[package]}" for package in CLUSTER_PACKAGES if package in pins]
            of_conda = [requirements.absolute(line, package) for line in conda.pip]
            (work / "base.in").write_text("\n".join([*BASE_REQUIREMENTS, *cluster, *of_conda]) + "\n")
            # uv keeps versions of the output where the requirements allow: less to build, more to share.
            output = work / "lock.txt"
            output.write_text(self._base_lock)
            inputs = [str(work / "base.in")]
            if (package / "requirements.txt").exists():
                inputs.append(str(package / "requirements.txt"))
            command = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes"]
            command += ["--no-python-downloads", "--python", sys.executable, "--output-file", str(output), *inputs]
            result = uv.run(command, self._settings, self._store)
            if result.returncode != 0:
                raise UserError(resolution_problem(name, result.stderr, pins, self._settings))
            return output.read_text()
        finally:
            shutil.rmtree(work, ignore_errors=True)


def pinned(lock: str) -> dict[str, str]:
    """Return the versions that a lock pins, by the package's name."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE))


def resolution_problem(name: str, stderr: str, pins: dict[str, str], settings: Settings) -> Problem:
    """Return why uv cannot resolve the requirements of a package.

    Args:
        name: the package's name.
        stderr: uv's explanation.
        pins: the versions of the base lock.
        settings: name the package index and the proxy before it.
    """
    file = f"algopkg/{name}/requirements.txt"
    if unreachable := uv.unreachable(stderr, settings, file):
        return unreachable
    if lacking := debian_hints.of_build(stderr, file):
        return lacking
    text = uv.one_line(stderr)
    for package in CLUSTER_PACKAGES:
        versions = re.findall(rf"\b{package}(?:\[[\w,]*\])?([=<>!~]=?[\w.*]+)", text)
        other = next((version for version in versions if version != f"=={pins[package]}"), None)
        if other:
            message = f"asks for {package}{other}, but the cluster runs {package} {pins[package]}"
            return Problem(message, f"Remove the line, or write {package}=={pins[package]}", file)
    return Problem(f"cannot be met: {text}", "Change the versions so that they agree", file)
