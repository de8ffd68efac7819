"""Requests that waited for a replica at zero: counted apart from all others, with the time that they waited."""

import orjson
import pytest

from edge_log_lines import end_line
from split_documents import arm_fields, parsed, service_fields
from sundog_edge.agent.metrics import ScaledToZero, coarsen, render_metrics
from sundog_edge.counting import histogram
from sundog_edge.counting.evidence import AgentState, AppliedDocument, build_evidence
from sundog_edge.counting.ledger import Ledger
from sundog_edge.counting.log_lines import ENDS
from sundog_edge.counting.rows import TableEntry

HELD, REQUEST = "digits/att/0/stable/held/anonymous", "digits/att/0/stable/assigned/anonymous"
ARM = '{arm="stable",revision="",service="digits"}'
DOCUMENT = parsed(
    service_fields(arm_fields("digits-r7", revision=7), coldStartSeconds=120),
    service_fields(arm_fields("letters-r7", revision=7), name="letters"),
)


def test_held_requests_are_in_their_own_row_and_metrics_with_those_that_serves_proxy_answered():
    ledger = Ledger()
    ledger.consume(
        [
            end_line(REQUEST),
            end_line(HELD, total_us=8_000_000),
            end_line(HELD, 2, total_us=9_000_000, server="fallback-10.0.0.1:8000"),
        ],
        1.0,
    )
    table = {REQUEST: TableEntry(1, 0), HELD: TableEntry(3, 1)}
    ledger.boots["a-1"].settle({"all": TableEntry(4, 1), **table}, "all", 1.0)
    rows = {row["origin"]: row for row in build_evidence(AgentState("e", "n"), None, ledger, 2.0)["counters"]}
    assert (rows["held"]["assigned"], rows["held"]["inFlight"], rows["assigned"]["assigned"]) == (3, 1, 1)
    page = render_metrics(ledger, None, {}, "", {}).decode()
    assert f"sundog_edge_held_in_flight{ARM} 1.0" in page
    assert f"sundog_edge_held_duration_seconds_count{ARM} 2.0" in page
    assert f"sundog_edge_held_duration_seconds_sum{ARM} 17.0" in page
    assert f"sundog_edge_request_duration_seconds_count{ARM} 1.0" in page
    assert f"sundog_edge_assigned_total{ARM} 1.0" in page


def test_the_first_failure_of_an_arm_is_an_increase():
    """To Prometheus a series that begins with 1 is none."""
    applied, ledger = AppliedDocument(DOCUMENT, 0.0, {}), Ledger()
    before = render_metrics(ledger, applied, {}, "", {}).decode().splitlines()
    for service in ("digits", "letters"):
        labels = f'arm="stable",end="server5xx",revision="7",service="{service}"'
        assert f"sundog_edge_requests_total{{{labels}}} 0.0" in before
    ledger.record_revisions(DOCUMENT)
    row = f"digits/{DOCUMENT.services[0].attempt}/0/stable/assigned/anonymous"
    ledger.consume([end_line(row, status=500)], 1.0)
    after = render_metrics(ledger, applied, {}, "", {}).decode().splitlines()
    ended = [each for each in after if each.startswith("sundog_edge_requests_total{") and not each.endswith(" 0.0")]
    assert ended == ['sundog_edge_requests_total{arm="stable",end="server5xx",revision="7",service="digits"} 1.0']
    assert len([each for each in after if each.startswith("sundog_edge_requests_total{")]) == 2 * len(ENDS)
    # What left the split keeps its counts alone.
    alone = render_metrics(ledger, None, {}, "", {}).decode()
    assert 'service="letters"' not in alone


def test_dropped_held_requests_stay_in_their_sum():
    ledger = Ledger()
    ledger.consume([end_line(HELD)], 1.0)
    ledger.forget_rows("a-1", ledger.idle_rows("a-1", 2.0, set()))
    again = Ledger.from_json(orjson.loads(orjson.dumps(ledger.as_json())))
    assert (
        'sundog_edge_held_total{arm="stable",end="ok",revision="",service="digits"} 1.0'
        in render_metrics(again, None, {}, "", {}).decode()
    )
    older = {name: value for name, value in ledger.as_json().items() if name != "pastHeld"}
    assert Ledger.from_json(older).past_held == {}


def test_only_services_that_may_scale_to_zero_have_its_metrics():
    zero = ScaledToZero(frozenset({"digits-r7", "letters-r7"}), {("digits-r7", "load"): (2, 3.5)})
    page = render_metrics(Ledger(), AppliedDocument(DOCUMENT, 0.0, {}), {}, "", {}, zero=zero).decode()
    labels = 'arm="stable",revision="7",service="digits"'
    assert [each for each in page.splitlines() if each.startswith("sundog_edge_scaled_to_zero{")] == [
        f"sundog_edge_scaled_to_zero{{{labels}}} 1.0"
    ]
    labels = 'arm="stable",phase="load",revision="7",service="digits"'
    assert f"sundog_edge_cold_start_seconds_count{{{labels}}} 2.0" in page
    assert f"sundog_edge_cold_start_seconds_sum{{{labels}}} 3.5" in page


@pytest.mark.parametrize(
    ("at_zero", "waking_s", "shown"),
    [
        ((), {}, 0.0),
        (("digits-r7",), {}, 1.0),
        ((), {"digits-r7": 0.0}, 1.0),
        ((), {"digits-r7": 120.0}, 1.0),
        ((), {"digits-r7": 120.1}, 0.0),
        ((), {"letters-r7": 1.0}, 0.0),
    ],
)
def test_a_service_counts_as_scaled_to_zero_until_its_cold_start_has_taken_too_long(at_zero, waking_s, shown):
    zero = ScaledToZero(frozenset(at_zero), {}, waking_s)
    page = render_metrics(Ledger(), AppliedDocument(DOCUMENT, 0.0, {}), {}, "", {}, zero=zero).decode()
    assert f'sundog_edge_scaled_to_zero{{arm="stable",revision="7",service="digits"}} {shown}' in page.splitlines()


def test_the_coarse_histogram_has_every_duration_below_the_same_limit():
    counts: list[int] = []
    for duration in (50, 100, 101, 5_000, 2_000_000, 10**10):
        histogram.add(counts, histogram.find_bucket(duration))
    found = coarsen(counts)
    assert sum(found) == 6
    # Below 100 µs, below 200 µs, and without an upper limit.
    assert (found[0], found[1], found[-1]) == (1, 2, 1)
