"""Environments share files and stay closed: the real builder and uv make them; conda's part and the index are local."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import modelserve
import pytest
from modelserve.environments import uv
from modelserve.environments.build import EnvironmentBuilder
from modelserve.environments.packages import site_packages
from modelserve.environments.resolve import Environment
from modelserve.errors import UserError
from modelserve.settings import Settings
from modelserve.store.store import Store

Run = Callable[..., subprocess.CompletedProcess[str]]
UV = Path(sys.executable).with_name("uv")


def wheel(directory: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"version = '{version}'\n",
        f"{name}/broken.py": "def (:\n",  # as some packages bring for their tests
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)


class Builds:
    """The builder with a store, an image of two packages, and wheels in a directory."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Store(root / "store")
        self._wheels, image = root / "wheels", root / "image"
        self._wheels.mkdir()
        venv.create(image, symlinks=True)
        # As in the containers: the user who owns the files, without root's capabilities.
        drop = "setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all" if os.geteuid() == 0 else ""
        (image / "bin" / "uv").write_text(f'#!/bin/sh\nexec {drop} "{UV}" "$@"\n')
        (image / "bin" / "uv").chmod(0o755)
        monkeypatch.setattr(uv, "IMAGE_PREFIX", image)
        for name, version in [("ray", "2.60.0"), ("zzshared", "1.0"), ("zzshared", "2.0"), ("zzlib", "1.0")]:
            wheel(self._wheels, name, version)
        for name in ("ray-2.60.0", "zzshared-1.0"):
            with zipfile.ZipFile(self._wheels / f"{name}-py3-none-any.whl") as archive:
                archive.extractall(site_packages(image))
        (site_packages(image) / "modelserve.pth").write_text(str(Path(modelserve.__file__).parents[1]) + "\n")
        self._base = Environment("AlgoExample", self.store.env_path("AlgoExample", "0"), "ray==2.60.0\nzzshared==1.0\n")
        resolver = SimpleNamespace(base=lambda: self._base)
        self._builder = EnvironmentBuilder(Settings(home=root), self.store, resolver)  # type: ignore[arg-type]
        monkeypatch.setattr(self._builder, "_install_conda", lambda env: venv.create(env.path, symlinks=True))

    def build(self, name: str, *pins: str) -> Path:
        lock = "\n".join(["--no-index", f"--find-links {self._wheels}", *pins, ""])
        environment = Environment(name, self.store.env_path(name, "1"), lock)
        self._builder.build(environment, lambda line: None)
        return environment.path

    @property
    def base(self) -> Path:
        return self._base.path


@pytest.fixture
def builds(tmp_path: Path, ray_version: Path, monkeypatch: pytest.MonkeyPatch) -> Builds:
    if not UV.exists() or (os.geteuid() == 0 and shutil.which("setpriv") is None):
        pytest.skip("no uv beside this Python, or no setpriv to drop root's capabilities")
    monkeypatch.syspath_prepend(ray_version)
    return Builds(tmp_path, monkeypatch)


def version(run: Run, env: Path, package: str) -> str:
    return run(str(env / "bin" / "python"), "-c", f"import {package}; print({package}.version)").stdout.strip()


def test_a_package_cannot_change_the_files_of_another_environment(builds: Builds, without_capabilities: Run) -> None:
    first = builds.build("First", "zzlib==1.0")
    python = str(first / "bin" / "python")
    for module in ("zzlib", "zzshared"):
        code = f"import {module}; open({module}.__file__, 'a').write('version = 666')"
        assert "PermissionError" in without_capabilities(python, "-c", code).stderr
    code = "import zzlib, pathlib; (pathlib.Path(zzlib.__file__).parent / 'cache').mkdir()"
    assert "PermissionError" in without_capabilities(python, "-c", code).stderr
    # The package index's files are those of the first environment: uv installs them again all the same.
    second, third = builds.build("Second", "zzlib==1.0", "zzshared==2.0"), builds.build("Third", "zzlib==1.0")
    for env, shared in ((first, "1.0"), (second, "2.0"), (third, "1.0"), (builds.base, "1.0")):
        assert version(without_capabilities, env, "zzshared") == shared
        assert (env == builds.base) or version(without_capabilities, env, "zzlib") == "1.0"
    of_first, of_third = (site_packages(env) / "zzlib" / "__init__.py" for env in (first, third))
    assert of_first.samefile(of_third)  # no disk space for what they share
    kept = [f"env/{env.name}" for env in (builds.base, third)]
    assert builds.store.collect_garbage(kept) == ["env/First-1", "env/Second-1"]
    assert sorted(path.name for path in (builds.store.root / "env").iterdir()) == ["AlgoExample-0", "Third-1"]


def test_an_environment_is_compiled_when_it_is_built(builds: Builds, without_capabilities: Run) -> None:
    env = builds.build("First", "zzlib==1.0")
    run = without_capabilities(str(env / "bin" / "python"), "-v", "-c", "import zzlib, zzshared")
    for module in ("zzlib", "zzshared"):
        assert f"code object from '{site_packages(env) / module / '__pycache__'}" in run.stderr
        assert f"code object from {site_packages(env) / module}" not in run.stderr


def test_a_build_that_fails_or_was_interrupted_leaves_nothing(builds: Builds) -> None:
    left = builds.store.env_path("First", "1")
    shutil.copytree(builds.build("Other", "zzlib==1.0"), left, symlinks=True)
    left.chmod(0o755)
    (left / "modelserve.json").unlink()
    assert builds.store.is_complete(builds.build("First", "zzlib==1.0"))
    with pytest.raises(UserError, match="packages cannot be installed"):
        builds.build("Bad", "zzlib==3.0")
    assert not builds.store.env_path("Bad", "1").exists()
