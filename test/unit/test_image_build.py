"""The image's build: a password of a package index or channel is on no command line, and Docker records it nowhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "files" / "image"
INDEX = "https://user:se+cret@index.example/simple"
PROXY = "http://site:closed@proxy.example:3128"
CHANNELS = "https://ann:hidden@conda.example/main https://plain.example/free"
# Notes its arguments and its environment.
RECORDER = """\
#!{python}
import json, os, sys
with open({log!r}, "a") as stream:
    print(json.dumps({{"argv": sys.argv, "env": dict(os.environ)}}), file=stream)
sys.exit({code})
"""


class Recorder:
    """Stub commands in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        directory.mkdir(parents=True)

    def add(self, *names: str, code: int = 0) -> None:
        for name in names:
            file = self.directory / name
            file.write_text(RECORDER.format(python=sys.executable, log=str(self.log), code=code))
            file.chmod(0o755)

    def calls(self) -> list[tuple[list[str], dict[str, str]]]:
        records = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [(record["argv"], record["env"]) for record in records]


def run(script: Path, path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{path}:{os.environ['PATH']}", "HOME": str(path), **variables}
    return subprocess.run(
        ["sh", str(script), *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_docker_gets_passwords_by_its_environment(tmp_path: Path) -> None:
    shutil.copytree(SOURCES, tmp_path / "files" / "image")
    (tmp_path / "files" / "modelserve").mkdir()
    commands = Recorder(tmp_path / "bin")
    commands.add("docker")
    result = run(
        tmp_path / "files" / "image" / "build.sh",
        commands.directory,
        "modelserve:1",
        BASE_IMAGE="debian:13",
        UV_DEFAULT_INDEX=INDEX,
        CONDA_CHANNELS=CHANNELS,
        PYTHON_VERSION="3.12",
    )
    assert result.returncode == 0, result.stderr
    assert "cret" not in result.stdout + result.stderr
    ((build, environment),) = [call for call in commands.calls() if call[0][1] == "build"]
    words = " ".join(build)
    assert "cret" not in words and "hidden" not in words
    # Docker knows these names: their values are in no history. Both are there though they are empty.
    assert [build[number + 1] for number, word in enumerate(build) if word == "--build-arg"][:2] == [
        "FTP_PROXY",
        "ftp_proxy",
    ]
    assert (environment["FTP_PROXY"], environment["ftp_proxy"]) == (INDEX, CHANNELS)
    assert "PUBLIC_CHANNELS=https://conda.example/main https://plain.example/free" in build
    # A step that fails leaves no container with these variables.
    assert "--force-rm" in build


def test_the_build_s_steps_have_the_proxy_and_the_history_does_not(tmp_path: Path) -> None:
    shutil.copytree(SOURCES, tmp_path / "files" / "image")
    (tmp_path / "files" / "modelserve").mkdir()
    commands = Recorder(tmp_path / "bin")
    commands.add("docker")
    variables = {"http_proxy": PROXY, "HTTP_PROXY": PROXY, "no_proxy": "localhost", "NO_PROXY": "localhost"}
    script = tmp_path / "files" / "image" / "build.sh"
    result = run(script, commands.directory, "modelserve:1", BASE_IMAGE="debian:13", **variables)
    assert result.returncode == 0, result.stderr
    ((build, environment),) = [call for call in commands.calls() if call[0][1] == "build"]
    # Names alone: Docker takes the values from its environment, and these names stay out of every history.
    arguments = [build[number + 1] for number, word in enumerate(build) if word == "--build-arg"]
    assert set(variables) <= set(arguments) and "HTTPS_PROXY" not in arguments
    assert environment["http_proxy"] == PROXY
    assert "closed" not in " ".join(build) + result.stdout + result.stderr


MIRROR = "https://ann:se+cret@mirror.example:8443/debian"
NO_KEY = "W: GPG error: trixie InRelease: NO_PUBKEY 762F67A0B2C39DE4"


def bootstrap(tmp_path: Path, script: str) -> tuple[subprocess.CompletedProcess[str], Recorder]:
    """Bootstrap a base image with a stub of mmdebstrap, a shell script."""
    commands = Recorder(tmp_path / "bin")
    commands.add("docker")
    (commands.directory / "mmdebstrap").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>{tmp_path}/asked\n{script}\n')
    (commands.directory / "mmdebstrap").chmod(0o755)
    variables = {"BASE_RELEASE": "trixie", "DEBIAN_MIRROR": MIRROR, "TMPDIR": str(tmp_path)}
    return run(SOURCES / "bootstrap.sh", commands.directory, "base:1", **variables), commands


def test_apt_gets_a_mirror_s_password_by_a_file(tmp_path: Path) -> None:
    root = tmp_path / "root"
    hooks = 'for word; do case $word in --setup-hook=*) sh -c "${word#*=}" hook "$ROOT";; esac; done'
    result, commands = bootstrap(tmp_path, f"ROOT={root}\n{hooks}")
    assert result.returncode == 0, result.stderr
    words = (tmp_path / "asked").read_text()
    assert "https://mirror.example:8443/debian" in words.splitlines() and "cret" not in words
    login = root / "etc/apt/auth.conf.d/mirror.conf"
    assert login.read_text() == "machine https://mirror.example:8443/debian login ann password se+cret\n"
    assert login.stat().st_mode & 0o777 == 0o600
    assert '--customize-hook=rm "$1/etc/apt/auth.conf.d/mirror.conf"' in words
    ((imported, _),) = commands.calls()
    assert imported[1] == "import" and "cret" not in " ".join(imported)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp.")] == [], "nothing stays"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "E: Failed to fetch https://mirror.example:8443: refused",
            "trixie: Failed to fetch https://mirror.example:8443: refused. Set",
        ),
        (f"{NO_KEY}\nE: The repository is not signed.", "install a newer debian-archive-keyring"),
        ("", "trixie: mmdebstrap failed. Set modelserve_debian_mirror"),
    ],
)
def test_a_bootstrap_that_fails_leaves_no_image(tmp_path: Path, said: str, line: str) -> None:
    result, commands = bootstrap(tmp_path, f"echo '{said}' >&2; exit 1")
    assert result.returncode == 1
    (error,) = result.stdout.splitlines()
    assert error.startswith("error: no base system from Debian trixie") and line in error
    assert not commands.log.exists(), "docker was asked for nothing"


def test_the_dockerfile_declares_no_argument_that_holds_a_password() -> None:
    # What is declared is in the history of the steps that follow.
    lines = (SOURCES / "Dockerfile").read_text().splitlines()
    declared = {line.split()[1].split("=")[0] for line in lines if line.startswith("ARG ")}
    assert declared == {"BASE_IMAGE", "PUBLIC_CHANNELS", "PYTHON_VERSION", "PYTHON_SOURCE"}
    lines = (SOURCES / "layer.Dockerfile").read_text().splitlines()
    declared = {line.split()[1].split("=")[0] for line in lines if line.startswith("ARG ")}
    assert declared == {"BASE_IMAGE", "PACKAGES", "RECORD"}


@pytest.fixture
def build_python(tmp_path: Path) -> Path:
    """The script of the build stage, below a directory of its own."""
    for name in ("build_python.sh", "sources.sh"):
        text = (
            (SOURCES / name).read_text().replace("/build/", f"{tmp_path}/build/").replace("/opt/", f"{tmp_path}/opt/")
        )
        (tmp_path / "build").mkdir(exist_ok=True)
        (tmp_path / "build" / name).write_text(text)
    return tmp_path / "build" / "build_python.sh"


def test_installers_get_passwords_by_their_environment(build_python: Path) -> None:
    commands = Recorder(build_python.parent / "boot" / "bin")
    commands.add("python3", "pip")
    commands.add("python", code=7)  # the channel's Python is the last that this test needs
    result = run(
        build_python,
        commands.directory,
        FTP_PROXY=INDEX,
        ftp_proxy=CHANNELS,
        PUBLIC_CHANNELS="https://conda.example/main",
        PYTHON_VERSION="3.12",
    )
    assert result.returncode == 7, result.stderr
    assert "hidden" not in result.stdout + result.stderr
    (_, pip, channel) = commands.calls()
    assert pip[1]["PIP_INDEX_URL"] == pip[1]["UV_DEFAULT_INDEX"] == INDEX
    assert channel[1]["CONDA_CHANNELS"] == CHANNELS
    for argv, environment in commands.calls():
        assert "cret" not in " ".join(argv) and "hidden" not in " ".join(argv)
        assert not {"FTP_PROXY", "ftp_proxy"} & set(environment)


def test_without_an_index_the_tools_use_their_own(build_python: Path) -> None:
    commands = Recorder(build_python.parent / "boot" / "bin")
    commands.add("python3")
    commands.add("pip", code=7)
    assert run(build_python, commands.directory, FTP_PROXY="", ftp_proxy="").returncode == 7
    for _, environment in commands.calls():
        assert not {"PIP_INDEX_URL", "UV_DEFAULT_INDEX"} & set(environment)
