"""Counts as a status holds them: JSON by zlib and base64. Pure."""

import base64
import json
import zlib
from typing import Any, Final

UNPACK_ERRORS: Final = (ValueError, zlib.error, RecursionError)
"""What comes of unpacking something else."""


def encode_json(value: Any) -> bytes:
    """Plain JSON as it is written."""
    return json.dumps(value, separators=(",", ":")).encode()


def pack_json(value: Any) -> str:
    """Plain JSON in short."""
    return compress(encode_json(value))


def compress(written: bytes) -> str:
    """The same of what is written already."""
    return base64.b64encode(zlib.compress(written, 9)).decode()


def unpack_json(text: str, most_bytes: int) -> Any:
    """What `packed` was given. Of more than so many bytes the rest is cut off, and so is no JSON; what it raises is `UNREADABLE`."""
    return json.loads(zlib.decompressobj().decompress(base64.b64decode(text, validate=True), most_bytes))
