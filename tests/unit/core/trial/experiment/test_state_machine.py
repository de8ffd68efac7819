"""Life of an experiment, tick by tick, with the test's clock."""

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucket_ranges import is_partition
from experiment_statuses import T0, freeze_experiment, stable_revision
from sundog_operator.api import ExperimentSpec, ExperimentStatus, PlanGuardrail
from sundog_operator.api.reasons import Cause, PauseReason
from sundog_operator.core.stats import error_shares
from sundog_operator.core.trial.evaluation import BaselineHealth, ExperimentEvaluation, OutcomeDecision
from sundog_operator.core.trial.experiment import arms, freeze, state, state_machine
from sundog_operator.core.trial.experiment.state import ArmState, ExperimentInputs

MINUTE = timedelta(minutes=1)
READY = ArmState(available=1)
CONVERSION = {"name": "conversion", "feedback": "converted"}
FAILING = {"metric": "errorRate", "goal": "decrease"}


def frozen(names: tuple[str, ...] = ("a", "b"), **spec: Any) -> ExperimentStatus:
    return freeze_experiment(names, **{"exposure": "30%", **spec})


def inputs(minutes: float = 0, *, confirmed: bool = True, **more: Any) -> ExperimentInputs:
    arm_states = dict.fromkeys(("a", "b", "c"), READY) | more.pop("arms", {})
    return ExperimentInputs(now=T0 + minutes * MINUTE, confirmed=confirmed, arms=arm_states, **more)


def evidence(**fields: Any) -> ExperimentEvaluation:
    return ExperimentEvaluation(requests=10**6, **fields)


def running(**spec: Any) -> ExperimentStatus:
    """Return an experiment in its first epoch of evidence."""
    status = state_machine.tick(frozen(**spec), inputs())
    status = state_machine.tick(status, inputs(1))
    status = state_machine.tick(status, inputs(2, evidence=evidence()))
    return state_machine.tick(status, inputs(3, evidence=evidence()))


def weights(status: ExperimentStatus) -> dict[str, float]:
    return {arm.name: arm.weight for arm in status.arms}


def test_it_begins_once_all_arms_are_ready_and_all_edges_have_confirmed() -> None:
    status = frozen()
    assert state_machine.tick(status, inputs(confirmed=False)) == status
    assert state_machine.tick(status, inputs(arms={"b": ArmState(available=0)})) == status
    begun = state_machine.tick(status, inputs(5))
    assert (begun.phase, begun.epoch.number, begun.epoch.confirmed, begun.since) == ("Running", 1, False, None)
    assert weights(begun) == {"stable": 70, "control": 10, "a": 10, "b": 10}
    assert is_partition([interval for arm in begun.arms for interval in arm.ranges])
    confirmed = state_machine.tick(begun, inputs(6))
    assert (confirmed.epoch.confirmed, confirmed.since) == (True, T0 + 6 * MINUTE)
    assert confirmed.evidence_epochs == ()


@pytest.mark.parametrize("phase", ["Pending", "Queued"])
def test_what_has_begun_goes_on_from_any_phase_in_its_epoch(phase: str) -> None:
    """Earlier releases stored such a phase while the status of the ModelDeployment was lost."""
    status = state_machine.tick(running(), inputs(9, evidence=evidence(harm={"a": "worse"})))
    status = state_machine.tick(status, inputs(9.5))
    waiting = status.model_copy(update={"phase": phase})
    assert state_machine.tick(waiting, inputs(10, arms={"a": ArmState(available=0)})) == status


def test_the_warm_up_is_no_evidence() -> None:
    status = state_machine.tick(state_machine.tick(frozen(), inputs()), inputs(1))
    cold = ExperimentEvaluation(requests=3)
    assert state_machine.tick(status, inputs(1.5, evidence=cold)) == status
    after = state_machine.tick(status, inputs(10, evidence=cold))
    assert [epoch.number for epoch in after.evidence_epochs] == [2]
    assert after.evidence_epochs[0].buckets == (7000, 1000, 1000, 1000)
    assert [arm.ranges for arm in after.arms] == [arm.ranges for arm in status.arms]


@pytest.mark.parametrize("warmup", [{}, {"warmup_requests": 0}])
def test_the_warm_up_goes_on_until_latency_thresholds_are_known(warmup: dict[str, Any]) -> None:
    """Then no test has used evidence that is removed once they are, and the first set has its whole share of the error."""
    status = frozen(metrics={"guardrails": [{"metric": "latencyP95", "margin": "10%"}]})
    status = status.model_copy(update={"plan": status.plan.model_copy(update=warmup)})
    unknown = status.plan.guardrails
    status = state_machine.tick(state_machine.tick(status, inputs()), inputs(1))
    assert status.epoch.confirmed
    few = ExperimentEvaluation(requests=199, guardrails=unknown)
    assert state_machine.tick(status, inputs(600, evidence=few)) == status
    known = tuple(each.model_copy(update={"threshold_microseconds": 5000}) for each in unknown)
    after = state_machine.tick(status, inputs(601, evidence=replace(few, guardrails=known)))
    assert (after.plan.guardrails, after.evidence_epochs[-1].restarts) == (known, 0)
    assert state.evidence_share(after) == error_shares.evidence_share(0)
    # Answers that come without their times must not keep out everything else.
    untimed = state_machine.tick(status, inputs(601, evidence=replace(few, requests=200)))
    assert [epoch.number for epoch in untimed.evidence_epochs] == [2]
    # Nor must an arm that fails stay untested.
    failing = status.model_copy(update={"arms": tuple(arm.model_copy(update={"errors": 20}) for arm in status.arms)})
    harmed = state_machine.tick(failing, inputs(600, evidence=few))
    assert [epoch.number for epoch in harmed.evidence_epochs] == [2]


def test_harm_drops_an_arm_at_once_and_moves_no_other_bucket() -> None:
    status = running()
    after = state_machine.tick(
        status, inputs(9, evidence=evidence(harm={"a": "arm a: errorRate is 3 times control's"}))
    )
    assert weights(after) == {"stable": 80, "control": 10, "a": 0, "b": 10}
    assert [arm.dropped for arm in after.arms] == [None, None, "Harm: arm a: errorRate is 3 times control's", None]
    for name in ("control", "b"):
        before, now = ([arm.ranges for arm in each.arms if arm.name == name] for each in (status, after))
        assert before == now
    assert [epoch.number for epoch in after.evidence_epochs] == [2, 3]
    assert state_machine.tick(after, inputs(9, confirmed=False, evidence=evidence(harm={"a": "again"}))) == after


def test_with_a_sample_ratio_mismatch_only_a_dead_arm_is_dropped() -> None:
    status = running()
    mismatched = evidence(mismatch="sample-ratio mismatch", harm={"a": "worse"})
    assert state_machine.tick(status, inputs(9, evidence=mismatched)) == status
    dead = replace(mismatched, dead_arms={"a": "arm a failed 60 of 61"})
    assert state_machine.tick(status, inputs(9, evidence=dead)).arms[2].dropped == "Harm: arm a failed 60 of 61"


def test_harm_of_the_last_arm_concludes_and_its_loss_stops() -> None:
    after = state_machine.tick(running(names=("a",)), inputs(9, evidence=evidence(harm={"a": "worse"})))
    assert (after.phase, after.verdict.decision, after.verdict.winner) == ("Concluded", "Harm", "")
    assert weights(after) == {"stable": 100, "control": 0, "a": 0}
    gone = {"a": ArmState(failure=Cause("ArmUnavailable", "no replica"))}
    after = state_machine.tick(running(names=("a",)), inputs(9, arms=gone, evidence=evidence()))
    assert (after.phase, after.verdict.decision) == ("Stopped", "Undecided")
    assert after.verdict.reason == "ArmUnavailable: all arms were dropped: arm a: ArmUnavailable: no replica"


def test_an_arm_that_cannot_start_stops_it_before_anything_moves() -> None:
    status = frozen()
    after = state_machine.tick(status, inputs(arms={"b": ArmState(failure=Cause("LoadFailed", "size mismatch"))}))
    assert (after.phase, after.verdict.reason) == ("Stopped", "LoadFailed: arm b: size mismatch")
    assert (after.arms, after.epoch) == (status.arms, status.epoch)


def test_epochs_with_unfit_control_are_no_evidence() -> None:
    troubled = evidence(
        control=BaselineHealth(Cause(PauseReason.CONTROL_UNHEALTHY, "20 % of control's requests failed"), settled=False)
    )
    paused = state_machine.tick(running(), inputs(9, evidence=troubled))
    assert paused.paused is not None
    assert [epoch.troubled for epoch in paused.evidence_epochs] == [True]
    assert state_machine.tick(paused, inputs(9, evidence=troubled)) == paused
    resumed = state_machine.tick(paused, inputs(20, evidence=evidence()))
    assert resumed.paused is None
    renewed = state_machine.tick(resumed, inputs(20, evidence=evidence()))
    assert [(epoch.number, epoch.troubled) for epoch in renewed.evidence_epochs] == [(2, True), (3, False)]


def test_an_epoch_with_unequal_load_is_marked_and_another_follows_once_loads_are_equal() -> None:
    won = OutcomeDecision("Winner", "a", "faster")
    status = running(metrics={"success": [FAILING]})
    assert state_machine.tick(status, inputs(4, evidence=evidence(loads=(1.0, math.nan)))) == status
    marked = state_machine.tick(status, inputs(5, evidence=evidence(loads=(1.0, 0.5), outcome_decision=won)))
    assert (marked.phase, [each.unequal_load for each in marked.evidence_epochs]) == ("Running", [True])
    for loads in ((1.0, 0.5), (1.0, math.nan)):
        assert state_machine.tick(marked, inputs(6, evidence=evidence(loads=loads))) == marked
    renewed = state_machine.tick(marked, inputs(7, evidence=evidence(loads=(1.0, 1.2))))
    assert [(each.number, each.unequal_load) for each in renewed.evidence_epochs] == [(2, True), (3, None)]
    # Only tests of the edge leave the epoch out, and none had used it.
    assert state.evidence_share(renewed, equal_load=True) == state.evidence_share(status, equal_load=True)
    tested = state_machine.tick(status, inputs(5, evidence=evidence(loads=(1.0, 0.5), has_equal_blocks=True)))
    assert state.evidence_share(tested, equal_load=True) < 0.1 * state.evidence_share(status, equal_load=True)
    assert state.evidence_share(tested) == state.evidence_share(status)
    assert [(each.overloaded, each.underloaded) for each in marked.evidence_epochs] == [(None, ("b",))]
    later = state_machine.tick(marked, inputs(6, evidence=evidence(loads=(1.0, 1.3))))
    assert [(each.overloaded, each.tested) for each in later.evidence_epochs] == [(("b",), True)]
    assert state_machine.tick(later, inputs(7, evidence=evidence(loads=(1.0, 0.5)))) == later
    many = marked.model_copy(update={"evidence_epochs": marked.evidence_epochs * state.MAX_EPOCHS_FOR_LOAD})
    assert state_machine.tick(many, inputs(7, evidence=evidence(loads=(1.0, 1.2)))) == many


def test_a_latency_that_has_to_pass_gets_an_epoch_of_equal_load() -> None:
    status = running(metrics={"success": [CONVERSION], "guardrails": [{"metric": "latencyP95"}]})
    unequal, equal = (evidence(loads=(1.0, load), guardrails=status.plan.guardrails) for load in (0.5, 1.0))
    marked = state_machine.tick(status, inputs(5, evidence=unequal))
    renewed = state_machine.tick(marked, inputs(7, evidence=equal))
    assert [each.unequal_load for each in renewed.evidence_epochs] == [True, None]


@pytest.mark.parametrize(
    "spec",
    [
        {"metrics": {"success": [CONVERSION], "secondary": [FAILING]}},
        {"metrics": {"success": [CONVERSION, FAILING]}, "allocation": {"mode": "thompson"}},
    ],
)
def test_unequal_load_restarts_no_epoch_at_the_cost_of_other_metrics(spec: dict[str, Any]) -> None:
    marked = state_machine.tick(running(**spec), inputs(5, evidence=evidence(loads=(1.0, 0.5))))
    assert [each.unequal_load for each in marked.evidence_epochs] == [True]
    assert state_machine.tick(marked, inputs(7, evidence=evidence(loads=(1.0, 1.0)))) == marked


OUTAGE = BaselineHealth(Cause(PauseReason.CONTROL_UNHEALTHY, "20 % of control's requests failed"), settled=False)


def won_by(arm: str) -> ExperimentStatus:
    """Return an experiment that an arm has won, with the new epoch confirmed."""
    decided = OutcomeDecision("Winner", arm, f"conversion of {arm} is better")
    status = state_machine.tick(running(onWin="pause"), inputs(9, evidence=evidence(outcome_decision=decided)))
    assert (status.paused and status.paused.reason, status.verdict.winner) == ("Won", arm)
    return state_machine.tick(status, inputs(10, evidence=evidence()))


def test_a_win_survives_outages_and_later_epochs_count() -> None:
    status = won_by("a")
    assert [(epoch.number, epoch.troubled) for epoch in status.evidence_epochs] == [(2, False), (3, False)]
    assert weights(status) == weights(running())
    hit = state_machine.tick(status, inputs(11, evidence=evidence(control=OUTAGE)))
    assert [(epoch.number, epoch.troubled) for epoch in hit.evidence_epochs] == [(2, False), (3, True)]
    assert (hit.paused, hit.verdict) == (status.paused, status.verdict)
    for early in (
        evidence(control=OUTAGE),
        evidence(control=BaselineHealth(settled=False)),
        evidence(unreachable_edges=("edge-0",)),
    ):
        assert state_machine.tick(hit, inputs(12, evidence=early)) == hit
    after = state_machine.tick(hit, inputs(20, evidence=evidence()))
    assert [(epoch.number, epoch.troubled) for epoch in after.evidence_epochs] == [(2, False), (3, True), (4, False)]
    assert (after.paused, after.verdict) == (status.paused, status.verdict)
    assert weights(after) == weights(status)


def test_a_winner_that_does_harm_has_not_won_and_the_others_go_on() -> None:
    after = state_machine.tick(
        won_by("a"), inputs(20, evidence=evidence(harm={"a": "arm a: errorRate is 3 times control's"}))
    )
    assert (after.phase, after.paused, after.verdict.decision, after.verdict.winner) == (
        "Running",
        None,
        "Undecided",
        "",
    )
    assert after.verdict.reason == "a won and was then dropped: Harm: arm a: errorRate is 3 times control's"
    again = state_machine.tick(after, inputs(21, evidence=evidence()))
    second = state_machine.tick(
        again,
        inputs(22, evidence=evidence(outcome_decision=OutcomeDecision("Winner", "b", "conversion of b is better"))),
    )
    assert (second.paused and second.paused.reason, second.verdict.winner) == ("Won", "b")


def test_a_win_outlasts_harm_of_another_arm_and_a_winner_that_is_gone() -> None:
    status = won_by("a")
    harmed = state_machine.tick(status, inputs(20, evidence=evidence(harm={"b": "worse"})))
    gone = state_machine.tick(status, inputs(20, arms={"a": ArmState(failure=Cause("ArmUnavailable", "no replica"))}))
    for after in (harmed, gone):
        assert (after.paused, after.verdict) == (status.paused, status.verdict)


HARM_OF_B: dict[str, Any] = {"evidence": evidence(harm={"b": "worse"})}
LOSS_OF_A: dict[str, Any] = {
    "arms": {"a": ArmState(failure=Cause("ArmUnavailable", "no replica"))},
    "evidence": evidence(),
}


@pytest.mark.parametrize("drops", [(HARM_OF_B, LOSS_OF_A), (LOSS_OF_A, HARM_OF_B)], ids=["harm first", "loss first"])
def test_a_win_outlasts_the_last_arm_though_another_one_did_harm(drops: tuple[dict[str, Any], ...]) -> None:
    status = won_by("a")
    for drop in drops:
        status = state_machine.tick(state_machine.tick(status, inputs(20, **drop)), inputs(21, evidence=evidence()))
    assert (status.phase, status.verdict.decision, status.verdict.winner) == ("Concluded", "Winner", "a")
    assert "ended by ArmUnavailable: all arms were dropped: arm a: ArmUnavailable: no replica; arm b: Harm: worse" in (
        status.verdict.reason
    )


def test_if_the_winner_does_harm_no_arm_has_won() -> None:
    harmed = state_machine.tick(won_by("a"), inputs(20, evidence=evidence(harm={"a": "worse", "b": "worse"})))
    assert (harmed.phase, harmed.verdict.decision, harmed.verdict.winner) == ("Concluded", "Harm", "")


def test_a_drop_does_not_end_the_warm_up() -> None:
    status = state_machine.tick(state_machine.tick(frozen(), inputs()), inputs(1))
    gone = {"a": ArmState(failure=Cause("ArmUnavailable", "no replica"))}
    after = state_machine.tick(status, inputs(1.2, arms=gone, evidence=ExperimentEvaluation(requests=3)))
    assert (weights(after)["a"], after.epoch.number, after.evidence_epochs) == (0, 2, ())


def test_a_warm_up_does_not_end_while_control_is_unfit() -> None:
    status = state_machine.tick(state_machine.tick(frozen(), inputs()), inputs(1))
    troubled = evidence(control=BaselineHealth(Cause(PauseReason.CONTROL_UNHEALTHY, "bad"), settled=False))
    paused = state_machine.tick(status, inputs(2, evidence=troubled))
    assert paused.paused is not None
    assert state_machine.tick(paused, inputs(30, evidence=troubled)) == paused
    resumed = state_machine.tick(paused, inputs(31, evidence=evidence()))
    assert state_machine.tick(resumed, inputs(31, evidence=evidence())).evidence_epochs != ()


def test_the_number_of_epochs_is_bounded_and_excluded_ones_go_first() -> None:
    status = running()
    for minute in range(10, 10 + 5 * state.MAX_EPOCHS, 5):
        status = state_machine.tick(
            status,
            inputs(minute, evidence=evidence(control=BaselineHealth(Cause(PauseReason.CONTROL_UNHEALTHY, "bad")))),
        )
        for later in (1, 2, 3):
            status = state_machine.tick(status, inputs(minute + later, evidence=evidence()))
    known = [epoch.number for epoch in status.evidence_epochs]
    assert len(known) == state.MAX_EPOCHS
    assert known == sorted(known)
    assert known[-1] == status.epoch.number
    assert not status.evidence_epochs[-1].troubled
    # Each outage removed tested evidence, also those that are not listed any more.
    assert state.evidence_share(status) == error_shares.evidence_share(state.MAX_EPOCHS)
    well = [epoch.model_copy(update={"troubled": epoch.number == 4}) for epoch in status.evidence_epochs]
    harmed = status.model_copy(update={"evidence_epochs": tuple(well)})
    after = state_machine.tick(harmed, inputs(999, evidence=evidence(harm={"a": "worse"})))
    assert [epoch.number for epoch in after.evidence_epochs] == [
        *(each for each in known if each != 4),
        after.epoch.number,
    ]


def test_a_learned_latency_threshold_restarts_the_evidence() -> None:
    guardrails = {"metrics": {"guardrails": [{"metric": "latencyP95", "margin": "10%"}]}}
    status = running(**guardrails)
    known = tuple(
        each.model_copy(update={"threshold_microseconds": 5000, "candidate_threshold_microseconds": 5500})
        if each.metric == "latencyP95"
        else each
        for each in status.plan.guardrails
    )
    after = state_machine.tick(status, inputs(9, evidence=evidence(guardrails=known)))
    assert after.plan.guardrails == known
    assert [(epoch.number, epoch.restarts) for epoch in after.evidence_epochs] == [(3, 1)]


@pytest.mark.parametrize(
    ("stop", "minutes", "reason"),
    [({"maxDuration": "1h"}, 62, "MaxDuration"), ({"maxUnits": 1000}, 9, "MaxUnits")],
)
def test_a_limit_ends_it_without_a_verdict(stop: dict[str, Any], minutes: float, reason: str) -> None:
    status = running(stop=stop, unit={"header": "x-user-id"})
    units = {"stable": 5000, "control": 500, "a": 400, "b": 100}
    assert state_machine.tick(status, inputs(9, evidence=evidence(units={**units, "b": 99}))).phase == "Running"
    after = state_machine.tick(status, inputs(minutes, evidence=evidence(units=units)))
    assert (after.phase, after.verdict.decision) == ("Concluded", "Undecided")
    assert after.verdict.reason.startswith(f"{reason}: ")


def test_the_windows_of_the_last_units_pass_before_units_end_it() -> None:
    metrics = {"success": [{"name": "conversion", "feedback": "converted", "window": "24m"}]}
    status = running(stop={"maxUnits": 1000, "maxDuration": "2h"}, unit={"header": "x-user-id"}, metrics=metrics)
    all_units = evidence(units={"stable": 5000, "control": 500, "a": 400, "b": 100})
    # Since the first minute, half of the units came in 4 minutes.
    half = evidence(units={"stable": 2500, "control": 250, "a": 200, "b": 50})
    assert state.time_left_s(status, half, T0 + 5 * MINUTE) == (4 + 25) * 60
    full = state_machine.tick(status, inputs(9, evidence=all_units))
    assert (full.phase, full.units_reached_at) == ("Running", T0 + 9 * MINUTE)
    assert state.time_left_s(full, all_units, T0 + 33 * MINUTE) == 60
    assert state_machine.tick(full, inputs(33, evidence=all_units)) == full
    after = state_machine.tick(full, inputs(34, evidence=all_units))
    assert (after.phase, after.verdict.reason) == (
        "Concluded",
        "MaxUnits: took 1000 units (spec.stop.maxUnits: 1000)",
    )
    late = state_machine.tick(status, inputs(110, evidence=all_units))
    assert state_machine.tick(late, inputs(121, evidence=all_units)).verdict.reason.startswith("MaxDuration: ")


def test_the_number_of_units_never_falls() -> None:
    status = running(stop={"maxUnits": 1000}, unit={"header": "x-user-id"})
    known = {"stable": 5000, "control": 500, "a": 400, "b": 50}
    arms = tuple(arm.model_copy(update={"units": known[arm.name]}) for arm in status.arms)
    status = status.model_copy(update={"arms": arms})
    fresh = {"stable": 50, "control": 5, "a": 4, "b": 99}
    assert state_machine.tick(status, inputs(9, evidence=evidence(units=fresh))).phase == "Running"
    after = state_machine.tick(status, inputs(9, evidence=evidence(units={**fresh, "b": 100})))
    assert (after.phase, after.verdict.reason.split(";")[0]) == (
        "Concluded",
        "MaxUnits: took 1000 units (spec.stop.maxUnits: 1000)",
    )


@pytest.mark.parametrize("status", [frozen(), running()])
def test_a_requested_end_gives_stable_all_traffic(status: ExperimentStatus) -> None:
    after = state_machine.tick(status, inputs(9, end=Cause("StoppedByUser", "spec.stopped is true")))
    assert (after.phase, after.verdict.reason) == ("Stopped", "StoppedByUser: spec.stopped is true")
    assert weights(after)["stable"] == 100
    assert state_machine.tick(after, inputs(99, evidence=evidence(harm={"a": "worse"}))) == after


def test_a_rollouts_or_damaged_status_is_left_alone() -> None:
    for status in (ExperimentStatus(), frozen().model_copy(update={"arms": frozen().arms[1:]})):
        assert not state.is_frozen(status)
        assert state_machine.tick(status, inputs()) == status


events = st.fixed_dictionaries(
    {
        "confirmed": st.booleans(),
        "harm": st.sets(st.sampled_from("abc")),
        "dead": st.sets(st.sampled_from("abc")),
        "failed": st.sets(st.sampled_from("abc")),
        "mismatch": st.booleans(),
        "trouble": st.booleans(),
        "end": st.sampled_from([False] * 9 + [True]),
    }
)


@given(st.lists(events, max_size=30))
def test_each_bucket_always_has_one_arm_and_control_keeps_its_own(history: list[dict[str, Any]]) -> None:
    status = frozen(("a", "b", "c"))
    control: tuple[Any, ...] = ()
    for minute, now in enumerate(history):
        found = evidence(
            harm=dict.fromkeys(now["harm"], "worse"),
            dead_arms=dict.fromkeys(now["dead"], "dead"),
            mismatch="mismatch" if now["mismatch"] else "",
            control=BaselineHealth(Cause(PauseReason.CONTROL_UNHEALTHY, "bad"), settled=False)
            if now["trouble"]
            else BaselineHealth(),
        )
        failed = {name: ArmState(failure=Cause("DeployFailed", "gone")) for name in now["failed"]}
        end = Cause("StoppedByUser", "asked for") if now["end"] else None
        before = status
        status = state_machine.tick(
            status, inputs(minute, confirmed=now["confirmed"], arms=failed, end=end, evidence=found)
        )
        assert ExperimentStatus.from_json(status.to_json()) == status
        assert is_partition([interval for arm in status.arms for interval in arm.ranges])
        assert status.epoch.number >= before.epoch.number
        assert all(arm.weight == 0 for arm in status.arms if arm.dropped is not None)
        if status.phase == "Running":
            ranges = status.arms[1].ranges
            assert control in ((), ranges)
            control = ranges
            assert state.active_arms(status)
        if status.phase in ("Concluded", "Stopped"):
            assert weights(status)["stable"] == 100


def test_guardrails_always_include_errors_rejections_and_retries() -> None:
    roles = {each.metric: each.role for each in frozen().plan.guardrails}
    assert roles == {"errorRate": "harm", "rejections": "harm", "retries": "harm"}
    given_ones = frozen(
        metrics={"guardrails": [{"metric": "errorRate", "margin": "10%", "floor": "1%"}]}
    ).plan.guardrails
    assert given_ones[0] == PlanGuardrail(metric="errorRate", margin=0.1, floor=0.01)


def test_changed_fields_of_an_edit_are_named() -> None:
    def differences(**spec: Any) -> str:
        edited = ExperimentSpec.from_json(
            {"modelDeployment": "digits", "arms": [{"name": "a"}, {"name": "b"}], "exposure": "30%", **spec}
        )
        return freeze.find_changed_fields(frozen().plan, edited, arms.plan_arms(stable_revision(), edited))

    assert differences() == differences(stopped=True) == ""
    assert differences(exposure="30.0%") == differences(weights={"control": 20, "a": 20, "b": 20}) == ""
    assert differences(exposure="40%") == "spec.exposure or spec.weights"
    assert differences(arms=[{"name": "a"}]) == "spec.arms"
    assert differences(unit={"header": "x"}, alpha=0.1) == "spec.unit, spec.alpha"
    assert differences(stop={"maxDuration": "1h"}, onWin="pause") == "spec.stop, spec.onWin"
    assert differences(metrics={"guardrails": [{"metric": "errorRate"}]}) == "spec.preset or spec.metrics.guardrails"
