"""Build conda environments: py-rattler solves and installs, uv fills. A complete one never changes."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from modelserve.config import debian_hints
from modelserve.environments import install, packages, uv
from modelserve.environments.resolve import CLUSTER_PACKAGES, Environment, EnvironmentResolver, pinned
from modelserve.errors import Problem, UserError
from modelserve.settings import Settings
from modelserve.store.store import Store
from modelserve.util import bytecode, clock, disk, read_only
from modelserve.util.proxies import proxied

Progress = Callable[[str], None]

# Runs in a new environment: prints the versions that have to be the cluster's.
_VERSIONS_CODE = """\
import importlib.metadata, json, platform, sys
import modelserve
print(json.dumps([platform.python_version(), {name: importlib.metadata.version(name) for name in sys.argv[1:]}]))
"""


class EnvironmentBuilder:
    """Build environments in a store. Runs in the image, whose Python every environment has."""

    def __init__(self, settings: Settings, store: Store, resolver: EnvironmentResolver) -> None:
        self._settings = settings
        self._store = store
        self._base = resolver.base()

    def build(self, environment: Environment, progress: Progress) -> None:
        """Build an environment, and the base before it, unless they are complete.

        Args:
            environment: the environment, as the resolver returned it.
            progress: gets a line when a build begins and ends.

        Raises:
            UserError: a package is not available, or Ray cannot run in the result. No directory is left behind
                that looks complete.
        """
        if environment.path != self._base.path:
            self.build(self._base, progress)
        if self._store.is_complete(environment.path):
            return
        started = time.monotonic()
        progress(f"environment {environment.path.name}: building" + (environment.note and f" ({environment.note})"))
        read_only.remove(environment.path)  # of an interrupted build
        try:
            self._install_conda(environment)
            if environment.path == self._base.path:
                packages.copy_packages(uv.IMAGE_PREFIX, environment.path, pinned(environment.lock))
            else:
                packages.link_packages(self._base.path, environment.path)
                self._install_python(environment)
            record = _verified_record(environment)
            _compile(environment)
            self._store.complete(environment.path, record)
        except BaseException as error:
            read_only.remove(environment.path)
            if disk.is_full(error):
                raise disk.no_space(f"environment {environment.path.name}", self._store.root) from error
            raise
        progress(f"environment {environment.path.name}: ready after {time.monotonic() - started:.1f} s")

    def _install_conda(self, environment: Environment) -> None:
        import rattler

        async def install() -> None:
            # No platforms of other machines, and the image's Python before any channel's.
            specs = [f"python =={platform.python_version()} system_*", *environment.specs]
            virtual = rattler.VirtualPackage.detect()
            records = await rattler.solve(list(environment.channels), specs, virtual_packages=virtual)
            cache = self._store.root / "cache" / "conda"
            await rattler.install(records, environment.path, cache_dir=cache, show_progress=False)

        try:
            with proxied(self._settings.proxy_environment):
                asyncio.run(install())
        except Exception as error:  # rattler's errors have no common base
            lines = [line.strip(" │├└─\t") for line in str(error).splitlines() if line.strip()]
            message = "conda packages are not available: " + "; ".join(lines)[:500]
            fix = "Correct environment.yml, or add a channel to modelserve_conda_channels"
            raise UserError(Problem(message, fix, f"algopkg/{environment.name}/environment.yml")) from error

    def _install_python(self, environment: Environment) -> None:
        (environment.path / "requirements.lock").write_text(environment.lock)
        command = ["pip", "install", "--quiet", "--no-deps", "--python", str(_python(environment))]
        result = install.install(command, environment, self._settings, self._store)
        if result.returncode != 0:
            file = f"algopkg/{environment.name}/requirements.txt"
            message = "packages cannot be installed: " + uv.one_line(result.stderr)
            fix = "Pin versions that have a wheel for this Python, or check the package index"
            unreachable = uv.unreachable(result.stderr, self._settings, file)
            raise UserError(unreachable or debian_hints.of_build(result.stderr, file) or Problem(message, fix, file))


def _verified_record(environment: Environment) -> dict[str, object]:
    """Return the record of a new environment.

    Raises:
        UserError: Python or Ray in it are not the cluster's: Ray refuses such an environment, or crashes in it.
    """
    command = [str(_python(environment)), "-c", _VERSIONS_CODE, *CLUSTER_PACKAGES]
    result = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, check=False)
    file = f"algopkg/{environment.name}/requirements.txt"
    if result.returncode != 0:
        cause = (result.stderr.strip().splitlines() or [f"Python ended with {result.returncode}"])[-1]
        raise UserError(Problem(f"the environment does not work: {cause}", "Correct the requirements", file))
    version, versions = json.loads(result.stdout)
    expected = {package: importlib.metadata.version(package) for package in CLUSTER_PACKAGES}
    if version != platform.python_version() or versions != expected:
        cluster = f"the cluster Python {platform.python_version()} and {expected}"
        message = f"the environment has Python {version} and {versions}, {cluster}"
        raise UserError(Problem(message, "Do not pin these packages", file))
    return {"name": environment.name, "python": version, **versions, "built": clock.utc_now()}


def _compile(environment: Environment) -> None:
    """Compile what has no bytecode yet. A module that does not compile stays as it is: some packages bring such."""
    # The base's modules are compiled already; compileall itself takes seconds to find that.
    modules = "".join(f"{module}\n" for module in bytecode.stale_modules(packages.site_packages(environment.path)))
    command = [str(_python(environment)), "-m", "compileall", "-q", "-j", "0", "-i", "-"]
    if modules:
        subprocess.run(
            command, input=modules, text=True, capture_output=True, env={"PATH": "/usr/bin:/bin"}, check=False
        )


def _python(environment: Environment) -> Path:
    return environment.path / "bin" / "python"
