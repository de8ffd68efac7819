"""Tensors as bytes: little-endian, row-major; BYTES with a length of four bytes in front of each element."""

import struct
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from sundog_runtime.errors import bad_input, bad_output
from sundog_runtime.protocol.messages import Buffer
from sundog_runtime.tensors import Array, EmptyBytesTensor, TensorSpec, is_finite

_LENGTH = struct.Struct("<I")
_WIRE = {"bool": "u1", "bfloat16": "<u2"}


def item_size(dtype: str) -> int:
    """Return the bytes of one element of a number or boolean type."""
    return np.dtype(_wire_type(dtype)).itemsize


def decode_raw(sent: TensorSpec, data: Buffer, declared: TensorSpec) -> Any:
    """Return an array of the type and shape in `sent`; for BYTES nested lists of strings, or of bytes if `declared` declares them.

    The sizes are compared before anything is allocated. Numbers stay in `data` without a copy if they are aligned and
    writable there. Raises Problem 400.
    """
    what = f"input {sent.name[:60]!r}"
    count = prod(sent.shape)
    if sent.dtype == "string":
        return reshape_to_lists(
            [decode_element(part, declared, what) for part in _elements(data, count, what)], sent.shape
        )
    expected = count * item_size(sent.dtype)
    if len(data) != expected:
        raise bad_input(
            "WrongSize", f"{what} has {len(data)} bytes of data; its shape and datatype take {_shown(expected)}"
        )
    array = _numbers(np.frombuffer(data, dtype=_wire_type(sent.dtype)), sent.dtype, what).reshape(sent.shape)
    if not declared.allow_nan and not is_finite(array):
        raise bad_input("NotFinite", f"{what} holds NaN or infinity")
    return array


def encode_raw(array: Array, dtype: str) -> Buffer:
    """Return the bytes of an output, without a copy if the array has them. Raises Problem 500 for invalid strings."""
    if dtype in ("string", "bytes"):
        return _joined(encode_elements(array, dtype))
    if dtype == "bfloat16":
        array = _to_bfloat16(array)
    contiguous = np.ascontiguousarray(array, dtype=_wire_type(dtype))
    return contiguous.reshape(-1).view(np.uint8).data


def _wire_type(dtype: str) -> str:
    return _WIRE.get(dtype) or np.dtype(dtype).newbyteorder("<").str


def _numbers(wire: Array, dtype: str, what: str) -> Array:
    if dtype == "bool":
        if wire.size and wire.max() > 1:
            raise bad_input("WrongType", f"{what} holds a byte other than 0 and 1; expected BOOL")
        wire = wire.view(np.bool_)
    if dtype == "bfloat16":
        # The upper half of a float32. The array is a new one.
        return (wire.astype(np.uint32) << 16).view(np.float32)
    # A model may write to its inputs, and torch needs memory that is aligned for the type.
    return np.require(wire.astype(wire.dtype.newbyteorder("="), copy=False), requirements=("A", "W"))


def _to_bfloat16(array: Array) -> Array:
    """Return the upper halves of float32, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded)


def _elements(data: Buffer, count: int, what: str) -> Iterator[memoryview]:
    if count * _LENGTH.size > len(data):
        raise bad_input("WrongSize", f"{what} has {len(data)} bytes of data; {_shown(count)} elements take more")
    view, at = memoryview(data), 0
    for number in range(count):
        start = at + _LENGTH.size
        if start > len(view):
            raise bad_input("WrongSize", f"{what} ends within element {number}")
        [length] = _LENGTH.unpack_from(view, at)
        at = start + length
        if at > len(view):
            raise bad_input("WrongSize", f"{what} ends within element {number}")
        yield view[start:at]
    if at != len(view):
        raise bad_input("WrongSize", f"{what} has {len(view) - at} bytes after its last element")


def decode_element(data: Buffer, declared: TensorSpec, what: str) -> str | bytes:
    """Decode an element of BYTES. Strings must be UTF-8, as in JSON. Raises Problem 400 for others, unless bytes are wanted."""
    if declared.dtype == "bytes":
        return bytes(data)
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise bad_input("WrongType", f"{what} holds bytes that are not UTF-8; send them as UINT8") from None


def reshape_to_lists(values: Sequence[str | bytes], shape: Sequence[int]) -> Any:
    """Return strings or bytes as nested lists of that shape."""
    return EmptyBytesTensor(shape) if 0 in shape else np.array(values, dtype=object).reshape(shape).tolist()


def encode_elements(array: Array, dtype: str) -> list[bytes]:
    """Return the elements of a BYTES output, strings in UTF-8. Raises Problem 500 for surrogates, which UTF-8 does not have."""
    values: list[Any] = array.ravel().tolist()
    if dtype == "bytes":
        return values
    try:
        return [text.encode() for text in values]
    except UnicodeEncodeError:
        raise bad_output("OutputUnusable", "the model's output holds a string that is not valid Unicode") from None


def _joined(values: list[bytes]) -> bytes:
    return b"".join(part for value in values for part in (_LENGTH.pack(len(value)), value))


def _shown(number: int) -> str:
    """Format a number that may have thousands of digits."""
    return str(number) if number < 2**63 else "more than 2⁶³"
