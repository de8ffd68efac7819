"""Stable's traffic, from the reports of edges."""

from typing import Any

import pytest

import edge_counts
from sundog_operator.core.analysis import stable_traffic
from sundog_operator.core.observed import EdgeReport

ALONE, ROLLOUT = "digits-r7", "3b9f"
EDGES_US = [100, 200]
NOW = 1_764_034_200


def row(
    attempt: str = ALONE, arm: str = "stable", *, ended: dict[int, int] | None = None, ok: Any = ()
) -> dict[str, Any]:
    blocks = [edge_counts.block(NOW - ago, ok=count) for ago, count in (ended or {}).items()]
    return {**edge_counts.row(arm, 0, blocks=blocks, total={"ok": ok}), "service": "digits", "attempt": attempt}


def report(*rows: dict[str, Any], edges: Any = EDGES_US) -> EdgeReport:
    evidence = {"blocks": {"columns": edge_counts.COLUMNS}, "histogram": {"edgesUs": edges}, "counters": list(rows)}
    return EdgeReport(pod="edge", ready=True, terminating=False, evidence=evidence)


def rate(*reports: EdgeReport) -> float | None:
    return stable_traffic.measure_traffic("digits", [ALONE, ROLLOUT], reports, NOW).requests_per_second


def test_the_rate_is_that_of_all_edges_and_arms_since_the_first_request_of_the_last_hour() -> None:
    result = [report(row(ended={100: 300, 10: 100})), report(row(ROLLOUT, "canary", ended={50: 100}), row("other"))]
    assert rate(*result) == pytest.approx(5)
    assert rate(report(row(ended={3700: 10_000, 3590: 359}))) == pytest.approx(0.1)


def test_less_than_a_minute_gives_no_rate() -> None:
    assert rate() is None
    assert rate(report(row(ended={50: 1000}))) is None
    assert rate(report(row(ended={-500: 1000}))) is None
    assert rate(report(row(ended={60: 60}))) == pytest.approx(1)


def test_the_share_that_failed_is_that_of_stable() -> None:
    bad = edge_counts.row("stable", 0, blocks=[edge_counts.block(NOW - 100, ok=95, server5xx=3, timeout=2)])
    worse = edge_counts.row("canary", 0, blocks=[edge_counts.block(NOW - 100, server5xx=50)])
    rows = [{**each, "service": "digits", "attempt": ALONE} for each in (bad, worse)]
    assert stable_traffic.measure_traffic("digits", [ALONE], [report(*rows)], NOW).error_rate == pytest.approx(0.05)
    assert stable_traffic.measure_traffic("digits", [ALONE], [report(rows[1])], NOW).error_rate is None


def test_traffic_before_the_service_existed_is_ignored() -> None:
    result = [report(row(ended={1000: 5000, 200: 100, 100: 300}))]
    found = stable_traffic.measure_traffic("digits", [ALONE], result, NOW, made_s=NOW - 205)
    assert found.requests_per_second == pytest.approx(2)


def latencies(*reports: EdgeReport) -> tuple[list[int], tuple[int, ...]]:
    long = report(row("2f41", ended={3000: 1}), edges=None)
    found = stable_traffic.measure_traffic("digits", [ALONE, ROLLOUT], [*reports, long], NOW)
    return list(found.latencies), tuple(found.edges_us)


def test_answers_of_stable_are_added_up_over_edges_whatever_the_attempt() -> None:
    result = [report(row(ok=[1, 2]), row(ROLLOUT, ok=[0, 0, 3])), report(row(ok=[10]), row(ROLLOUT, "canary", ok=[99]))]
    assert latencies(*result) == ([11, 2, 3], (100, 200))


def test_probes_are_no_traffic_of_stables() -> None:
    def result(*more: dict[str, Any]) -> Any:
        own = row(ended={3000: 1, 100: 300}, ok=[10, 2])
        return stable_traffic.measure_traffic("digits", [ALONE], [report(own, *more)], NOW)

    probes = {**row(ended={3500: 9, 100: 9000}, ok=[9000]), "origin": "probe"}
    assert result(probes) == result()
    assert result({**probes, "origin": "assigned"}) != result()


def test_buckets_of_another_kind_are_left_out() -> None:
    assert latencies(report(row(ok=[1])), report(row(ok=[50]), edges=[7, 9])) == ([1, 0, 0], (100, 200))


@pytest.mark.parametrize("edges", [(), None, 5, "ab", [None], [1.5], [-1]])
def test_answers_without_buckets_are_ignored(edges: Any) -> None:
    assert latencies(report(row(ok=[1, 2, 3]), edges=edges)) == ([], ())
    assert latencies(report(row(ok=[1, 2, 3]), edges=edges), report(row(ok=[4]))) == ([4, 0, 0], (100, 200))


@pytest.mark.parametrize("ok", [None, 5, "ab", [None], [-1], [1, 2, 3, 4]])
def test_a_row_that_does_not_fit_the_buckets_is_left_out(ok: Any) -> None:
    assert latencies(report(row(ok=ok), row(ok=[1]), {**row(), "total": None})) == ([1, 0, 0], (100, 200))


def test_an_edge_that_does_not_report_is_ignored() -> None:
    nobody = EdgeReport(pod="edge", ready=True, terminating=False, evidence=None)
    assert stable_traffic.measure_traffic("digits", [ALONE], [nobody], NOW).requests_per_second is None
    assert latencies(nobody) == ([], ())
