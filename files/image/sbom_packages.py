"""Adds the Debian packages of a layer to the image's bill of materials: sbom_packages.py FILE.

Runs in the image: the standard library alone.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

FIELDS = "${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\t${source:Package}\n"


def component(name: str, version: str, qualifiers: dict[str, str], vendor: str) -> dict[str, Any]:
    """Return the component of a package in CycloneDX's form, as make_sbom.py writes it.

    Source: https://github.com/package-url/purl-spec (type deb).
    """
    more = "&".join(f"{key}={quote(value, safe='.-_~')}" for key, value in sorted(qualifiers.items()))
    purl = f"pkg:deb/{vendor}/{quote(name, safe='.-_~')}@{quote(version, safe='.-_~:')}?{more}"
    return {"bom-ref": purl, "name": name, "purl": purl, "type": "library", "version": version}


def add(document: dict[str, Any], packages: str, system: dict[str, str]) -> None:
    """Add the packages that a bill of materials does not have.

    Args:
        document: the bill of materials, which is changed.
        packages: dpkg-query's lines of ``FIELDS``.
        system: the entries of /etc/os-release.
    """
    distro = f"{system['ID']}-{system.get('VERSION_ID', '')}".rstrip("-")
    debian = (part for part in document["components"] if part.get("purl", "").startswith("pkg:deb/"))
    present = {(part["name"], part["version"]) for part in debian}
    for line in packages.splitlines():
        status, name, version, architecture, source = line.split("\t")
        part = component(name, version, {"arch": architecture, "distro": distro, "upstream": source}, system["ID"])
        if status == "installed" and (name, version) not in present:
            document["components"].append(part)
            image = next(entry for entry in document["dependencies"] if entry["ref"] == "image")
            image.setdefault("dependsOn", []).append(part["bom-ref"])
            document["dependencies"].append({"ref": part["bom-ref"]})


def main(file: Path) -> None:
    """Add what dpkg has installed to a bill of materials."""
    document = json.loads(file.read_text(encoding="utf-8"))
    listed = subprocess.run(["dpkg-query", "-W", f"-f={FIELDS}"], check=True, capture_output=True, text=True)
    add(document, listed.stdout, platform.freedesktop_os_release())
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
