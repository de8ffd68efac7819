"""Counts by unit group: each request once, bounded, and never more than the edges report."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_counts import ATTEMPT, by_unit, report, row, silent, sticky
from sundog_operator.core.analysis import counters, edge_reports, first_exposures, unit_groups
from sundog_operator.core.analysis.counters import Counters, CountScope
from sundog_operator.core.analysis.unit_groups import WITHOUT_UNIT, GroupCounts
from sundog_operator.core.observed import EdgeReport

NOTHING = Counters(ATTEMPT)


def take(before: Counters, *reports: EdgeReport, epochs: Sequence[int] = (2,)) -> Counters:
    return counters.update_counters(
        before, reports, {}, CountScope(epochs, in_force=2, now_s=1_764_034_800, timeout_s=30)
    )


def of(result: Counters, arm: str = "canary", epoch: int = 2) -> GroupCounts:
    return unit_groups.sum_groups(result.groups, epoch, arm)


def sums(result: GroupCounts) -> list[int]:
    return [sum(column[:WITHOUT_UNIT]) for column in result]


def test_groups_are_added_over_edges_processes_and_rows_apart_from_requests_without_unit() -> None:
    many = {
        "ok": 500,
        "server5xx": 30,
        "timeout": 7,
        "client4xx": 20,
        "abortBefore": 3,
        "slow": 44,
        "slow2": 17,
        "slow3": 4,
        "firstAttemptFailed": 5,
    }
    counted = take(
        NOTHING,
        by_unit(
            sticky(row(**many)),
            sticky(row(boot="b2", **many)),
            row(ok=9, server5xx=1, slow=2, slow2=1, firstAttemptFailed=6),
        ),
        by_unit(sticky(row(**many)), pod="edge-1"),
    )
    assert sums(of(counted)) == [3 * 560, 3 * 37, 3 * 44, 3 * 23, 3 * 5, 3 * 17, 3 * 4]
    assert [column[WITHOUT_UNIT] for column in of(counted)] == [10, 1, 2, 0, 6, 1, 0]
    assert of(counted)[0][:2] == (27, 27)
    assert sums(of(counted, "stable")) == [0] * 7


counts = st.dictionaries(
    st.sampled_from(("ok", "server5xx", "client4xx", "slow", "slow3")), st.integers(1, 300), max_size=3
)
edges = st.lists(
    st.lists(
        st.builds(
            lambda arm, boot, result: sticky(row(arm, 2, boot, **result)),
            st.sampled_from(("stable", "canary")),
            st.sampled_from("ab"),
            counts,
        ),
        max_size=3,
    ),
    max_size=3,
).map(lambda result: [by_unit(*own, pod=f"edge-{number}") for number, own in enumerate(result)])


@given(edges)
def test_every_request_is_in_one_group_once_however_often_edges_are_read(result: list[EdgeReport]) -> None:
    once = take(NOTHING, *result)
    assert take(once, *result) == once == take(NOTHING, *reversed(result))
    for arm in ("stable", "canary"):
        assert sums(of(once, arm))[0] == once.of(2, arm).assigned
    assert Counters.unpack(once.pack(), ATTEMPT) == (once if once.sources else NOTHING)


def test_warmups_are_not_kept_by_group() -> None:
    assert take(NOTHING, by_unit(sticky(row("canary", 1, ok=5)), sticky(row("canary", 2, ok=6)))).groups.keys() == {
        "edge-0/b1"
    }
    assert sums(of(take(NOTHING, by_unit(sticky(row("canary", 1, ok=5)))), epoch=1))[0] == 0


def test_epochs_that_are_no_longer_evidence_are_not_kept_by_group() -> None:
    counted = take(NOTHING, by_unit(sticky(row("canary", 1, ok=5)), sticky(row("canary", 2, ok=6))), epochs=(1, 2))
    assert sums(of(counted, epoch=1))[0] == 5
    assert sums(of(take(counted, epochs=(2, 3)), epoch=1))[0] == 0
    assert sums(of(take(counted, epochs=(2, 3))))[0] == 6


def test_an_agent_that_forgot_counts_takes_nothing_back() -> None:
    counted = take(NOTHING, by_unit(sticky(row(ok=800, server5xx=100))))
    assert take(counted, by_unit(sticky(row(ok=100, server5xx=50)))).groups == counted.groups
    assert sums(of(take(counted, by_unit(sticky(row(ok=1900, server5xx=50))))))[:2] == [1950, 100]


def test_an_edge_that_reports_no_groups_any_more_keeps_its_groups() -> None:
    counted = take(NOTHING, by_unit(sticky(row(ok=800))))
    for result in ((), (silent(),), (report(sticky(row(ok=900))),)):
        assert take(counted, *result).groups == counted.groups


def test_many_departed_sources_are_merged_without_loss() -> None:
    counted = NOTHING
    for boot in range(40):
        counted = take(counted, by_unit(sticky(row(boot=f"b{boot}", ok=100, server5xx=100))))
    assert len(counted.groups) <= unit_groups.MAX_SOURCES
    assert sums(of(counted))[:2] == [8000, 4000]


def test_an_edge_that_does_not_report_for_a_while_does_not_count_twice() -> None:
    counted = take(NOTHING, by_unit(sticky(row(ok=100)), pod="edge-9"))
    for boot in range(20):
        counted = take(counted, by_unit(sticky(row(boot=f"b{boot}", ok=100))), silent("edge-9"))
    assert sums(of(take(counted, by_unit(sticky(row(ok=100)), pod="edge-9"))))[0] == 2100


def test_processes_beyond_the_limit_are_not_kept_by_group() -> None:
    counted = take(NOTHING, *(by_unit(sticky(row(ok=100)), pod=f"edge-{number:02}") for number in range(30)))
    assert len(counted.groups) == unit_groups.MAX_SOURCES
    assert counted.of(2, "canary").assigned == 3000


def test_a_status_stays_far_below_its_limit() -> None:
    """Eight epochs, two arms and the most sources, each for an hour at hundreds of requests a second."""
    epochs, draws = range(2, 18, 2), iter(range(10**9))
    reports = [
        by_unit(
            *(
                sticky(
                    row(
                        arm,
                        epoch,
                        ok=200_000 + 997 * next(draws),
                        server5xx=2000 + 31 * next(draws),
                        slow=9000 + 7 * next(draws),
                    )
                )
                for arm in ("stable", "canary")
                for epoch in epochs
            ),
            pod=f"edge-{number}",
        )
        for number in range(unit_groups.MAX_SOURCES)
    ]
    varied = [_varied(each) for each in reports]
    assert 10_000 < len(take(NOTHING, *varied[:3], epochs=epochs).pack()) < 60_000
    assert len(take(NOTHING, *varied, epochs=epochs).pack()) < 150_000


def _varied(result: EdgeReport) -> EdgeReport:
    """Return rows with counts that differ by group, like real ones."""
    for each in (result.evidence or {})["counters"]:
        for counts in each["groups"]:
            counts[1:] = [
                count + zlib.crc32(repr((counts[0], count, place, result.pod)).encode()) % (2 + count // 3)
                for place, count in enumerate(counts[1:])
            ]
    return result


DAMAGED: list[Any] = [
    None,
    7,
    "x",
    [[0]],
    [[100, *[0] * 14]],
    [[-1, *[0] * 14]],
    [["0", *[0] * 14]],
    [[0, *[-1] * 14]],
    [[0, *[1.5] * 14]],
]


def test_an_older_edge_without_retries_or_further_latencies_reports_the_rest() -> None:
    result = by_unit(sticky(row(ok=800, firstAttemptFailed=100)))
    evidence = result.evidence or {}
    (own,) = evidence["counters"]
    before = {**evidence, "groups": {"columns": evidence["groups"]["columns"][:-3]}}
    counted = take(
        NOTHING,
        replace(result, evidence={**before, "counters": [{**own, "groups": [each[:-3] for each in own["groups"]]}]}),
    )
    assert sums(of(counted)) == [800, 0, 0, 0, 0, 0, 0]
    assert counted.of(2, "canary").retried == 100


def test_columns_of_further_latencies_are_stored_where_they_were_counted_and_read_where_they_were_not() -> None:
    one = take(NOTHING, by_unit(sticky(row(ok=800, slow=100))))
    two = take(NOTHING, by_unit(sticky(row(ok=800, slow=100, slow2=50))))
    for counted, columns in ((one, 5), (two, 6)):
        stored = unit_groups.as_json(counted.groups)
        assert {len(own) for rows in stored.values() for own in rows.values()} == {columns}
        assert unit_groups.from_json(stored) == counted.groups


@pytest.mark.parametrize("damaged", DAMAGED)
def test_invalid_groups_are_skipped_and_their_requests_count(damaged: Any) -> None:
    counted = take(NOTHING, by_unit({**sticky(row(ok=800)), "groups": damaged}))
    assert sums(of(counted)) == [0] * 7
    assert counted.of(2, "canary").assigned == 800


@pytest.mark.parametrize(
    "damaged", [None, 7, {"edge-0/b1": 7}, {"edge-0/b1": {"2/canary": [[1, 2]]}}, {"edge-0/b1": {"x": []}}]
)
def test_invalid_stored_groups_do_not_affect_other_counts(damaged: Any) -> None:
    counted = take(NOTHING, by_unit(sticky(row(ok=800))))
    stored = {**json.loads(json.dumps(counted.as_json())), "groups": damaged}
    back = Counters.from_json(stored, ATTEMPT)
    assert (back.groups, back.sources) == ({}, counted.sources)


def test_edges_that_do_not_count_groups_are_named() -> None:
    result = [
        by_unit(sticky(row(ok=1))),
        report(sticky(row(ok=1)), pod="edge-1"),
        report(pod="edge-2"),
        silent("edge-3"),
    ]
    assert edge_reports.find_edges_without_groups(ATTEMPT, result) == ["edge-1"]


def first(*reports: EdgeReport, before_s: float = 1000) -> dict[tuple[int, str], int]:
    return first_exposures.count_first_exposures(ATTEMPT, reports, before_s)


def test_each_unit_counts_once_at_its_first_request() -> None:
    one = by_unit(units=[(1, 10, 2, "canary"), (2, 10, 2, "stable"), (3, 50, 4, "canary")])
    other = by_unit(units=[(3, 20, 2, "stable"), (4, 30, 2, "stable")], pod="edge-1")
    assert first(one, other) == first(other, one) == {(2, "canary"): 1, (2, "stable"): 3}


def test_units_count_once_all_requests_of_their_time_have_ended() -> None:
    assert first(by_unit(units=[(1, 10, 2, "canary"), (2, 999, 2, "stable")]), before_s=999) == {(2, "canary"): 1}


def test_only_units_in_the_sample_range_of_every_edge_count() -> None:
    one, other = (
        by_unit(units=[(1, 10, 2, "canary"), (99, 10, 2, "stable")]),
        by_unit(units=[(2, 10, 2, "stable")], pod="edge-1"),
    )
    other.evidence["units"][0]["tau"] = "32"  # type: ignore[index]
    assert first(one, other) == {(2, "canary"): 1, (2, "stable"): 1}


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        "x",
        [7],
        [{}],
        [{"attempt": ATTEMPT, "tau": "x", "units": []}],
        [{"attempt": ATTEMPT, "tau": "ff", "units": [["1", [5, 2], 1, {}]]}],
    ],
)
def test_an_invalid_sample_is_skipped(damaged: Any) -> None:
    result = by_unit()
    result.evidence["units"] = damaged  # type: ignore[index]
    assert first(result) == {}
    assert first(result, by_unit(units=[(1, 10, 2, "canary")], pod="edge-1")) == {(2, "canary"): 1}


def test_samples_of_other_attempts_are_not_of_this_one() -> None:
    result = by_unit(units=[(1, 10, 2, "canary")])
    result.evidence["units"][0]["attempt"] = "another"  # type: ignore[index]
    assert first(result) == {}
