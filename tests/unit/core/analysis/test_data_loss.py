"""Amount of lost data that still allows a winner."""

from typing import Any

import pytest

from experiment_statuses import begin_experiment
from sundog_operator.api import EvidenceEpoch, ExperimentStatus
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.arm_pair import CollectedCounts
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.data_loss import report_ignored_outcomes
from sundog_operator.core.analysis.feedback import FeedbackSums, OutcomeSums
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.experiment import evaluate, state

BY_USER: dict[str, Any] = {"header": "x-user-id"}


def running(dropped: str = "", troubled: tuple[int, ...] = (), **spec: Any) -> ExperimentStatus:
    metrics = {"success": [{"name": "conversion", "feedback": "bought"}]}
    begun = begin_experiment(("a", "b"), **{"exposure": "60%", "unit": BY_USER, "metrics": metrics, **spec})
    shares = tuple(state.target_buckets(begun)[arm.name] for arm in begun.arms)
    marked = tuple(arm.model_copy(update={"dropped": "Harm: x"}) if arm.name == dropped else arm for arm in begun.arms)
    epochs = tuple(EvidenceEpoch(number=n, buckets=shares, troubled=n in troubled) for n in (2, 3))
    return begun.model_copy(update={"arms": marked, "evidence_epochs": epochs})


def collected(rows: dict[tuple[int, str], ArmCounts], sums: FeedbackSums | None = None) -> CollectedCounts:
    tallies = Counters("uid", {"edge/boot": rows}, feedback=sums or FeedbackSums())
    return CollectedCounts(tallies=tallies, reports=[], blocks={}, traffic=StableTraffic(), now_s=0.0, timeout_s=1.0)


def lost(lost: int, assigned: int, arm: str = "a", epoch: int = 2) -> dict[tuple[int, str], ArmCounts]:
    every = {(2, name): ArmCounts(assigned=100_000) for name in ("stable", "control", "a", "b")}
    return {**every, (epoch, arm): ArmCounts(assigned=assigned, lost=lost)}


def test_lost_lines_are_reported_with_their_numbers() -> None:
    found = evaluate.find_data_loss(running(), collected(lost(3600, 12_000)))
    assert found is not None
    assert found == (
        "RequestsLost",
        "3600 of 12000 requests of a have no known outcome (30 %, limit 1 %): their log lines were lost, and with them first"
        " exposures; no arm can win until the missing share is below the limit",
    )


@pytest.mark.parametrize(
    ("missing", "assigned", "reported"),
    [
        (120, 12_000, False),
        (121, 12_000, True),
        # A killed agent loses no more of a few minutes than units vary by chance.
        (30, 900, False),
        (31, 900, True),
        # The same loss becomes negligible as more is counted.
        (3600, 360_000, False),
        (0, 0, False),
    ],
)
def test_losses_are_compared_with_all_counts(missing: int, assigned: int, reported: bool) -> None:
    assert (evaluate.find_data_loss(running(), collected(lost(missing, assigned))) is not None) is reported


@pytest.mark.parametrize("arm", ["control", "b"])
def test_a_loss_of_one_arm_does_not_hide_in_all_of_them(arm: str) -> None:
    found = evaluate.find_data_loss(running(), collected(lost(200, 10_000, arm)))
    assert found is not None
    assert f" of 10000 requests of {arm} " in found[1]


def test_losses_outside_of_the_evidence_are_ignored() -> None:
    """A dropped arm gets no more requests, so its loss would never become negligible; a warm-up and an outage are no evidence."""
    assert evaluate.find_data_loss(running(dropped="a"), collected(lost(5000, 10_000))) is None
    assert evaluate.find_data_loss(running(), collected(lost(5000, 10_000, "stable"))) is None
    assert evaluate.find_data_loss(running(), collected(lost(5000, 10_000, epoch=1))) is None
    assert evaluate.find_data_loss(running(troubled=(3,)), collected(lost(5000, 10_000, epoch=3))) is None
    assert evaluate.find_data_loss(running(), collected(lost(5000, 10_000, epoch=3))) is not None


def sums(units: int, **counts: int) -> FeedbackSums:
    outcomes = {("bought", 2, arm): OutcomeSums(units // 10, units // 10, 0, 0) for arm in ("control", "a")}
    return FeedbackSums("s1", 9, {(2, "stable"): units, (3, "control"): units}, outcomes, **counts)


@pytest.mark.parametrize(("overflow", "reported"), [(0, False), (222, False), (223, True), (1000, True)])
def test_an_overflow_of_the_store_is_reported_with_its_numbers(overflow: int, reported: bool) -> None:
    found = evaluate.find_data_loss(running(), collected(lost(0, 1), sums(10_000, overflow=overflow)))
    assert (found is not None) is reported
    if overflow == 1000:
        assert found == (
            "FeedbackOverflow",
            "the feedback store had no space for 1000 exposures and outcomes beside 22000 units (4.35 %, limit 1 %): later ones"
            " are missing; no arm can win until the missing share is below the limit",
        )


@pytest.mark.parametrize(("undelayed", "reported"), [(0, False), (220, False), (221, True), (1000, True)])
def test_what_edges_of_an_earlier_release_took_is_reported_with_its_numbers(undelayed: int, reported: bool) -> None:
    found = evaluate.find_data_loss(running(), collected(lost(0, 1), sums(10_000, undelayed=undelayed)))
    assert (found is not None) is reported
    if undelayed == 1000:
        assert found == (
            "EdgeOutdated",
            "edges of an earlier release took 1000 of 22000 exposures and outcomes (4.55 %, limit 1 %): they count for no metric"
            " with `after`; no arm can win until the missing share is below the limit. Upgrade the edges",
        )


def test_units_beyond_the_limit_are_no_loss() -> None:
    """The experiment has all its units then, and ends; later units do not count."""
    full = running(stop={"maxUnits": 12_000})
    assert state.max_first_exposures(full) == 20_000
    assert evaluate.find_data_loss(full, collected(lost(0, 1), sums(10_000, overflow=9000))) is None
    assert evaluate.find_data_loss(full, collected(lost(0, 1), sums(9_999, overflow=9000))) is not None


@pytest.mark.parametrize(("unknown", "reported"), [(0, False), (222, False), (2000, True)])
def test_outcomes_of_unknown_units_are_reported_but_no_loss(unknown: int, reported: bool) -> None:
    """False reports of outcomes must not keep an arm from winning."""
    known = collected(lost(0, 1), sums(10_000, unknown=unknown))
    assert evaluate.find_data_loss(running(), known) is None
    expected = "2000 outcomes belong to no exposed unit and are ignored; 2000 units have an outcome that counts"
    assert report_ignored_outcomes(known) == (expected if reported else "")


def test_a_unit_counts_once_however_many_caps_its_feedback_has() -> None:
    once = sums(10_000, unknown=2000)
    capped = {(f"bought@{cap}", epoch, arm): own for (_, epoch, arm), own in once.outcomes.items() for cap in (5, 9)}
    often = FeedbackSums(once.store, once.sequence, once.exposed, {**once.outcomes, **capped}, unknown=2000)
    expected = report_ignored_outcomes(collected(lost(0, 1), once))
    assert report_ignored_outcomes(collected(lost(0, 1), often)) == expected


@pytest.mark.parametrize(
    ("counts", "reported"),
    [
        ({"early": 100, "late": 100}, False),
        ({"early": 102, "late": 102}, True),
        ({"future": 102}, True),
        # More events of each unit are more outcomes, of which the same loss is a smaller share.
        ({"early": 102, "late": 102, "accepted": 20_000}, False),
        # Those may be of units and times that the experiment never had.
        ({"late": 9000}, False),
        ({}, False),
    ],
)
def test_outcomes_at_impossible_times_stop_the_verdict(counts: dict[str, int], reported: bool) -> None:
    found = evaluate.find_data_loss(running(), collected(lost(0, 1), sums(50_000, **{"accepted": 10_000, **counts})))
    assert (found is not None) is reported


def test_outcomes_at_impossible_times_are_reported_with_their_numbers() -> None:
    known = collected(lost(0, 1), sums(10_000, accepted=2000, late=480, early=400, future=100))
    assert evaluate.find_data_loss(running(), known) == (
        "ClockSkew",
        "400 outcomes are timed before the exposure that they name, and 100 in the future, beside 2000 that count (20 %,"
        " limit 1 %): a clock of a caller or an edge is wrong; no arm can win until the missing share is below the limit."
        " Correct that clock, or report outcomes without a time",
    )


def test_outcomes_out_of_the_window_are_reported_but_no_loss() -> None:
    known = collected(lost(0, 1), sums(10_000, late=3000, unknown=4000))
    assert evaluate.find_data_loss(running(), known) is None
    assert report_ignored_outcomes(known) == (
        "4000 outcomes belong to no exposed unit and are ignored; 3000 outcomes are of an ended attempt, from before the first"
        " exposure of their unit, or from more than 30 days after it and are ignored; 2000 units have an outcome that counts"
    )
