"""Writes files/modelserve/config/debian_files.txt: the Debian package that has a library, a command or a header.

    scripts/debian_files.py            writes the packages beside the names that the file lists
    scripts/debian_files.py --check    ends with 1 where Debian has another package than the file

Reads Debian's Contents indices from $DEBIAN_MIRROR, else from the first archive of this machine's apt: some minutes.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import urllib.request
from collections.abc import Collection, Iterator
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "files" / "modelserve" / "config" / "debian_files.txt"
RELEASES = ("trixie", "bookworm")
DIRECTORIES = {
    ".so": ("usr/lib/x86_64-linux-gnu/", "lib/x86_64-linux-gnu/", "usr/lib/"),
    ".h": ("usr/include/", "usr/include/x86_64-linux-gnu/"),
    "": ("usr/bin/", "bin/", "usr/sbin/"),
}
# No package has these names as files there: update-alternatives makes them, they lie in a directory of their own, or
# the package to install is one that depends on theirs.
CHOSEN = {
    "Eigen/Core": "libeigen3-dev",
    "Python.h": "python3-dev",
    "c++": "build-essential",
    "cairo.h": "libcairo2-dev",
    "cblas.h": "libopenblas-dev",
    "cc": "build-essential",
    "convert": "imagemagick",
    "dbus/dbus.h": "libdbus-1-dev",
    "enchant.h": "libenchant-2-dev",
    "ft2build.h": "libfreetype-dev",
    "g++": "build-essential",
    "gcc": "build-essential",
    "gdal.h": "libgdal-dev",
    "gfortran": "gfortran",
    "hdf5.h": "libhdf5-dev",
    "identify": "imagemagick",
    "java": "default-jre-headless",
    "javac": "default-jdk-headless",
    "libblas.so.3": "libblas3",
    "libjvm.so": "default-jre-headless",
    "liblapack.so.3": "liblapack3",
    "libopenblas.so.0": "libopenblas0",
    "libpq-fe.h": "libpq-dev",
    "libreoffice": "libreoffice-core",
    "libusb.h": "libusb-1.0-0-dev",
    "libxml/xmlversion.h": "libxml2-dev",
    "libxml/xpath.h": "libxml2-dev",
    "magick": "imagemagick",
    "make": "build-essential",
    "mpi.h": "libopenmpi-dev",
    "mysql.h": "default-libmysqlclient-dev",
    "mysql_config": "default-libmysqlclient-dev",
    "pkg-config": "pkg-config",
    "soffice": "libreoffice-core",
    "tcl.h": "tcl-dev",
    "tk.h": "tk-dev",
    "xmlsec/xmlsec.h": "libxmlsec1-dev",
}
ABSENT = "-"


def names(text: str) -> list[str]:
    """Return the names of the first column."""
    return [line.split()[0] for line in text.splitlines() if line and not line.startswith("#")]


def directories(name: str) -> tuple[str, ...]:
    """Return the directories in which a name counts."""
    kind = ".so" if ".so" in name else ".h" if "/" in name or name.endswith(".h") else ""
    return DIRECTORIES[kind]


def contents(release: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the packages of each file of a release."""
    mirror = os.environ.get("DEBIAN_MIRROR") or apt_archive()
    for architecture in ("amd64", "all"):
        url = f"{mirror}/dists/{release}/main/Contents-{architecture}.gz"
        with urllib.request.urlopen(url, timeout=60) as answer, gzip.open(answer, "rt") as lines:
            for line in lines:
                path, _, packages = line.rstrip().rpartition(" ")
                yield path.rstrip(), packages


def packages_of(release: str, wanted: Collection[str]) -> dict[str, str]:
    """Return the package of each name; ``-`` where the release has none."""
    places = {directory + name: name for name in wanted for directory in directories(name)}
    found: dict[str, set[str]] = {}
    known: set[str] = set()
    for path, packages in contents(release):
        owners = {owner.rpartition("/")[2] for owner in packages.split(",")}
        known |= owners & set(CHOSEN.values())
        if path in places:
            found.setdefault(places[path], set()).update(owners)
    # The documentation alone of build-essential is a file of it: its own name is in Contents.
    missing = sorted({CHOSEN[name] for name in wanted if name in CHOSEN} - known)
    if missing:
        raise SystemExit(f"error: {release} does not have {', '.join(missing)}")
    # Of several packages with one library, the shortest name is the usual one: libgomp1, not libgomp1-amd64-cross.
    chosen = {name: min(owners, key=lambda owner: (len(owner), owner)) for name, owners in found.items()}
    return {name: CHOSEN.get(name) or chosen.get(name, ABSENT) for name in wanted}


def filled(text: str) -> str:
    """Return the file with the packages of all releases."""
    wanted = names(text)
    columns = [packages_of(release, wanted) for release in RELEASES]
    rows = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            rows.append(line)
            continue
        name = line.split()[0]
        newest, *older = (column[name] for column in columns)
        rows.append(" ".join([f"{name:31}", f"{newest:31}", *(package for package in older if package != newest)]))
    return "\n".join(row.rstrip() for row in rows) + "\n"


def apt_archive() -> str:
    """Return the URL of the first archive that this machine's apt uses."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if not found:
        raise SystemExit("error: apt has no archive here: set DEBIAN_MIRROR")
    return found[0].rstrip("/")


def main(arguments: list[str]) -> int:
    """Write the file, or compare it."""
    old = FILE.read_text(encoding="utf-8")
    new = filled(old)
    if arguments != ["--check"]:
        FILE.write_text(new, encoding="utf-8")
        return 0
    differences = sorted(set(new.splitlines()) - set(old.splitlines()))
    print("\n".join(differences) or "debian_files.txt: as Debian has it")
    return 1 if differences else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
