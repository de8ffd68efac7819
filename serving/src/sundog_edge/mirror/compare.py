"""Whether two answers to the same request agree. Pure.

Answers are JSON, plain or of the Open Inference Protocol, whose binary tensors are read as the arrays they are. JSON is compared by value:
neither the order of an object's members nor how a number is written matters.
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
_FORMATS: Final = {
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
    """Stable's own answer is none that the comparator knows: nothing follows for the candidate. One line says what was found."""


def compare_answers(
    comparator: Comparator, stable: MirroredAnswer, candidate: MirroredAnswer
) -> dict[str, bool | None]:
    """Whether they agree, by name: by what is asked for, by each of its parts, and exactly beside that, which tells how much is forgiven.

    None where stable's answer is not what a comparator is for.
    """
    try:
        wanted = _document(stable)
    except Incomparable:
        wanted = _MISSING
    found = _of_candidate(candidate)
    named: dict[str, Comparator | PartComparator] = {f"{part.kind} {part.path}": part for part in comparator.parts}
    compared = {**named, _EXACT.kind: _EXACT.model_copy(update={"path": comparator.path}), comparator.kind: comparator}
    return {name: _verdict(each, wanted, found) for name, each in compared.items()}


def _verdict(comparator: Comparator | PartComparator, wanted: Any, found: Any) -> bool | None:
    try:
        return _agree(comparator, wanted, found)
    except Incomparable:
        return None


def answers_agree(comparator: Comparator, stable: MirroredAnswer, candidate: MirroredAnswer) -> bool:
    """Whether they do. Raises Incomparable where stable's answer is not what the comparator is for."""
    return _agree(comparator, _document(stable), _of_candidate(candidate))


def _of_candidate(candidate: MirroredAnswer) -> Any:
    """What nobody can read agrees with nothing."""
    try:
        return _document(candidate)
    except Incomparable:
        return _MISSING


def _agree(comparator: Comparator | PartComparator, stable: Any, candidate: Any) -> bool:
    if isinstance(comparator, Comparator) and comparator.parts:
        # All are looked at: one that stable's answer has not leaves the pair aside, whatever the others say.
        agreed = [_agree(part, stable, candidate) for part in comparator.parts]
        return all(agreed)
    wanted, found = _part(stable, comparator.path), _part(candidate, comparator.path)
    if wanted is _MISSING:
        raise Incomparable(f"stable's answer has nothing at {comparator.path}")
    try:
        return _same(comparator, wanted, found)
    except RecursionError:
        raise Incomparable("an answer is nested too deeply") from None


def _same(comparator: Comparator | PartComparator, wanted: Any, found: Any) -> bool:
    match comparator.kind:
        case "exact":
            return _equal(wanted, found)
        case "tolerance":
            return _close(wanted, found, comparator.atol, comparator.rtol)
        case _:
            return _same_places(wanted, found)


def _document(answer: MirroredAnswer) -> Any:
    """The JSON of an answer, each binary tensor as the data it stands for."""
    try:
        document = orjson.loads(answer.body[: answer.json_length])
    except orjson.JSONDecodeError:
        raise Incomparable("the answer is no JSON") from None
    return document if answer.json_length is None else _with_tensors(document, answer.body[answer.json_length :])


def _with_tensors(document: Any, tail: bytes) -> Any:
    try:
        for output in document["outputs"]:
            size = output.get("parameters", {}).pop("binary_data_size", None)
            if size is not None:
                own, tail = tail[:size], tail[size:]
                output["data"] = _tensor(str(output["datatype"]), own)
    except (AttributeError, KeyError, TypeError, struct.error):
        raise Incomparable("the answer's binary tensors are not as its JSON says") from None
    return document


def _tensor(datatype: str, data: bytes) -> list[Any]:
    """Numbers; of a type without any, such as BYTES, its bytes."""
    if datatype == "BF16":
        datatype, data = "FP32", _widened(data)
    letter = _FORMATS.get(datatype)
    if letter is None:
        return list(data)
    return list(struct.unpack(f"<{len(data) // struct.calcsize(letter)}{letter}", data))


def _widened(data: bytes) -> bytes:
    """A bfloat16 is the upper half of a float32. A last byte that is none stays one too many."""
    halves = (data[at : at + 2] for at in range(0, len(data), 2))
    return b"".join(b"\0\0" + half for half in halves)


def _part(document: Any, path: str) -> Any:
    found = document
    for name, index in _PART.findall(path):
        if name and isinstance(found, dict) and name in found:
            found = found[name]
        elif index and isinstance(found, list) and int(index) < len(found):
            found = found[int(index)]
        else:
            return _MISSING
    return found


def _equal(one: Any, other: Any) -> bool:
    """As JSON has it: true is no 1, and 1 is 1.0."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one is other or (_same_number(one, other) if _is_number(one) else bool(one == other))


def _same_number(one: Any, other: Any) -> bool:
    return _is_number(other) and (one == other or (math.isnan(one) and math.isnan(other)))


def _close(one: Any, other: Any, atol: float, rtol: float) -> bool:
    """All numbers within the tolerance, and all else equal."""
    if _is_number(one) and _is_number(other):
        # A share of what is infinite is any distance.
        near = math.isfinite(one) and abs(one - other) <= atol + rtol * abs(one)
        return near or _same_number(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(one[name], other[name], atol, rtol) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_close(a, b, atol, rtol) for a, b in zip(one, other, strict=True))
    return _equal(one, other)


def _same_places(one: Any, other: Any) -> bool:
    wanted = [_largest(row) for row in _rows(one)]
    if not wanted:
        raise Incomparable("stable's answer has no array of numbers")
    return wanted == [_largest(row) for row in _rows(other)]


def _largest(row: Sequence[float]) -> int:
    """The place of the first largest number; NaN is above all, as numpy has it."""
    return max(range(len(row)), key=lambda place: (math.isnan(row[place]), row[place], -place))


def _rows(value: Any) -> Iterator[Sequence[float]]:
    """The last axis of every array of numbers, in order. A tensor that is written flat is cut by its shape."""
    if isinstance(value, dict):
        flat = _shaped(value)
        if flat is not None:
            yield from flat
            return
        for name in sorted(value):
            yield from _rows(value[name] if name != "shape" else None)
    elif isinstance(value, list):
        if value and all(map(_is_number, value)):
            yield value
        else:
            for each in value:
                yield from _rows(each)


def _shaped(tensor: dict[str, Any]) -> list[tuple[float, ...]] | None:
    data, shape = tensor.get("data"), tensor.get("shape")
    if not (isinstance(data, list) and data and all(map(_is_number, data)) and isinstance(shape, list) and shape):
        return None
    width = shape[-1]
    if type(width) is not int or width < 1 or len(data) % width:
        return None
    return [tuple(data[start : start + width]) for start in range(0, len(data), width)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
