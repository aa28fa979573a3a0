"""A file that a client sends: the type with which an author annotates it."""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

OCTETS = "application/octet-stream"
# Keyword of a JSON Schema that tells an Upload from bytes; no document has it.
UPLOAD_KEYWORD = "x-modelserve-upload"


class Upload:
    """A file of a request. Large ones lie on the disk, not in memory.

    An inference may be annotated with it, or a field of its type::

        def _model_inference(self, image: modelserve.Upload): ...

    Attributes:
        file: the content, a binary file object at its start.
        filename: the client's name for it, without a directory; empty where it gave none.
        content_type: media type, such as ``image/png``.
        size: length in bytes.
    """

    def __init__(self, file: BinaryIO, filename: str = "", content_type: str = OCTETS, size: int | None = None) -> None:
        """Make an upload.

        Args:
            file: a binary file object that can seek.
            filename: the client's name for it.
            content_type: media type.
            size: length in bytes; None measures it.
        """
        self.file = file
        # A client may send a whole path, with the separators of its own system.
        self.filename = PurePosixPath(filename.replace("\\", "/")).name
        self.content_type = content_type or OCTETS
        self.size = file.seek(0, io.SEEK_END) if size is None else size
        file.seek(0)

    @classmethod
    def of(cls, content: bytes, filename: str = "", content_type: str = OCTETS) -> Upload:
        """Return an upload with a content in memory."""
        return cls(io.BytesIO(content), filename, content_type, len(content))

    def read(self) -> bytes:
        """Return the whole content. The file object is at its start afterwards."""
        self.file.seek(0)
        content = self.file.read()
        self.file.seek(0)
        return content

    def __bytes__(self) -> bytes:
        return self.read()

    def __repr__(self) -> str:
        return f"Upload(filename={self.filename!r}, content_type={self.content_type!r}, size={self.size})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return pydantic's schema of a field: an upload, its bytes, or base64 text."""
        return core_schema.no_info_plain_validator_function(
            cls._validated, serialization=core_schema.plain_serializer_function_ser_schema(_as_text)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the JSON Schema of a field."""
        return {"type": "string", "format": "binary", UPLOAD_KEYWORD: True}

    @classmethod
    def _validated(cls, value: Any) -> Upload:
        if isinstance(value, Upload):
            return value
        if isinstance(value, bytes):
            return cls.of(value)
        if isinstance(value, str):
            return cls.of(from_base64(value))
        raise ValueError("Input should be a file, or its content as base64 text")


def from_base64(text: str) -> bytes:
    """Return the bytes of a base64 text, of either alphabet; a ``data:`` URL is one, too.

    Raises:
        ValueError: it is not base64.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text.strip().replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("Input should be base64 text") from None


def _as_text(upload: Upload) -> str:
    return base64.b64encode(upload.read()).decode()
