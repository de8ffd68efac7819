"""Evidence gates: what opens them, what ends them, and invariants for all inputs."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles import examples
from sundog_operator.api import (
    EvidenceEpoch,
    ExperimentStatus,
    MetricStatus,
    PauseStatus,
    PlanGuardrail,
    PlanInPlace,
    PlanStep,
    Rollout,
    StepStatus,
)
from sundog_operator.api.reasons import Cause, PauseReason
from sundog_operator.core.trial import phases, replica_counts
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.evaluation import HEALTHY, BaselineHealth, RolloutEvaluation
from sundog_operator.core.trial.rollout import explanations, freeze, state, state_machine, steering, transitions
from sundog_operator.core.trial.rollout.commands import RolloutCommand
from sundog_operator.core.trial.rollout.state import RolloutInputs

T0 = datetime(2026, 11, 25, 12, tzinfo=UTC)
KNOWN = StableTraffic(10, [100, 0], (500, 1000))
TWO = {"steps": [{"weight": 25, "maxDuration": "1h"}, {"weight": 50, "maxDuration": "1h"}]}
OPEN = MetricStatus(name="errorRate", role="guardrail", verdict="Undecided", message="about 60 events decide")


def frozen(traffic: StableTraffic = KNOWN, **spec: Any) -> ExperimentStatus:
    return freeze.freeze(Rollout.from_json({**TWO, **spec}), 7, 8, T0, traffic)


PLAN = frozen().plan


def make_evaluation(**changes: Any) -> RolloutEvaluation:
    values: dict[str, Any] = {"silent": False, "metrics": (OPEN,), "guardrails": PLAN.guardrails, **changes}
    return RolloutEvaluation(**values)


def tick_inputs(at: timedelta, evidence: RolloutEvaluation | None, **changes: Any) -> RolloutInputs:
    values: dict[str, Any] = {"replicas": 3, "available": 3, "confirmed": True, **changes}
    return RolloutInputs(now=T0 + at, evidence=evidence, **values)


def settle(
    status: ExperimentStatus, at: timedelta, evidence: RolloutEvaluation | None, **changes: Any
) -> ExperimentStatus:
    """Tick at one instant until nothing is due."""
    for _ in range(20):
        after = state_machine.tick(status, tick_inputs(at, evidence, **changes))
        if after == status:
            return status
        status = after
    raise AssertionError(f"never settles: {status}")


def index(status: ExperimentStatus) -> int:
    return status.step.index if status.step else 0


def epochs(status: ExperimentStatus) -> list[tuple[int, int]]:
    return [(each.number, each.weight) for each in status.evidence_epochs]


def collecting(**spec: Any) -> ExperimentStatus:
    """Return an attempt at its first step, after a warm-up of a minute."""
    started = settle(frozen(**spec), timedelta(0), make_evaluation(silent=True))
    return settle(started, timedelta(minutes=1), make_evaluation())


LATER = timedelta(minutes=5)


def test_a_warm_up_ends_with_its_time_or_its_requests() -> None:
    started = settle(frozen(), timedelta(0), make_evaluation())
    assert (started.epoch.number, epochs(started)) == (1, [])
    assert started.step is not None
    assert started.step.reason == "warms up; these requests do not count as evidence"
    early = settle(started, timedelta(seconds=59), make_evaluation(requests=199))
    assert epochs(early) == []
    for at, requests in ((60, 0), (1, 200)):
        warm = settle(started, timedelta(seconds=at), make_evaluation(requests=requests))
        assert (warm.epoch.number, epochs(warm), state.canary_weight(warm)) == (2, [(2, 25)], 25)


def test_traffic_is_the_committed_one_not_that_of_the_step() -> None:
    waits = steering.execute_command(frozen(), RolloutCommand("a", "promote", 8, full=True), T0)
    assert not state.had_traffic(transitions.stop(waits, Cause("Aborted", "by command b"), T0))
    served = settle(frozen(), timedelta(0), make_evaluation())
    assert state.had_traffic(transitions.stop(served, Cause("Aborted", "by command b"), T0))
    by_header = settle(
        frozen(steps=[{"headers": {"x-canary": "1"}}, {"pause": {}}, {"weight": 25}]), timedelta(0), make_evaluation()
    )
    assert (state.canary_weight(by_header), state.had_traffic(by_header)) == (0, True)


def test_an_older_attempt_had_traffic_by_its_entered_steps() -> None:
    def of_before(status: ExperimentStatus) -> ExperimentStatus:
        return status.model_copy(update={"had_traffic": None})

    assert not state.had_traffic(of_before(frozen()))
    served = of_before(settle(frozen(), timedelta(0), make_evaluation()))
    assert state.had_traffic(transitions.stop(served, Cause("Aborted", "by command b"), T0))


def test_a_warm_up_counts_from_when_all_edges_have_the_weight() -> None:
    started = settle(frozen(), timedelta(0), make_evaluation(), confirmed=True)
    unconfirmed = started.model_copy(update={"epoch": started.epoch.model_copy(update={"confirmed": False})})
    late = settle(unconfirmed, timedelta(hours=1), make_evaluation(requests=1000), confirmed=False)
    assert epochs(late) == []
    assert epochs(settle(late, timedelta(hours=2), make_evaluation())) == []


@pytest.mark.parametrize("warmup", [{"requests": 0}, {"duration": "0s"}])
def test_without_a_warm_up_the_first_epoch_is_evidence(warmup: dict[str, Any]) -> None:
    assert epochs(settle(frozen(warmup=warmup), timedelta(0), make_evaluation())) == [(1, 25)]


@pytest.mark.parametrize("warmup", [{}, {"requests": 0}])
def test_another_epoch_begins_once_a_latency_threshold_is_known(warmup: dict[str, Any]) -> None:
    unknown = frozen(StableTraffic(), warmup=warmup)
    nothing = make_evaluation(guardrails=unknown.plan.guardrails)
    waiting = settle(settle(unknown, timedelta(0), nothing), LATER, nothing)
    assert len(epochs(waiting)) == 1
    known = settle(waiting, LATER, make_evaluation())
    assert (len(epochs(known)), epochs(known)[-1][0]) == (2, known.epoch.number)
    assert [each.restarts for each in known.evidence_epochs] == [0, 1], "the last gate has less of alpha"
    assert known.plan.guardrails == PLAN.guardrails
    slower = tuple(each.model_copy(update={"margin": 9.0}) for each in PLAN.guardrails)
    assert settle(known, LATER + LATER, make_evaluation(guardrails=slower)).plan.guardrails == PLAN.guardrails


def test_no_epoch_begins_for_a_latency_that_no_gate_waits_for() -> None:
    errors = [{"metric": "errorRate"}]
    unknown, learned = frozen(StableTraffic(), guardrails=errors), frozen(guardrails=errors).plan.guardrails
    nothing = make_evaluation(guardrails=unknown.plan.guardrails)
    waiting = settle(settle(unknown, timedelta(0), nothing), LATER, nothing)
    known = settle(waiting, LATER, make_evaluation(guardrails=learned))
    assert (epochs(known), known.plan.guardrails) == (epochs(waiting), learned)


def test_a_pause_before_any_traffic_is_no_evidence() -> None:
    status = settle(frozen(steps=[{"pause": {"duration": "10m"}}, {"weight": 25}]), timedelta(0), make_evaluation())
    late = settle(status, timedelta(minutes=9), make_evaluation())
    assert (index(late), state.canary_weight(late), epochs(late)) == (1, 0, [])
    begun = settle(settle(late, timedelta(minutes=10), make_evaluation()), timedelta(minutes=12), make_evaluation())
    assert [weight for _, weight in epochs(begun)] == [25]


@pytest.mark.parametrize("held_for", [timedelta(0), timedelta(hours=30)])
def test_a_hold_by_the_spec_takes_no_time_of_a_step(held_for: timedelta) -> None:
    held = settle(collecting(), timedelta(minutes=30), make_evaluation(), held=True)
    back = settle(held, timedelta(minutes=30) + held_for, make_evaluation())
    assert settle(back, timedelta(minutes=59) + held_for, make_evaluation()).paused is None
    assert settle(back, timedelta(minutes=60) + held_for, make_evaluation()).paused is not None


OPENS = T0 + timedelta(days=2)


def test_outside_its_windows_a_rollout_waits_and_says_until_when() -> None:
    waiting = settle(frozen(), timedelta(0), make_evaluation(), opens_at=OPENS)
    assert (index(waiting), state.canary_weight(waiting), waiting.paused) == (1, 0, None)
    assert waiting.step is not None
    assert waiting.step.reason == "outside its windows; the next opens at 2026-11-27T12:00:00Z"
    assert settle(waiting, timedelta(hours=40), make_evaluation(passed=True), opens_at=OPENS) == waiting
    assert state.canary_weight(settle(waiting, timedelta(days=2), make_evaluation())) == 25
    closed = settle(collecting(), LATER, make_evaluation(passed=True), opens_at=OPENS)
    assert (index(closed), closed.step and closed.step.reason) == (1, waiting.step.reason)
    assert index(settle(closed, timedelta(days=2) + LATER, make_evaluation(passed=True))) == 2


def test_the_last_switch_waits_for_a_window_too() -> None:
    steps = [{"weight": 25, "gate": "time", "minDuration": "1m"}]
    started = settle(frozen(steps=steps), timedelta(0), None)
    assert settle(started, timedelta(hours=9), None, opens_at=OPENS).phase == "Running"
    assert settle(started, timedelta(hours=9), None).phase == "Concluded"


def test_outside_its_windows_harm_and_abort_act_at_once() -> None:
    harmed = state_machine.tick(
        collecting(), tick_inputs(LATER, make_evaluation(harm="five times the errors"), opens_at=OPENS)
    )
    failed = state_machine.tick(
        collecting(), tick_inputs(LATER, make_evaluation(), opens_at=OPENS, failure=Cause("LoadFailed", "boom"))
    )
    aborted = steering.execute_command(collecting(), RolloutCommand("a", "abort", 8), T0 + LATER)
    for ended in (harmed, failed, aborted):
        assert (ended.phase, state.canary_weight(ended)) == ("Stopped", 0)
    mismatched = make_evaluation(mismatch="600 of 1000")
    doubted = settle(collecting(), LATER, mismatched, opens_at=OPENS)
    assert settle(doubted, LATER * 2, mismatched, opens_at=OPENS).phase == "Stopped"


stays = st.sampled_from(["free", "held", "outside"])


@settings(max_examples=examples(150))
@given(st.lists(st.tuples(st.integers(1, 50), stays, st.booleans()), min_size=1, max_size=12))
def test_a_step_counts_the_time_in_which_it_may_move_and_no_other(stretches: list[tuple[int, str, bool]]) -> None:
    """Holds, windows and manual pauses come in any order, overlapping or not."""
    status, at, free = collecting(), timedelta(minutes=1), timedelta(minutes=1)
    for number, (length, how, is_paused) in enumerate(stretches):
        now = T0 + at
        if is_paused != (status.paused is not None):
            status = steering.execute_command(
                status, RolloutCommand(f"c{number}", "pause" if is_paused else "resume", 8), now
            )
        holds = {"held": how == "held", "opens_at": OPENS if how == "outside" else None}
        status = settle(status, at, make_evaluation(), **holds)
        at += timedelta(minutes=length)
        free += timedelta(minutes=length) if how == "free" and not is_paused else timedelta(0)
        if free >= timedelta(hours=1):
            return
        status = settle(status, at, make_evaluation(), **holds)
    if status.paused is not None:
        status = steering.execute_command(status, RolloutCommand("r", "resume", 8), T0 + at)
    status = settle(status, at, make_evaluation())
    assert status.step is not None
    assert status.step.since == T0 + at - free


def test_a_step_of_a_later_version_is_not_skipped() -> None:
    """An operator that was rolled back reads a newer status: the step that it cannot read may be what holds the traffic."""
    status = collecting(steps=[{"weight": 25, "gate": "manual"}, {"weight": 50}]).to_json()
    status["plan"]["steps"][0]["gate"] = "oracle"
    read = ExperimentStatus.parse(status)
    assert [step.weight for step in read.plan.steps] == [50, 100]
    assert not state.is_frozen(read)
    status = collecting(steps=[{"weight": 25, "gate": "manual"}, {"weight": 50}]).to_json()
    status["step"]["gate"] = "oracle"
    assert index(settle(ExperimentStatus.parse(status), LATER, make_evaluation(passed=True))) == 1


def test_a_sample_ratio_mismatch_does_not_replace_a_manual_pause() -> None:
    paused = steering.execute_command(collecting(), RolloutCommand("p", "pause", 8), T0 + LATER)
    assert settle(paused, LATER * 9, make_evaluation(mismatch="600 of 1000")).paused == paused.paused


FAILS = Cause(PauseReason.CONTROL_UNHEALTHY, "50.0% of stable's requests failed in a minute")
OUTAGE = BaselineHealth(FAILS, settled=False)
CALM = BaselineHealth(settled=False)


def test_an_outage_of_stable_pauses_and_the_rollout_resumes_after_it() -> None:
    hit = settle(collecting(), timedelta(minutes=30), make_evaluation(control=OUTAGE, passed=True))
    assert (hit.paused and hit.paused.reason, index(hit), state.canary_weight(hit)) == (
        PauseReason.CONTROL_UNHEALTHY,
        1,
        25,
    )
    assert [each.troubled for each in hit.evidence_epochs] == [True]
    assert hit.step is not None
    assert hit.step.reason == f"paused until stable has been healthy for 5 minutes: {FAILS.message}"
    assert settle(hit, timedelta(minutes=40), make_evaluation(control=CALM, passed=True)) == hit
    over = settle(hit, timedelta(minutes=45), make_evaluation())
    assert (over.paused, [(each.number, each.troubled) for each in over.evidence_epochs]) == (
        None,
        [(2, True), (3, False)],
    )
    assert (over.epoch.number, state.canary_weight(over)) == (3, 25)
    # The outage took no time of the step's hour.
    assert settle(over, timedelta(minutes=74), make_evaluation()).paused is None
    assert settle(over, timedelta(minutes=75), make_evaluation()).paused is not None


BAKED = {
    "steps": [{"weight": 25, "maxDuration": "1h"}],
    "bake": {"duration": "10m", "holdback": "5%"},
    "guardrails": [{"metric": "errorRate"}],
}


@pytest.mark.parametrize(
    ("spec", "weight", "shared", "few"),
    [(TWO, 50, None, 2), (BAKED, 95, None, 2), (TWO, 50, PlanInPlace(), 1)],
    ids=["step", "bake", "inPlace"],
)
def test_an_outage_while_a_step_waits_for_its_replicas_takes_nothing_of_its_evidence(
    spec: dict[str, Any], weight: int, shared: PlanInPlace | None, few: int
) -> None:
    fresh = freeze.freeze(Rollout.from_json(spec), 7, 8, T0, KNOWN, replicas=4, shared=shared)
    waits = {"replicas": 4, "available": few}
    started = settle(fresh, timedelta(0), make_evaluation(silent=True), **waits)
    first = settle(started, timedelta(minutes=1), make_evaluation(), **waits)
    waiting = settle(first, LATER, make_evaluation(passed=True), **waits)
    assert (index(waiting), state.canary_weight(waiting), epochs(waiting)) == (2, 25, [(2, 25)])
    hit = settle(waiting, LATER * 2, make_evaluation(control=OUTAGE), **waits)
    over = settle(hit, LATER * 4, make_evaluation(), **waits)
    # Harm is tested again at the current weight, and that is no evidence for the step that waits.
    assert (epochs(over), over.step and over.step.warm) == ([(2, 25), (3, 25)], False)
    shifted = settle(over, LATER * 5, make_evaluation(), replicas=4, available=4)
    assert (state.canary_weight(shifted), epochs(shifted)) == (weight, [(2, 25), (3, 25)])
    warm = settle(shifted, LATER * 5 + timedelta(minutes=1), make_evaluation(), replicas=4, available=4)
    assert epochs(warm) == [(2, 25), (3, 25), (warm.epoch.number, weight)]
    assert (warm.phase, warm.step and warm.step.warm) == ("Running", True)


@pytest.mark.parametrize("verb", ["promote", "skip"])
def test_a_command_in_an_outage_shifts_without_another_epoch(verb: str) -> None:
    three = {"steps": [*TWO["steps"], {"weight": 75}]}
    hit = settle(collecting(**three), LATER, make_evaluation(control=OUTAGE))
    left = steering.execute_command(hit, RolloutCommand("l", verb, 8), T0 + LATER)
    shifted = settle(left, LATER * 3, make_evaluation())
    assert (state.canary_weight(shifted), epochs(shifted), shifted.epoch.number) == (50, [(2, 25)], 3)
    assert epochs(settle(shifted, LATER * 4, make_evaluation())) == [(2, 25), (4, 50)]


def test_a_rollout_resumed_in_an_outage_pauses_again_and_gets_a_new_epoch_after_it() -> None:
    hit = settle(collecting(), timedelta(minutes=30), make_evaluation(control=OUTAGE))
    resumed = steering.execute_command(hit, RolloutCommand("r", "resume", 8), T0 + timedelta(minutes=31))
    again = settle(resumed, timedelta(minutes=31), make_evaluation(control=OUTAGE))
    assert (again.paused and again.paused.reason, epochs(again)) == (PauseReason.CONTROL_UNHEALTHY, epochs(hit))
    assert epochs(settle(resumed, timedelta(minutes=31), make_evaluation(control=CALM))) == [(2, 25), (3, 25)]


def test_an_outage_in_a_warm_up_only_lengthens_it() -> None:
    started = settle(frozen(), timedelta(0), make_evaluation(silent=True))
    hit = settle(started, timedelta(seconds=30), make_evaluation(control=OUTAGE))
    assert (hit.paused and hit.paused.reason, epochs(hit)) == (PauseReason.CONTROL_UNHEALTHY, [])
    assert epochs(settle(hit, timedelta(minutes=9), make_evaluation())) == [(2, 25)]


def test_a_pause_by_hand_stays_one_in_an_outage_and_after_it() -> None:
    paused = steering.execute_command(collecting(), RolloutCommand("p", "pause", 8), T0 + LATER)
    for control in (OUTAGE, HEALTHY):
        assert settle(paused, LATER * 9, make_evaluation(control=control)).paused == paused.paused


def test_an_outage_in_a_pause_by_hand_is_no_evidence_either() -> None:
    paused = steering.execute_command(collecting(), RolloutCommand("p", "pause", 8), T0 + LATER)
    hit = settle(paused, LATER * 2, make_evaluation(control=OUTAGE))
    assert [each.troubled for each in hit.evidence_epochs] == [True]
    resumed = steering.execute_command(
        settle(hit, LATER * 4, make_evaluation()), RolloutCommand("r", "resume", 8), T0 + LATER * 4
    )
    gone_on = settle(resumed, LATER * 4, make_evaluation())
    assert [(each.number, each.troubled) for each in gone_on.evidence_epochs] == [(2, True), (3, False)]
    assert [each.restarts for each in gone_on.evidence_epochs] == [0, 1]


def test_a_warm_up_does_not_end_in_an_outage() -> None:
    started = settle(frozen(), timedelta(0), make_evaluation(silent=True))
    hit = settle(started, timedelta(seconds=30), make_evaluation(control=OUTAGE))
    assert epochs(settle(hit, timedelta(minutes=2), make_evaluation(control=OUTAGE, requests=1000))) == []
    assert epochs(settle(hit, timedelta(minutes=4), make_evaluation(control=CALM, requests=1000))) == []


def test_a_full_promotion_does_not_wait_for_the_end_of_an_outage() -> None:
    """The canary may be what ends the outage."""
    hit = settle(collecting(), timedelta(minutes=30), make_evaluation(control=OUTAGE))
    promoted = steering.execute_command(hit, RolloutCommand("f", "promote", 8, full=True), T0 + timedelta(minutes=31))
    assert settle(promoted, timedelta(minutes=31), make_evaluation(control=OUTAGE)).phase == "Concluded"


def test_silent_edges_do_not_end_an_outage() -> None:
    hit = settle(collecting(), timedelta(minutes=30), make_evaluation(control=OUTAGE))
    assert settle(hit, timedelta(minutes=31), make_evaluation(unreachable_edges=("sundog-edge-0",))) == hit


def test_outages_without_end_leave_room_for_the_epoch_that_counts() -> None:
    status, at = collecting(steps=[{"weight": 25, "maxDuration": "99h"}]), timedelta(minutes=10)
    for _ in range(60):
        status = settle(status, at, make_evaluation(control=OUTAGE))
        status = settle(status, at + timedelta(minutes=6), make_evaluation())
        at += timedelta(minutes=10)
    assert len(status.evidence_epochs) == state.MAX_EVIDENCE_EPOCHS
    assert (status.evidence_epochs[-1].number, status.evidence_epochs[-1].troubled) == (status.epoch.number, False)
    assert ExperimentStatus.parse(status.to_json()) == status


def test_gates_pass_with_evidence_after_their_minimum_and_the_last_decides() -> None:
    status = collecting()
    assert index(settle(status, timedelta(minutes=4), make_evaluation(passed=True))) == 1
    assert index(settle(status, LATER, make_evaluation())) == 1
    second = settle(status, LATER, make_evaluation(passed=True))
    assert (index(second), state.canary_weight(second), second.phase) == (2, 50, "Running")
    warm = settle(second, timedelta(minutes=6), make_evaluation())
    assert epochs(warm) == [(2, 25), (4, 50)]
    done = settle(warm, timedelta(minutes=10), make_evaluation(passed=True))
    assert (done.phase, done.verdict.decision, done.verdict.winner) == ("Concluded", "Promoted", "canary")


def test_a_passed_step_waits_for_its_minimum_and_says_so() -> None:
    passed = OPEN.model_copy(update={"verdict": "Passed"})
    status = settle(collecting(), timedelta(minutes=4), make_evaluation(passed=True)).model_copy(
        update={"metrics": (passed,)}
    )
    waits = settle(status, timedelta(minutes=4), make_evaluation(passed=True))
    assert waits.step is not None
    assert waits.step.reason == "every guardrail has passed; a step takes at least 5m, with two minutes of evidence"


def test_a_gate_that_a_command_opened_is_no_evidence() -> None:
    done = steering.execute_command(collecting(), RolloutCommand("p", "promote", 8, full=True), T0)
    done = settle(done, LATER, make_evaluation())
    assert (done.phase, done.verdict.decision, done.verdict.winner) == ("Concluded", "Undecided", "")


def test_a_pause_after_the_last_gate_does_not_change_which_gate_decides() -> None:
    status = collecting(steps=[{"weight": 50}, {"pause": {"duration": "1m"}}])
    paused = settle(status, LATER, make_evaluation(passed=True))
    assert (index(paused), state.next_weight(paused)) == (2, 100)
    done = settle(paused, timedelta(minutes=7), make_evaluation())
    assert (done.phase, done.verdict.decision) == ("Concluded", "Promoted")


def test_the_next_weight_is_that_of_the_next_step_with_more_traffic() -> None:
    steps = [{"pause": {}}, {"weight": 10}, {"pause": {}}, {"weight": 60}, {"pause": {}}]
    status = frozen(steps=steps)
    found = [state.next_weight(status)]
    found += [state.next_weight(status.model_copy(update={"step": StepStatus(index=each)})) for each in range(1, 8)]
    assert found == [10, 10, 60, 60, 100, 100, 100, 100]


@pytest.mark.parametrize("held", [True, False], ids=["held", "paused"])
def test_harm_takes_all_traffic_back_whatever_holds_the_rollout(held: bool) -> None:
    status = collecting()
    if not held:
        status = steering.execute_command(status, RolloutCommand("p", "pause", 8), T0)
    harmful = make_evaluation(harm="five times the errors", passed=True, mismatch="600 of 1000")
    after = state_machine.tick(status, tick_inputs(LATER, harmful, held=held))
    assert (after.phase, state.canary_weight(after), after.paused) == ("Stopped", 0, None)
    assert (after.verdict.decision, after.verdict.winner) == ("RolledBack", "stable")
    assert after.verdict.reason == "RolledBack: five times the errors"
    assert after.metrics == (OPEN,)


def test_a_step_that_takes_too_long_pauses_and_restarts_its_time_on_resume() -> None:
    late = settle(collecting(), timedelta(hours=1), make_evaluation())
    assert late.paused is not None
    assert (late.paused.reason, late.metrics) == ("Inconclusive", (OPEN,))
    assert late.step is not None
    assert late.step.reason == "paused because it took too long: about 60 events decide"
    assert settle(late, timedelta(hours=9), make_evaluation(passed=True)) == late
    resumed = steering.execute_command(late, RolloutCommand("r", "resume", 8), T0 + timedelta(hours=9))
    assert settle(resumed, timedelta(hours=9, minutes=59), make_evaluation()).paused is None
    again = settle(resumed, timedelta(hours=10), make_evaluation())
    assert again.paused is not None
    passed = settle(resumed, timedelta(hours=9, minutes=5), make_evaluation(passed=True))
    assert index(passed) == 2


def test_a_pause_by_hand_takes_nothing_of_a_steps_time() -> None:
    paused = steering.execute_command(collecting(), RolloutCommand("p", "pause", 8), T0 + timedelta(minutes=30))
    resumed = steering.execute_command(paused, RolloutCommand("r", "resume", 8), T0 + timedelta(hours=30))
    assert settle(resumed, timedelta(hours=30, minutes=29), make_evaluation()).paused is None
    assert settle(resumed, timedelta(hours=30, minutes=30), make_evaluation()).paused is not None


@pytest.mark.parametrize("reason", ["Manual", "Inconclusive", "ControlUnhealthy"])
@pytest.mark.parametrize("step", [{"weight": 25, "gate": "time", "minDuration": "30m"}, {"pause": {"duration": "30m"}}])
def test_a_step_by_time_waits_for_what_a_pause_and_a_hold_left_of_its_time(step: dict[str, Any], reason: str) -> None:
    begun = settle(frozen(steps=[step, {"weight": 50, "gate": "manual"}]), timedelta(0), None)
    paused = begun.model_copy(update={"paused": PauseStatus(reason=reason, since=T0 + timedelta(minutes=10))})
    resumed = steering.execute_command(paused, RESUME, T0 + timedelta(hours=2))
    held = settle(resumed, timedelta(hours=2, minutes=5), None, held=True)
    back = settle(held, timedelta(hours=9), None)
    outside = settle(back, timedelta(hours=9, minutes=14), None, opens_at=OPENS)
    assert index(outside) == 1
    assert index(settle(outside, timedelta(hours=9, minutes=15), None)) == 2


PAUSE = RolloutCommand("p", "pause", 8)
RESUME = RolloutCommand("r", "resume", 8)


@pytest.mark.parametrize("slow", [timedelta(minutes=9), None])
def test_a_step_shows_the_metric_that_is_expected_last(slow: timedelta | None) -> None:
    soon = OPEN.model_copy(update={"eta": timedelta(minutes=1)})
    last = OPEN.model_copy(update={"name": "latencyP95", "message": "latencyP95 is open", "eta": slow})
    known = collecting().model_copy(update={"metrics": (soon, last)})
    assert explanations.describe_missing_evidence(known) == "latencyP95 is open"


def test_a_manual_pause_keeps_an_earlier_reason_and_the_step_restarts_its_time() -> None:
    late = settle(collecting(), timedelta(hours=1), make_evaluation())
    paused = steering.execute_command(late, PAUSE, T0 + timedelta(hours=3))
    assert paused == late.model_copy(update={"last_command": "p"})
    resumed = steering.execute_command(paused, RESUME, T0 + timedelta(hours=4))
    assert settle(resumed, timedelta(hours=4, minutes=59), make_evaluation()).paused is None
    assert settle(resumed, timedelta(hours=5), make_evaluation()).paused is not None


def test_a_manual_pause_lets_a_late_revision_restart_its_deadline() -> None:
    late = settle(frozen(), timedelta(minutes=15), None, available=0, deadline_cause="not ready within 15m")
    paused = steering.execute_command(late, PAUSE, T0 + timedelta(minutes=16))
    resumed = steering.execute_command(paused, RESUME, T0 + timedelta(minutes=17))
    assert (resumed.paused, resumed.resumed_at) == (None, T0 + timedelta(minutes=17))


def test_a_pause_by_hand_does_not_end_with_an_outage_and_takes_none_of_the_steps_time() -> None:
    hit = settle(collecting(), timedelta(minutes=30), make_evaluation(control=OUTAGE))
    paused = steering.execute_command(hit, PAUSE, T0 + timedelta(minutes=40))
    calm = settle(paused, timedelta(hours=2), make_evaluation())
    assert calm.paused == PauseStatus(reason="Manual", since=T0 + timedelta(minutes=30))
    resumed = steering.execute_command(calm, RESUME, T0 + timedelta(hours=3))
    assert settle(resumed, timedelta(hours=3, minutes=29), make_evaluation()).paused is None
    assert settle(resumed, timedelta(hours=3, minutes=30), make_evaluation()).paused is not None


def test_a_manual_pause_does_not_hide_a_lasting_sample_ratio_mismatch() -> None:
    mismatched = make_evaluation(mismatch="600 of 1000")
    paused = steering.execute_command(settle(collecting(), LATER, mismatched), PAUSE, T0 + LATER)
    assert settle(paused, LATER * 2, mismatched).phase == "Stopped"


def test_a_step_that_takes_too_long_can_end_the_rollout_or_go_on() -> None:
    back = settle(collecting(onInconclusive="rollback"), timedelta(hours=1), make_evaluation())
    assert (back.phase, state.canary_weight(back)) == ("Stopped", 0)
    assert (back.verdict.decision, back.verdict.reason) == ("Undecided", "Inconclusive: about 60 events decide")
    on = settle(collecting(onInconclusive="promote"), timedelta(hours=1), make_evaluation())
    assert index(on) == 2


FOUND = OPEN.model_copy(update={"verdict": "Passed", "message": "errorRate is 1 times stable's: no worse"})


def without(status: ExperimentStatus) -> list[tuple[int, int, str]]:
    return [(each.step, each.weight, each.by) for each in status.without_evidence or ()]


def test_the_promotion_names_steps_without_evidence_and_why() -> None:
    first = settle(collecting(onInconclusive="promote"), timedelta(hours=1), make_evaluation())
    assert without(first) == [(1, 25, "onInconclusive: promote")]
    assert explanations.weight_change_reason(first) == "onInconclusive: promote, although about 60 events decide"
    warm = settle(first, timedelta(hours=1, minutes=1), make_evaluation())
    late = settle(warm, timedelta(hours=3), make_evaluation())
    assert (late.phase, late.verdict.decision) == ("Concluded", "Undecided")
    result = "after step 3 at 100 %; without evidence: step 1 at 25 %, step 2 at 50 % by onInconclusive: promote"
    assert late.verdict.reason == f"Promoted: {result}"
    assert explanations.promotion_reason(late) == f"{result}; onInconclusive: promote, although about 60 events decide"
    decided = settle(warm, timedelta(hours=1, minutes=30), make_evaluation(passed=True, metrics=(FOUND,)))
    assert decided.verdict.decision == "Promoted"
    assert decided.verdict.reason.endswith("100 %; without evidence: step 1 at 25 % by onInconclusive: promote")


def test_the_promotion_names_the_metrics_of_a_step_that_evidence_passed() -> None:
    other = FOUND.model_copy(update={"name": "latencyP99", "message": "latencyP99 is 1 times stable's"})
    found = make_evaluation(passed=True, metrics=(FOUND, other))
    passed = settle(collecting(), LATER, found)
    assert (
        explanations.weight_change_reason(passed) == "errorRate is 1 times stable's: no worse; also passed: latencyP99"
    )
    over = settle(settle(passed, timedelta(minutes=7), found), timedelta(minutes=20), found)
    assert (over.verdict.reason, without(over)) == ("Promoted: after step 3 at 100 %", [])
    assert explanations.promotion_reason(over) == f"after step 3 at 100 %; {explanations.weight_change_reason(passed)}"


def test_an_arm_without_requests_passes_by_a_recorded_policy() -> None:
    on = settle(collecting(onNoData="promote"), timedelta(minutes=6), make_evaluation(silent=True))
    assert without(on) == [(1, 25, "onNoData: promote")]
    assert explanations.weight_change_reason(on) == "onNoData: promote, although an arm has no requests"


def test_a_step_that_a_command_passes_is_recorded_except_a_manual_gate() -> None:
    given = steering.execute_command(collecting(), RolloutCommand("a", "promote", 8), T0)
    assert (without(given), explanations.weight_change_reason(given)) == (
        [(1, 25, "command promote")],
        "by command promote",
    )
    full = steering.execute_command(collecting(), RolloutCommand("a", "promote", 8, full=True), T0)
    assert without(full) == [(1, 25, "command promote --full"), (2, 50, "command promote --full")]
    skipped = steering.execute_command(collecting(), RolloutCommand("a", "skip", 8), T0)
    assert (without(skipped), explanations.weight_change_reason(skipped)) == (
        [(1, 25, "command skip")],
        "by command skip",
    )
    by_hand = [{"weight": 25, "gate": "manual"}, {"weight": 50}]
    assert without(steering.execute_command(collecting(steps=by_hand), RolloutCommand("a", "promote", 8), T0)) == []
    timed = [{"weight": 25, "gate": "time"}]
    assert without(steering.execute_command(collecting(steps=timed), RolloutCommand("a", "promote", 8), T0)) == []


def test_the_promotion_names_a_last_gate_without_evidence() -> None:
    steps = [{"weight": 25}, {"weight": 50, "gate": "time", "minDuration": "10m"}]
    found = make_evaluation(passed=True, metrics=(FOUND,))
    status = settle(settle(collecting(steps=steps), LATER, found), LATER * 2, found)
    over = settle(status, LATER * 5, found)
    result = "after step 3 at 100 %; without evidence: step 2 at 50 % (for 10m) by its gate"
    assert over.verdict.reason == f"Promoted: {result}"
    assert explanations.promotion_reason(over) == f"{result}; 10m have passed"
    hurried = steering.execute_command(status, RolloutCommand("a", "promote", 8), T0)
    assert settle(hurried, LATER * 2, found).verdict.reason.endswith(": step 2 at 50 % by command promote")


def test_steps_after_all_traffic_are_taken_before_stable_goes() -> None:
    steps = [{"weight": 50, "gate": "manual"}, {"weight": 100}, {"pause": {"duration": "1h"}}, {"pause": {}}]
    status = settle(collecting(steps=steps), LATER, None)
    for minutes, reached in ((1, 3), (30, 3), (61, 4), (600, 4)):
        status = steering.execute_command(status, RolloutCommand("a", "promote", 8), T0) if minutes == 1 else status
        status = settle(status, LATER + timedelta(minutes=minutes), None)
        assert (index(status), state.canary_weight(status), status.phase) == (reached, 100, "Running")
    promoted = settle(steering.execute_command(status, RolloutCommand("b", "promote", 8), T0), LATER * 700, None)
    assert (promoted.phase, promoted.verdict.reason) == ("Concluded", "Promoted: after step 4 at 100 %")


def test_an_older_status_without_recorded_steps_is_read() -> None:
    stored = collecting().to_json()
    assert "withoutEvidence" not in stored
    assert "openedBy" not in stored["step"]
    assert ExperimentStatus.parse(stored) == collecting()


@pytest.mark.parametrize("policy", ["hold", "pause", "promote"])
def test_no_traffic_is_no_success_without_a_policy(policy: str) -> None:
    status = collecting(onNoData=policy, onInconclusive="rollback")
    quiet = settle(status, timedelta(minutes=6), make_evaluation(silent=True))
    late = settle(quiet, timedelta(hours=1), make_evaluation(silent=True))
    if policy == "promote":
        assert index(quiet) == 2
    elif policy == "pause":
        assert quiet.paused is not None
        assert quiet.paused.reason == "NoData"
    else:
        assert quiet.paused is None
        assert late.paused is not None
        assert late.paused.reason == "NoData"


@pytest.mark.parametrize("policy", ["pause", "promote"])
def test_an_epoch_that_has_just_begun_is_not_silent_yet(policy: str) -> None:
    steps = [{"weight": 25, "minDuration": "0s"}, {"weight": 50}]
    started = settle(frozen(steps=steps, onNoData=policy), timedelta(0), make_evaluation(silent=True))
    warm = settle(started, timedelta(seconds=59), make_evaluation(silent=True, requests=200))
    young = settle(warm, timedelta(seconds=118), make_evaluation(silent=True))
    assert (index(young), young.paused, len(epochs(young))) == (1, None, 1)
    old = settle(warm, timedelta(seconds=119), make_evaluation(silent=True))
    assert index(old) == 2 if policy == "promote" else old.paused is not None


def test_resuming_without_traffic_restarts_the_wait() -> None:
    paused = settle(collecting(onNoData="pause"), timedelta(minutes=6), make_evaluation(silent=True))
    resumed = steering.execute_command(paused, RolloutCommand("r", "resume", 8), T0 + timedelta(hours=9))
    assert settle(resumed, timedelta(hours=9, minutes=4), make_evaluation(silent=True)).paused is None


def test_a_lasting_sample_ratio_mismatch_pauses_and_then_stops() -> None:
    mismatched = make_evaluation(mismatch="600 of 1000", passed=True)
    paused = settle(collecting(), LATER, mismatched)
    assert paused.paused is not None
    assert (paused.paused.reason, paused.phase) == ("SampleRatio", "Running")
    assert settle(paused, LATER + timedelta(seconds=299), mismatched) == paused
    stopped = settle(paused, LATER + timedelta(seconds=300), mismatched)
    assert (stopped.phase, state.canary_weight(stopped)) == ("Stopped", 0)
    assert (stopped.verdict.decision, stopped.verdict.reason) == ("Undecided", "SampleRatioMismatch: 600 of 1000")


def test_a_sample_ratio_mismatch_that_returns_has_its_whole_grace_again() -> None:
    mismatched, days = make_evaluation(mismatch="600 of 1000"), timedelta(days=3)
    over = settle(settle(collecting(), LATER, mismatched), LATER * 2, make_evaluation())
    returned = settle(over, days, mismatched)
    assert (returned.phase, returned.paused and returned.paused.since) == ("Running", T0 + LATER)
    assert settle(returned, days + timedelta(seconds=299), mismatched) == returned
    assert settle(returned, days + timedelta(seconds=300), mismatched).phase == "Stopped"


def test_a_split_that_matches_again_waits_for_a_user() -> None:
    paused = settle(collecting(), LATER, make_evaluation(mismatch="600 of 1000"))
    waiting = settle(paused, timedelta(hours=5), make_evaluation(passed=True))
    assert waiting.paused == PauseStatus(reason="SampleRatio", since=T0 + LATER)
    resumed = steering.execute_command(paused, RolloutCommand("r", "resume", 8), T0 + LATER)
    assert index(settle(resumed, LATER, make_evaluation(passed=True))) == 2


@pytest.mark.parametrize(
    ("replicas", "weight", "gate", "needed"),
    [
        (3, 25, "evidence", 1),
        (4, 25, "evidence", 2),
        (4, 25, "time", 1),
        (4, 50, "evidence", 4),
        (4, 50, "manual", 2),
        (10, 90, "evidence", 10),
        (1, 5, "evidence", 1),
        (5, 100, "none", 5),
        (5, 100, "evidence", 5),
        (5, 0, "manual", 1),
    ],
)
def test_before_an_evidence_gate_no_canary_replica_has_more_load_than_one_of_stable(
    replicas: int, weight: int, gate: Any, needed: int
) -> None:
    assert replica_counts.step_replicas(PlanStep(weight=weight, gate=gate), replicas) == needed


@pytest.mark.parametrize(
    ("scale", "replicas", "needed"),
    [
        ({"replicas": 3}, 4, 3),
        ({"replicas": 9}, 4, 4),
        ({"replicas_percent": 60}, 4, 3),
        ({"replicas": 1}, 4, 2),
        ({}, 4, 2),
    ],
)
def test_a_scale_is_a_least_and_never_more_than_the_service_needs(
    scale: dict[str, int], replicas: int, needed: int
) -> None:
    for gate in ("manual", "scale", "none"):
        assert replica_counts.step_replicas(PlanStep(weight=50, gate=gate, **scale), replicas) == needed  # type: ignore[arg-type]
    assert replica_counts.step_replicas(PlanStep(weight=25, gate="evidence", replicas=3), 4) == 3


def test_a_scale_holds_from_its_step_on_until_another() -> None:
    given = [{"weight": 10}, {"scale": {"replicas": 3}}, {"pause": {}}, {"weight": 50}, {"scale": {"percent": 75}}]
    plan = freeze.plan_steps(Rollout.from_json({"steps": given}))
    assert [(each.weight, each.gate) for each in plan] == [
        *((10, "evidence"), (10, "scale"), (10, "manual"), (50, "evidence"), (50, "scale"), (100, "none")),
    ]
    assert [(each.replicas, each.replicas_percent) for each in plan] == [
        *((None, None), (3, None), (3, None), (3, None), (None, 75), (None, None)),
    ]


minutes = st.sampled_from([0, 1, 2, 6, 70])
evidences = st.none() | st.builds(
    RolloutEvaluation,
    metrics=st.just((OPEN,)),
    harm=st.sampled_from(["", "", "", "", "harm"]),
    passed=st.booleans(),
    silent=st.booleans(),
    mismatch=st.sampled_from(["", "", "", "mismatch"]),
    requests=st.sampled_from([0, 200]),
    guardrails=st.sampled_from([PLAN.guardrails, (PlanGuardrail(metric="latencyP95", margin=0.1),)]),
)
flags = st.tuples(st.booleans(), st.sampled_from([False, False, False, True]))
verbs = st.sampled_from(["", "", "", "", "", "", "pause", "resume"])
walks = st.lists(st.tuples(minutes, evidences, st.sampled_from([0, 3]), flags, verbs), max_size=30)
Walk = list[tuple[int, RolloutEvaluation | None, int, tuple[bool, bool], str]]


def run_rollout(
    status: ExperimentStatus, ticks: Walk
) -> Iterator[tuple[ExperimentStatus, RolloutInputs | None, ExperimentStatus]]:
    """Yield (before, inputs, after) of each tick, and of each command without inputs."""
    at = timedelta(0)
    for number, (wait, evidence, available, (confirmed, held), verb) in enumerate(ticks):
        at += timedelta(minutes=wait)
        if verb and not phases.is_over(status):
            after = steering.execute_command(status, RolloutCommand(f"c{number}", verb, 8), T0 + at)
            yield status, None, after
        else:
            inputs = tick_inputs(at, evidence, available=available, confirmed=confirmed, held=held)
            after = state_machine.tick(status, inputs)
            yield status, inputs, after
        status = after


@settings(max_examples=examples(150))
@given(walks)
def test_for_all_inputs_only_evidence_passes_a_gate_and_harm_ends_it(ticks: Walk) -> None:
    for before, inputs, after in run_rollout(frozen(), ticks):
        assert ExperimentStatus.parse(after.to_json()) == after
        numbers = [each.number for each in after.evidence_epochs]
        assert numbers == sorted(set(numbers))
        assert all(number <= after.epoch.number for number in numbers)
        if after.evidence_epochs != before.evidence_epochs:
            assert after.epoch.number == before.epoch.number + 1
            assert numbers[-1] == after.epoch.number
        evidence = inputs.evidence if inputs else None
        if index(after) > max(index(before), 1):
            assert evidence is not None
            assert evidence.passed
            assert not evidence.harm
            assert not evidence.mismatch
            assert before.paused is None
        if after.phase == "Concluded":
            assert index(after) == 3
            assert after.verdict.decision == "Promoted"
        if evidence and evidence.harm and not phases.is_over(before) and state.canary_weight(before):
            assert (after.phase, state.canary_weight(after)) == ("Stopped", 0)


@given(walks.filter(bool))
def test_without_evidence_that_passes_nothing_is_promoted(ticks: Walk) -> None:
    blind: Walk = [
        (wait, evidence and make_evaluation(silent=evidence.silent, requests=evidence.requests), available, flag, verb)
        for wait, evidence, available, flag, verb in ticks
    ]
    for _, _, after in run_rollout(frozen(), blind):
        assert index(after) <= 1
        assert state.canary_weight(after) <= 25


def test_a_damaged_status_can_be_ticked() -> None:
    status = collecting(onInconclusive="promote")
    assert status.step is not None
    for given_index in (0, 3, 99):
        step = status.step.model_copy(update={"index": given_index})
        damaged = status.model_copy(update={"step": step})
        settle(damaged, timedelta(hours=2), make_evaluation(passed=True))
        settle(
            steering.execute_command(damaged, RolloutCommand("p", "promote", 8), T0),
            timedelta(hours=2),
            make_evaluation(passed=True),
        )


SKIP = RolloutCommand("s1", "skip", 8)


def test_a_skipped_step_opens_no_other_gate_and_harm_is_still_tested() -> None:
    skipped = steering.execute_command(collecting(), SKIP, T0)
    assert (index(skipped), skipped.last_command, skipped.step and skipped.step.gate) == (2, "s1", "evidence")
    there = settle(skipped, timedelta(minutes=2), make_evaluation())
    assert (index(there), state.canary_weight(there), there.phase) == (2, 50, "Running")
    assert there.verdict.decision == "Undecided"
    harmed = settle(there, timedelta(minutes=3), make_evaluation(harm="errorRate is 3 times stable's"))
    assert (harmed.phase, state.canary_weight(harmed)) == ("Stopped", 0)


def test_a_step_before_all_traffic_cannot_be_skipped() -> None:
    last = settle(steering.execute_command(collecting(), SKIP, T0), timedelta(minutes=2), make_evaluation())
    assert steering.skip_refusal(last)
    again = steering.execute_command(last, RolloutCommand("s2", "skip", 8), T0)
    assert again == last.model_copy(update={"last_command": "s2"})
    assert steering.skip_refusal(frozen()), "there is no step yet"
    errors: dict[str, Any] = {"guardrails": [{"metric": "errorRate"}]}
    by_hand = collecting(steps=[{"weight": 25}, {"weight": 100, "gate": "manual"}], **errors)
    assert steering.skip_refusal(by_hand)
    assert not steering.skip_refusal(collecting(steps=[{"weight": 25}, {"pause": {}}], **errors))
    baked = {"steps": [{"weight": 25}], "bake": {}, **errors}
    assert steering.skip_refusal(collecting(**baked)), "in a bake stable keeps next to nothing"


ERRORS: dict[str, Any] = {"guardrails": [{"metric": "errorRate"}]}
LAST = "is the last step that evidence or a person decides, and {} would follow without a decision; use promote instead"
LAST_ALL = f"step 1 of 3 {LAST.format('all traffic')}"
LAST_BAKE = f"step 1 of 4 {LAST.format('the bake')}"


@pytest.mark.parametrize(
    "following",
    [
        {"pause": {"duration": "1m"}},
        {"scale": {"percent": 100}},
        {"headers": {"x-canary": "1"}},
        {"webhook": {"url": "http://ci/confirm"}},
        {"shadow": {}},
        {"weight": 75, "gate": "time"},
    ],
    ids=lambda step: next(iter(step)),
)
@pytest.mark.parametrize("gate", ["evidence", "manual"])
def test_the_last_deciding_step_cannot_be_skipped(gate: str, following: Any) -> None:
    status = collecting(steps=[{"weight": 50, "gate": gate}, following], **ERRORS)
    assert steering.skip_refusal(status) == LAST_ALL
    assert index(steering.execute_command(status, SKIP, T0)) == 1
    baked = collecting(steps=[{"weight": 50, "gate": gate}, following], bake={}, **ERRORS)
    assert steering.skip_refusal(baked) == LAST_BAKE
    decided = [{"weight": 50, "gate": gate}, following, {"weight": 90, "gate": "manual"}]
    assert not steering.skip_refusal(collecting(steps=decided, **ERRORS))


def test_a_step_without_decision_can_be_skipped_and_a_gate_at_all_traffic_decides_nothing_before() -> None:
    timed = {"weight": 25, "gate": "time", "minDuration": "1h"}
    assert not steering.skip_refusal(collecting(steps=[timed, {"scale": {"percent": 50}}], **ERRORS))
    assert steering.skip_refusal(collecting(steps=[timed], bake={}, **ERRORS)) == (
        "the bake at 99 % follows step 1 of 3; use promote instead"
    )
    last = [{"weight": 50}, {"scale": {"percent": 100}}, {"weight": 100, "gate": "manual"}]
    assert steering.skip_refusal(collecting(steps=last, **ERRORS)) == LAST_ALL


@pytest.mark.parametrize(
    ("reason", "stays"),
    [
        ("Inconclusive", False),
        ("NoData", False),
        ("Manual", True),
        ("SampleRatio", True),
        (PauseReason.CONTROL_UNHEALTHY, True),
    ],
)
def test_a_pause_ends_with_the_step_that_it_is_for(reason: Any, stays: bool) -> None:
    paused = collecting().model_copy(update={"paused": PauseStatus(reason=reason, since=T0)})
    skipped = steering.execute_command(paused, SKIP, T0)
    assert index(skipped) == 2
    assert (skipped.paused is not None) is stays


@pytest.mark.parametrize(("weight", "restarts"), [(50, 3), (25, 0)])
def test_an_epoch_counts_how_often_its_weight_was_measured_again(weight: int, restarts: int) -> None:
    known = (EvidenceEpoch(number=2, weight=25), EvidenceEpoch(number=4, weight=50, restarts=2))
    status = collecting().model_copy(update={"evidence_epochs": known})
    newest = transitions.begin_evidence(status, weight, tick_inputs(timedelta(0), make_evaluation())).evidence_epochs[
        -1
    ]
    assert (newest.weight, newest.restarts) == (weight, restarts)
