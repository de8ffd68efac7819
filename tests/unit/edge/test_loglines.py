"""HAProxy's lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_edge.loglines import ENDS, End, Refusal, end_class, parse

ROW = b"digits/att/0/stable/assigned/sticky"


def line(**changes: bytes) -> bytes:
    fields = {
        "boot": b"abcd-12",
        "row": ROW,
        "number": b"5",
        "status": b"200",
        "termination": b"--",
        "retries": b"0",
        "server": b"127.0.0.1:30003",
        "received": b"1000000",
        "first": b"1002000",
        "end": b"1005000",
        "outcome": b"-",
        "service": b"digits",
    }
    return b" ".join({**fields, **changes}.values())


def test_a_line_is_read():
    assert parse(line()) == End(b"abcd-12", ROW, 5, "ok", 0, False, False, 2000, 5000)
    retried = parse(
        line(retries=b"+2", server=b"fallback-127.0.0.1:8000", first=b"-", termination=b"sH", status=b"504")
    )
    assert retried == End(b"abcd-12", ROW, 5, "timeout", 2, True, True, 5000, 5000)


def test_a_clock_that_steps_back_gives_no_negative_duration():
    assert parse(line(first=b"999999", end=b"999998"))[-2:] == (0, 0)


@pytest.mark.parametrize(
    ("status", "termination", "responded", "invalid", "end"),
    [
        (200, b"--", True, False, "ok"),
        (204, b"--", True, False, "ok"),
        (307, b"--", True, False, "ok"),
        (200, b"--", True, True, "invalid"),
        (404, b"--", True, False, "client4xx"),
        (404, b"--", True, True, "client4xx"),
        (429, b"--", True, False, "throttled"),
        (500, b"--", True, False, "server5xx"),
        (503, b"--", True, False, "server5xx"),
        (503, b"SC", False, False, "edge5xx"),
        (503, b"sC", False, False, "edge5xx"),
        (503, b"sQ", False, False, "edge5xx"),
        (502, b"SH", False, False, "edge5xx"),
        (502, b"PH", False, False, "edge5xx"),
        (500, b"IH", False, False, "edge5xx"),
        (504, b"sH", False, False, "timeout"),
        (200, b"sD", True, False, "timeout"),
        (200, b"SD", True, False, "truncated"),
        (200, b"PD", True, False, "truncated"),
        (200, b"KD", True, False, "truncated"),
        (500, b"SD", True, False, "truncated"),
        (400, b"CH", False, False, "abortBefore"),
        (400, b"CR", False, False, "abortBefore"),
        (503, b"CQ", False, False, "abortBefore"),
        (408, b"cR", False, False, "abortBefore"),
        (200, b"CD", True, False, "abortDuring"),
        (200, b"cD", True, False, "abortDuring"),
    ],
)
def test_every_termination_has_one_class(status, termination, responded, invalid, end):
    assert end_class(status, termination, responded, invalid) == end
    assert end in ENDS


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"status": b"413", "termination": b"LR"}, "size"),
        ({"status": b"503", "termination": b"LR"}, "notReady"),
        ({"status": b"404", "termination": b"LR", "service": b"-"}, "unknown"),
        ({"status": b"400", "termination": b"PR", "service": b"-", "received": b"-"}, "malformed"),
        ({"status": b"400", "termination": b"CR", "service": b"-", "received": b"-"}, "unfinished"),
        ({"status": b"408", "termination": b"cR", "service": b"-", "received": b"-"}, "unfinished"),
    ],
)
def test_what_never_got_an_arm(changes, kind):
    found = parse(line(row=b"-", number=b"-", first=b"-", **changes))
    assert isinstance(found, Refusal)
    assert found.kind == kind
    assert found.counted == (changes.get("received") != b"-")
    assert found.service == ("" if changes.get("service") == b"-" else "digits")


@given(st.binary(max_size=300))
def test_anything_is_survived(data):
    parse(data)
    parse(line(status=data))
    parse(line(number=data))
    parse(line(received=data))


def test_a_line_with_too_few_or_too_many_fields_is_none_of_ours():
    assert parse(b"") is None
    assert parse(line() + b" x") is None
    assert parse(line(status=b"abc")) is None
