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
from modelserve.environments import (
    conda_file,
    failures,
    hashes,
    index_options,
    inputs,
    listed,
    local,
    project_file,
    requirements,
    uv,
)
from modelserve.environments.inputs import Inputs
from modelserve.environments.local import Local
from modelserve.errors import UserError
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
        lock: requirements with exact versions and hashes, as uv resolved them, after the options to install them with.
        specs: conda specs beside Python, from ``environment.yml``.
        channels: conda channels, the first with priority.
        locals: files and directories that the lock names by their content.
        note: what a user should know about its making.
    """

    name: str
    path: Path
    lock: str
    specs: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    locals: tuple[Local, ...] = ()
    note: str = ""


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
            package: its directory, with ``requirements.txt`` or ``pyproject.toml``, and ``environment.yml``, all
                optional.

        Raises:
            UserError: the requirements contradict each other or the cluster, or a package is not available.
        """
        shown = f"algopkg/{name}/environment.yml"
        found = listed.read(package, f"algopkg/{name}", self._settings, self._store)
        conda = conda_file.read(package / "environment.yml", shown)
        if not found.lines and not found.indexed and not conda.specs and not conda.pip:
            return self.base()
        channels = (str(IMAGE_CHANNEL), *self._settings.conda_channels, *conda.channels)
        listed_by_conda = requirements.with_includes(conda.pip, package, shown)
        asked = inputs.read(found, listed_by_conda, package, self._store.sha256)
        # The names of locks and environments hold this value: another form resolves and builds each of them again.
        texts = [[line.text for line in lines] for lines in (asked.lines, asked.conda_lines)]
        facts = asked.facts(self._settings.index_strategy)
        identity = [*texts, self._base_lock, platform.python_version(), platform.machine(), *facts]
        lock_file = self._locks / f"{name}-{hashing.of_value(identity)}.txt"
        if not lock_file.exists():
            write_atomically(lock_file, self._resolve(name, asked))
        lock = lock_file.read_text()
        path = self._store.env_path(name, self._environment_hash(lock, conda.specs, channels))
        return Environment(name, path, lock, conda.specs, channels, asked.locals, found.note)

    def _environment_hash(self, lock: str, specs: tuple[str, ...], channels: tuple[str, ...]) -> str:
        return hashing.of_value([lock, self._base_lock, specs, channels, platform.python_version(), platform.machine()])

    def _resolve(self, name: str, asked: Inputs) -> str:
        work = self._locks / f".{name}.{os.getpid()}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        staging = work / "local"
        try:
            local.stage(asked.locals, staging)
            pins = pinned(self._base_lock)
            cluster = {package: pins[package] for package in CLUSTER_PACKAGES if package in pins}
            # uv keeps versions of the output where the requirements allow: less to build, more to share.
            output = work / "lock.txt"
            output.write_text(self._base_lock)
            command = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes"]
            command += ["--no-python-downloads", "--python", sys.executable, "--output-file", str(output)]
            command += ["--prerelease", "allow"] * asked.options.prerelease
            command += ["--index-strategy", "unsafe-best-match"] * asked.listed.is_locked
            command += index_options.arguments(asked.options.lines)
            command += _written(asked, cluster, work, staging)
            own_index = index_options.has_own_index(asked.options.lines)
            result = uv.run(command, self._settings, self._store, own_index=own_index, directory=work)
            if result.returncode != 0:
                stderr, settings = result.stderr, self._settings
                raise UserError(failures.resolution_problem(name, stderr, cluster, settings, asked, staging))
            return _lock(output, asked, staging)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _written(asked: Inputs, cluster: dict[str, str], work: Path, staging: Path) -> list[str]:
    """Write what uv resolves, and return its arguments."""
    pins = [f"{package}=={version}" for package, version in cluster.items()]
    options = index_options.of_files(inputs.staged(line, staging) for line in asked.options.lines)
    of_conda = asked.requirements(asked.conda_lines, staging)
    _write_lines(work / "base.in", [*options, *BASE_REQUIREMENTS, *pins, *of_conda])
    _write_lines(work / "requirements.txt", asked.requirements(asked.lines, staging))
    arguments = [str(work / "base.in"), str(work / "requirements.txt")]
    limits = asked.requirements((*asked.lines, *asked.conda_lines), staging, constraint=True)
    if asked.listed.indexed:
        (work / project_file.NAME).write_text(inputs.staged(asked.listed.indexed, staging), encoding="utf-8")
        arguments.append(str(work / project_file.NAME))
    if limits:
        _write_lines(work / "constraints.txt", limits)
        arguments += ["--constraints", str(work / "constraints.txt")]
    return arguments


def _write_lines(file: Path, lines: list[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _lock(output: Path, asked: Inputs, staging: Path) -> str:
    """Return the lock: the options, then what uv resolved, without paths of this machine."""
    options = "".join(f"{line}\n" for line in asked.lock_options)
    return options + inputs.unstaged(hashes.restricted(output.read_text(), asked), staging)


def pinned(lock: str) -> dict[str, str]:
    """Return the versions that a lock pins, by the package's name."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE))
