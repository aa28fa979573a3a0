"""Lines of Serve's logs, which are JSON documents: their messages and tracebacks."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

# ``traceback`` prints a traceback part by part. Serve 2.60 replaces ``print`` in a replica, and its ``print`` to a file
# writes the tuple of its arguments: ``('Traceback (most recent call last):\\n',)('  File ...\\n',)``.
_STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_PRINTED_TUPLE = re.compile(rf"\({_STRING},\)")
_PRINTED_TUPLES = re.compile(rf"(?:\({_STRING},\)\s*)+")


def record_of(line: str) -> dict[str, Any]:
    """Return the document of a line; of a line that is not Serve's, the ``message`` alone."""
    try:
        record = json.loads(line)
    except ValueError:
        return {"message": line}
    return record if isinstance(record, dict) and isinstance(record.get("message"), str) else {"message": line}


def traceback_of(content: Mapping[str, Any]) -> str:
    """Return the traceback of a line as Python prints it; empty where the line has none.

    Args:
        content: Serve's JSON document of the line.
    """
    text = content.get("exc_text")
    if not isinstance(text, str):
        return ""
    if not _PRINTED_TUPLES.fullmatch(text):
        return text
    return "".join(ast.literal_eval(part)[0] for part in _PRINTED_TUPLE.findall(text))
