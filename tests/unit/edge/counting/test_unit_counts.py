"""Requests and events of sampled units: what an edge counts of each unit in each epoch and arm, and how long it keeps that."""

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge_log_lines import end_line
from sundog_edge.counting.ledger import Ledger
from sundog_edge.counting.unit_counts import (
    COLUMNS,
    FULL_TAU,
    MAX_ROWS,
    MIN_ROWS,
    TOTAL_ROWS_BUDGET,
    UnitCounts,
    rows_per_attempt,
)
from sundog_edge.counting.unit_sample import UnitSample

NOW = 20_000.0
REQUESTS = st.lists(
    st.tuples(
        st.integers(0, FULL_TAU - 1) | st.integers(0, 40).map(lambda n: n << 57),
        st.integers(0, 2),
        st.sampled_from(["canary", "stable"]),
        st.integers(1, len(COLUMNS) - 1),
    ),
    max_size=60,
)


def counts_of(requests, limit: int = 12) -> UnitCounts:
    made = UnitCounts(limit=limit)
    for number, epoch, arm, column in requests:
        if number < made.tau:
            row = made.get_or_add_row(made.of(epoch, arm), number)
            row[0] += 1
            row[column] += 1
    return made


@given(REQUESTS, st.randoms())
def test_counts_are_the_same_in_any_order_of_the_requests(requests, order: random.Random):
    whole = counts_of(requests)
    assert whole.size == sum(map(len, whole.rows.values())) <= 12
    shuffled = [*requests]
    order.shuffle(shuffled)
    assert counts_of(shuffled).as_json() == whole.as_json()
    for (epoch, arm), rows in whole.rows.items():
        for number, row in rows.items():
            own = [each for each in requests if each[:3] == (number, epoch, arm)]
            assert row == [len(own), *(sum(each[3] == column for each in own) for column in range(1, len(COLUMNS)))]


@given(REQUESTS)
def test_counts_survive_a_snapshot(requests):
    whole = counts_of(requests)
    assert UnitCounts.from_json(json.loads(json.dumps(whole.as_json()))).as_json() == whole.as_json()


def test_counts_of_another_version_are_left_out_and_an_older_sample_has_none():
    stored = {**counts_of([(1, 0, "stable", 1)]).as_json(), "columns": ["requests"]}
    assert UnitCounts.from_json(stored).rows == {}
    assert UnitSample.from_json({"tau": "ff", "units": []}).counts.rows == {}


def test_many_attempts_share_one_budget():
    assert rows_per_attempt(1) == MAX_ROWS
    assert rows_per_attempt(6) == TOTAL_ROWS_BUDGET // 6
    assert rows_per_attempt(10**6) == MIN_ROWS
    ledger = Ledger()
    for attempt in range(6):
        ledger.consume([line(attempt=f"att{attempt}")], NOW)
    assert {sample.counts.limit for sample in ledger.samples.values()} == {TOTAL_ROWS_BUDGET // 6}


def line(
    user: int = 1, status: int = 200, *, arm: str = "stable", epoch: int = 0, attempt: str = "att", **own: Any
) -> bytes:
    row = f"digits/{attempt}/{epoch}/{arm}/assigned/sticky"
    own = {"total_us": 1000, "slow": "3000,9000", "block": 2000, "unit": user << 40, "group": user % 100, **own}
    return end_line(row, status=status, received=20_000_000_000, **own)


def rows_of(ledger: Ledger, attempt: str = "att") -> dict:
    rows = ledger.samples[f"digits/{attempt}"].counts.rows
    return {
        (number >> 40, epoch, arm): dict(zip(COLUMNS, row, strict=True))
        for (epoch, arm), own in rows.items()
        for number, row in own.items()
    }


def test_a_unit_has_its_requests_and_events_by_epoch_and_arm():
    ledger = Ledger()
    ledger.consume(
        [
            line(1, total_us=4000),
            line(1, 500, retries=1),
            line(2, 404, total_us=10_000),
            line(1, epoch=1, arm="canary"),
            line(1, epoch=1, arm="canary", total_us=9001),
        ],
        NOW,
    )
    of = dict.fromkeys(COLUMNS, 0)
    assert rows_of(ledger) == {
        (1, 0, "stable"): {**of, "requests": 2, "errors": 1, "slow": 1, "firstAttemptFailed": 1},
        (2, 0, "stable"): {**of, "requests": 1, "rejections": 1, "slow": 1, "slow2": 1},
        (1, 1, "canary"): {**of, "requests": 2, "slow": 1, "slow2": 1},
    }


def test_counts_go_on_after_the_sample_shrank():
    ledger = Ledger()
    ledger.consume([line(user) for user in range(1, 9)], NOW)
    counts = ledger.samples["digits/att"].counts
    counts.shrink(0)
    counts.tau, counts.limit = FULL_TAU, MAX_ROWS
    ledger.consume([line(3)], NOW)
    assert {key: row["requests"] for key, row in rows_of(ledger).items()} == {(3, 0, "stable"): 1}


def test_behavior_before_an_attempt_stays_for_as_long_as_its_service_has_one():
    ledger = Ledger()
    ledger.consume([line(attempt="older"), line(attempt="before")], NOW)
    ledger.consume([line(attempt="failed"), line(attempt="failed", arm="canary")], NOW)
    ledger.consume([line(attempt="running"), line(attempt="running", arm="canary")], NOW)
    for boot in ledger.boots.values():
        boot.ended_at = NOW
    ledger.forget(NOW + 1, {("digits", "running")})
    assert {*ledger.samples} == {"digits/before", "digits/running"}
    again = Ledger.from_json(ledger.as_json(), json.loads(json.dumps(ledger.details_as_json())))
    assert rows_of(again, "before") == rows_of(ledger, "before") != {}
    ledger.forget(NOW + 1, {("other", "running")})
    assert ledger.samples == {}
