"""What is in the image is written down, all of it."""

from __future__ import annotations

import json

from conftest import Cluster
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

DISTRIBUTIONS = (
    "import importlib.metadata as m; print(*{f'{d.name}=={d.version}' for d in m.distributions()}, sep='\\n')"
)


def test_the_bill_of_materials_is_valid_and_whole(cluster: Cluster) -> None:
    text = cluster.head("modelserve", "sbom").stdout
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found: dict[str, set[str]] = {}
    for component in json.loads(text)["components"]:
        kind = component["purl"].partition("/")[0]
        found.setdefault(kind, set()).add(f"{component['name']}=={component['version']}")
    packages = cluster.head("dpkg-query", "-W", "-f=${Package}==${Version}\\n").stdout.split()
    assert found["pkg:deb"] == set(packages) and len(packages) > 50
    python = set(cluster.head("/opt/venv/bin/python", "-c", DISTRIBUTIONS).stdout.split())
    assert python <= found["pkg:pypi"] and any(name.startswith("ray==") for name in python)
    assert {name.partition("==")[0] for name in found["pkg:pypi"] - python} == {"drf-spectacular-sidecar"}
    assert cluster.head("ls", "/build", check=False).returncode != 0, "what wrote it is not in the image"
