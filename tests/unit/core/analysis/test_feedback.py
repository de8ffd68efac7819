"""Reports of one store by several edges: the newest counts, nothing is added, and an invalid one is no success."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from sundog_edge.feedback import events, join
from sundog_edge.feedback.join import render_feedback_section
from sundog_operator.api.reasons import ExperimentReason
from sundog_operator.core.analysis import feedback
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSelection, FeedbackSums, OutcomeSums
from sundog_operator.core.observed import EdgeReport

WANTED = FeedbackSelection("digits", "uid", {2}, {"control", "wide"}, {"bought"})
COLUMNS = ("units", "positive", "sum", "squares")
TALLY = {
    "sequence": 5,
    "exposed/1/control": 9,
    "exposed/2/control": 40,
    "exposed/2/wide": 41,
    "exposed/2/gone": 3,
    **{
        f"outcome/bought/2/wide/{name}": value
        for name, value in zip(("units", "positive", "sum", "squares"), (7, 6, -5, 2**70), strict=True)
    },
    **{f"outcome/other/2/wide/{name}": 1 for name in COLUMNS},
}
KNOWN = FeedbackSums(
    "s1", 5, {(2, "control"): 40, (2, "wide"): 41}, {("bought", 2, "wide"): OutcomeSums(7, 6, -5, 2**70)}
)
Json = dict[str, Any]


def edge(pod: str, result: Any) -> EdgeReport:
    services = {"digits": {"attempt": "uid", **({} if result is None else {"feedback": result})}}
    return EdgeReport(pod, True, False, {"version": 1, "services": services})


def of(tally: Mapping[str, int], store: str = "s1", attempt: str = "uid") -> Json:
    return render_feedback_section(attempt, store, tally)


def test_the_wanted_sums_of_the_newest_report_win_and_nothing_is_added() -> None:
    newer, older = edge("a", of(TALLY)), edge("b", of({"sequence": 4, "exposed/2/wide": 7}))
    for reports in ([newer, older], [older, newer], [newer, newer]):
        assert feedback.update_sums(FeedbackSums(), reports, WANTED) == (KNOWN, None)
    assert KNOWN.of("bought", 2, "wide").squares == 2**70
    assert KNOWN.of("bought", 2, "control") == OutcomeSums()
    assert (KNOWN.reported(2, "wide"), KNOWN.reported(2, "control")) == (7, 0)


def test_sums_of_products_are_kept_for_wanted_ratios() -> None:
    wanted = replace(WANTED, products={"bought*seen"})
    tally = {
        **TALLY,
        "product/bought*seen/2/wide": -(2**70),
        "product/bought*seen/1/wide": 3,
        "product/other*seen/2/wide": 4,
    }
    known, cause = feedback.update_sums(FeedbackSums(), [edge("a", of(tally))], wanted)
    assert (known, cause) == (replace(KNOWN, products={("bought*seen", 2, "wide"): -(2**70)}), None)
    assert feedback.parse_sums(json.loads(json.dumps(known.as_json()))) == known
    # An older edge, or none of them yet.
    assert feedback.update_sums(FeedbackSums(), [edge("a", of(TALLY))], wanted) == (KNOWN, None)


def test_an_edge_without_delayed_windows_is_not_believed() -> None:
    """The store is the same, so the others know how much it joined; alone it knows nothing of units that came back."""
    wanted = replace(WANTED, has_delayed=True)
    older = edge("a", of({**TALLY, "sequence": 9}))
    why = "a is of an earlier release, which does not count outcomes by `after`; upgrade it"
    assert feedback.update_sums(KNOWN, [older], wanted) == (KNOWN, (ExperimentReason.FEEDBACK_UNAVAILABLE, why))
    tally = {**TALLY, "units": 90, "events": 20, "delayed": 70}
    newer = edge("b", render_feedback_section("uid", "s1", tally, has_delayed=True))
    known, cause = feedback.update_sums(FeedbackSums(), [older, newer], wanted)
    assert (known.sequence, known.undelayed, cause) == (5, 40, None)
    assert feedback.parse_sums(json.loads(json.dumps(known.as_json()))) == known


def test_the_largest_sums_that_edges_can_have_are_read() -> None:
    """All events of an attempt have the largest value and are of one unit."""
    total = -join.MAX_EVENTS * events.MAX_VALUE * events.MILLION
    row = {"units": 1, "positive": 0, "sum": total, "squares": total**2}
    largest = {**TALLY, **{f"outcome/bought/2/wide/{name}": value for name, value in row.items()}}
    largest["product/bought*seen/2/wide"] = -(total**2)
    wanted = replace(WANTED, products={"bought*seen"})
    known, cause = feedback.update_sums(FeedbackSums(), [edge("a", of(largest))], wanted)
    assert cause is None
    assert known.of("bought", 2, "wide") == OutcomeSums(1, 0, total, total**2)
    assert feedback.parse_sums(json.loads(json.dumps(known.as_json()))) == known


def test_outcomes_that_are_in_no_sum_are_kept() -> None:
    refused = {"overflow": 4, "unknown": 9, "late": 3, "early": 2, "future": 1}
    known, _ = feedback.update_sums(FeedbackSums(), [edge("a", of({**TALLY, **refused, "events": 8}))], WANTED)
    assert known == FeedbackSums("s1", 5, KNOWN.exposed, KNOWN.outcomes, accepted=8, **refused)
    assert feedback.parse_sums(json.loads(json.dumps(known.as_json()))) == known
    # As an older operator stored it.
    assert set(KNOWN.as_json()) == {"store", "sequence", "exposed", "outcomes"}
    assert feedback.parse_sums(KNOWN.as_json()) == KNOWN


def test_known_sums_are_never_taken_back() -> None:
    older = edge("b", of({"sequence": 4, "exposed/2/wide": 7}))
    assert feedback.update_sums(KNOWN, [older], WANTED) == (KNOWN, None)
    assert feedback.update_sums(KNOWN, [], WANTED) == (
        KNOWN,
        (ExperimentReason.FEEDBACK_UNAVAILABLE, "there is no edge"),
    )


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (edge("a", None), "a reports no feedback"),
        (edge("a", of(TALLY, attempt="other")), "a reports no feedback"),
        (edge("a", {"attempt": "uid", "error": "no\nkey"}), "a has no outcomes: no key"),
        (EdgeReport("a", True, False, None, "timeout"), "a does not answer"),
        (edge("a", "damaged"), "a reports no feedback"),
        *(
            (edge("a", {**of(TALLY), **broken}), "a reports feedback that cannot be parsed")
            for broken in (
                {"sequence": -1},
                {"sequence": 1.5},
                {"overflow": -1},
                {"unknown": "7"},
                {"store": 7},
                {"exposed": 3, "outcomes": [[["bought"], 2, "wide", 1, 1, 1, 1]]},
                {"exposed": [[2, "wide"]]},
                {"exposed": [[2, "wide", -1]]},
                {"outcomes": [["bought", 2, "wide", 1, 1, 1.5, 1]]},
                {"outcomes": [["bought", 2, "wide", True, 1, 1, 1]]},
                {"outcomes": [["bought", 2, "wide", 1, 1, 1, 2**200]]},
            )
        ),
    ],
)
def test_a_missing_or_invalid_report_is_described_and_one_valid_edge_is_enough(report: EdgeReport, why: str) -> None:
    assert feedback.update_sums(KNOWN, [report], WANTED) == (KNOWN, (ExperimentReason.FEEDBACK_UNAVAILABLE, why))
    assert feedback.update_sums(FeedbackSums(), [report, edge("b", of(TALLY))], WANTED) == (KNOWN, None)


def test_another_store_is_reported_and_not_used() -> None:
    other = of({"sequence": 90, "exposed/2/wide": 7}, "s2")
    for reports in ([edge("a", other)], [edge("a", other), edge("b", of(TALLY))]):
        known, problem = feedback.update_sums(KNOWN, reports, WANTED)
        assert known == KNOWN
        assert problem is not None
        assert problem[0] == ExperimentReason.FEEDBACK_STORE_REPLACED
        assert "(s1, s2)" in problem[1]


def test_a_store_that_was_never_used_may_be_replaced() -> None:
    empty, _ = feedback.update_sums(FeedbackSums(), [edge("a", of({}))], WANTED)
    assert (empty.store, empty.sequence) == ("s1", 0)
    known, problem = feedback.update_sums(empty, [edge("a", of({"sequence": 1}, "s2"))], WANTED)
    assert (known.store, problem) == ("s2", None)


def test_the_sums_are_stored_with_the_counters() -> None:
    packed = Counters("uid", feedback=KNOWN).pack()
    assert Counters.unpack(packed, "uid").feedback == KNOWN
    assert feedback.parse_sums(json.loads(json.dumps(KNOWN.as_json()))) == KNOWN
    assert Counters("uid").pack() == ""
    assert "feedback" not in Counters("uid").as_json()
