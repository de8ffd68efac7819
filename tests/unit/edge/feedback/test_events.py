"""Reported outcomes: parsing, refusals with reasons, and repetitions."""

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_edge.feedback.events import (
    MAX_FUTURE_S,
    MAX_ITEMS,
    BodyRefused,
    ItemRefusal,
    OutcomeEvent,
    ParseContext,
    parse_item,
    parse_items,
)
from sundog_edge.feedback.exposure import SignedExposure
from sundog_edge.split.assignment import unit_hash

NOW = 1_769_000_000.5
ONE = SignedExposure("a-1", 2, "canary", 77, 1_768_999_000)
ENDED = ONE._replace(attempt="before", seconds=ONE.seconds - 3600)
YOUNG = ENDED._replace(seconds=int(NOW) - 30)
KNOWN = {"known": ONE, "ended": ENDED, "young": YOUNG}
READING = ParseContext(NOW, ("converted", "revenue"), True, KNOWN.get, ONE.attempt, NOW - 10)
OF_REQUESTS = ParseContext(NOW, ("converted",), False, KNOWN.get, ONE.attempt, NOW - 10)


def item(**members):
    return {"exposure": "known", "metric": "converted", **members}


def event(**members) -> OutcomeEvent:
    found = parse_item(item(**members), READING)
    assert isinstance(found, OutcomeEvent), found
    return found


@pytest.mark.parametrize(
    ("body", "items"),
    [(b"{}", [{}]), (b"[{}, 1]", [{}, 1]), (b' [{"a": [[]]}] ', [{"a": [[]]}])],
)
def test_a_body_is_an_object_or_a_list(body, items):
    assert parse_items(body) == items


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is no JSON"),
        (b"{", "the body is no JSON"),
        (b"\xff", "the body is no JSON"),
        (b"[NaN]", "the body is no JSON"),
        (b"[" * 5000, "the body is no JSON"),
        (b"[]", "the body has 0 items; 1 to 1000 are expected"),
        (b"[" + b"0," * MAX_ITEMS + b"0]", "the body has 1001 items"),
        (b'"text"', "the body is a string; an object, or a list of objects, is expected"),
        (b"7", "the body is a number"),
        (b"null", "the body is null"),
        (b"true", "the body is a boolean"),
    ],
)
def test_an_invalid_body_is_refused(body, message):
    with pytest.raises(BodyRefused, match=message) as raised:
        parse_items(body)
    assert len(str(raised.value)) < 250


def test_an_item_is_an_event():
    assert event()[1:] == (77, ONE, "converted", 1_000_000, 1_769_000_000, False, "")
    assert event(time=None) == event()
    assert event(time="2026-01-21T12:53:20Z").timed
    assert event(value=True).value == 1_000_000
    assert event(value=False).value == 0
    assert event(value=-0.25).value == -250_000
    assert event(value=10**9).value == 10**15
    assert event(time="2026-01-21T12:53:20Z").seconds == datetime(2026, 1, 21, 12, 53, 20, tzinfo=UTC).timestamp()
    assert event(time="2026-01-21t14:53:20.999999999+02:00").seconds == 1_769_000_000


def test_properties_are_kept_as_json_and_distinguish_no_events():
    found = event(properties={"plan": "pro", "items": 3, "new": True, "ratio": 0.5})
    assert found.properties == '{"items":3,"new":true,"plan":"pro","ratio":0.5}'
    assert found._replace(properties="") == event() == event(properties={})
    assert len(event(properties={"a": "é" * 252}).properties.encode()) == 512


def test_a_unit_is_read_as_the_edge_reads_it():
    for value, unit in (("u-7", b"u-7"), (7, b"7"), (7.9, b"7"), (True, b"1"), ("é", "é".encode())):
        found = parse_item({"unit": value, "metric": "revenue"}, READING)
        assert (found.unit, found.exposure) == (unit_hash(unit), None)


REFUSED = [
    (7, "invalid", "", "a number", "an object"),
    (None, "invalid", "", "null", "an object"),
    (item(weight=1), "invalid", "'weight'", "a field", "none but exposure, id, metric, properties, time, unit, value"),
    (item(unit="u"), "invalid", "exposure", "both of exposure and unit", "one of the two"),
    ({"metric": "converted"}, "invalid", "exposure", "neither of exposure and unit", "one of the two"),
    ({"exposure": "known"}, "invalid", "metric", "nothing", "one of converted, revenue"),
    (item(metric="clicks"), "invalid", "metric", "'clicks'", "one of converted, revenue"),
    (item(metric=["converted"]), "invalid", "metric", "a list", "one of converted, revenue"),
    (item(value="1"), "invalid", "value", "'1'", "a boolean or a number"),
    (item(value=None), "invalid", "value", "None", "a boolean or a number"),
    (item(value=10**9 + 1), "invalid", "value", "1000000001", "from -1000000000 to 1000000000"),
    (item(value=math.inf), "invalid", "value", "inf", "a number"),
    (item(value=math.nan), "invalid", "value", "nan", "a number"),
    (item(id=""), "invalid", "id", "''", "a string of 1 to 200 characters"),
    (item(id=7), "invalid", "id", "7", "a string of 1 to 200 characters"),
    (item(id="x" * 201), "invalid", "id", "…", "a string of 1 to 200 characters"),
    (item(time="yesterday"), "invalid", "time", "'yesterday'", "RFC 3339"),
    (item(time="2026-01-21"), "invalid", "time", "'2026-01-21'", "RFC 3339"),
    (item(time="2026-01-21T12:53:20"), "invalid", "time", "'2026", "RFC 3339"),
    (item(time="2026-02-30T12:53:20Z"), "invalid", "time", "'2026", "RFC 3339"),
    (item(time="9999-12-31T23:59:59-12:00"), "future", "time", "'9999", "no more than 60 s from now"),
    (item(time="2026-01-21T12:54:21Z"), "future", "time", "'2026", "no more than 60 s from now"),
    (item(time=1_769_000_000), "invalid", "time", "1769000000", "RFC 3339"),
    (item(properties=None), "invalid", "properties", "null", "an object of at most 8 names of 1 to 64 characters"),
    (item(properties={str(n): n for n in range(9)}), "invalid", "properties", "9 names", "at most 8 names"),
    (item(properties={"": 1}), "invalid", "properties", "a name of 0 characters", "1 to 64 characters"),
    (item(properties={"x" * 65: 1}), "invalid", "properties", "a name of 65 characters", "1 to 64 characters"),
    (item(properties={"a": None}), "invalid", "properties", "null as 'a'", "a string, a number or a boolean"),
    (item(properties={"a": [1]}), "invalid", "properties", "a list as 'a'", "a string, a number or a boolean"),
    (item(properties={"a": "é" * 253}), "invalid", "properties", "514 bytes", "at most 512 bytes as JSON"),
    (item(exposure="forged"), "unknown", "exposure", "a text that is none", "an exposure of this service's attempt"),
    (
        item(exposure="ended"),
        "late",
        "exposure",
        "an exposure of an attempt that has ended",
        "an exposure of this service's attempt",
    ),
    (
        item(exposure="young"),
        "unknown",
        "exposure",
        "a text that is none",
        "an exposure of this service's attempt",
    ),
    (item(exposure=7), "invalid", "exposure", "a number", "an exposure"),
    ({"unit": "", "metric": "revenue"}, "invalid", "unit", "an empty string", "a string of 1 to"),
    (
        {"unit": "x" * 4097, "metric": "revenue"},
        "invalid",
        "unit",
        "a string of 4097 bytes",
        "a string of 1 to 4096 bytes",
    ),
    ({"unit": 1 << 53, "metric": "revenue"}, "invalid", "unit", "a number", "or a number"),
    ({"unit": None, "metric": "revenue"}, "invalid", "unit", "null", "a string"),
    ({"unit": {"a": 1}, "metric": "revenue"}, "invalid", "unit", "an object", "a string"),
]


@pytest.mark.parametrize(("reported", "result", "field", "found", "expected"), REFUSED)
def test_a_refusal_has_field_found_and_expected(reported, result, field, found, expected):
    refusal = parse_item(reported, READING)
    assert isinstance(refusal, ItemRefusal), refusal
    assert (refusal.result, refusal.field) == (result, field)
    assert found in refusal.found
    assert expected in refusal.expected
    assert max(map(len, refusal)) < 200


def test_a_time_up_to_a_minute_ahead_is_accepted():
    ahead = datetime.fromtimestamp(int(NOW) + MAX_FUTURE_S, UTC).isoformat()
    assert event(time=ahead).seconds == int(NOW) + MAX_FUTURE_S


def test_a_unit_is_refused_if_requests_are_units():
    refusal = parse_item({"unit": "u", "metric": "converted"}, OF_REQUESTS)
    assert refusal[:3] == ("invalid", "unit", "a unit")
    assert isinstance(parse_item(item(), OF_REQUESTS), OutcomeEvent)


def test_two_events_are_equal_by_their_key():
    later = ParseContext(NOW + 5, READING.metrics, True, READING.exposure_of, ONE.attempt)
    assert parse_item(item(), later).key == event().key, "a repetition without a time is the same"
    assert event(id="a").key == event(id="a", value=3, time="2026-01-21T12:00:00Z").key, "an id says it all"
    different = [
        event(),
        event(value=2),
        event(time="2026-01-21T12:00:00Z"),
        event(id="a"),
        event(id="b"),
        event(metric="revenue"),
        event(metric="revenue", id="a"),
        parse_item({"unit": "u", "metric": "converted"}, READING),
        parse_item({"unit": "v", "metric": "converted"}, READING),
        parse_item({"unit": "v", "metric": "converted", "id": "a"}, READING),
    ]
    assert len({each.key for each in different}) == len(different)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from(("exposure", "unit", "metric", "value", "id", "time", "properties")) | st.text(max_size=3)
told_values = json_values | st.sampled_from(("known", "converted", "2026-01-21T12:00:00Z", 1, True))


@given(json_values | st.dictionaries(fields, told_values, max_size=6))
def test_every_value_is_an_event_or_a_refusal(value):
    found = parse_item(value, READING)
    assert isinstance(found, OutcomeEvent | ItemRefusal)
    json.dumps(found[1:] if isinstance(found, OutcomeEvent) else found)
