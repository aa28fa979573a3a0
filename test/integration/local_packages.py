"""Packages, a package index and environments on this machine: what the real uv needs, without any other host."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from modelserve.environments import build, uv
from modelserve.environments.build import EnvironmentBuilder
from modelserve.environments.packages import site_packages
from modelserve.environments.resolve import Environment, EnvironmentResolver
from modelserve.settings import Settings
from modelserve.store.store import Store
from wheels import wheel

UV = Path(sys.executable).parent / "uv"
RAY = "2.60.0"
PYPROJECT = """\
[project]
name = "{name}"
version = "{version}"
dependencies = {requires}
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
# A build backend without a package of its own: one module, which is the project's name.
BACKEND = """\
import sys
sys.path.insert(0, {tests!r})
import pathlib, tomllib, wheels
def build_wheel(directory, config_settings=None, metadata_directory=None):
    project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
    module = pathlib.Path(project["name"] + ".py").read_text()
    return wheels.wheel(pathlib.Path(directory), project["name"], project["version"], module).name
"""


def index(directory: Path, *wheels: Path) -> str:
    """Make a directory an index of wheels, as PEP 503 has it, and return its URL."""
    for file in wheels:
        project = directory / file.name.split("-")[0].replace("_", "-").lower()
        project.mkdir(parents=True, exist_ok=True)
        (project / file.name).write_bytes(file.read_bytes())
        links = "".join(f'<a href="{path.name}">{path.name}</a>\n' for path in sorted(project.glob("*.whl")))
        (project / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    return directory.as_uri()


def source_tree(directory: Path, name: str, module: str, version: str = "1.0", requires: tuple[str, ...] = ()) -> Path:
    """Write the sources of a package of one module, and return their directory."""
    directory.mkdir(parents=True, exist_ok=True)
    text = PYPROJECT.format(name=name, version=version, requires=json.dumps(list(requires)))
    (directory / "pyproject.toml").write_text(text)
    (directory / "backend.py").write_text(BACKEND.format(tests=str(Path(__file__).parent)))
    (directory / f"{name}.py").write_text(module)
    return directory


@dataclass
class Machine:
    """A head's data directory and image prefix: environments are real virtual ones, conda has no part."""

    home: Path
    settings: dict[str, object] = field(default_factory=dict)

    @property
    def package(self) -> Path:
        return self.home / "algopkg" / "T"

    @property
    def store(self) -> Store:
        return Store(self.home / "store")

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file of the package."""
        file = self.package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def _resolver(self) -> tuple[Settings, EnvironmentResolver]:
        self.home.joinpath("settings.json").write_text(json.dumps(self.settings))
        settings = Settings.load(self.home)
        return settings, EnvironmentResolver(settings, self.store)

    def resolve(self) -> Environment:
        return self._resolver()[1].of_package("T", self.package)

    def build(self) -> Environment:
        """Resolve and build the package's environment."""
        settings, resolver = self._resolver()
        environment = resolver.of_package("T", self.package)
        EnvironmentBuilder(settings, self.store, resolver).build(environment, lambda _: None)
        return environment

    def run(self, code: str) -> str:
        """Return what a line of Python prints in the package's environment, which is built where it is missing."""
        python = self.build().path / "bin" / "python"
        result = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
        return result.stdout.strip()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose default index has the base's packages and an "other"."""
    prefix, home = tmp_path / "image", tmp_path / "home"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "uv").symlink_to(UV)
    monkeypatch.setattr(uv, "IMAGE_PREFIX", prefix)
    base = [("ray", RAY), ("orjson", "3.0"), ("pydantic", "2.0"), ("python_multipart", "1.0"), ("other", "1.0")]
    wheels = [wheel(tmp_path / "wheels", name, version) for name, version in base]
    wheels.append(wheel(tmp_path / "wheels", "other", "2.0"))
    url = index(tmp_path / "index", *wheels)
    lock = [f"{file.name.split('-')[0].replace('_', '-')}=={file.name.split('-')[1]}" for file in wheels[:4]]
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in wheels[:4]]
    text = "".join(f"{name} \\\n    --hash=sha256:{digest}\n" for name, digest in zip(lock, hashes, strict=True))
    (prefix / "base.lock").write_text(text)
    machine = Machine(home, {"index_url": url})
    machine.write("backend.py", "")
    _without_conda(monkeypatch)
    return machine


def _without_conda(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(builder: EnvironmentBuilder, environment: Environment) -> None:
        command = [str(UV), "venv", "--quiet", "--no-config", "--python", sys.executable, str(environment.path)]
        subprocess.run(command, check=True)

    def copy(source: Path, target: Path, names: object) -> None:
        (site_packages(target) / "modelserve.pth").write_text("")

    monkeypatch.setattr(EnvironmentBuilder, "_install_conda", make)
    monkeypatch.setattr(build.packages, "copy_packages", copy)
    monkeypatch.setattr(build, "_verified_record", lambda environment: {"name": environment.name})
