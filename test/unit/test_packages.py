"""Packages of one prefix in another: the named ones are copied, all are linked, and scripts start the new Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelserve.environments.packages import copy_packages, link_packages, site_packages


def install(prefix: Path, name: str, text: str = "x = 1\n") -> None:
    """Install a package of one module and one script, as a wheel's installer leaves it."""
    packages, module = site_packages(prefix), name.replace("-", "_").lower()
    info = packages / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (packages / f"{module}.py").write_text(text)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    files = [f"{module}.py", f"{info.name}/METADATA", f"{info.name}/RECORD", f"../../../bin/{module}", "gone.py"]
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    (prefix / "bin").mkdir(exist_ok=True)
    script = prefix / "bin" / module
    script.write_text(f"#!{prefix}/bin/python\n")
    script.chmod(0o755)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    prefix = tmp_path / "source"
    install(prefix, "Typing_Extensions")
    install(prefix, "numpy")
    (site_packages(prefix) / "modelserve.pth").write_text("/opt/lib\n")
    return prefix


@pytest.fixture
def target(tmp_path: Path) -> Path:
    prefix = tmp_path / "target"
    site_packages(prefix).mkdir(parents=True)
    (prefix / "bin").mkdir()
    return prefix


def test_the_named_packages_are_copied_whatever_the_spelling_of_their_names(source: Path, target: Path) -> None:
    copy_packages(source, target, ["typing.extensions"])
    copies = site_packages(target)
    assert sorted(path.name for path in copies.iterdir()) == [
        "modelserve.pth",
        "typing_extensions-1.0.dist-info",
        "typing_extensions.py",
    ]
    assert not (copies / "typing_extensions.py").samefile(site_packages(source) / "typing_extensions.py")
    script = target / "bin" / "typing_extensions"
    assert script.read_text() == f"#!{target}/bin/python\n"
    assert script.stat().st_mode & 0o111


def test_bytecode_is_copied_with_its_module(source: Path, target: Path) -> None:
    import py_compile

    py_compile.compile(str(site_packages(source) / "numpy.py"))
    copy_packages(source, target, ["numpy"])
    assert [path.name for path in (site_packages(target) / "__pycache__").iterdir()] == [
        path.name for path in (site_packages(source) / "__pycache__").iterdir()
    ]


def test_all_packages_are_linked_and_replacing_one_leaves_the_source(source: Path, target: Path) -> None:
    link_packages(source, target)
    linked, original = (site_packages(prefix) / "numpy.py" for prefix in (target, source))
    assert linked.samefile(original)
    assert (target / "bin" / "numpy").read_text() == f"#!{target}/bin/python\n"
    linked.unlink()
    linked.write_text("x = 2\n")
    assert original.read_text() == "x = 1\n"
    assert (source / "bin" / "numpy").read_text() == f"#!{source}/bin/python\n"
