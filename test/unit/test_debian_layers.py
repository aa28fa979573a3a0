"""A layer of Debian packages: what Docker and apt are asked for, and one line for each name that Debian lacks."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "files" / "image"
MIRROR = "https://ann:se+cret@mirror.example:8443/debian"
ASKED = "libgl1 algopkg/OCR/packages.txt line 2\nlibg++ modelserve_debian_packages"
BROKEN = """\
release: Debian GNU/Linux 13 (trixie)
no package: libg++
several packages: libgl1 mesa, libglvnd
The command '/bin/sh -c sh /opt/lib/add_packages.sh' returned a non-zero code: 1
"""


def stub(directory: Path, name: str, script: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


def add_layer(tmp_path: Path, docker: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script with a stub of Docker, which notes its arguments, its login and its context."""
    note = f'printf "%s\\n" "$@" >{tmp_path}/argv; echo "${{FTP_PROXY-}}" >{tmp_path}/login'
    context = f'for word; do context=$word; done; cp -r "$context" {tmp_path}/context'
    stub(tmp_path / "bin", "docker", f"{note}\n{context}\n{docker}")
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(tmp_path), **variables}
    command = ["sh", str(SOURCES / "add_layer.sh"), "modelserve:1", "modelserve:1-2"]
    environment.setdefault("DEBIAN_PACKAGES", ASKED)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_a_layer_is_one_step_on_top_of_the_image(tmp_path: Path) -> None:
    result = add_layer(tmp_path, "", RECORD="1")
    assert (result.returncode, result.stdout) == (0, "step: Debian packages: libgl1 libg++\n")
    argv = (tmp_path / "argv").read_text().splitlines()
    assert argv[0] == "build" and argv[argv.index("--tag") + 1] == "modelserve:1-2"
    assert {"BASE_IMAGE=modelserve:1", "PACKAGES=libgl1 libg++", "RECORD=1", "modelserve.part=image"} <= set(argv)
    # Each COPY, ADD or RUN is a layer of its own.
    assert [path.name for path in (tmp_path / "context").iterdir()] == ["Dockerfile"]
    steps = [line.split()[0] for line in (tmp_path / "context" / "Dockerfile").read_text().splitlines()]
    assert [step for step in steps if step in ("COPY", "ADD", "RUN")] == ["RUN"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp.")] == [], "nothing stays"


def test_apt_s_login_for_the_mirror_is_on_no_command_line(tmp_path: Path) -> None:
    add_layer(tmp_path, "", DEBIAN_MIRROR=MIRROR, http_proxy="http://site:closed@proxy:3128")
    argv = (tmp_path / "argv").read_text()
    assert "cret" not in argv and "closed" not in argv
    assert (tmp_path / "login").read_text() == "machine https://mirror.example:8443/debian login ann password se+cret\n"
    assert "http_proxy" in argv.splitlines()
    shutil.rmtree(tmp_path / "context")
    add_layer(tmp_path, "", DEBIAN_MIRROR=MIRROR, BASE_IMAGE="debian:13")
    assert (tmp_path / "login").read_text() == "\n", "the site's image has archives of its own"


def test_each_name_that_apt_cannot_install_is_one_line_with_who_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "said").write_text(BROKEN)
    result = add_layer(tmp_path, f"cat {tmp_path}/said; exit 1")
    assert result.returncode == 1
    assert result.stdout.splitlines()[1:] == [
        "error: modelserve_debian_packages asks for libg++, which Debian GNU/Linux 13 (trixie) does not have. "
        "Correct the name: packages.debian.org lists all",
        "error: algopkg/OCR/packages.txt line 2 asks for libgl1, which several packages provide. "
        "Write one of them: mesa, libglvnd",
    ]


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("E: Failed to fetch http://m/x: refused\nE: Some index files failed", "Failed to fetch http://m/x: refused"),
        ("dockerd is gone", "dockerd is gone"),
    ],
)
def test_another_failure_is_one_line_with_the_cause(tmp_path: Path, said: str, cause: str) -> None:
    (tmp_path / "said").write_text(said + "\n")
    result = add_layer(tmp_path, f"cat {tmp_path}/said; exit 100")
    (error,) = (line for line in result.stdout.splitlines() if line.startswith("error:"))
    assert result.returncode == 1
    assert error.startswith(f"error: no Debian packages for the image: {cause}. Set modelserve_debian_mirror")


# What apt-cache says of a package, of one that others provide, and of a name that is mentioned and nowhere to be had.
SHOWPKG = {
    "libgl1": "Versions: \n1.6.0-1 (/var/lib/apt)\n\nReverse Depends: \n  a,b\nReverse Provides: \n",
    "libglib2.0-0": "Versions: \n\nReverse Depends: \n  a,b\nReverse Provides: \nlibglib2.0-0t64 2.84 (= 2.84)\n",
    "mta": "Versions: \n\nReverse Provides: \nexim4 4.98 (= )\nexim4 4.97 (= )\ndma 0.13 (= )\n",
    "libold": "Versions: \n\nReverse Depends: \n  a,libold\nDependencies: \nProvides: \nReverse Provides: \n",
}
# What dpkg-query prints: states and names, else what the packages provide.
DPKG = 'case $3 in *Status*) echo "installed libgl1"; echo "config-files libgone";; *) echo "libglu (= 1), x11";; esac'


def install(tmp_path: Path, packages: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the image's script on a copy of its tree, with stubs of apt and dpkg."""
    root, commands = tmp_path / "root", tmp_path / "commands"
    for directory in ("opt/lib", "opt/venv/bin", "etc/apt/auth.conf.d", "var/lib/apt/lists"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "etc/os-release").write_text('ID=debian\nPRETTY_NAME="Debian 13"\n')
    for name in ("add_packages.sh", "record_packages.sh"):
        text = (SOURCES / name).read_text()
        text = re.sub(r"([ =>\n])(/(?:opt|etc|var)/)", rf"\1{root}\2", text)
        (root / "opt/lib" / name).write_text(text)
    log = tmp_path / "apt"
    for name, text in SHOWPKG.items():
        (tmp_path / f"{name}.showpkg").write_text(f"Package: {name}\n{text}")
    shutil.copy(tmp_path / "libgl1.showpkg", tmp_path / "libgl..showpkg")  # a pattern, for apt
    stub(commands, "apt-cache", f'cat "{tmp_path}/$2.showpkg"')
    login = root / "etc/apt/auth.conf.d/modelserve.conf"
    stub(commands, "apt-get", f'echo "$@" >>{log}; cat {login} >>{log} 2>/dev/null || true')
    stub(commands, "dpkg-query", DPKG)
    stub(root / "opt/venv/bin", "python", f'echo "sbom $2" >>{log}')
    environment = {"PATH": f"{commands}:{os.environ['PATH']}", "PACKAGES": packages, **variables}
    command = ["sh", str(root / "opt/lib/add_packages.sh")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_image_records_what_it_has_and_keeps_no_login(tmp_path: Path) -> None:
    result = install(tmp_path, "libgl1 libglib2.0-0", RECORD="1", FTP_PROXY="machine m login ann password se+cret")
    assert result.returncode == 0, result.stderr
    calls = (tmp_path / "apt").read_text().splitlines()
    assert calls[0] == "update -q -o APT::Update::Error-Mode=any"
    assert calls[1] == "machine m login ann password se+cret", "apt reads it while it works"
    assert "install -q -y --no-install-recommends libgl1 libglib2.0-0" in calls
    assert calls[-1].startswith("sbom ") and calls[-1].endswith("/opt/sbom.cdx.json")
    assert list((tmp_path / "root/etc/apt/auth.conf.d").iterdir()) == []
    recorded = (tmp_path / "root/opt/debian_packages.txt").read_text().split()
    assert recorded == ["libgl1", "libglu", "x11"], "what is installed, and what it provides"


def test_the_head_s_own_layer_is_not_recorded(tmp_path: Path) -> None:
    assert install(tmp_path, "libgl1").returncode == 0
    assert not (tmp_path / "root/opt/debian_packages.txt").exists()


def test_unknown_names_are_all_printed_and_nothing_is_installed(tmp_path: Path) -> None:
    result = install(tmp_path, "libgl1 libnone libold libgl. mta")
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        "release: Debian 13",
        *(f"no package: {name}" for name in ("libnone", "libold", "libgl.")),
        "several packages: mta exim4, dma",
    ]
    assert "install" not in (tmp_path / "apt").read_text()


def test_the_bill_of_materials_gets_the_packages_of_a_layer() -> None:
    spec = importlib.util.spec_from_file_location("sbom_packages", SOURCES / "sbom_packages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    old = "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13&upstream=glibc"
    document = {
        "components": [{"bom-ref": old, "name": "libc6", "purl": old, "type": "library", "version": "2.41-12"}],
        "dependencies": [{"ref": "image", "dependsOn": [old]}, {"ref": old}],
    }
    listed = (
        "installed\tlibc6\t2.41-12\tamd64\tglibc\n"
        "installed\tg++\t4:14.2.0-1\tamd64\tgcc-defaults\n"
        "config-files\tlibgone\t1\tamd64\tlibgone\n"
    )
    module.add(document, listed, {"ID": "debian", "VERSION_ID": "13"})
    new = "pkg:deb/debian/g%2B%2B@4:14.2.0-1?arch=amd64&distro=debian-13&upstream=gcc-defaults"
    assert [part["bom-ref"] for part in document["components"]] == [old, new]
    assert document["dependencies"] == [{"ref": "image", "dependsOn": [old, new]}, {"ref": old}, {"ref": new}]
    json.dumps(document)


# --- the cluster's Python from a mirror


def test_the_mirror_of_pythons_reaches_uv_and_a_failure_is_one_line(tmp_path: Path) -> None:
    for name in ("build_python.sh", "sources.sh"):
        text = (SOURCES / name).read_text()
        for directory in ("/build/", "/opt/"):
            text = text.replace(directory, f"{tmp_path}{directory}")
        (tmp_path / "build").mkdir(exist_ok=True)
        (tmp_path / "build" / name).write_text(text)
    (tmp_path / "build/boot").mkdir()
    mirror = f"file://{tmp_path}/nowhere"
    stub(tmp_path / "bin", "python3", "exit 0")
    stub(tmp_path / "build/boot/bin", "pip", "exit 0")
    uv = shutil.which("uv", path=f"{Path(__file__).parents[2] / '.venv' / 'bin'}:{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed")
    (tmp_path / "build/boot/bin/uv").symlink_to(uv)
    variables = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHON_VERSION": "3.12",
        "PYTHON_SOURCE": "mirror",
        "PUBLIC_CHANNELS": mirror,
        "ftp_proxy": mirror,
    }
    command = ["sh", str(tmp_path / "build/build_python.sh")]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    (error,) = (line for line in result.stdout.splitlines() if line.startswith("error:"))
    assert error.startswith(f"error: no Python 3.12 from {mirror}: ") and "Set modelserve_python_mirror" in error
    assert f"{tmp_path}/nowhere/2" in result.stderr, "uv asked the mirror for a release"
