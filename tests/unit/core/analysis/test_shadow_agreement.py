"""Evaluation of copies of requests."""

import functools
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles import shadow_copies
from sundog_operator.api import (
    ExperimentStatus,
    MetricStatus,
    PlanComparedPart,
    PlanShadow,
    PlanStep,
    Rollout,
    ShadowStatus,
    StepStatus,
)
from sundog_operator.api.reasons import Cause
from sundog_operator.core.analysis import shadow_agreement
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.trial import replica_counts
from sundog_operator.core.trial.evaluation import RolloutEvaluation
from sundog_operator.core.trial.rollout import (
    explanations,
    freeze,
    plan_text,
    shadow_comparison,
    state,
    state_machine,
    steering,
    transitions,
)
from sundog_operator.core.trial.rollout.commands import RolloutCommand
from sundog_operator.core.trial.rollout.shadow_comparison import ShadowComparison
from sundog_operator.core.trial.rollout.state import RolloutInputs

T0 = datetime(2026, 11, 26, 12, tzinfo=UTC)
ATTEMPT = "uid-1"
row = functools.partial(shadow_copies.row, attempt=ATTEMPT)
HALF = [{"weight": 50, "gate": "manual"}]
SHADOW = {"percent": 20, "compare": {"agreement": {"min": 0.99, "by": "argmax"}}, "minSamples": 500}


def frozen(shadow: Mapping[str, Any] = SHADOW, **spec: Any) -> ExperimentStatus:
    return freeze.freeze(Rollout.from_json({"steps": [{"shadow": shadow}, *HALF], **spec}), 7, 8, T0)


def report(*rows: dict[str, Any], pod: str = "edge-0") -> EdgeReport:
    return EdgeReport(pod, True, False, {"shadows": list(rows), "histogram": {"edgesUs": [100, 200, 300]}})


def running(status: ExperimentStatus, index: int = 1) -> ExperimentStatus:
    step = StepStatus(index=index, of=len(status.plan.steps), gate=status.plan.steps[index - 1].gate, since=T0)
    epoch = status.epoch.model_copy(update={"confirmed": True})
    return status.model_copy(update={"phase": "Running", "step": step, "epoch": epoch})


def evaluate(*rows: dict[str, Any], shadow: Mapping[str, Any] = SHADOW, **spec: Any) -> ShadowComparison:
    found = shadow_agreement.evaluate_shadow(running(frozen(shadow, **spec)), ATTEMPT, [report(*rows)])
    assert found is not None
    return found


def inputs(copies: ShadowComparison | None, after: timedelta = timedelta(minutes=10), **changes: Any) -> RolloutInputs:
    values: dict[str, Any] = {"replicas": 3, "available": 3, "confirmed": True, **changes}
    return RolloutInputs(now=T0 + after, shadow=copies, **values)


def test_a_step_is_frozen_at_the_weight_before_it() -> None:
    steps = freeze.plan_steps(Rollout.from_json({"steps": [{"shadow": {}}, {"weight": 25}]}))
    assert steps[0] == PlanStep(
        weight=0, gate="shadow", shadow=PlanShadow(percent=100), max_duration=timedelta(hours=24)
    )
    later = freeze.plan_steps(Rollout.from_json({"steps": [{"weight": 25}, {"shadow": SHADOW}, {"weight": 50}]}))
    assert [(step.weight, step.gate) for step in later][:3] == [(25, "evidence"), (25, "shadow"), (50, "evidence")]
    assert later[1].shadow == PlanShadow(percent=20, by="argmax", min_agreement=0.99, min_samples=500)


CUSTOM = {
    "compare": {
        "agreement": {
            "min": 0.99,
            "by": "custom",
            "parts": [{"path": "$.a", "by": "argmax"}, {"path": "$.b", "by": "tolerance", "atol": 1}],
        }
    },
    "minSamples": 500,
}


def test_parts_are_compared_as_one() -> None:
    shadow = freeze.plan_steps(Rollout.from_json({"steps": [{"shadow": CUSTOM}, *HALF]}))[0].shadow
    assert shadow is not None
    assert shadow.parts == (
        PlanComparedPart(path="$.a", by="argmax"),
        PlanComparedPart(path="$.b", by="tolerance", atol=1),
    )
    counts = {"verdicts": {"custom": [900, 1, 0], "argmax $.a": [901, 0, 0], "exact": [0, 901, 0]}, "paired": 901}
    result = evaluate(row(**counts), shadow=CUSTOM)
    assert (result.passed, result.status.agreed, result.status.disagreed) == (True, 900, 1)
    assert result.metrics[0].message.startswith("agreement by custom in 2 parts: 99.889 % of 901, between ")


def test_a_plan_without_parts_and_margin_is_stored_as_before() -> None:
    assert not {"parts", "latencyMargin"} & set(frozen().plan.steps[0].to_json()["shadow"])
    assert frozen(SLOWEST).plan.steps[0].to_json()["shadow"]["latencyMargin"] == 0.5


ALONE = {"strategy": "shadow", "steps": [{"shadow": {**SHADOW, "maxDuration": "1h"}}]}
HOUR = timedelta(hours=1)


TWICE = {"steps": [{"shadow": SHADOW}, {"shadow": {**SHADOW, "percent": 100, "compare": {}}}, *HALF]}


def at_the_second() -> tuple[ExperimentStatus, ShadowComparison]:
    """Return a rollout that is about to begin its second shadow step, and the result of the first."""
    first = evaluate(row(agree=900))
    status = state_machine.tick(running(freeze.freeze(Rollout.from_json(TWICE), 7, 8, T0)), inputs(first))
    # Every transition writes the present result.
    return status.model_copy(update={"shadow": first.status, "metrics": first.metrics}), first


def test_a_second_shadow_counts_copies_of_its_own_epoch_alone() -> None:
    status, first = at_the_second()
    assert status.step is not None
    assert status.step.index == 2
    assert shadow_comparison.active_shadow(status) is None, "or one key would count the copies of both steps"
    assert shadow_agreement.evaluate_shadow(status, ATTEMPT, [report(row(agree=900))]) is None
    status = state_machine.tick(status, inputs(None))
    assert (status.epoch.number, status.epoch.confirmed, status.metrics) == (1, False, ())
    assert status.shadow is not None
    assert (status.shadow.step, status.shadow.epoch, status.shadow.sent) == (2, 1, 0)
    assert status.shadow.earlier == (f"step 1: {first.status.message}",)
    assert shadow_comparison.active_shadow(status) == status.plan.steps[1].shadow
    later = {"epoch": 1, "verdicts": {"exact": [3, 1, 0]}, "paired": 4, "sampled": 4, "sent": 4}
    result = shadow_agreement.evaluate_shadow(status, ATTEMPT, [report(row(agree=900), row(**later))])
    assert result is not None
    assert (result.status.agreed, result.status.sent, result.status.step, result.status.epoch) == (3, 4, 2, 1)
    assert result.status.earlier == status.shadow.earlier
    again = shadow_agreement.evaluate_shadow(status.model_copy(update={"shadow": result.status}), ATTEMPT, [])
    assert again is not None
    assert again.status.agreed == 3


def test_a_second_shadow_begins_once_and_goes_on() -> None:
    status, _ = at_the_second()
    for _ in range(3):
        status = state_machine.tick(status, inputs(shadow_agreement.evaluate_shadow(status, ATTEMPT, [])))
    assert status.epoch.number == 1
    rows = row(epoch=1, verdicts={"exact": [900, 0, 0]}, paired=900, sampled=900, sent=900)
    status = state_machine.tick(status, inputs(shadow_agreement.evaluate_shadow(status, ATTEMPT, [report(rows)])))
    assert status.step is not None
    assert status.step.index == 3


@pytest.mark.parametrize("known", [True, False])
def test_a_shadow_after_one_that_was_passed_by_command_counts_anew_too(known: bool) -> None:
    status = running(freeze.freeze(Rollout.from_json(TWICE), 7, 8, T0))
    first = evaluate(row(agree=9))
    status = status.model_copy(update={"shadow": first.status if known else None})
    status = steering.execute_command(status, RolloutCommand(id="c", verb="promote", revision=8), T0)
    status = state_machine.tick(status, inputs(None))
    assert status.shadow is not None
    assert (status.epoch.number, status.shadow.epoch) == (1, 1)
    assert status.shadow.earlier == ((f"step 1: {first.status.message}",) if known else ())


@pytest.mark.parametrize("warm", [True, False])
def test_counts_in_a_later_shadows_epoch_stay_evidence(warm: bool) -> None:
    steps = [{"weight": 25}, {"shadow": SHADOW}, {"shadow": SHADOW}, {"weight": 50}]
    status = running(freeze.freeze(Rollout.from_json({"steps": steps}), 7, 8, T0), 3)
    assert status.step is not None
    update = {"arms": freeze.arms_at_weight(25, 7, 8), "step": status.step.model_copy(update={"warm": warm})}
    status = state_machine.tick(status.model_copy(update=update), inputs(None))
    assert status.epoch.number == 1
    assert [(each.number, each.weight) for each in status.evidence_epochs] == ([(1, 25)] if warm else [])


def shadow_only(**spec: Any) -> ExperimentStatus:
    return freeze.freeze(Rollout.from_json({**ALONE, **spec}), 7, 8, T0)


@pytest.mark.parametrize(
    ("steps", "gates"),
    [
        ([], ["shadow", "manual", "none"]),
        ([{"shadow": {}}], ["shadow", "manual", "none"]),
        ([{"shadow": {}}, {"pause": {}}], ["shadow", "manual", "none"]),
        ([{"scale": {"replicas": 2}}, {"shadow": {}}, {"pause": {"duration": "1m"}}], ["scale", "shadow", "time", "manual", "none"]),
    ],
    ids=str,
)  # fmt: skip
def test_alone_nothing_but_a_command_leads_to_traffic(steps: list[dict[str, Any]], gates: list[str]) -> None:
    plan = shadow_only(steps=steps).plan
    assert plan.strategy == "shadow"
    assert [step.gate for step in plan.steps] == gates
    assert [step.weight for step in plan.steps] == [*[0] * (len(gates) - 1), 100]
    shadow = next(step for step in plan.steps if step.shadow is not None)
    assert shadow.min_duration == shadow.max_duration == timedelta(hours=24)


@pytest.mark.extended
@pytest.mark.parametrize("policy", ["pause", "rollback", "promote"])
@given(data=st.data())
def test_alone_a_canary_never_gets_traffic_without_a_command(policy: str, data: st.DataObject) -> None:
    status = state_machine.tick(shadow_only(onInconclusive=policy, onNoData="promote"), inputs(None, timedelta()))
    now = timedelta()
    for _ in range(data.draw(st.integers(1, 8))):
        now += data.draw(st.sampled_from([timedelta(seconds=5), timedelta(minutes=40), timedelta(days=2)]))
        rows = data.draw(st.sampled_from([[], [row(agree=100)], [row(agree=9000)], [row(agree=5, disagree=400)]]))
        for _ in range(3):
            copies = shadow_agreement.evaluate_shadow(status, ATTEMPT, [report(*rows)])
            status = state_machine.tick(status, inputs(copies, now))
            assert state.canary_weight(status) == 0
            assert status.phase != "Concluded"


def test_alone_it_lasts_for_its_duration_and_ends_with_a_verdict() -> None:
    result = evaluate(row(agree=900))
    early = state_machine.tick(running(shadow_only()), inputs(result, HOUR - timedelta(seconds=1)))
    assert early.step is not None
    assert (early.step.index, early.verdict.decision) == (1, "Undecided")
    assert early.step.reason.startswith("copies requests for 1h: ")
    ended = state_machine.tick(running(shadow_only()), inputs(result, HOUR))
    assert ended.step is not None
    assert (ended.step.index, ended.step.gate, ended.phase) == (2, "manual", "Running")
    assert (ended.verdict.decision, ended.verdict.winner, ended.verdict.reason) == ("Passed", "", result.status.message)
    assert (ended.shadow, ended.metrics) == (result.status, result.metrics)
    assert shadow_comparison.active_shadow(ended) is None


def test_alone_a_candidate_is_rolled_back_before_its_time() -> None:
    status = state_machine.tick(
        running(shadow_only()), inputs(evaluate(row(agree=450, disagree=50)), timedelta(minutes=1))
    )
    assert (status.phase, status.verdict.decision, status.verdict.winner) == ("Stopped", "RolledBack", "stable")


def test_alone_an_undecided_step_pauses_after_its_time() -> None:
    status = state_machine.tick(running(shadow_only()), inputs(evaluate(row(agree=100)), HOUR))
    assert status.paused is not None
    assert status.paused.reason == "Inconclusive"
    skipped = state_machine.tick(running(shadow_only(onInconclusive="promote")), inputs(evaluate(row(agree=100)), HOUR))
    assert skipped.step is not None
    assert (skipped.step.index, skipped.verdict.decision) == (2, "Undecided")


@pytest.mark.parametrize(("verb", "phase"), [("promote", "Concluded"), ("abort", "Stopped")])
def test_alone_a_command_ends_it_and_the_verdict_on_the_copies_stays(verb: str, phase: str) -> None:
    status = state_machine.tick(running(shadow_only()), inputs(evaluate(row(agree=900)), HOUR))
    status = steering.execute_command(status, RolloutCommand(id="c", verb=verb, revision=8), T0 + HOUR)
    for _ in range(3):
        status = state_machine.tick(status, inputs(None, HOUR))
    assert (status.phase, status.verdict.decision, status.verdict.winner) == (phase, "Passed", "")
    assert state.canary_weight(status) == (100 if verb == "promote" else 0)


def test_alone_a_skipped_step_leads_to_the_manual_gate_and_never_beyond() -> None:
    skip = RolloutCommand("s1", "skip", 8)
    status = state_machine.tick(
        shadow_only(steps=[{"shadow": {}}, {"scale": {"replicas": 2}}]), inputs(None, timedelta())
    )
    while not steering.skip_refusal(status):
        status = steering.execute_command(status, skip, T0)
    assert (status.step and status.step.gate, status.step and status.step.of) == ("manual", len(status.plan.steps))
    assert state.current_step(status).weight == 0
    assert steering.execute_command(status, skip, T0).step == status.step


@pytest.mark.parametrize(
    ("weight", "percent", "replicas"), [(0, 1, 1), (0, 20, 2), (0, 100, 10), (50, 100, 10), (50, 20, 6)]
)
def test_it_has_replicas_for_the_copies_too(weight: int, percent: int, replicas: int) -> None:
    first = [{"weight": weight, "gate": "manual"}] if weight else []
    steps = freeze.plan_steps(Rollout.from_json({"steps": [*first, {"shadow": {"percent": percent}}]}))
    assert replica_counts.step_replicas(steps[len(first)], 10) == replicas


def test_enough_that_agree_pass() -> None:
    result = evaluate(row(agree=900, disagree=1))
    assert (result.passed, result.failed, result.silent) == (True, "", False)
    assert [(each.name, each.verdict) for each in result.metrics] == [
        ("agreement", "Passed"),
        ("shadowFailures", "Passed"),
    ]
    assert result.metrics[0].message.startswith("agreement by argmax: 99.889 % of 901, between ")
    assert result.metrics[0].message.endswith(", at least 99 % required")


@pytest.mark.parametrize(
    ("counts", "verdict", "message"),
    [
        ({"agree": 450, "disagree": 50}, "fails", "agreement by argmax: 90 % of 500"),
        ({"agree": 460, "errors": 40}, "fails", "shadowFailures: 40 errors and 0 timeouts of 500 copies"),
        ({"agree": 460, "timeouts": 40}, "fails", "shadowFailures: 0 errors and 40 timeouts of 500 copies"),
        ({"agree": 499}, "waits", "499 of 500 pairs"),
        ({"agree": 500, "disagree": 5}, "waits", "agreement by argmax: 99.01 % of 505"),
        ({"agree": 900, "lost": 60}, "waits", "agreement"),
        (
            {"strange": 5000},
            "waits",
            "no answer of the canary yet; argmax cannot compare 5000 answers of stable",
        ),
        ({}, "waits", "no answer of the canary yet"),
    ],
    ids=str,
)
def test_copies_that_do_not_pass_have_a_message(counts: dict[str, int], verdict: str, message: str) -> None:
    result = evaluate(row(**counts))
    assert (result.passed, bool(result.failed)) == (False, verdict == "fails")
    assert message in (result.failed or result.status.message)


ONCE, AGAIN = {"steps": [{"shadow": SHADOW}, *HALF]}, {"steps": [{"shadow": SHADOW}] * 2 + [{"weight": 25}]}


def test_several_harm_tests_share_the_error_and_an_older_plan_keeps_its_own() -> None:
    def of(spec: dict[str, Any], **counts: int) -> ShadowComparison:
        found = shadow_agreement.evaluate_shadow(
            running(freeze.freeze(Rollout.from_json(spec), 7, 8, T0)), ATTEMPT, [report(row(**counts))]
        )
        assert found is not None
        return found

    few = {"agree": 486, "errors": 14}
    assert "shadowFailures: 14 errors" in of(ONCE, **few).failed
    assert of(AGAIN, **few).failed == ""
    assert [each.interval for each in of(AGAIN, **few).metrics] != [each.interval for each in of(ONCE, **few).metrics]
    assert of(AGAIN, agree=484, errors=16).failed
    # A pass uses all of α, as before.
    for agree, passes in ((362, False), (363, True)):
        wanted = [each.verdict == "Passed" for each in of(AGAIN, agree=agree).metrics]
        assert wanted == [each.verdict == "Passed" for each in of(ONCE, agree=agree).metrics] == [passes, passes]
    stored = running(freeze.freeze(Rollout.from_json(AGAIN), 7, 8, T0)).to_json()
    stored["plan"].pop("harmShares", None)
    before = shadow_agreement.evaluate_shadow(ExperimentStatus.parse(stored), ATTEMPT, [report(row(**few))])
    assert before == of(ONCE, **few)


def test_one_copy_is_singular_in_the_message() -> None:
    result = evaluate(row(timeouts=1))
    assert result.metrics[1].message.startswith("shadowFailures: 0 errors and 1 timeout of 1 copy, between ")
    one = ShadowStatus(sampled=1, sent=1, errors=1)
    assert plan_text.describe_copies(one).startswith(
        "1 copy of 1 sampled request: 0 agree, 0 do not, 1 error, 0 timeouts; 0 dropped"
    )


def test_agreement_without_a_limit_is_shown_and_decides_nothing() -> None:
    result = evaluate(row(verdicts={"exact": [0, 900, 0]}, paired=900), shadow={"minSamples": 500})
    assert result.passed
    agreement = result.metrics[0]
    assert (agreement.verdict, agreement.ratio, agreement.allowed) == ("Undecided", 0.0, None)


def test_edges_and_boots_are_added_and_departed_ones_are_kept() -> None:
    status = running(frozen())
    reports = [report(row(agree=100), row("b2", agree=50)), report(row(agree=7, disagree=1), pod="edge-1")]
    first = shadow_agreement.evaluate_shadow(status, ATTEMPT, reports)
    assert first is not None
    assert (first.status.agreed, first.status.disagreed, first.status.sent) == (157, 1, 158)
    later = shadow_agreement.evaluate_shadow(
        status.model_copy(update={"shadow": first.status}), ATTEMPT, [report(row("b2", agree=60))]
    )
    assert later is not None
    assert (later.status.agreed, later.status.disagreed) == (167, 1)
    # Rows of another attempt, and entries that are not rows, do not count.
    strange = report(row(attempt="other", agree=9), {"attempt": ATTEMPT}, row(agree=-1), row(sent="x"))  # type: ignore[arg-type]
    again = shadow_agreement.evaluate_shadow(status.model_copy(update={"shadow": later.status}), ATTEMPT, [strange])
    assert again is not None
    assert again.status.tallies == later.status.tallies
    assert again.status.agreed == 167


@given(st.text(max_size=60))
def test_a_damaged_stored_text_gives_no_counts(text: str) -> None:
    status = running(frozen())
    shadow = evaluate().status.model_copy(update={"tallies": text})
    result = shadow_agreement.evaluate_shadow(
        status.model_copy(update={"shadow": shadow}), ATTEMPT, [report(row(agree=3))]
    )
    assert result is not None
    assert result.status.agreed == 3


def test_the_latency_difference_is_shown() -> None:
    assert evaluate(row(agree=3)).status.latency_difference_microseconds == 200
    assert evaluate(row(agree=3, slower=[], faster=[3])).status.latency_difference_microseconds == -100
    assert evaluate().status.latency_difference_microseconds is None


def test_the_latency_difference_has_bounds_from_buckets() -> None:
    assert evaluate(row(agree=3)).status.latency_difference_interval is None
    assert evaluate(row(agree=400)).status.latency_difference_interval == (100, 200)
    assert evaluate(row(agree=400, slower=[], faster=[0, 400])).status.latency_difference_interval == (-200, -100)
    assert evaluate(row(agree=400, slower=[200], faster=[200])).status.latency_difference_interval == (-100, 100)
    assert evaluate(row(agree=400, slower=[0, 0, 0, 400])).status.latency_difference_interval is None, (
        "beyond the last edge"
    )


@given(st.lists(st.integers(0, 300), min_size=8, max_size=8))
def test_the_median_lies_between_its_bounds(counts: list[int]) -> None:
    result = evaluate(row(slower=counts[:4], faster=counts[4:])).status
    if result.latency_difference_interval is not None:
        lower, upper = result.latency_difference_interval
        assert lower <= (result.latency_difference_microseconds or 0) <= upper


@pytest.mark.extended
def test_at_a_hundred_looks_the_median_is_hardly_ever_out_of_its_bounds() -> None:
    generator, missed = random.Random(7), 0
    for _ in range(200):
        slower = faster = 0
        for _ in range(20):
            later = sum(generator.random() < 0.5 for _ in range(20))
            slower, faster = slower + later, faster + 20 - later
            known = evaluate(row(slower=[slower], faster=[faster])).status.latency_difference_interval
            if known not in (None, (-100, 100)):
                missed += 1
                break
    assert missed <= 200 * 2 * 0.05, "alpha of each side"


SLOWEST = {"compare": {"latencyP99": {"margin": "50%"}}, "minSamples": 500}
"""Buckets end at 100, 200 and 300 µs. From the second on, a margin of 50 % contains the same bucket and the one before."""


def timed(stable: list[int], candidate: list[int], **counts: Any) -> dict[str, Any]:
    pairs = sum(stable)
    verdicts = {"exact": [pairs, 0, 0]}
    known = {"paired": pairs, "sampled": pairs, "sent": pairs, "verdicts": verdicts}
    return row(**known, stable=stable, candidate=candidate, **counts)


@pytest.mark.parametrize(
    ("rows", "passed", "verdict", "message"),
    [
        (
            [timed([0, 0, 3000], [0, 0, 3000])],
            True,
            "Passed",
            "0.3 ms, stable 0.3 ms; at most 0.3 ms, stable at least 0.2 ms; margin 50 %",
        ),
        ([timed([0, 0, 3000], [0, 3000])], True, "Passed", "at most 0.2 ms, stable at least 0.2 ms"),
        ([timed([0, 3000], [0, 0, 3000])], False, "Undecided", "at most 0.3 ms, stable at least 0.1 ms"),
        ([timed([0, 0, 3000], [0, 0, 2900, 100])], False, "Undecided", "not known yet"),
        ([timed([0, 0, 300], [0, 0, 300])], False, "Undecided", "not known yet"),
        ([timed([0, 0, 3000], [0, 0, 3000], lost=60)], False, "Undecided", "not known yet"),
        ([row(agree=900, verdicts={"exact": [900, 0, 0]})], False, "NoData", "no answer of the canary yet"),
        ([], False, "NoData", "no answer of the canary yet"),
    ],
    ids=str,
)  # fmt: skip
def test_a_step_may_have_a_latency_margin(rows: list[dict[str, Any]], passed: bool, verdict: str, message: str) -> None:
    result = evaluate(*rows, shadow=SLOWEST)
    latency = result.metrics[2]
    assert (latency.name, latency.verdict, latency.allowed) == ("shadowLatencyP99", verdict, 1.5)
    assert message in latency.message
    assert (result.passed, result.failed) == (passed, "")
    if not passed:
        assert latency.message in result.status.message


def test_a_candidate_is_never_rolled_back_for_how_long_it_takes() -> None:
    result = evaluate(timed([9000], [0, 0, 0, 9000]), shadow=SLOWEST)
    assert (result.passed, result.failed, result.metrics[2].verdict) == (False, "", "Undecided")
    status = state_machine.tick(running(frozen(SLOWEST)), inputs(result, timedelta(hours=24)))
    assert status.paused is not None
    assert status.paused.reason == "Inconclusive"


@pytest.mark.extended
def test_at_a_hundred_looks_a_slower_candidate_hardly_ever_passes() -> None:
    generator, passed = random.Random(3), 0
    shadow = {**SLOWEST, "minSamples": 100}
    for _ in range(60):
        fast, slow = [0, 0], [0, 0]
        for _ in range(15):
            # 2 % of the canary's answers are in the bucket beyond the margin, and so is its p99.
            late = sum(generator.random() < 0.02 for _ in range(200))
            fast[1], slow = fast[1] + 200, [slow[0] + 200 - late, slow[1] + late]
            own = timed([0, fast[1]], [0, slow[0], slow[1]])
            if evaluate(own, shadow=shadow).metrics[2].verdict == "Passed":
                passed += 1
                break
    assert passed <= 60 * 0.05 + 3


def test_without_a_margin_no_latency_is_compared() -> None:
    assert [each.name for each in evaluate(row(agree=3)).metrics] == ["agreement", "shadowFailures"]


def test_copies_are_requested_only_during_the_step() -> None:
    status = frozen()
    assert shadow_agreement.evaluate_shadow(status, ATTEMPT, [report(row(agree=1))]) is None
    assert shadow_agreement.evaluate_shadow(running(status, 2), ATTEMPT, []) is None
    opened = running(status)
    assert opened.step is not None
    opened = opened.model_copy(update={"step": opened.step.model_copy(update={"gate": "none"})})
    assert shadow_agreement.evaluate_shadow(opened, ATTEMPT, []) is None
    stopped = transitions.stop(running(status), Cause("Aborted", "by command"), T0)
    assert shadow_agreement.evaluate_shadow(stopped, ATTEMPT, []) is None
    assert shadow_comparison.active_shadow(running(status)) == status.plan.steps[0].shadow


def test_the_step_ends_when_enough_agree() -> None:
    status = state_machine.tick(running(frozen()), inputs(evaluate(row(agree=900))))
    assert status.step is not None
    assert (status.step.index, status.step.gate) == (2, "manual")


@pytest.mark.parametrize("holds", ["pause", "spec", "window"])
def test_a_canary_that_disagrees_is_rolled_back_even_if_held(holds: str) -> None:
    status, changes = running(frozen()), {}
    if holds == "pause":
        status = steering.execute_command(status, RolloutCommand("p", "pause", 8), T0)
    elif holds == "spec":
        changes = {"held": True}
    else:
        changes = {"opens_at": T0 + timedelta(days=9)}
    result = evaluate(row(disagree=600))
    after = state_machine.tick(status, inputs(result, **changes))
    assert (after.phase, after.verdict.reason) == ("Stopped", f"RolledBack: {result.failed}")
    fine = state_machine.tick(status, inputs(evaluate(row(agree=900)), HOUR * 30, **changes))
    assert (fine.phase, state.current_step(fine)) == ("Running", state.current_step(status))


def test_a_canary_that_disagrees_is_rolled_back_by_evidence() -> None:
    result = evaluate(row(agree=450, disagree=50))
    status = state_machine.tick(running(frozen()), inputs(result))
    assert status.phase == "Stopped"
    assert (status.verdict.decision, status.verdict.winner) == ("RolledBack", "stable")
    assert status.verdict.reason == f"RolledBack: {result.failed}"
    assert status.shadow == result.status
    assert state.canary_weight(status) == 0


@pytest.mark.parametrize(
    ("rows", "policy", "follows"),
    [
        ([row(agree=100)], "pause", "Inconclusive"),
        ([row(agree=100)], "rollback", "Stopped"),
        ([row(agree=100)], "promote", "step 2"),
        ([], "rollback", "NoData"),
        ([], "promote", "NoData"),
    ],
    ids=str,
)
def test_an_undecided_step_follows_the_policy_after_its_time(
    rows: list[dict[str, Any]], policy: str, follows: str
) -> None:
    shadow = {**SHADOW, "maxDuration": "1h"}
    status, result = running(frozen(shadow, onInconclusive=policy)), evaluate(*rows, shadow=shadow)
    before = state_machine.tick(status, inputs(result, timedelta(minutes=59)))
    assert (before.phase, before.paused, before.step and before.step.index) == ("Running", None, 1)
    after = state_machine.tick(status, inputs(result, timedelta(hours=1)))
    reached = (
        after.paused.reason
        if after.paused
        else after.phase
        if state.is_over(after)
        else f"step {after.step and after.step.index}"
    )
    assert reached == follows
    assert after.shadow == result.status
    if after.paused:
        assert explanations.describe_pause(after) == f"paused because it took too long: {result.status.message}"


@pytest.mark.parametrize(
    ("counts", "policy"), [({"agree": 450, "disagree": 50}, "pause"), ({"agree": 100}, "rollback")], ids=str
)
def test_metrics_of_copies_stay_beside_those_of_traffic(counts: dict[str, int], policy: str) -> None:
    weighed = MetricStatus(name="errorRate", role="guardrail", verdict="Undecided", message="about 60 events decide")
    status = running(frozen({**SHADOW, "maxDuration": "1h"}, onInconclusive=policy))
    result = evaluate(row(**counts))
    after = state_machine.tick(
        status, inputs(result, HOUR, evidence=RolloutEvaluation(silent=False, metrics=(weighed,)))
    )
    assert after.phase == "Stopped"
    assert [each.name for each in after.metrics] == ["agreement", "shadowFailures", "errorRate"]
    assert after.metrics[0] == result.metrics[0]


def test_held_time_is_no_time_of_the_step() -> None:
    shadow = {**SHADOW, "maxDuration": "1h"}
    result = evaluate(row(agree=100), shadow=shadow)
    held = state_machine.tick(running(frozen(shadow)), inputs(result, timedelta(minutes=10), held=True))
    freed = state_machine.tick(held, inputs(result, timedelta(hours=9)))
    assert freed.step is not None
    assert freed.step.since == T0 + timedelta(hours=8, minutes=50)
    assert state_machine.tick(freed, inputs(result, timedelta(hours=9))).paused is None


def test_a_hold_or_pause_decides_nothing_and_a_command_passes_the_step() -> None:
    few, right = evaluate(row(agree=100)), evaluate(row(agree=900))
    paused = steering.execute_command(running(frozen()), RolloutCommand("c1", "pause", 8), T0)
    for result in (few, right):
        after = state_machine.tick(paused, inputs(result))
        assert (after.phase, after.step and after.step.index) == ("Running", 1)
    promoted = steering.execute_command(paused, RolloutCommand("c2", "promote", 8), T0)
    assert (promoted.step and promoted.step.index) == 2
