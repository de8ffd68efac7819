"""Lines of an export: accepted, refused, and the plan document beside them."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSums
from sundog_operator.core.trial.experiment.exposure_log import (
    ExposureLogReader,
    ExposureRow,
    FlagIdentity,
    InvalidExposureLog,
    OutcomeRow,
    column_types,
    make_columns,
    make_plan_document,
)

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
UNIT = "00000000000000ff"
EXPOSURE = {"exposure": [UNIT, 1_750_000_000_123_456, 2, "wide"]}
OUTCOME = {"outcome": [UNIT, "revenue", 2, "wide", -12_345_678, 1_750_000_100]}
AT = datetime(2025, 6, 15, 15, 6, 40, 123_456, UTC)


def sums(sequence: int = 7, exposed: int = 1, events: int = 1) -> dict[str, Any]:
    return {"events": events, "feedback": {"sequence": sequence, "exposed": [[2, "wide", exposed]], "outcomes": []}}


def head(**fields: Any) -> dict[str, Any]:
    return {"head": {"version": 1, "service": "digits", "attempt": "u", **sums(), **fields}}


def end(exposures: int = 1, outcomes: int = 1, **fields: Any) -> dict[str, Any]:
    return {"end": {"exposures": exposures, "outcomes": outcomes, **sums(), **fields}}


def read(*content: dict[str, Any]) -> tuple[list[Any], ExposureLogReader]:
    lines = ExposureLogReader()
    rows = [lines.read(orjson.dumps(line)) for line in content]
    return [row for row in rows if row is not None], lines


def test_rows_have_the_fields_of_their_lines() -> None:
    rows, lines = read(head(), EXPOSURE, OUTCOME, end())
    assert rows == [
        ExposureRow(UNIT, AT, 2, "wide"),
        OutcomeRow(UNIT, "revenue", -12.345678, AT.replace(microsecond=0) + timedelta(seconds=100), 2, "wide"),
    ]
    lines.check()
    assert lines.is_whole


def test_a_row_is_an_evaluation_of_a_feature_flag() -> None:
    meta = {"name": "wide-or-narrow", "namespace": "vision", "uid": "u"}
    flag = FlagIdentity.of({"metadata": meta, "spec": {"modelDeployment": "digits"}})
    exposures = [ExposureRow(UNIT, AT, 2, "wide"), ExposureRow("0" * 16, AT, 3, "stable")]
    evaluation = {
        "feature_flag.key": ["wide-or-narrow"] * 2,
        "feature_flag.set.id": ["vision/digits"] * 2,
        "feature_flag.provider.name": ["sundog"] * 2,
        "feature_flag.version": ["u/2", "u/3"],
        "feature_flag.context.id": (UNIT, "0" * 16),
        "feature_flag.result.variant": ("wide", "stable"),
        "feature_flag.result.reason": ["split", "default"],
    }
    rows = {"unit": (UNIT, "0" * 16), "time": (AT, AT), "epoch": (2, 3), "arm": ("wide", "stable")}
    assert make_columns(exposures, flag) == {"version": [2, 2], **rows, **evaluation}
    outcomes = [OutcomeRow(row.unit, "revenue", 1.5, *row[1:]) for row in exposures]
    assert make_columns(outcomes, flag).items() >= evaluation.items()
    for own in (exposures, outcomes):
        types = column_types(type(own[0]))
        columns = make_columns(own, flag)
        assert [*columns] == [*types]
        assert all(isinstance(value, types[name]) for name, values in columns.items() for value in values)


@pytest.mark.parametrize("millionths", [0, 1, -1, 333_333, 999_999_999_999_999, -(10**15), 10**15])
def test_a_value_is_exact(millionths: int) -> None:
    ((row,), _) = read(head(), {"outcome": [UNIT, "revenue", 2, "wide", millionths, 0]})
    assert round(row.value * 1_000_000) == millionths


def test_properties_are_an_object_that_may_be_absent() -> None:
    """Edges of an earlier release export none."""
    with_plan = {"outcome": [*OUTCOME["outcome"], '{"plan":"pro"}']}
    rows, _ = read(head(), OUTCOME, with_plan)
    assert [row.properties for row in rows] == ["{}", '{"plan":"pro"}']
    # As many quotes as the edge accepts, with the longest names.
    quotes = json.dumps({"a": '"' * 252}, separators=(",", ":"))
    assert len(quotes) == 512
    ((row,), _) = read(head(), {"outcome": [UNIT, "m" * 63, 2, "a" * 63, 10**15, 10**10, quotes]})
    assert row.properties == quotes
    for invalid in ("", "{", "[]", '"text"'):
        with pytest.raises(InvalidExposureLog, match="not a line"):
            read(head(), {"outcome": [*OUTCOME["outcome"], invalid]})


def test_sums_beyond_64_bits_are_exact() -> None:
    lines = ExposureLogReader()
    squares = 123_456_789_012_345_678_901_234_567_891
    fields = {"events": 0, "feedback": {"outcomes": [["revenue", 2, "wide", 1, 1, 7, squares]]}}
    for line in ({"head": {"version": 1, **fields}}, {"end": fields}):
        lines.read(json.dumps(line).encode())
    for found in (lines.head, lines.end):
        assert found["feedback"]["outcomes"][0][-1] == squares


def test_a_repeated_unit_counts_once() -> None:
    rows, lines = read(head(), EXPOSURE, EXPOSURE, OUTCOME, end(exposures=2))
    assert [type(row) for row in rows] == [ExposureRow, OutcomeRow]
    lines.check()
    assert lines.is_whole


@pytest.mark.parametrize(
    "content",
    [
        (),
        (head(),),
        (head(), EXPOSURE, OUTCOME),
        (head(), EXPOSURE, end()),
        (head(), OUTCOME, end()),
        (head(), EXPOSURE, OUTCOME, OUTCOME, end()),
    ],
)
def test_an_incomplete_log_is_refused(content: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(InvalidExposureLog, match="exposures"):
        read(*content)[1].check()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no JSON",
        b"[]",
        b"{}",
        b'{"head": {"version": 2}}',
        b'{"exposure": ["ff", 1]}',
        b'{"exposure": ["ff", 1, 1, "a", 2]}',
        b'{"exposure": ["xyz", 1, 1, "a"]}',
        b'{"exposure": ["ff", 99999999999999999999, 1, "a"]}',
        b'{"outcome": ["ff", "m", 1, "a", "1", 1]}',
        b'{"surprise": 1}',
        b'{"exposure": 1, "outcome": 2}',
    ],
)
def test_an_invalid_line_is_refused(line: bytes) -> None:
    lines = ExposureLogReader()
    if not line.startswith(b'{"head"'):
        lines.read(orjson.dumps(head()))
    with pytest.raises(InvalidExposureLog):
        lines.read(line)


def test_a_line_in_the_wrong_place_is_refused() -> None:
    for content in ([EXPOSURE], [head(), head()], [head(), end(0, 0), EXPOSURE]):
        with pytest.raises(InvalidExposureLog, match="unexpected line"):
            read(*content)


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (head(), end(**sums(sequence=8))),
        (head(), end(**sums(events=2))),
        (head(), end(**sums(exposed=2))),
    ],
)
def test_a_log_that_does_not_match_the_sums_is_not_whole(first: dict[str, Any], last: dict[str, Any]) -> None:
    _, lines = read(first, EXPOSURE, OUTCOME, last)
    lines.check()
    assert not lines.is_whole


def test_too_many_exposures_are_refused() -> None:
    for most, units in ((None, 5), (5, 5)):
        lines = ExposureLogReader(most)
        lines.read(orjson.dumps(head(**sums(exposed=units))))
    with pytest.raises(InvalidExposureLog, match="the log has 6 exposures; expected at most 5"):
        ExposureLogReader(5).read(orjson.dumps(head(**sums(exposed=6))))


@pytest.mark.parametrize(
    ("judged", "why"),
    [
        (FeedbackSums(), ""),
        (FeedbackSums("s", 7), ""),
        (FeedbackSums("s", 6), ""),
        (FeedbackSums("s", 8), "feedback store at change 7: the last evaluation used change 8"),
        (FeedbackSums("t", 3), "feedback store s: the last evaluation used store t"),
    ],
)
def test_a_store_behind_the_last_evaluation_is_reported(judged: FeedbackSums, why: str) -> None:
    fields = {"feedback": {**sums()["feedback"], "store": "s"}}
    _, lines = read(head(), end(0, 0, **fields))
    found = lines.behind(judged)
    assert why in found
    assert bool(found) == bool(why)


@pytest.mark.parametrize(
    ("unit", "assigned"),
    [
        ({"kind": "header", "name": "x-user-id"}, []),
        ({"kind": "request"}, [(1, "control", 10), (1, "wide", 12), (2, "wide", 7)]),
    ],
)
def test_the_plan_document_has_no_internal_fields(unit: dict[str, str], assigned: list[Any]) -> None:
    first = {(1, "control"): ArmCounts(assigned=4), (2, "wide"): ArmCounts(assigned=7)}
    other = {(1, "control"): ArmCounts(assigned=6), (1, "wide"): ArmCounts(assigned=12)}
    known = FeedbackSums("s", 7, {(1, "control"): 3})
    tallies = Counters("u", {"edge-1": first, "edge-2": other}, feedback=known).pack()
    experiment = {
        "metadata": {
            "name": "wide-or-narrow",
            "namespace": "vision",
            "uid": "u",
            "generation": 3,
            "labels": {"a": "b"},
        },
        "spec": {"modelDeployment": "digits", "alpha": 0.05},
        "status": {
            "verdict": {"decision": "Winner"},
            "tallies": tallies,
            "history": [1],
            "plan": {"unit": unit},
        },
    }
    _, lines = read(head(), EXPOSURE, OUTCOME, end())
    assert make_plan_document(experiment, lines, NOW) == {
        "version": 2,
        "experiment": {"name": "wide-or-narrow", "namespace": "vision", "uid": "u", "generation": 3},
        "exportedAt": "2026-11-20T09:30:00Z",
        "complete": True,
        "rows": {"exposures": 1, "outcomes": 1},
        "feedback": sums()["feedback"],
        "assigned": assigned,
        "judged": {"store": "s", "sequence": 7, "exposed": [[1, "control", 3]], "outcomes": []},
        "spec": experiment["spec"],
        "status": {"verdict": {"decision": "Winner"}, "plan": {"unit": unit}},
    }
