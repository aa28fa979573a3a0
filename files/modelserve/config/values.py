"""Values of conf.ini that are more than a number or a word: sizes, labels, names of environment variables."""

from __future__ import annotations

import re

_UNITS = {"": 1, "B": 1, **{f"{p}iB": 1024**n for n, p in enumerate("KMGT", 1)}}
_UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?) *([A-Za-z]*)", re.ASCII)
# Ray's syntax of labels (Kubernetes' own). In a selector, "!" in front of a value means any other.
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_LABEL_KEY = re.compile(rf"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]{{0,251}}[a-zA-Z0-9])?/)?{_LABEL}")
_LABEL_VALUE = re.compile(rf"!?{_LABEL}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What modelserve and Ray set themselves: a replica with other values would not find its Python, or its cluster.
_OWN_VARIABLES = ("PATH", "CONDA_PREFIX")
_OWN_PREFIXES = ("MODELSERVE_", "RAY_")


def bytes_of(text: str) -> int:
    """A size in bytes: ``512MiB``, ``1.5 GB``, ``1024``.

    Raises:
        ValueError: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    units = {unit.lower(): factor for unit, factor in _UNITS.items()}
    if found is None or found[2].lower() not in units:
        raise ValueError(f"'{text}' is not a size: write 512MiB, 2GiB, 1GB, or a number of bytes")
    return (
        int(float(found[1]) * units[found[2].lower()]) if "." in found[1] else int(found[1]) * units[found[2].lower()]
    )


def labels_of(text: str) -> dict[str, str]:
    """Labels as one writes them: ``key=value, key2=!value2``.

    Raises:
        ValueError: a part is no label, or a key comes twice.
    """
    labels: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise ValueError(f"'{part}' is not a label: write key=value, or key=!value for any other value")
        if key in labels:
            raise ValueError(f"names the label '{key}' twice")
        labels[key] = value
    return labels


def variable_problem(name: str, value: str) -> str:
    """What is wrong with an environment variable for a replica; empty when nothing is."""
    if not _VARIABLE.fullmatch(name):
        return f"'{name}' is not the name of an environment variable"
    if name in _OWN_VARIABLES or name.startswith(_OWN_PREFIXES):
        return f"{name} is set by modelserve itself"
    if "\0" in value:
        return f"the value of {name} holds a NUL"
    return ""
