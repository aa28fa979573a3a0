"""Parse values of conf.ini: sizes, labels, and names of environment variables and of secrets."""

from __future__ import annotations

import re
import unicodedata

from pydantic import ByteSize, TypeAdapter

# pydantic.ByteSize takes more: bits, "512k", a unit without a number. A conf.ini is read the same by every version.
_SIZE = re.compile(r"\d{1,18}(?:\.\d{1,9})? *(?:[KMGT]?B|[KMGT]iB)?", re.ASCII | re.IGNORECASE)
_BYTES = TypeAdapter(ByteSize)
# Ray's syntax of labels (Kubernetes' own). In a selector, "!" in front of a value means any other.
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_LABEL_KEY = re.compile(rf"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]{{0,251}}[a-zA-Z0-9])?/)?{_LABEL}")
_LABEL_VALUE = re.compile(rf"!?{_LABEL}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# modelserve and Ray set these: a replica with other values would not find its Python or its cluster.
_OWN_VARIABLES = ("PATH", "CONDA_PREFIX")
_OWN_PREFIXES = ("MODELSERVE_", "RAY_")
# Short and without capitals, so that most values are no names: messages repeat a name, and never anything else.
_SECRET = re.compile(r"[a-z][a-z0-9_]{0,29}")
SECRET_NAMES = "A name is a small letter, then small letters, digits and '_', 30 at most"


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC). macOS may write the other one."""
    return unicodedata.normalize("NFC", name)


def forms(name: str) -> set[str]:
    """Return the ways to write a name in Unicode."""
    return {name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)}


def bytes_of(text: str) -> int:
    """Return a size in bytes: ``512MiB``, ``1.5 GB``, ``1024``.

    Raises:
        ValueError: the text is not a size.
    """
    size = text.strip()
    if not _SIZE.fullmatch(size):
        raise ValueError(f"'{text}' is not a size: write 512MiB, 2GiB, 1GB, or a number of bytes")
    return int(_BYTES.validate_python(size))


def labels_of(text: str) -> dict[str, str]:
    """Return the labels of a text: ``key=value, key2=!value2``.

    Raises:
        ValueError: a part is not a label, or a key appears twice.
    """
    labels: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        key, sign, value = (side.strip() for side in part.partition("="))
        if not sign or not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise ValueError(f"'{part}' is not a label: write key=value, or key=!value for any other value")
        if key in labels:
            raise ValueError(f"names the label '{key}' twice")
        labels[key] = value
    return labels


def variable_problem(name: str, value: str) -> str:
    """Return what is wrong with an environment variable of a replica; empty for a valid one."""
    if not _VARIABLE.fullmatch(name):
        return f"'{name}' is not the name of an environment variable"
    if name in _OWN_VARIABLES or name.startswith(_OWN_PREFIXES):
        return f"{name} is set by modelserve itself"
    if "\0" in value:
        return f"the value of {name} holds a NUL"
    return ""


def is_secret_name(name: str) -> bool:
    """Return whether a secret can have this name."""
    return bool(_SECRET.fullmatch(name))


def secret_problem(variable: str, name: str) -> tuple[str, str]:
    """Return what is wrong with ``secret.<variable> = <name>``, and the fix; two empty texts for a valid one.

    The messages do not repeat an invalid name: it may be the secret itself.
    """
    message = variable_problem(variable, "")
    if message:
        return message, "Choose another name"
    if not name:
        return "names no secret", f"Write secret.{variable} = {variable.lower()[:30]}"
    if not is_secret_name(name):
        return "is not the name of a secret", f"{SECRET_NAMES}. A value does not belong in conf.ini"
    return "", ""
