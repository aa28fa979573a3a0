"""What is in the image? Writes its bill of materials: Debian packages, Python packages, and what came beside them.

Usage: make_sbom.py VENV CONDA_PREFIX OUTPUT MORE.lock..., by the Python that has cyclonedx-bom.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

FIELDS = "${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\t${source:Package}\n"


def main(venv: str, conda_prefix: str, output: str, *locks: str) -> None:
    """Write the bill of materials of a virtual environment, a conda prefix and lock files to ``output``."""
    bom = of_venv(venv)
    bom.metadata.component = Component(type=ComponentType.CONTAINER, name="modelserve", bom_ref="image")
    parts = [*debian(), *conda(Path(conda_prefix)), *(part for lock in locks for part in locked(Path(lock)))]
    bom.components.update(parts)
    bom.register_dependency(bom.metadata.component, bom.components)
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)
    Path(output).write_text(text + "\n")


def of_venv(venv: str) -> Bom:
    """The Python packages of an environment, with licences and what each requires."""
    command = [str(Path(sys.executable).with_name("cyclonedx-py")), "environment", "--no-validate", "--sv", "1.6", venv]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    bom: Bom = Bom.from_json(json.loads(found.stdout))  # type: ignore[attr-defined]
    return bom


def debian() -> Iterator[Component]:
    """The packages dpkg has installed."""
    system = platform.freedesktop_os_release()
    distro = f"{system['ID']}-{system.get('VERSION_ID', '')}".rstrip("-")
    found = subprocess.run(["dpkg-query", "-W", f"-f={FIELDS}"], check=True, capture_output=True, text=True)
    for line in found.stdout.splitlines():
        status, name, version, architecture, source = line.split("\t")
        if status == "installed":
            more = {"arch": architecture, "distro": distro, "upstream": source}
            yield component(PackageURL("deb", system["ID"], name, version, more))


def conda(prefix: Path) -> Iterator[Component]:
    """The packages of a conda environment, or the Python that uv installed there; none where there is neither."""
    for directory in sorted(prefix.glob("cpython-*.*.*-*")):
        yield component(PackageURL("generic", None, "cpython", directory.name.split("-")[1]))
    for file in sorted(prefix.glob("conda-meta/*.json")):
        record = json.loads(file.read_text())
        more = {"build": record["build"], "subdir": record["subdir"]}
        yield component(PackageURL("conda", None, record["name"], record["version"], more))


def locked(lock: Path) -> Iterator[Component]:
    """The Python packages of a lock file whose files are in no environment."""
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock.read_text(), re.M):
        yield component(PackageURL("pypi", None, name, version))


def component(purl: PackageURL) -> Component:
    """Return the component of a package."""
    return Component(
        type=ComponentType.LIBRARY, name=purl.name, version=purl.version, purl=purl, bom_ref=purl.to_string()
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
