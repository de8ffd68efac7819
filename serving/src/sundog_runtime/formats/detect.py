"""Detect what a file is by its content, never by its name or extension, which an attacker can choose."""

import io
import json
import struct
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

_HEAD = 16
_MAX_SAFETENSORS_HEADER = 100_000_000
_MAX_CONFIG_BYTES = 1024 * 1024
_ONNX_FIELDS = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42")
"""Keys of the protocol-buffer fields that can follow the first one, the version, in an ONNX file."""


class Content(StrEnum):
    """Kinds of content, by the names that messages use."""

    SAFETENSORS = "safetensors"
    STATE_DICT = "a torch zip archive (state dict)"
    TORCHSCRIPT = "a TorchScript archive"
    EXPORTED = "a torch.export archive"
    AOT_INDUCTOR = "an AOTInductor package"
    TORCH_PACKAGE = "a torch.package archive"
    ZIP = "a zip archive"
    PICKLE = "a pickle"
    ONNX = "an ONNX model"
    GGUF = "a GGUF file"
    HDF5 = "an HDF5 file"
    OTHER = "something else"
    EMPTY = "an empty file"


WEIGHT_CONTENTS = frozenset({Content.SAFETENSORS, Content.STATE_DICT})
"""Contents that the torch format loads."""

CONVERSION_HINTS = {
    Content.PICKLE: "a pickle runs code when it is read: save the state dict with safetensors.torch.save_file",
    Content.AOT_INDUCTOR: "it is native code for one kind of machine: save the program with torch.export.save",
    Content.TORCH_PACKAGE: "it holds code and pickles: save the state dict with safetensors.torch.save_file",
    Content.ONNX: "run it with onnxruntime in a predictor class, or save the network with torch.export.save",
    Content.GGUF: "convert it to safetensors, or load it in a predictor class",
    Content.HDF5: "convert it to safetensors, or load it in a predictor class",
}
"""Advice for contents that are detected but not loaded."""


@dataclass(frozen=True, slots=True)
class DetectedFile:
    """A file that may hold weights, and its content. `name` is relative to the model."""

    name: str
    content: Content


def detect_content(path: Path) -> Content:
    """Detect the content from the head and, for a zip file, its directory. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if not head:
            return Content.EMPTY
        if head.startswith(b"PK\x03\x04"):
            return _detect_zip(file)
        # Checked before the others: a header of 0x…80 bytes makes the first bytes of a safetensors file look like a pickle.
        if _is_safetensors(file, head):
            return Content.SAFETENSORS
    return _detect_head(head)


def read_transformers_config(root: Path) -> dict[str, Any] | None:
    """Return `config.json` of a Hugging Face transformers directory; None if there is none. Raises OSError."""
    path = root / "config.json"
    if not path.is_file() or path.stat().st_size > _MAX_CONFIG_BYTES:
        return None
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) and isinstance(config.get("model_type"), str) else None


def _detect_head(head: bytes) -> Content:
    if head[:1] == b"\x80" and len(head) > 1 and 2 <= head[1] <= 5:
        return Content.PICKLE
    if head.startswith(b"GGUF"):
        return Content.GGUF
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return Content.HDF5
    if len(head) > 2 and head[0] == 0x08 and 1 <= head[1] <= 20 and head[2] in _ONNX_FIELDS:
        return Content.ONNX
    return Content.OTHER


def _is_safetensors(file: io.BufferedReader, head: bytes) -> bool:
    """Whether the file has 8 bytes of little-endian header length, then a JSON object of that length."""
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


def _detect_zip(file: io.BufferedReader) -> Content:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return Content.ZIP
    inner = {name.partition("/")[2] for name in names}
    if any(name.startswith("data/aotinductor/") for name in inner):
        return Content.AOT_INDUCTOR
    if inner & {"archive_format", "serialized_exported_program.json"} or any(
        name.startswith("models/") for name in inner
    ):
        return Content.EXPORTED
    if ".data/extern_modules" in inner:
        return Content.TORCH_PACKAGE
    if any(name.startswith("code/") for name in inner) or "constants.pkl" in inner:
        return Content.TORCHSCRIPT
    return Content.STATE_DICT if "data.pkl" in inner else Content.ZIP
