"""What a file is, told from its content. Names and extensions decide nothing: they are what an attacker chooses."""

import io
import json
import struct
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_HEAD = 16
_MAX_SAFETENSORS_HEADER = 100_000_000


class Content(StrEnum):
    """Kinds of content, as they are named to people."""

    SAFETENSORS = "safetensors"
    STATE_DICT = "a torch zip archive (state dict)"
    TORCHSCRIPT = "a TorchScript archive"
    EXPORTED = "a torch.export archive"
    ZIP = "a zip archive"
    PICKLE = "a pickle"
    OTHER = "something else"
    EMPTY = "an empty file"


WEIGHTS = frozenset({Content.SAFETENSORS, Content.STATE_DICT})
"""What the torch format loads."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file that could hold weights, and what it is. `name` is relative to the model."""

    name: str
    content: Content


def sniff(path: Path) -> Content:
    """Reads at most the head and, for a zip file, its directory. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if not head:
            return Content.EMPTY
        if head.startswith(b"PK\x03\x04"):
            return _sniff_zip(file)
        # Before the pickle: a header of 0x…80 bytes makes the first bytes of a safetensors file look like one.
        if _is_safetensors(file, head):
            return Content.SAFETENSORS
        if head[:1] == b"\x80" and len(head) > 1 and 2 <= head[1] <= 5:
            return Content.PICKLE
    return Content.OTHER


def _is_safetensors(file: io.BufferedReader, head: bytes) -> bool:
    """8 bytes of little-endian header length, then a JSON object of that length."""
    if len(head) < 10 or head[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:8])
    if not 2 <= length <= _MAX_SAFETENSORS_HEADER:
        return False
    file.seek(8)
    header = file.read(length)
    try:
        return len(header) == length and isinstance(json.loads(header), dict)
    except (ValueError, RecursionError):
        return False


def _sniff_zip(file: io.BufferedReader) -> Content:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return Content.ZIP
    inner = {name.partition("/")[2] for name in names}
    if any(name.startswith("code/") for name in inner) or "constants.pkl" in inner:
        return Content.TORCHSCRIPT
    if inner & {"archive_format", "serialized_exported_program.json"} or any(
        name.startswith("models/") for name in inner
    ):
        return Content.EXPORTED
    return Content.STATE_DICT if "data.pkl" in inner else Content.ZIP
