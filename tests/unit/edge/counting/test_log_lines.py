"""HAProxy's log lines."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_edge.counting.log_lines import (
    ENDS,
    HEAD_FIELDS,
    AgentHead,
    EndHead,
    RefusalHead,
    classify_end,
    parse_head,
)

ROW = "digits/att/0/stable/assigned/sticky"


def head(**changes: str) -> bytes:
    fields = {
        "boot": "abcd-12",
        "row": ROW,
        "service": "digits",
        "refused": "-",
        "status": "200",
        "termination": "--",
        "retries": "0",
        "server": "127.0.0.1:30003",
        "outcome": "ok",
        "slow": "-",
        "block": "179500000",
    }
    return " ".join({**fields, **changes}.values()).encode()


def test_a_head_is_parsed():
    assert parse_head(head()) == EndHead("abcd-12", ROW, "ok", 0, False, "127.0.0.1:30003", (), 179500000)
    parsed = head(row="-", refused="feedback", status="207", server="agent", outcome="-")
    assert parse_head(parsed) == AgentHead("abcd-12", "feedback", "digits", 207, True)
    looked_up = head(row="-", refused="ofrep", status="404", server="agent", outcome="-")
    assert parse_head(looked_up) == AgentHead("abcd-12", "ofrep", "digits", 404, True)
    retried = head(retries="+2", server="fallback-1:2", outcome="-", termination="sH", status="504", slow="2500")
    assert parse_head(retried) == EndHead("abcd-12", ROW, "timeout", 2, True, "fallback-1:2", (2500,), 179500000)
    several = parse_head(head(slow="2500,90,7"))
    assert isinstance(several, EndHead)
    assert several.slow_us == (2500, 90, 7)


@pytest.mark.parametrize(
    ("changes", "poison"),
    [
        ({}, True),
        ({"retries": "1"}, True),
        ({"retries": "0"}, False),
        ({"status": "503", "termination": "SC"}, False),
        ({"status": "504", "termination": "sH"}, False),
        ({"status": "502", "termination": "PH"}, False),
        ({"status": "502", "termination": "--", "outcome": "ok"}, False),
        ({"status": "200", "termination": "SD", "outcome": "ok"}, False),
    ],
)
def test_a_request_is_poison_if_two_replicas_ended_without_an_answer(changes, poison):
    parsed = parse_head(head(**{"status": "502", "termination": "SH", "retries": "+1", "outcome": "-", **changes}))
    assert isinstance(parsed, EndHead)
    assert parsed.poison is poison


@pytest.mark.parametrize(
    ("status", "termination", "outcome", "end"),
    [
        (200, "--", "ok", "ok"),
        (204, "--", "ok", "ok"),
        (307, "--", "ok", "ok"),
        (200, "--", "invalid", "invalid"),
        (504, "LH", "timeout", "timeout"),
        (504, "CD", "timeout", "timeout"),
        (404, "--", "ok", "client4xx"),
        (404, "--", "invalid", "client4xx"),
        (429, "--", "ok", "throttled"),
        (500, "--", "ok", "server5xx"),
        (503, "--", "ok", "server5xx"),
        (503, "SC", "-", "edge5xx"),
        (503, "sC", "-", "edge5xx"),
        (503, "sQ", "-", "edge5xx"),
        (502, "SH", "-", "edge5xx"),
        (502, "PH", "-", "edge5xx"),
        (500, "IH", "-", "edge5xx"),
        (504, "sH", "-", "timeout"),
        (200, "sD", "ok", "timeout"),
        (200, "SD", "ok", "truncated"),
        (200, "PD", "ok", "truncated"),
        (200, "KD", "ok", "truncated"),
        (500, "SD", "ok", "server5xx"),
        (500, "CD", "ok", "server5xx"),
        (503, "cD", "ok", "server5xx"),
        (500, "CH", "ok", "server5xx"),
        (500, "sD", "ok", "server5xx"),
        (500, "PD", "ok", "server5xx"),
        (200, "CD", "invalid", "invalid"),
        (200, "SD", "invalid", "invalid"),
        (404, "CD", "ok", "client4xx"),
        (429, "CD", "ok", "throttled"),
        (408, "SD", "ok", "client4xx"),
        (404, "SD", "ok", "client4xx"),
        (429, "SD", "ok", "throttled"),
        (404, "sD", "ok", "timeout"),
        (404, "PD", "ok", "truncated"),
        (400, "CH", "-", "abortBefore"),
        (400, "CR", "-", "abortBefore"),
        (503, "CQ", "-", "abortBefore"),
        (408, "cR", "-", "abortBefore"),
        (200, "CD", "ok", "abortDuring"),
        (200, "cD", "ok", "abortDuring"),
        (200, "--", "grpc0", "ok"),
        (200, "--", "grpc3", "client4xx"),
        (200, "--", "grpc8", "throttled"),
        (200, "--", "grpc4", "timeout"),
        (200, "--", "grpc13", "server5xx"),
        (200, "SD", "grpc0", "truncated"),
        (200, "SD", "grpc3", "truncated"),
        (200, "CD", "grpc0", "abortDuring"),
        (200, "CD", "grpc1", "abortDuring"),
        (200, "CD", "grpc3", "client4xx"),
        (200, "CD", "grpc4", "timeout"),
        (200, "CD", "grpc13", "server5xx"),
        (200, "--", "givenUp", "abortBefore"),
        (200, "CD", "givenUp", "abortBefore"),
        (200, "SD", "givenUp", "abortBefore"),
    ],
)
def test_every_termination_has_one_class(status, termination, outcome, end):
    assert classify_end(status, termination, outcome) == end
    assert end in ENDS


@pytest.mark.parametrize(
    ("changes", "closed"),
    [
        ({"status": "500", "termination": "CD"}, True),
        ({"termination": "cD"}, True),
        ({"termination": "CQ", "status": "503", "outcome": "-"}, True),
        ({}, False),
        ({"status": "500", "termination": "SD"}, False),
    ],
)
def test_a_client_that_closed_early_is_a_field_beside_the_end(changes, closed):
    parsed = parse_head(head(**changes))
    assert isinstance(parsed, EndHead)
    assert parsed.client_closed is closed


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"status": "413", "termination": "LR"}, "size"),
        ({"status": "503", "termination": "LR"}, "notReady"),
        ({"status": "404", "termination": "LR", "service": "-"}, "unknown"),
        ({"status": "400", "termination": "PR", "service": "-", "block": "-"}, "malformed"),
        ({"status": "400", "termination": "CR", "service": "-", "block": "-"}, "unfinished"),
        ({"status": "408", "termination": "cR", "service": "-", "block": "-"}, "unfinished"),
        ({"status": "401", "refused": "auth"}, "auth"),
    ],
)
def test_refusals_before_an_arm_have_a_kind(changes, kind):
    found = parse_head(head(row="-", server="<NOSRV>", outcome="-", **changes))
    service = "" if changes.get("service") == "-" else "digits"
    assert found == RefusalHead("abcd-12", kind, service, changes.get("block") != "-")


@given(st.binary(max_size=300), st.integers(0, HEAD_FIELDS - 1))
def test_an_invalid_head_raises_only_value_error(data, place):
    fields = head().split(b" ")
    for candidate in (data, b" ".join([*fields[:place], data, *fields[place + 1 :]])):
        with contextlib.suppress(ValueError):
            parse_head(candidate)


@pytest.mark.parametrize(
    "bad", [b"", head() + b" x", head(status="abc"), head(block="-"), head(row="-", refused="a/b")]
)
def test_a_head_of_another_shape_is_refused(bad):
    with pytest.raises(ValueError, match=r"."):
        parse_head(bad)
