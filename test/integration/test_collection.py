"""The repository as an Ansible collection: built, installed, and its playbooks read from there."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import modelserve
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def run(directory: Path, *command: str) -> str:
    """Run a command of Ansible's with nothing but its defaults; returns what it printed.

    Neither this checkout's configuration nor what is in the user's home counts: a collection that is installed there
    would not be installed again.
    """
    (directory / "ansible.cfg").write_text("")
    defaults = {"HOME": str(directory), "ANSIBLE_CONFIG": str(directory / "ansible.cfg")}
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(directory), **defaults}
    program = str(BIN / command[0])
    result = subprocess.run(
        [program, *command[1:]],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=directory,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection, built from the files that git would commit."""
    directory = tmp_path_factory.mktemp("collection")
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        target = directory / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            target.symlink_to(ROOT / name)
    run(
        directory, "ansible-galaxy", "collection", "build", str(directory / "checkout"), "--output-path", str(directory)
    )
    return next(directory.glob("modelserve-modelserve-*.tar.gz"))


def test_what_serves_is_shipped_and_what_tests_is_not(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        names = {name.removeprefix("./") for name in tar.getnames()}
    assert {"playbooks/site.yml", "files/modelserve/__init__.py", "files/image/Dockerfile", "controller.py"} <= names
    assert {"plugins/modules/modelserve_host_facts.py", "meta/runtime.yml", "test/server_test.py"} <= names
    folders = {name.split("/")[0] for name in names}
    assert not folders & {"bench", "molecule", ".ci", ".venv", "Makefile", "pyproject.toml"}
    assert {name for name in names if name.startswith("test/")} == {"test/algopkg_test.py", "test/server_test.py"}


def test_a_playbook_runs_from_the_installed_collection(archive: Path, tmp_path: Path) -> None:
    run(tmp_path, "ansible-galaxy", "collection", "install", "--offline", "--no-deps", str(archive))
    host = f"ansible_connection=local ansible_python_interpreter={sys.executable}"
    (tmp_path / "hosts").write_text(f"[head]\nlocal {host}\n")
    play = ["ansible-playbook", "-i", str(tmp_path / "hosts")]
    run(tmp_path, *play, "--syntax-check", "modelserve.modelserve.site")
    # Runs the lookup plugins of the collection and reads the options of its roles.
    plays = ("modelserve.modelserve.plays.groups", "modelserve.modelserve.plays.settings")
    (tmp_path / "play.yml").write_text("".join(f"- import_playbook: {play}\n" for play in plays))
    text = run(tmp_path, *play, str(tmp_path / "play.yml"))
    assert "modelserve.modelserve.modelserve : Validate the settings" in text
    assert "Validate the inventory" in text and "ok=3" in text

    # A module that imports what modules share.
    facts = ["-m", "modelserve.modelserve.modelserve_host_facts", "-a", f"home={tmp_path} survey=true"]
    assert "SUCCESS" in run(tmp_path, "ansible", "-i", str(tmp_path / "hosts"), "local", *facts)

    # An action that finds its helpers beside it.
    (tmp_path / "source").mkdir()
    upload = ["-m", "modelserve.modelserve.upload", "-a", f"src={tmp_path}/source dest={tmp_path}/target"]
    assert "CHANGED" in run(tmp_path, "ansible", "-i", str(tmp_path / "hosts"), "local", *upload)


def test_the_requirements_are_the_collection_s_dependencies() -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    requirements = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]
    assert {item["name"]: item["version"] for item in requirements} == galaxy["dependencies"]
    used = {
        ".".join(word.split(".")[:2])
        for path in sorted((ROOT / "roles").rglob("tasks/*.yml"))
        for word in path.read_text().split()
        if word.startswith(("community.", "ansible.posix."))
    }
    assert used == set(galaxy["dependencies"])


def test_the_package_and_the_collection_have_one_version() -> None:
    assert yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"] == modelserve.__version__
