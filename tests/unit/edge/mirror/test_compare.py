"""Verdicts on two answers to the same request."""

import itertools
import math
import struct
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_edge.mirror.compare import compare_answers
from sundog_edge.mirror.records import MirroredAnswer
from sundog_edge.split.shadow import Comparator, PartComparator

NUMBERS = st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def answers_agree(comparator: Comparator, stable: MirroredAnswer, candidate: MirroredAnswer) -> bool | None:
    """Return the verdict of the comparator itself."""
    return compare_answers(comparator, stable, candidate)[comparator.kind]


def plain(document: Any) -> MirroredAnswer:
    return MirroredAnswer("application/json", None, orjson.dumps(document))


def binary(*tensors: tuple[str, list[int], bytes]) -> MirroredAnswer:
    """Return an answer of the Open Inference Protocol with its tensors after the JSON."""
    outputs = [
        {"name": f"y{index}", "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for index, (kind, shape, data) in enumerate(tensors)
    ]
    text = orjson.dumps({"model_name": "m", "outputs": outputs})
    return MirroredAnswer("application/octet-stream", len(text), text + b"".join(data for _, _, data in tensors))


@pytest.mark.parametrize("kind", ["exact", "tolerance"])
@given(document=DOCUMENTS)
def test_every_answer_agrees_with_itself_in_any_order(kind: str, document: Any) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: turned(value[name]) for name in reversed(value)}
        return [turned(each) for each in value] if isinstance(value, list) else value

    assert answers_agree(Comparator(kind=kind), plain(document), plain(turned(document)))


@given(one=DOCUMENTS, other=DOCUMENTS)
def test_exact_is_symmetric_and_tolerance_is_not_stricter(one: Any, other: Any) -> None:
    exact = answers_agree(Comparator(), plain(one), plain(other))
    assert exact == answers_agree(Comparator(), plain(other), plain(one))
    if exact:
        assert answers_agree(Comparator(kind="tolerance", rtol=0.1), plain(one), plain(other))


@given(
    rows=st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=5), min_size=1, max_size=4), off=st.floats(0, 2)
)
def test_tolerance_is_a_limit(rows: list[list[float]], off: float) -> None:
    moved = [[value + off for value in row] for row in rows]
    within = all(
        abs(b - a) <= 1.0 for row, other in zip(rows, moved, strict=True) for a, b in zip(row, other, strict=True)
    )
    assert answers_agree(Comparator(kind="tolerance", atol=1.0), plain(rows), plain(moved)) == within


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (True, 1, False),
        (None, False, False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ([1, 2], [1, 2, 3], False),
        ("1", 1, False),
        ([], {}, False),
    ],
    ids=str,
)
def test_equality_is_that_of_json(one: Any, other: Any, same: bool) -> None:
    for kind in ("exact", "tolerance"):
        assert answers_agree(Comparator(kind=kind), plain(one), plain(other)) == same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"outputs": [[0.1, 0.9], [0.8, 0.2]]}, {"outputs": [[0.4, 0.6], [1, 0]]}, True),
        ({"outputs": [[0.1, 0.9], [0.8, 0.2]]}, {"outputs": [[0.4, 0.6], [0, 1]]}, False),
        ({"outputs": [[0.1, 0.9]]}, {"outputs": [[0.1, 0.9], [0.1, 0.9]]}, False),
        (
            {"outputs": [{"data": [1, 2, 4, 3], "shape": [2, 2]}]},
            {"outputs": [{"data": [0, 9, 9, 0], "shape": [2, 2]}]},
            True,
        ),
        (
            {"outputs": [{"data": [1, 2, 4, 3], "shape": [1, 4]}]},
            {"outputs": [{"data": [0, 9, 9, 0], "shape": [1, 4]}]},
            False,
        ),
        ([1, 1, 1], [2, 2, 2], True),
        ([1, 2], "a", False),
        ({"outputs": [{"data": [3], "shape": [1]}]}, {"outputs": [{"data": [7], "shape": [1]}]}, False),
        ({"outputs": [{"data": [3, 7], "shape": [2, 1]}]}, {"outputs": [{"data": [3.0, 7.0], "shape": [2, 1]}]}, True),
        ({"outputs": [{"data": [3, 7], "shape": [2, 1]}]}, {"outputs": [{"data": [3, 8], "shape": [2, 1]}]}, False),
        ([[1]], [[0, 1]], False),
    ],
    ids=str,
)
def test_argmax_compares_indexes_of_rows_and_the_number_of_a_row_with_one(one: Any, other: Any, same: bool) -> None:
    assert answers_agree(Comparator(kind="argmax"), plain(one), plain(other)) == same


def test_a_path_ignores_other_parts() -> None:
    one, other = {"model": "v1", "outputs": [{"data": [1]}]}, {"model": "v2", "outputs": [{"data": [1]}]}
    assert answers_agree(Comparator(), plain(one), plain(other)) is False
    assert answers_agree(Comparator(path="$.outputs[0].data"), plain(one), plain(other))
    assert answers_agree(Comparator(path="$.outputs[0].data"), plain(one), plain({"outputs": []})) is False
    assert answers_agree(Comparator(path="$.x"), plain(one), plain(other)) is None


SCORES = PartComparator(kind="argmax", path="$.scores")
BOX = PartComparator(kind="tolerance", path="$.box", atol=1.0)
CUSTOM = Comparator(kind="custom", parts=(SCORES, BOX))


@pytest.mark.parametrize(
    ("other", "same", "by_part"),
    [
        ({"scores": [0.3, 0.7], "box": [1.5, 9.5], "id": "b"}, True, (True, True)),
        ({"scores": [0.7, 0.3], "box": [1, 9]}, False, (False, True)),
        ({"scores": [0.1, 0.9], "box": [1, 11]}, False, (True, False)),
        ({"scores": [0.1, 0.9]}, False, (True, False)),
        ("no object", False, (False, False)),
    ],
    ids=str,
)
def test_custom_agrees_if_every_part_agrees(other: Any, same: bool, by_part: tuple[bool, bool]) -> None:
    one = plain({"scores": [0.1, 0.9], "box": [1, 9], "id": "a"})
    assert answers_agree(CUSTOM, one, plain(other)) == same
    found = compare_answers(CUSTOM, one, plain(other))
    assert found == {"argmax $.scores": by_part[0], "tolerance $.box": by_part[1], "exact": False, "custom": same}
    assert compare_answers(CUSTOM, one, one) == dict.fromkeys(found, True)


def test_custom_has_no_verdict_if_stable_lacks_a_part() -> None:
    one, other = plain({"scores": [0.1, 0.9]}), plain({"scores": [0.9, 0.1], "box": [1, 9]})
    found = compare_answers(CUSTOM, one, other)
    assert found == {"argmax $.scores": False, "tolerance $.box": None, "exact": False, "custom": None}
    garbage = MirroredAnswer("", None, b"{[")
    assert compare_answers(CUSTOM, garbage, other) == dict.fromkeys(found)
    assert compare_answers(CUSTOM, other, garbage) == dict.fromkeys(found, False)


def test_the_additional_exact_comparison_has_the_same_path() -> None:
    one, other = plain({"a": [1.0, 2.0], "id": 1}), plain({"a": [1.0, 2.0], "id": 2})
    assert compare_answers(Comparator(kind="argmax", path="$.a"), one, other) == {"argmax": True, "exact": True}
    assert compare_answers(Comparator(), one, other) == {"exact": False}


def test_binary_tensors_are_compared_as_numbers() -> None:
    one = binary(("FP32", [1, 2], struct.pack("<2f", 1.0, 2.0)), ("INT64", [1], struct.pack("<q", 7)))
    near = binary(("FP32", [1, 2], struct.pack("<2f", 1.0, 2.001)), ("INT64", [1], struct.pack("<q", 7)))
    assert answers_agree(Comparator(), one, near) is False
    assert answers_agree(Comparator(kind="tolerance", rtol=0.01), one, near)
    assert answers_agree(Comparator(kind="argmax"), one, near)
    nan = binary(("FP64", [1], struct.pack("<d", float("nan"))))
    assert answers_agree(Comparator(), nan, nan)
    endless, finite, other = (binary(("FP64", [1], struct.pack("<d", value))) for value in (math.inf, 1.0, -math.inf))
    forgiving = Comparator(kind="tolerance", atol=1.0, rtol=0.1)
    assert answers_agree(forgiving, endless, endless)
    assert not any(
        answers_agree(forgiving, one, another) for one, another in itertools.permutations((endless, finite, other), 2)
    )


@pytest.mark.parametrize(
    ("datatype", "one", "other"),
    [
        ("BYTES", b"\1\0\0\0a", b"\1\0\0\0b"),
        ("BYTES", b"\2\0\0\0ab\0\0\0\0", b"\1\0\0\0a\1\0\0\0b"),
        ("BYTES", b"\1\0\0\0\xfe", b"\1\0\0\0\xff"),
        ("FP8", b"\1\2", b"\1\3"),
    ],
    ids=str,
)
def test_binary_texts_and_unknown_types_are_no_numbers(datatype: str, one: bytes, other: bytes) -> None:
    stable, candidate = (binary((datatype, [2], data)) for data in (one, other))
    for comparator in (Comparator(), Comparator(kind="tolerance", atol=99.0, rtol=9.0)):
        assert answers_agree(comparator, stable, stable)
        assert answers_agree(comparator, stable, candidate) is False
    assert answers_agree(Comparator(kind="argmax"), stable, candidate) is None


def test_binary_texts_equal_those_in_json() -> None:
    data = "$.outputs[0].data"
    texts = plain({"outputs": [{"data": ["\u00e4b", ""]}]})
    assert answers_agree(Comparator(path=data), binary(("BYTES", [2], b"\3\0\0\0\xc3\xa4b\0\0\0\0")), texts)
    for damaged in (b"\3\0\0\0ab", b"\1\0"):
        assert answers_agree(Comparator(path=data), binary(("BYTES", [1], damaged)), texts) is None


def test_bfloat16_is_compared_as_numbers() -> None:
    # 1.0 and 2.0; then 1.0 and the next number after 2.0, which is larger by 1/128.
    one, near = (binary(("BF16", [1, 2], bytes.fromhex(text))) for text in ("803f0040", "803f0140"))
    assert answers_agree(Comparator(), one, near) is False
    assert answers_agree(Comparator(kind="tolerance", rtol=0.008), one, near)
    assert answers_agree(Comparator(kind="tolerance", rtol=0.007), one, near) is False
    # 1.0 and 2.0 against 256.0 and 2.0: read as bytes, the first would be the largest in both.
    assert answers_agree(Comparator(kind="argmax"), one, binary(("BF16", [1, 2], bytes.fromhex("80430040")))) is False
    assert answers_agree(Comparator(kind="argmax"), one, near)


@pytest.mark.parametrize(
    "garbage",
    [
        MirroredAnswer("", None, b"\x00{["),
        MirroredAnswer("", 5, b"{}"),
        MirroredAnswer("", 14, b'{"outputs": 1}xx'),
        binary(("FP32", [1], b"abc")),
        binary(("BF16", [1], b"abc")),
        MirroredAnswer("", None, b"[" * 5000),
    ],
    ids=lambda each: str(each.body[:20]),
)
@pytest.mark.parametrize("kind", ["exact", "tolerance", "argmax"])
def test_garbage_agrees_with_nothing_and_gives_no_verdict_as_stable(kind: str, garbage: MirroredAnswer) -> None:
    assert answers_agree(Comparator(kind=kind), plain({"outputs": [1.0, 2.0]}), garbage) is False
    assert answers_agree(Comparator(kind=kind), garbage, plain({"outputs": [1.0, 2.0]})) is None


@pytest.mark.parametrize("kind", ["exact", "tolerance", "argmax"])
def test_too_deeply_nested_answers_have_no_verdict(kind: str) -> None:
    deep = MirroredAnswer("", None, b"[" * 1000 + b"1" + b"]" * 1000)
    assert answers_agree(Comparator(kind=kind), deep, deep) is None
