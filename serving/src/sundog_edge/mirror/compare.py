"""Compare two answers to the same request. Pure.

Answers are JSON, plain or of the Open Inference Protocol; its binary tensors are read as arrays. JSON is compared by value: neither the
order of an object's members nor the notation of a number matters.
"""

import math
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson

from sundog_edge.mirror.records import MirroredAnswer
from sundog_edge.split.shadow import Comparator, PartComparator

_EXACT: Final = PartComparator()
_PART = re.compile(r"\.([A-Za-z0-9_-]+)|\[([0-9]+)\]")
_STRUCT_FORMATS: Final = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
_MISSING: Final = object()


class Incomparable(ValueError):
    """The comparator does not apply to stable's answer, so there is no verdict. The message is one line with the reason."""


def compare_answers(
    comparator: Comparator, stable: MirroredAnswer, candidate: MirroredAnswer
) -> dict[str, bool | None]:
    """Return whether the answers agree, by comparator: the given one, each of its parts, and `exact`, which shows the tolerance's effect.

    None if a comparator does not apply to stable's answer.
    """
    try:
        expected = _parse(stable)
    except Incomparable:
        expected = _MISSING
    found = _parse_candidate(candidate)
    parts: dict[str, Comparator | PartComparator] = {f"{part.kind} {part.path}": part for part in comparator.parts}
    comparators = {
        **parts,
        _EXACT.kind: _EXACT.model_copy(update={"path": comparator.path}),
        comparator.kind: comparator,
    }
    return {name: _verdict(each, expected, found) for name, each in comparators.items()}


def _verdict(comparator: Comparator | PartComparator, expected: Any, found: Any) -> bool | None:
    try:
        return _agree(comparator, expected, found)
    except Incomparable:
        return None


def _parse_candidate(candidate: MirroredAnswer) -> Any:
    """Parse the candidate's answer. An unreadable one agrees with no answer."""
    try:
        return _parse(candidate)
    except Incomparable:
        return _MISSING


def _agree(comparator: Comparator | PartComparator, stable: Any, candidate: Any) -> bool:
    if isinstance(comparator, Comparator) and comparator.parts:
        # All parts are compared: if one does not apply to stable's answer, the pair is incomparable.
        agreed = [_agree(part, stable, candidate) for part in comparator.parts]
        return all(agreed)
    expected, found = _find_part(stable, comparator.path), _find_part(candidate, comparator.path)
    if expected is _MISSING:
        raise Incomparable(f"stable's answer has nothing at {comparator.path}")
    try:
        return _part_agrees(comparator, expected, found)
    except RecursionError:
        raise Incomparable("an answer is nested too deeply") from None


def _part_agrees(comparator: Comparator | PartComparator, expected: Any, found: Any) -> bool:
    match comparator.kind:
        case "exact":
            return _is_equal(expected, found)
        case "tolerance":
            return _is_close(expected, found, comparator.atol, comparator.rtol)
        case _:
            return _has_same_argmax(expected, found)


def _parse(answer: MirroredAnswer) -> Any:
    """Return the JSON of an answer, with the data of each binary tensor."""
    try:
        document = orjson.loads(answer.body[: answer.json_length])
    except orjson.JSONDecodeError:
        raise Incomparable("the answer is not JSON") from None
    return document if answer.json_length is None else _with_tensors(document, answer.body[answer.json_length :])


def _with_tensors(document: Any, tail: bytes) -> Any:
    try:
        for output in document["outputs"]:
            size = output.get("parameters", {}).pop("binary_data_size", None)
            if size is not None:
                content, tail = tail[:size], tail[size:]
                output["data"] = _read_tensor(str(output["datatype"]), content)
    except (AttributeError, KeyError, TypeError, struct.error):
        raise Incomparable("the answer's binary tensors do not match its JSON") from None
    return document


def _read_tensor(datatype: str, data: bytes) -> list[Any]:
    """Return the numbers or texts of a tensor; one text for an unknown type. Raises struct.error for another size."""
    if datatype == "BYTES":
        return list(_split_texts(data))
    if datatype == "BF16":
        datatype, data = "FP32", _widen(data)
    letter = _STRUCT_FORMATS.get(datatype)
    if letter is None:
        return [data.hex()]
    return list(struct.unpack(f"<{len(data) // struct.calcsize(letter)}{letter}", data))


def _split_texts(data: bytes) -> Iterator[str]:
    """Yield the texts of a BYTES tensor. The length of each is before it, in four bytes."""
    start = 0
    while start < len(data):
        (size,) = struct.unpack_from("<I", data, start)
        (text,) = struct.unpack_from(f"{size}s", data, start + 4)
        # Other bytes than UTF-8 stay different from every text.
        yield text.decode(errors="surrogateescape")
        start += 4 + size


def _widen(data: bytes) -> bytes:
    """Return bfloat16 as float32: it is the upper half of one. A surplus last byte stays, and makes the size invalid."""
    halves = (data[at : at + 2] for at in range(0, len(data), 2))
    return b"".join(b"\0\0" + half for half in halves)


def _find_part(document: Any, path: str) -> Any:
    found = document
    for name, index in _PART.findall(path):
        if name and isinstance(found, dict) and name in found:
            found = found[name]
        elif index and isinstance(found, list) and int(index) < len(found):
            found = found[int(index)]
        else:
            return _MISSING
    return found


def _is_equal(one: Any, other: Any) -> bool:
    """Return whether JSON values are equal: true differs from 1, and 1 equals 1.0."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    return one is other or (_is_same_number(one, other) if _is_number(one) else bool(one == other))


def _is_same_number(one: Any, other: Any) -> bool:
    return _is_number(other) and (one == other or (math.isnan(one) and math.isnan(other)))


def _is_close(one: Any, other: Any, atol: float, rtol: float) -> bool:
    """Return whether all numbers are within the tolerance and all other values are equal."""
    if _is_number(one) and _is_number(other):
        # A relative tolerance of an infinite number would allow any distance.
        is_near = math.isfinite(one) and abs(one - other) <= atol + rtol * abs(one)
        return is_near or _is_same_number(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_close(one[name], other[name], atol, rtol) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_is_close(a, b, atol, rtol) for a, b in zip(one, other, strict=True))
    return _is_equal(one, other)


def _has_same_argmax(one: Any, other: Any) -> bool:
    expected = [_decision(row) for row in _rows(one)]
    if not expected:
        raise Incomparable("stable's answer has no array of numbers")
    return _is_equal(expected, [_decision(row) for row in _rows(other)])


def _decision(row: Sequence[float]) -> int | list[float]:
    """Return what a row decides: the place of its largest number, or a single number itself, such as a label or one probability."""
    return [*row] if len(row) == 1 else _argmax(row)


def _argmax(row: Sequence[float]) -> int:
    """Return the index of the first largest number. NaN is the largest, as in numpy."""
    return max(range(len(row)), key=lambda place: (math.isnan(row[place]), row[place], -place))


def _rows(value: Any) -> Iterator[Sequence[float]]:
    """Yield the last axis of every array of numbers, in order. A flat tensor is split by its shape."""
    if isinstance(value, dict):
        split_rows = _split_by_shape(value)
        if split_rows is not None:
            yield from split_rows
            return
        for name in sorted(value):
            yield from _rows(value[name] if name != "shape" else None)
    elif isinstance(value, list):
        if value and all(map(_is_number, value)):
            yield value
        else:
            for each in value:
                yield from _rows(each)


def _split_by_shape(tensor: dict[str, Any]) -> list[tuple[float, ...]] | None:
    data, shape = tensor.get("data"), tensor.get("shape")
    if not (isinstance(data, list) and data and all(map(_is_number, data)) and isinstance(shape, list) and shape):
        return None
    width = shape[-1]
    if type(width) is not int or width < 1 or len(data) % width:
        return None
    return [tuple(data[start : start + width]) for start in range(0, len(data), width)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
