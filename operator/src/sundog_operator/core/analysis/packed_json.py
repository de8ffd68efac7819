"""Packed counts of a status: JSON, compressed by zlib, in base64. Pure."""

import base64
import json
import zlib
from typing import Any, Final

UNPACK_ERRORS: Final = (ValueError, zlib.error, RecursionError)
"""Errors of unpacking invalid text."""


def encode_json(value: Any) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def pack_json(value: Any) -> str:
    """Return compressed JSON."""
    return compress(encode_json(value))


def compress(written: bytes) -> str:
    """Compress written JSON."""
    return base64.b64encode(zlib.compress(written, 9)).decode()


def unpack_json(text: str, max_bytes: int) -> Any:
    """Unpack a value of `pack_json`. Text beyond so many bytes is cut off and thus invalid. Raises `UNPACK_ERRORS`."""
    return json.loads(zlib.decompressobj().decompress(base64.b64decode(text, validate=True), max_bytes))
