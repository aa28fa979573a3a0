"""Keep the hashes that requirement files allow: uv writes all of the index's into a lock."""

from __future__ import annotations

import re

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from modelserve.environments.inputs import Inputs
from modelserve.environments.requirements import Line
from modelserve.errors import UserError

_HASH = re.compile(r"--hash[=\s]\s*(\w+:[0-9a-fA-F]+)")
_ENTRY = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>\S+)(?P<hashes>(?: \\\n    --hash=\S+)+)", re.MULTILINE)


def restricted(lock: str, asked: Inputs) -> str:
    """Return a lock without the hashes of packages that the requirements do not allow.

    Args:
        lock: uv's lock, with hashes.
        asked: the requirements; those without ``--hash`` allow all.

    Raises:
        UserError: a package of the index has none of the hashes that its line allows.
    """
    allowed = {name: line for line in asked.texts if (name := _name(line.text))}

    def entry(found: re.Match[str]) -> str:
        line = allowed.get(canonicalize_name(found["name"]))
        if line is None:
            return found[0]
        kept = _kept(found, line)
        return f"{found['name']}=={found['version']}" + "".join(f" \\\n    --hash={value}" for value in kept)

    return _ENTRY.sub(entry, lock) if allowed else lock


def _kept(found: re.Match[str], line: Line) -> list[str]:
    own, hashes = _HASH.findall(line.text), _HASH.findall(found["hashes"])
    algorithms = {value.partition(":")[0] for value in hashes}
    if any(value.partition(":")[0] not in algorithms for value in own):
        return own  # of another algorithm than the index's: uv compares them when it installs
    kept = [value for value in hashes if value.lower() in {value.lower() for value in own}]
    if not kept:
        message = f"allows {found['name']}=={found['version']} with hashes that no file of the package index has"
        raise UserError(line.problem(message, "Write the hashes that 'pip hash' prints for the files that you trust"))
    return kept


def _name(text: str) -> str:
    """Return the name of a requirement with hashes; nothing for others, and for one that this Python does not need."""
    if not _HASH.search(text):
        return ""
    try:
        requirement = Requirement(re.split(r"\s--hash", text)[0])
        holds = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        return canonicalize_name(requirement.name) if holds else ""
    except InvalidRequirement:
        return ""
