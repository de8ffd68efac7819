"""Outcomes as guardrails of a rollout: which units a gate counts, shared errors, and errors at every evaluation."""

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from sundog_operator.api import Epoch, EvidenceEpoch, ExperimentStatus, MetricStatus, Rollout, StepStatus
from sundog_operator.api.reasons import Cause, ExperimentReason, MetricNote
from sundog_operator.core.analysis import rollout_outcomes
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.arm_pair import CollectedCounts, rollout_limits
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSums, OutcomeSums
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.rollout import freeze

T0 = datetime(2026, 11, 26, 12, tzinfo=UTC)
BY_USER = {"header": "x-user-id"}
PER_REQUEST: dict[str, Any] = {"request": {}}
KEPT = {"name": "kept", "feedback": "accepted"}
RUNS, LOOKS, ALPHA = 150, 15, 0.05
MARGIN = 0.1
Rows = Mapping[tuple[int, str], tuple[int, int]]
"""Exposed units and those with an outcome, by epoch and arm."""


def at_step(index: int, **spec: Any) -> ExperimentStatus:
    """Return an attempt that collects at a step with 25 or 50 %. The epoch of each step has twice the step's number."""
    rollout = {"steps": [{"weight": 25}, {"weight": 50}], "guardrails": [KEPT], **spec}
    status = freeze.freeze(Rollout.from_json(rollout), 7, 8, T0, StableTraffic())
    weights = [step.weight for step in status.plan.steps[:index]]
    update = {
        "phase": "Running",
        "step": StepStatus(index=index, of=len(status.plan.steps), gate="evidence", warm=True),
        "epoch": Epoch(number=2 * index, since=T0, confirmed=True),
        "arms": freeze.arms_at_weight(weights[-1], 7, 8),
        "evidence_epochs": tuple(EvidenceEpoch(number=2 * n, weight=each) for n, each in enumerate(weights, start=1)),
    }
    return status.model_copy(update=update)


def collected(rows: Rows, lost: int = 0, name: str = "accepted") -> CollectedCounts:
    assigned = {key: ArmCounts(assigned=exposed, lost=lost) for key, (exposed, _) in rows.items()}
    million = 1_000_000
    sums = FeedbackSums(
        store="store",
        sequence=1,
        exposed={key: exposed for key, (exposed, _) in rows.items()},
        outcomes={
            (name, *key): OutcomeSums(positive, positive, positive * million, positive * million**2)
            for key, (_, positive) in rows.items()
        },
    )
    tallies = Counters("uid", {"edge/boot": assigned}, feedback=sums)
    return CollectedCounts(tallies, [], {}, StableTraffic(), T0.timestamp() + 600, 30.0)


def evaluate(status: ExperimentStatus, rows: Rows, problem: Cause | None = None) -> MetricStatus:
    (found,) = rollout_outcomes.evaluate_outcomes(status, rollout_limits(status), collected(rows), problem)
    return found


EQUAL_25 = {(2, "stable"): (30_000, 9000), (2, "canary"): (10_000, 3000)}
WORSE_50 = {(4, "stable"): (20_000, 6000), (4, "canary"): (20_000, 4200)}


def test_equal_outcomes_pass_and_worse_ones_are_harm() -> None:
    passed = evaluate(at_step(1), EQUAL_25)
    assert (passed.verdict, passed.role, passed.arm, passed.allowed) == ("Passed", "guardrail", "canary", 0.9)
    assert passed.events == (9000, 3000)
    assert passed.message.startswith("kept of the canary is ")
    assert passed.message.endswith(": within its margin of 10 %")
    harm = evaluate(at_step(1), {**EQUAL_25, (2, "canary"): (10_000, 2000)})
    assert harm.verdict == "Harm"
    assert harm.message.endswith(": worse than its margin of 10 %")


def test_a_mean_uses_the_sums_of_capped_totals() -> None:
    cost = {"name": "cost", "feedback": "spent", "type": "mean", "goal": "decrease", "cap": 1}
    status = at_step(1, guardrails=[cost])
    more = {**EQUAL_25, (2, "canary"): (10_000, 4000)}
    verdicts = []
    for name in ("spent@1000000", "spent"):
        counts = collected(more, name=name)
        (found,) = rollout_outcomes.evaluate_outcomes(status, rollout_limits(status), counts, None)
        verdicts.append((found.verdict, found.allowed, found.note))
    assert verdicts == [("Harm", 1.1, None), ("Undecided", 1.1, MetricNote.UNREPORTED)]


@pytest.mark.parametrize("unit", [PER_REQUEST, BY_USER])
def test_the_last_gate_counts_only_the_outcomes_of_its_weight(unit: dict[str, Any]) -> None:
    few = {(4, "stable"): (100, 30), (4, "canary"): (100, 30)}
    found = evaluate(at_step(2, unit=unit), {**EQUAL_25, **few})
    assert (found.verdict, found.events) == ("Undecided", (30, 30))
    assert ("only units first seen at this weight count" in found.message) is (unit is BY_USER)


@pytest.mark.parametrize("unit", [PER_REQUEST, BY_USER])
def test_earlier_gates_count_only_the_outcomes_of_their_weight_too(unit: dict[str, Any]) -> None:
    steps = [{"weight": 25}, {"weight": 50}, {"weight": 75}]
    few = {(4, "stable"): (100, 30), (4, "canary"): (100, 30)}
    found = evaluate(at_step(2, unit=unit, steps=steps), {**EQUAL_25, **few})
    assert (found.verdict, found.events) == ("Undecided", (30, 30))


@pytest.mark.parametrize(("unit", "events"), [(PER_REQUEST, (30, 30)), (BY_USER, (6030, 6030))])
def test_an_epoch_that_restarts_at_its_weight_keeps_its_users(unit: dict[str, Any], events: tuple[int, int]) -> None:
    status, few = at_step(2, unit=unit), {(5, "stable"): (100, 30), (5, "canary"): (100, 30)}
    restarted = (*status.evidence_epochs, EvidenceEpoch(number=5, weight=50, restarts=1))
    equal = {(4, "stable"): (20_000, 6000), (4, "canary"): (20_000, 6000)}
    found = evaluate(status.model_copy(update={"evidence_epochs": restarted}), {**EQUAL_25, **equal, **few})
    assert found.events == events


def test_harm_counts_the_outcomes_of_all_weights() -> None:
    few = {(4, "stable"): (100, 30), (4, "canary"): (100, 30)}
    worse = {(2, "stable"): (30_000, 9000), (2, "canary"): (10_000, 2000)}
    found = evaluate(at_step(2), {**worse, **few})
    assert (found.verdict, found.events) == ("Harm", (9030, 2030))


def test_harm_at_one_weight_alone_only_keeps_the_gate_shut() -> None:
    """Otherwise each weight would be a further test of harm with the whole error."""
    better = {(2, "stable"): (300_000, 90_000), (2, "canary"): (100_000, 40_000)}
    found = evaluate(at_step(2), {**better, **WORSE_50})
    assert found.verdict == "Undecided"
    assert found.message.endswith(
        "worse than its margin of 10 % at this weight; a rollback needs that over all weights"
    )


def test_epochs_without_a_fit_baseline_or_of_a_bake_open_no_gate() -> None:
    status = at_step(1)
    troubled = status.evidence_epochs[0].model_copy(update={"troubled": True})
    assert evaluate(status.model_copy(update={"evidence_epochs": (troubled,)}), EQUAL_25).verdict == "NoData"
    assert (
        evaluate(status.model_copy(update={"evidence_epochs": ()}), {}).message
        == "kept of the canary: nothing was counted yet"
    )
    baked = at_step(2, bake={"holdback": "10%"})
    bake = EvidenceEpoch(number=6, weight=90)
    after = baked.model_copy(update={"evidence_epochs": (*baked.evidence_epochs, bake)})
    harmful = {(6, "stable"): (10_000, 3000), (6, "canary"): (90_000, 15_000)}
    assert evaluate(after, {**EQUAL_25, **harmful}).verdict == "Harm"


def test_without_an_outcome_of_this_weight_the_message_says_how_to_report_one() -> None:
    none = {(4, "stable"): (20_000, 0), (4, "canary"): (20_000, 0)}
    found = evaluate(at_step(2), {**EQUAL_25, **none})
    assert (found.verdict, found.note) == ("Undecided", MetricNote.UNREPORTED)
    assert "no outcome accepted of any unit was reported yet; POST it to -/feedback" in found.message


def test_with_a_problem_every_outcome_waits_and_names_it() -> None:
    away = Cause(ExperimentReason.FEEDBACK_UNAVAILABLE, "edge-0 does not answer")
    for rows in (EQUAL_25, {**EQUAL_25, (2, "canary"): (10_000, 2000)}):
        found = evaluate(at_step(1), rows, away)
        assert (found.verdict, found.message, found.eta) == ("Undecided", "kept: edge-0 does not answer", None)


@pytest.mark.parametrize(
    ("early", "canary", "verdict"), [(0, 2000, "Harm"), (0, 3000, "Undecided"), (9000, 2000, "Undecided")]
)
def test_a_full_store_opens_no_gate_and_still_shows_harm_unless_clocks_are_wrong_too(
    early: int, canary: int, verdict: str
) -> None:
    status, counts = at_step(1), collected({**EQUAL_25, (2, "canary"): (10_000, canary)})
    sums = replace(counts.tallies.feedback, overflow=9000, early=early)
    counts = replace(counts, tallies=replace(counts.tallies, feedback=sums))
    problem = rollout_outcomes.find_problem(status, rollout_limits(status), counts, None, "")
    assert problem is not None
    assert problem.reason == ExperimentReason.FEEDBACK_OVERFLOW
    (found,) = rollout_outcomes.evaluate_outcomes(status, rollout_limits(status), counts, problem)
    assert found.verdict == verdict


def test_a_wrong_split_and_lost_data_are_problems() -> None:
    away = Cause(ExperimentReason.FEEDBACK_UNAVAILABLE, "edge-0 does not answer")
    fine, status = collected(EQUAL_25), at_step(1)
    limits = rollout_limits(status)
    assert rollout_outcomes.find_problem(status, limits, fine, None, "") is None
    assert rollout_outcomes.find_problem(status, limits, fine, away, "7 of 9") == away
    mismatch = rollout_outcomes.find_problem(status, limits, fine, None, "7 of 9")
    assert mismatch == (ExperimentReason.SAMPLE_RATIO_MISMATCH, "7 of 9")
    lost = rollout_outcomes.find_problem(status, limits, collected(EQUAL_25, lost=2000), None, "")
    assert lost is not None
    assert (lost.reason, lost.message.rpartition("; ")[2]) == (
        ExperimentReason.REQUESTS_LOST,
        "no gate opens by outcomes until the missing share is below the limit",
    )
    without = at_step(1, guardrails=[{"metric": "errorRate"}])
    assert rollout_outcomes.find_problem(without, rollout_limits(without), fine, away, "7 of 9") is None


@pytest.mark.parametrize(("canary", "verdict"), [(2000, "Harm"), (3000, "Undecided")])
def test_lines_lost_at_the_weight_of_the_gate_keep_it_shut_and_hide_no_harm(canary: int, verdict: str) -> None:
    earlier = {(2, "stable"): (30_000, 9000), (2, "canary"): (10_000, canary)}
    counts, status = collected({**earlier, (4, "stable"): (500, 150), (4, "canary"): (500, 150)}), at_step(2)
    lossy = {**counts.tallies.sources["edge/boot"], (4, "canary"): ArmCounts(assigned=500, lost=50)}
    counts = replace(counts, tallies=replace(counts.tallies, sources={"edge/boot": lossy}))
    limits = rollout_limits(status)
    problem = rollout_outcomes.find_problem(status, limits, counts, None, "")
    assert problem is not None
    assert problem.message.startswith("50 of 500 requests of canary have no known outcome")
    (found,) = rollout_outcomes.evaluate_outcomes(status, limits, counts, problem)
    assert found.verdict == verdict


def test_outcomes_and_metrics_of_the_edge_share_the_error_of_harm() -> None:
    plain = at_step(1, guardrails=[{"metric": "errorRate"}])
    both = at_step(1, guardrails=[{"metric": "errorRate"}, KEPT, {**KEPT, "name": "kept-longer"}])
    count = len(plain.plan.guardrails)
    shares = [rollout_limits(each).levels.harm_error_share for each in (plain, both)]
    assert len(both.plan.guardrails) == count
    assert shares[1] == pytest.approx(shares[0] * count / (count + 2))
    assert rollout_limits(plain).levels.alpha == rollout_limits(both).levels.alpha


def simulate(unit: dict[str, Any], ratio: float, seed: int, runs: int = RUNS) -> tuple[float, float]:
    """Return the shares of runs in which the last gate opened, and in which harm was found, at any evaluation.

    With sticky units a third of stable's at 25 % are the canary's at 50 %; the outcomes of those come after the move. With them, a gate
    that counted all weights would let a candidate at its margin pass.
    """
    draw, rate, status = np.random.default_rng(seed), 0.3, at_step(2, unit=unit)
    moved = 1 / 3 if unit is BY_USER else 0.0
    passed = harmed = 0
    limits = rollout_limits(status)
    for _ in range(runs):
        chances = {(2, "stable"): rate * (1 - moved + moved * ratio), (2, "canary"): rate * ratio}
        earlier = {key: draw.poisson(90_000 if key[1] == "stable" else 30_000) for key in chances}
        counts = {key: (int(n), int(draw.binomial(n, chances[key]))) for key, n in earlier.items()}
        verdicts = set()
        for _ in range(LOOKS):
            for arm, chance in (("stable", rate), ("canary", rate * ratio)):
                exposed, positive = counts.get((4, arm), (0, 0))
                new = int(draw.poisson(800))
                counts[4, arm] = exposed + new, positive + int(draw.binomial(new, chance))
            (found,) = rollout_outcomes.evaluate_outcomes(status, limits, collected(counts), None)
            verdicts.add(found.verdict)
        passed += "Passed" in verdicts
        harmed += "Harm" in verdicts
    return passed / runs, harmed / runs


@pytest.mark.parametrize("unit", [PER_REQUEST, BY_USER])
def test_a_candidate_at_its_margin_opens_the_last_gate_and_does_harm_as_rarely_as_promised(
    unit: dict[str, Any],
) -> None:
    passed, harmed = simulate(unit, 1 - MARGIN, seed=7)
    assert passed <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)
    assert harmed <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def test_equal_outcomes_open_the_last_gate_and_much_worse_ones_are_found() -> None:
    assert simulate(PER_REQUEST, 1.0, seed=8, runs=40)[0] >= 0.8
    assert simulate(BY_USER, 0.7, seed=9, runs=40)[1] >= 0.9
