"""A package with a pyproject.toml in place of requirements.txt, with and without a uv.lock, by the real uv."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from local_packages import UV, Machine, index, machine, source_tree
from modelserve.environments.build import EnvironmentBuilder
from modelserve.errors import UserError
from wheels import wheel

__all__ = ["machine"]
OTHER = "import other; print(other.VERSION)"
VERSION = "import zzlocal; print(zzlocal.VERSION)"


def write(machine: Machine, *dependencies: str, tables: str = "", python: str = ">=3.11") -> None:
    project = f'[project]\nname = "My_T"\nversion = "0"\nrequires-python = "{python}"\n'
    machine.write("pyproject.toml", f"{project}dependencies = {json.dumps(dependencies)}\n{tables}")


def lock(machine: Machine) -> None:
    """Write the uv.lock as the author does, on a machine with an index of its own."""
    url = str(machine.settings["index_url"])
    variables = {**os.environ, "UV_DEFAULT_INDEX": url, "UV_CACHE_DIR": str(machine.home / "cache")}
    command = [str(UV), "lock", "--quiet", "--python", sys.executable, "--directory", str(machine.package)]
    subprocess.run(command, check=True, env=variables)


def problem(machine: Machine) -> str:
    with pytest.raises(UserError) as caught:
        machine.build()
    (line,) = str(caught.value).splitlines()
    return line


def test_the_dependencies_of_a_project_are_installed(machine: Machine) -> None:
    write(machine, "other<2", "missing ; sys_platform == 'win32'")
    assert machine.run(OTHER) == "1.0"
    write(machine, "other")
    assert machine.run(OTHER) == "2.0"


def test_a_lock_decides_the_versions(machine: Machine, tmp_path: Path) -> None:
    write(machine, "other")
    lock(machine)
    index(tmp_path / "index", wheel(tmp_path / "made", "other", "3.0"))
    assert machine.run(OTHER) == "2.0"
    (machine.package / "uv.lock").unlink()
    assert machine.run(OTHER) == "3.0"


def test_a_stale_lock_is_one_line(machine: Machine) -> None:
    write(machine, "other")
    lock(machine)
    write(machine, "other<2")
    assert problem(machine) == (
        "algopkg/T/uv.lock: is older than algopkg/T/pyproject.toml: it has another 'other'. Run 'uv lock' in the "
        "package's directory"
    )
    lock(machine)
    assert machine.run(OTHER) == "1.0"


@pytest.mark.parametrize("locked", [pytest.param(False, marks=pytest.mark.long), True])
def test_sources_are_uv_s(machine: Machine, tmp_path: Path, locked: bool) -> None:
    wheel(machine.package / "wheels", "zzwheel", "1.0")
    source_tree(machine.package / "lib", "zzlocal", "VERSION = 'first'")
    url = index(
        tmp_path / "idx", wheel(tmp_path / "made", "zzidx", "1.0+cpu"), wheel(tmp_path / "made", "other", "0.1")
    )
    sources = (
        'zzwheel = { path = "wheels/zzwheel-1.0-py3-none-any.whl" }\nzzlocal = { path = "lib", editable = true }\n'
    )
    sources += 'zzidx = { index = "cpu" }\n'
    indexes = f'[[tool.uv.index]]\nname = "cpu"\nurl = "{url}"\nexplicit = true\n'
    dependencies = ("zzwheel", "zzlocal>=1 ; python_version > '3.8'", "zzidx~=1.0", "other>=1")
    write(machine, *dependencies, tables=f"[tool.uv.sources]\n{sources}{indexes}")
    if locked:
        lock(machine)
    assert machine.run(VERSION) == "first"
    assert machine.run("import zzwheel, zzidx, other; print(zzwheel.VERSION, zzidx.VERSION, other.VERSION)") == (
        "1.0 1.0+cpu 2.0"
    )
    source_tree(machine.package / "lib", "zzlocal", "VERSION = 'second'")
    assert machine.run(VERSION) == "second"


@pytest.mark.long
def test_requirements_txt_counts_where_both_are(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    write(machine, "other<2")
    machine.write("requirements.txt", "other\n")
    lines: list[str] = []
    built = EnvironmentBuilder.build
    monkeypatch.setattr(EnvironmentBuilder, "build", lambda builder, made, _: built(builder, made, lines.append))
    assert machine.run(OTHER) == "2.0"
    note = "building (from requirements.txt; pyproject.toml beside it does not count)"
    assert [line for line in lines if line.startswith("environment T-") and line.endswith(note)]


def test_a_file_for_tools_alone_asks_for_nothing(machine: Machine) -> None:
    machine.write("pyproject.toml", "[tool.ruff]\nline-length = 120\n")
    assert machine.resolve().name == "AlgoExample"


def test_what_cannot_be_used_is_one_line(machine: Machine) -> None:
    write(machine, "other", python=">=3.99")
    assert problem(machine).startswith("algopkg/T/pyproject.toml: asks for Python >=3.99, but the cluster runs Python")
    write(machine, "other = 1")
    assert problem(machine).startswith("algopkg/T/pyproject.toml: 'other = 1' is no requirement")
    write(machine, "other", tables="[tool.uv.sources]\nother = { workspace = true }\n")
    assert problem(machine).startswith("algopkg/T/pyproject.toml: has a source of other that is not known here")
    write(machine, "other @ https://ci:word@example.org/x.whl")
    assert problem(machine).startswith("algopkg/T/pyproject.toml: line 5 holds a user or a password for example.org")
    machine.write("pyproject.toml", "[project\n")
    assert problem(machine).startswith("algopkg/T/pyproject.toml: is not valid TOML")
