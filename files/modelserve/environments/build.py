"""Makes the conda environment an algorithm runs in: solved by py-rattler, filled by uv, never changed once complete."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from modelserve import hashing
from modelserve.environments import requirements
from modelserve.errors import Problem, UserError
from modelserve.settings import Settings
from modelserve.store.store import Store
from modelserve.util.files import write_atomically

BASE_NAME = "AlgoExample"
IMAGE_PREFIX = Path("/opt/venv")
IMAGE_CHANNEL = Path("/opt/channel")
# Packages whose version is the cluster's: every environment has them as the base lock pins them.
CLUSTER_PACKAGES = ("ray",)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Environment:
    """An environment that exists or can be built.

    Attributes:
        name: the package it is for; ``AlgoExample`` for the base.
        path: its prefix; the name holds its identity.
        lock: requirements with exact versions and hashes, as uv resolved them.
        specs: conda specs beside Python, from ``environment.yml``.
        channels: conda channels, first wins.
    """

    name: str
    path: Path
    lock: str
    specs: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


class Environments:
    """Finds and builds environments in a store. Runs in the image, whose Python every environment shares."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._locks = store.root / "lock"
        self._base_lock = (IMAGE_PREFIX / "base.lock").read_text()

    def base(self) -> Environment:
        """The base environment: Ray and what ``modelserve`` needs, from the image."""
        channels = (str(IMAGE_CHANNEL),)
        path = self._store.env_path(BASE_NAME, self._identity(self._base_lock, (), channels))
        return Environment(BASE_NAME, path, self._base_lock, (), channels)

    def of_package(self, name: str, package: Path) -> Environment:
        """The environment a package asks for; the base when it asks for nothing more.

        Args:
            name: the package's name.
            package: its directory, with ``requirements.txt`` and ``environment.yml``, both optional.

        Raises:
            UserError: its requirements cannot be met, naming the package and what stands in the way.
        """
        base = self.base()
        listed = requirements.read(package / "requirements.txt", f"algopkg/{name}/requirements.txt")
        specs, channels, pip = self._read_environment_yml(name, package / "environment.yml")
        channels = (str(IMAGE_CHANNEL), *self._settings.conda_channels, *channels)
        if not listed and not specs and not pip:
            return base
        lock = self._lock(name, package, listed, pip)
        path = self._store.env_path(name, self._identity(lock, specs, channels))
        return Environment(name, path, lock, specs, channels)

    def build(self, environment: Environment, progress: Progress) -> None:
        """Make an environment, unless it is complete already.

        Raises:
            UserError: a package cannot be had, or the result is not one Ray can run in. Nothing that looks
                complete is left behind.
        """
        base = self.base()
        if environment.path != base.path:
            self.build(base, progress)
        if self._store.is_complete(environment.path):
            return
        started = time.monotonic()
        progress(f"environment {environment.path.name}: building")
        shutil.rmtree(environment.path, ignore_errors=True)  # an interrupted build's
        try:
            self._conda(environment)
            if environment.path == base.path:
                _copy_packages(environment)
            else:
                _link_packages(base.path, environment.path)
                self._install(environment)
            self._store.complete(environment.path, self._verified(environment))
        except BaseException:
            shutil.rmtree(environment.path, ignore_errors=True)
            raise
        progress(f"environment {environment.path.name}: ready after {time.monotonic() - started:.1f} s")

    def _identity(self, lock: str, specs: tuple[str, ...], channels: tuple[str, ...]) -> str:
        return hashing.of_value([lock, self._base_lock, specs, channels, platform.python_version(), platform.machine()])

    def _read_environment_yml(self, name: str, file: Path) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        if not file.exists():
            return (), (), ()
        shown = f"algopkg/{name}/environment.yml"
        try:
            document = yaml.safe_load(file.read_text()) or {}
            dependencies = document.get("dependencies") or []
            pip = [line for item in dependencies if isinstance(item, dict) for line in item.get("pip") or []]
            specs = [str(item) for item in dependencies if not isinstance(item, dict)]
            channels = [str(channel) for channel in document.get("channels") or [] if channel != "defaults"]
        except (yaml.YAMLError, AttributeError, TypeError) as error:
            text = " ".join(str(error).split())
            raise UserError(Problem(text, "It must be a conda environment file", shown)) from None
        kept = []
        for spec in specs:
            found = re.fullmatch(r"(?:\S+::)?([\w.-]+)\s*(.*)", spec.strip())
            if found is None:
                raise UserError(Problem(f"'{spec}' is not a conda package", "Write name=version", shown))
            if found[1] == "python":
                _check_python(found[2], shown)
            elif found[1] != "pip":  # uv fills environments
                kept.append(spec)
        return tuple(kept), tuple(channels), tuple(map(str, pip))

    def _lock(self, name: str, package: Path, listed: list[str], pip: tuple[str, ...]) -> str:
        asked_by_conda = requirements.with_includes(pip, package, f"algopkg/{name}/environment.yml")
        asked = [listed, asked_by_conda, self._base_lock, platform.python_version(), platform.machine()]
        remembered = self._locks / f"{name}-{hashing.of_value(asked)}.txt"
        if not remembered.exists():
            write_atomically(remembered, self._resolve(name, package, pip))
        return remembered.read_text()

    def _resolve(self, name: str, package: Path, pip: tuple[str, ...]) -> str:
        work = self._store.root / "lock" / f".{name}.{os.getpid()}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            pins = re.findall(r"^([\w.-]+)==(\S+)", self._base_lock, re.M)
            cluster = [f"{package}=={version}" for package, version in pins if package in CLUSTER_PACKAGES]
            of_conda = [requirements.absolute(line, package) for line in pip]
            (work / "base.in").write_text("\n".join(["ray[serve]", "orjson", "pydantic", *cluster, *of_conda]) + "\n")
            # Versions already in the output are kept where the requirements allow: less to build, more to share.
            output = work / "lock.txt"
            output.write_text(self._base_lock)
            inputs = [str(work / "base.in")]
            if (package / "requirements.txt").exists():
                inputs.append(str(package / "requirements.txt"))
            command = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes"]
            command += ["--no-python-downloads", "--python", sys.executable, "--output-file", str(output), *inputs]
            result = self._uv(command)
            if result.returncode != 0:
                raise UserError(_resolution_problem(name, result.stderr, dict(pins)))
            return output.read_text()
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _conda(self, environment: Environment) -> None:
        import rattler

        async def make() -> None:
            # No platforms of other machines, and the image's Python before any channel's.
            specs = [f"python =={platform.python_version()} system_*", *environment.specs]
            virtual = rattler.VirtualPackage.detect()
            records = await rattler.solve(list(environment.channels), specs, virtual_packages=virtual)
            cache = self._store.root / "cache" / "conda"
            await rattler.install(records, environment.path, cache_dir=cache, show_progress=False)

        try:
            asyncio.run(make())
        except Exception as error:  # rattler's errors have no common base
            lines = [line.strip(" │├└─\t") for line in str(error).splitlines() if line.strip()]
            message = "conda packages cannot be had: " + "; ".join(lines)[:500]
            fix = "Correct environment.yml, or add a channel to modelserve_conda_channels"
            raise UserError(Problem(message, fix, f"algopkg/{environment.name}/environment.yml")) from error

    def _install(self, environment: Environment) -> None:
        lock = environment.path / "requirements.lock"
        lock.write_text(environment.lock)
        python = str(environment.path / "bin" / "python")
        result = self._uv(["pip", "install", "--quiet", "--no-deps", "--python", python, "-r", str(lock)])
        if result.returncode != 0:
            message = "packages cannot be installed: " + _one_line(result.stderr)
            fix = "Pin versions that have a wheel for this Python, or check the package index"
            raise UserError(Problem(message, fix, f"algopkg/{environment.name}/requirements.txt"))

    def _verified(self, environment: Environment) -> dict[str, object]:
        # Ray refuses or crashes in an environment whose Python or Ray is not the cluster's: find out before a deploy.
        code = (
            "import importlib.metadata as m, json, platform, modelserve; print(json.dumps([platform.python_version(), "
        )
        code += f"{{p: m.version(p) for p in {CLUSTER_PACKAGES!r}}}]))"
        python = str(environment.path / "bin" / "python")
        result = subprocess.run([python, "-c", code], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
        file = f"algopkg/{environment.name}/requirements.txt"
        if result.returncode != 0:
            last = result.stderr.strip().splitlines()[-1]
            raise UserError(Problem(f"the environment does not work: {last}", "Mend the requirements", file))
        version, packages = json.loads(result.stdout)
        expected = {package: importlib.metadata.version(package) for package in CLUSTER_PACKAGES}
        if version != platform.python_version() or packages != expected:
            cluster = f"the cluster Python {platform.python_version()} and {expected}"
            message = f"the environment has Python {version} and {packages}, {cluster}"
            raise UserError(Problem(message, "Do not pin these packages", file))
        return {"name": environment.name, "python": version, **packages, "built": time.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def _uv(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "UV_CACHE_DIR": str(self._store.root / "cache" / "uv"), "UV_NO_PROGRESS": "1"}
        env["UV_LINK_MODE"] = "hardlink"
        if self._settings.index_url:  # by the environment, not by the command line: it may hold a password
            env["UV_DEFAULT_INDEX"] = self._settings.index_url
        return subprocess.run([str(IMAGE_PREFIX / "bin" / "uv"), *arguments], capture_output=True, text=True, env=env)


def _check_python(version: str, shown: str) -> None:
    import rattler

    try:
        fits = not version or rattler.VersionSpec(_conda_version(version)).matches(
            rattler.Version(platform.python_version())
        )
    except Exception:
        raise UserError(Problem(f"'python {version}' is not a conda spec", "Write python=3.13, say", shown)) from None
    if not fits:
        message = f"asks for python{version}, but the cluster runs Python {platform.python_version()}"
        fix = "Remove the line; another Python for the whole cluster is modelserve_base_release or modelserve_python"
        raise UserError(Problem(message, fix, shown))


def _conda_version(version: str) -> str:
    """``=3.13`` (what conda users write for "some 3.13") in the form a version spec has."""
    version = version.strip().split(" ")[0]
    single = re.fullmatch(r"=?([\d.]+)", version)
    return f"{single[1]}.*" if single else version


def _one_line(text: str) -> str:
    return " ".join(text.replace("error:", "").replace("×", "").replace("╰─▶", "").split()).rstrip(".")[:700]


def _resolution_problem(name: str, stderr: str, pins: dict[str, str]) -> Problem:
    file = f"algopkg/{name}/requirements.txt"
    text = _one_line(stderr)
    for package in CLUSTER_PACKAGES:
        asked = re.findall(rf"\b{package}(?:\[[\w,]*\])?([=<>!~]=?[\w.*]+)", text)
        other = next((version for version in asked if version != f"=={pins[package]}"), None)
        if other:
            message = f"asks for {package}{other}, but the cluster runs {package} {pins[package]}"
            return Problem(message, f"Remove the line, or write {package}=={pins[package]}", file)
    return Problem(f"cannot be met: {text}", "Change the versions so that they agree", file)


def _copy_packages(environment: Environment) -> None:
    """Fill the base environment with the image's own copy of what its lock names."""
    source = _site_packages(IMAGE_PREFIX)
    target = _site_packages(environment.path)
    names = {_normal(name) for name in re.findall(r"^([\w.-]+)==", environment.lock, re.M)}
    for distribution in importlib.metadata.distributions(path=[str(source)]):
        if _normal(distribution.metadata["Name"]) not in names:
            continue
        for file in distribution.files or []:
            origin, copy = source / file, target / file
            if not origin.exists():
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            if ".." in file.parts:
                _copy_script(origin, copy, IMAGE_PREFIX, environment.path)
            else:
                shutil.copy2(origin, copy)
                _copy_bytecode(origin, copy)
    shutil.copy2(source / "modelserve.pth", target / "modelserve.pth")


def _copy_bytecode(origin: Path, copy: Path) -> None:
    if origin.suffix != ".py":
        return
    compiled = origin.parent / "__pycache__" / f"{origin.stem}.{sys.implementation.cache_tag}.pyc"
    if compiled.exists():
        (copy.parent / "__pycache__").mkdir(exist_ok=True)
        shutil.copy2(compiled, copy.parent / "__pycache__" / compiled.name)


def _copy_script(origin: Path, copy: Path, old_prefix: Path, new_prefix: Path) -> None:
    content = origin.read_bytes()
    copy.resolve().write_bytes(content.replace(bytes(old_prefix) + b"/bin/python", bytes(new_prefix) + b"/bin/python"))
    shutil.copymode(origin, copy)


def _link_packages(base: Path, prefix: Path) -> None:
    """Copy the base environment's packages as hard links; what is installed over them replaces files."""
    shutil.copytree(_site_packages(base), _site_packages(prefix), copy_function=os.link, dirs_exist_ok=True)
    for script in (base / "bin").iterdir():
        if not script.is_symlink() and script.is_file():
            _copy_script(script, prefix / "bin" / script.name, base, prefix)


def _site_packages(prefix: Path) -> Path:
    return prefix / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
