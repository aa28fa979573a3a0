"""Read the text files of a package, in the encodings that pip reads."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from modelserve.errors import Problem, UserError

# UTF-32 first: its mark begins as that of UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# PEP 263, which pip applies to requirement files: "# -*- coding: latin-1 -*-" in one of the first two lines.
_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", re.MULTILINE)
FIX = "Save it as UTF-8"


def read(file: Path, shown: str) -> str:
    """Return a file's text: UTF-8, or what its byte order mark or its comment on the encoding names.

    Args:
        file: the file.
        shown: its name in messages.

    Raises:
        UserError: the file cannot be read, or is in another encoding.
    """
    try:
        return decoded(file.read_bytes(), shown)
    except OSError as error:
        raise UserError(Problem(f"cannot be read: {error.strerror}", "", shown)) from None


def decoded(data: bytes, shown: str) -> str:
    """Return the text of a file's bytes, as :func:`read` does."""
    encoding, body = _encoding(data)
    try:
        text = body.decode(encoding)
    except LookupError:
        raise UserError(Problem(f"names an unknown encoding, {encoding}", FIX, shown)) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"line {line} is not {encoding.upper()} text: byte 0x{body[error.start]:02x}"
        raise UserError(Problem(message, f"{FIX}, or name its encoding in line 1: # coding: latin-1", shown)) from None
    if "\0" in text:
        raise UserError(Problem("looks like UTF-16 without a byte order mark", FIX, shown))
    return text


def _encoding(data: bytes) -> tuple[str, bytes]:
    """Return the encoding of a file's bytes, and the bytes after the byte order mark."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, data[len(mark) :]
    coding = _CODING.search(b"\n".join(data.split(b"\n", 2)[:2]))
    return (coding[1].decode("ascii") if coding else "utf-8"), data
