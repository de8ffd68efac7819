"""The rollout state machine, row by row: the status after a tick, given the status before and the inputs."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sundog_operator.api import ExperimentStatus, Rollout, ShadowStatus
from sundog_operator.api.reasons import Cause
from sundog_operator.core.observed import WebhookResult
from sundog_operator.core.trial import phases, replica_counts
from sundog_operator.core.trial.evaluation import RolloutEvaluation
from sundog_operator.core.trial.rollout import freeze, shadow_comparison, state, state_machine, steering, transitions
from sundog_operator.core.trial.rollout.commands import RolloutCommand
from sundog_operator.core.trial.rollout.shadow_comparison import ShadowComparison
from sundog_operator.core.trial.rollout.state import RolloutInputs

T0 = datetime(2026, 11, 25, 12, tzinfo=UTC)
STEPS = [{"weight": 10, "gate": "time", "minDuration": "60s"}, {"pause": {}}, {"weight": 50, "gate": "manual"}]
ROLLOUT = Rollout.from_json({"steps": STEPS})


def frozen() -> ExperimentStatus:
    return freeze.freeze(ROLLOUT, stable=7, candidate=8, now=T0)


def walk(status: ExperimentStatus, *, until: tuple[int, int], confirmed: bool = True) -> ExperimentStatus:
    """Tick, with all replicas available and gates opened by hand, until (step, weight) is reached and confirmed."""
    for tick in range(60):
        now = T0 + timedelta(minutes=tick)
        at = (status.step.index if status.step else 0, state.canary_weight(status))
        if at == until and (status.epoch.confirmed or not confirmed):
            return status
        after = state_machine.tick(status, RolloutInputs(now=now, replicas=2, available=2, confirmed=True))
        if after == status:
            after = steering.execute_command(status, RolloutCommand(f"c{tick}", "promote", 8), now)
        status = after
    raise AssertionError(f"{until} was not reached: {status}")


@dataclass(frozen=True)
class Row:
    story: str
    given: ExperimentStatus
    when: RolloutInputs
    phase: str
    step: int | None
    weight: int
    epoch: int
    reason: str | None = None
    extra: dict[str, object] = field(default_factory=dict)


def tick_inputs(**changes: object) -> RolloutInputs:
    values: dict[str, object] = {
        "now": T0 + timedelta(hours=2),
        "replicas": 2,
        "available": 2,
        "confirmed": True,
        **changes,
    }
    return RolloutInputs(**values)  # type: ignore[arg-type]


COLLECTING = walk(frozen(), until=(1, 10))
AT_PAUSE = walk(frozen(), until=(2, 10))
AT_HALF = walk(frozen(), until=(3, 50))

ROWS = [
    Row("a candidate without replicas waits", frozen(), tick_inputs(available=0), "Pending", None, 0, 0),
    Row("edges that do not have it yet are waited for", frozen(), tick_inputs(confirmed=False), "Pending", None, 0, 0),
    Row("a ready candidate enters step 1 without traffic yet", frozen(), tick_inputs(), "Running", 1, 0, 0),
    Row("a spec that holds keeps it out", frozen(), tick_inputs(held=True), "Pending", None, 0, 0),
    Row(
        "its weight follows as a new epoch",
        walk(frozen(), until=(1, 0), confirmed=False),
        tick_inputs(),
        "Running",
        1,
        10,
        1,
    ),
    Row(
        "without replicas the weight stays",
        walk(frozen(), until=(1, 0), confirmed=False),
        tick_inputs(available=0),
        "Running",
        1,
        0,
        0,
    ),
    Row(
        "an epoch counts from its confirmation",
        walk(frozen(), until=(1, 10), confirmed=False),
        tick_inputs(),
        "Running",
        1,
        10,
        1,
    ),
    Row("the time of a gate starts then", COLLECTING, tick_inputs(), "Running", 1, 10, 1),
    Row("a pause step keeps the weight and its epoch", AT_PAUSE, tick_inputs(), "Running", 2, 10, 1),
    Row("a manual gate waits for ever", AT_HALF, tick_inputs(now=T0 + timedelta(days=30)), "Running", 3, 50, 2),
    Row("losing replicas moves nothing by itself", AT_HALF, tick_inputs(available=0), "Running", 3, 50, 2),
    Row(
        "a failure takes all traffic back",
        AT_HALF,
        tick_inputs(failure=Cause("LoadFailed", "boom")),
        "Stopped",
        3,
        0,
        3,
        "LoadFailed",
    ),
    Row(
        "a failure without traffic needs no epoch",
        frozen(),
        tick_inputs(failure=Cause("LoadFailed", "boom")),
        "Stopped",
        None,
        0,
        0,
    ),
]


SCALED = freeze.freeze(
    Rollout.from_json({"steps": [{"scale": {"replicas": 2}}, {"weight": 10, "gate": "manual"}]}), 7, 8, T0
)


def test_a_scale_ends_once_its_replicas_are_ready_and_has_no_traffic_before() -> None:
    status = SCALED
    for _ in range(5):
        status = state_machine.tick(status, tick_inputs(available=1))
    assert (status.phase, state.desired_replicas(status, 2)) == ("Pending", 2)
    for _ in range(3):
        status = state_machine.tick(status, tick_inputs())
    assert (status.step.index if status.step else 0, state.canary_weight(status)) == (2, 0)
    at_scale = walk(
        freeze.freeze(
            Rollout.from_json({"steps": [{"weight": 10, "gate": "manual"}, {"scale": {"replicas": 2}}]}), 7, 8, T0
        ),
        until=(1, 10),
    )
    at_scale = steering.execute_command(at_scale, RolloutCommand("a", "promote", 8), T0)
    for _ in range(5):
        at_scale = state_machine.tick(at_scale, tick_inputs(available=1))
    assert at_scale.step is not None
    assert (at_scale.step.index, at_scale.step.reason) == (2, "waits for replicas: 1 of 2 are available")
    assert state_machine.tick(at_scale, tick_inputs()).step.index == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.story)
def test_one_tick(row: Row) -> None:
    after = state_machine.tick(row.given, row.when)
    assert (after.phase, after.step.index if after.step else None) == (row.phase, row.step)
    assert (state.canary_weight(after), after.epoch.number) == (row.weight, row.epoch)
    if row.reason:
        assert after.step is not None
        assert after.step.reason == row.reason


AT_WEBHOOK = state_machine.tick(
    walk(
        freeze.freeze(
            Rollout.from_json({"steps": [STEPS[0], {"webhook": {"url": "https://u:p@gate/a?t=1"}}]}), 7, 8, T0
        ),
        until=(2, 10),
    ),
    tick_inputs(),
)


@pytest.mark.parametrize(
    ("when", "step", "reason"),
    [
        ({}, 2, "asks webhook https://gate/a"),
        ({"webhook_result": WebhookResult(404)}, 2, "webhook https://gate/a answered 404; asks again"),
        ({"webhook_result": WebhookResult(problem="broke off")}, 2, "webhook https://gate/a broke off; asks again"),
        ({"webhook_result": WebhookResult(199)}, 2, "webhook https://gate/a answered 199; asks again"),
        ({"webhook_result": WebhookResult(203)}, 2, "webhook https://gate/a answered 203; asks again"),
        ({"webhook_result": WebhookResult(404), "held": True}, 2, "held by the spec"),
        ({"webhook_result": WebhookResult(200), "held": True}, 2, "held by the spec"),
        ({"webhook_result": WebhookResult(200)}, 3, "Shifting"),
        ({"webhook_result": WebhookResult(202)}, 3, "Shifting"),
    ],
)
def test_a_webhook_ends_its_step_when_it_confirms(when: dict[str, object], step: int, reason: str) -> None:
    after = state_machine.tick(AT_WEBHOOK, tick_inputs(**when))
    assert after.step is not None
    assert (after.step.index, after.step.reason) == (step, reason)
    assert (state.canary_weight(after), after.phase) == (10, "Running")


def test_a_webhook_is_asked_only_while_its_step_waits() -> None:
    webhook = state.pending_webhook(AT_WEBHOOK)
    assert webhook is not None
    assert webhook.url == "https://u:p@gate/a?t=1"
    paused = steering.execute_command(AT_WEBHOOK, RolloutCommand("p", "pause", 8), T0)
    opened = steering.execute_command(AT_WEBHOOK, RolloutCommand("f", "promote", 8, full=True), T0)
    stopped = transitions.stop(AT_WEBHOOK, Cause("Aborted", "by command x"), T0)
    for other in (frozen(), COLLECTING, AT_PAUSE, AT_HALF, paused, opened, stopped):
        assert state.pending_webhook(other) is None


def test_a_webhook_waits_for_its_weight_to_be_confirmed() -> None:
    assert AT_WEBHOOK.step is not None
    early = AT_WEBHOOK.model_copy(update={"step": AT_WEBHOOK.step.model_copy(update={"since": None})})
    assert state.pending_webhook(early) is None
    after = state_machine.tick(early, tick_inputs(webhook_result=WebhookResult(200)))
    assert after.step is not None
    assert (after.step.index, after.step.since) == (2, tick_inputs().now)


def test_promote_passes_a_webhook() -> None:
    after = steering.execute_command(AT_WEBHOOK, RolloutCommand("a", "promote", 8), T0)
    assert after.step is not None
    assert after.step.index == 3


def test_a_timed_gate_opens_exactly_when_its_time_is_over() -> None:
    started = state_machine.tick(COLLECTING, tick_inputs(now=T0 + timedelta(hours=1)))
    assert started.step is not None
    assert started.step.since == T0 + timedelta(hours=1)
    early = state_machine.tick(started, tick_inputs(now=T0 + timedelta(hours=1, seconds=59)))
    assert early.step is not None
    assert early.step.index == 1
    due = state_machine.tick(started, tick_inputs(now=T0 + timedelta(hours=1, seconds=60)))
    assert due.step is not None
    assert due.step.index == 2


@pytest.mark.parametrize("held", [{"held": True}, {}], ids=["spec", "command"])
def test_a_pause_outlasts_the_time_of_a_gate(held: dict[str, bool]) -> None:
    started = state_machine.tick(COLLECTING, tick_inputs(now=T0))
    if not held:
        started = steering.execute_command(started, RolloutCommand("p", "pause", 8), T0)
    late = state_machine.tick(started, tick_inputs(now=T0 + timedelta(days=2), **held))
    assert late.step is not None
    assert late.step.index == 1


def test_promote_at_the_last_gate_waits_for_the_replicas_of_all_traffic() -> None:
    opened = walk(AT_HALF, until=(4, 50))
    waiting = state_machine.tick(opened, tick_inputs(available=1))
    assert (waiting.phase, state.canary_weight(waiting)) == ("Running", 50)
    assert state.desired_replicas(waiting, 2) == 2
    done = state_machine.tick(opened, tick_inputs(available=2))
    assert (done.phase, state.canary_weight(done)) == ("Concluded", 100)
    assert done.verdict.decision == "Undecided"


def test_full_promote_goes_to_the_end_from_anywhere() -> None:
    for status in (frozen(), COLLECTING, AT_PAUSE, AT_HALF):
        opened = steering.execute_command(status, RolloutCommand("f", "promote", 8, full=True), T0)
        assert state_machine.tick(opened, tick_inputs(available=1)).phase == "Running"
        assert state_machine.tick(opened, tick_inputs()).phase == "Concluded"


def test_an_ended_attempt_never_changes() -> None:
    stopped = transitions.stop(AT_HALF, Cause("Aborted", "by command x"), T0)
    assert state_machine.tick(stopped, tick_inputs(failure=Cause("LoadFailed", "boom"))) == stopped


def test_an_implied_last_step_is_added_and_an_explicit_one_is_kept() -> None:
    assert [(step.weight, step.gate) for step in freeze.plan_steps(ROLLOUT)] == [
        (10, "time"),
        (10, "manual"),
        (50, "manual"),
        (100, "none"),
    ]
    explicit = Rollout.from_json({"steps": [{"weight": 100, "gate": "manual"}]})
    assert [(step.weight, step.gate) for step in freeze.plan_steps(explicit)] == [(100, "manual")]


BAKED = freeze.freeze(
    Rollout.from_json({"steps": [{"weight": 50, "gate": "manual"}], "bake": {"duration": "10m", "holdback": "2%"}}),
    7,
    8,
    T0,
)
HEARD = RolloutEvaluation(silent=False, requests=1000)
AT_BAKE = state_machine.tick(
    state_machine.tick(
        state_machine.tick(walk(BAKED, until=(2, 98)), tick_inputs(now=T0, evidence=HEARD)),
        tick_inputs(now=T0, evidence=HEARD),
    ),
    tick_inputs(now=T0, evidence=HEARD),
)


def test_a_bake_is_the_step_before_the_last_and_counts_as_all_of_the_traffic() -> None:
    steps = BAKED.plan.steps
    assert [(step.weight, step.gate) for step in steps] == [(50, "manual"), (98, "bake"), (100, "none")]
    assert steps[1].min_duration == timedelta(minutes=10)
    assert state.weight_after(steps, 50) == 100
    assert AT_BAKE.step is not None
    assert (AT_BAKE.step.index, AT_BAKE.step.warm, AT_BAKE.step.since) == (2, True, T0)
    assert state.is_baking(AT_BAKE)
    assert not state.is_baking(walk(BAKED, until=(1, 50)))


@pytest.mark.parametrize(
    ("story", "when", "step", "weight", "reason"),
    [
        (
            "before its time",
            {"now": T0 + timedelta(minutes=9, seconds=59)},
            2,
            98,
            "bakes until 2026-11-25T12:10:00Z: stable keeps 2 %, and harm rolls back",
        ),
        ("its time", {"now": T0 + timedelta(minutes=10)}, 3, 98, "Shifting"),
        ("held", {"now": T0 + timedelta(minutes=10), "held": True}, 2, 98, None),
        (
            "outside its windows",
            {"now": T0 + timedelta(minutes=10), "opens_at": T0 + timedelta(hours=1)},
            2,
            98,
            "outside its windows; the next opens at 2026-11-25T13:00:00Z",
        ),
        (
            "silent",
            {"now": T0 + timedelta(minutes=10), "evidence": RolloutEvaluation(silent=True)},
            2,
            98,
            "has baked; waits for requests to both revisions, because no data is not success",
        ),
        (
            "unheard",
            {
                "now": T0 + timedelta(minutes=10),
                "evidence": RolloutEvaluation(silent=False, unreachable_edges=("edge-1",)),
            },
            2,
            98,
            "has baked; waits for the counters of edge-1",
        ),
        (
            "harm",
            {
                "now": T0 + timedelta(minutes=1),
                "evidence": RolloutEvaluation(silent=False, harm="errorRate is 9 times"),
            },
            2,
            0,
            "RolledBack",
        ),
    ],
)
def test_a_bake_ends_after_its_time_once_both_arms_had_requests(
    story: str, when: dict[str, object], step: int, weight: int, reason: str | None
) -> None:
    after = state_machine.tick(AT_BAKE, tick_inputs(**{"evidence": HEARD, **when}))
    assert after.step is not None
    assert (after.step.index, state.canary_weight(after)) == (step, weight), story
    assert reason is None or after.step.reason == reason


def test_a_bake_without_warmup_or_replicas_for_all_is_not_over() -> None:
    assert AT_BAKE.step is not None
    late = T0 + timedelta(minutes=20)
    cold = AT_BAKE.model_copy(
        update={
            "step": AT_BAKE.step.model_copy(update={"warm": False}),
            "epoch": AT_BAKE.epoch.model_copy(update={"since": late}),
        }
    )
    waits = state_machine.tick(cold, tick_inputs(now=late, evidence=RolloutEvaluation(silent=False, requests=1)))
    assert waits.step is not None
    assert (waits.step.index, waits.step.warm) == (2, False)
    over = state_machine.tick(AT_BAKE, tick_inputs(now=T0 + timedelta(minutes=20), evidence=HEARD))
    assert state_machine.tick(over, tick_inputs(evidence=HEARD, available=1)).phase == "Running"
    assert state_machine.tick(over, tick_inputs(evidence=HEARD)).phase == "Concluded"


def test_windows_take_no_time_of_a_bake_but_the_spec_does() -> None:
    outside = state_machine.tick(
        AT_BAKE, tick_inputs(now=T0 + timedelta(minutes=1), evidence=HEARD, opens_at=T0 + timedelta(days=1))
    )
    assert outside.step is not None
    assert outside.step.held_since is None
    held = state_machine.tick(AT_BAKE, tick_inputs(now=T0 + timedelta(minutes=1), evidence=HEARD, held=True))
    assert held.step is not None
    assert held.step.held_since == T0 + timedelta(minutes=1)
    freed = state_machine.tick(held, tick_inputs(now=T0 + timedelta(minutes=31), evidence=HEARD))
    assert freed.step is not None
    assert freed.step.since == T0 + timedelta(minutes=30)


SHADOWED = freeze.freeze(
    Rollout.from_json(
        {
            "strategy": "shadow",
            "steps": [{"shadow": {"maxDuration": "30m"}}],
            "bake": {"duration": "10m", "holdback": "5%"},
            "onInconclusive": "promote",
            "onNoData": "promote",
        }
    ),
    7,
    8,
    T0,
)
KNOWN = ShadowStatus(message="agreement: 900 of 900")


def copied(**changes: Any) -> RolloutInputs:
    return tick_inputs(**{"now": T0, "shadow": ShadowComparison(KNOWN, (), passed=True, silent=False), **changes})


def ticked(status: ExperimentStatus, given_inputs: RolloutInputs) -> ExperimentStatus:
    """Tick until nothing is due at that time."""
    for _ in range(20):
        after = state_machine.tick(status, given_inputs)
        if after == status:
            return status
        status = after
    raise AssertionError(f"never settles: {status}")


COPIES_PASSED = ticked(ticked(SHADOWED, copied()), copied(now=T0 + timedelta(minutes=30)))


def test_a_shadow_that_has_passed_bakes_after_a_command() -> None:
    assert (COPIES_PASSED.verdict.decision, COPIES_PASSED.step and COPIES_PASSED.step.reason) == (
        "Passed",
        "waits for promote",
    )
    assert state.is_decided_by_copies(COPIES_PASSED)
    assert not state.is_evaluated(COPIES_PASSED)
    later = {"now": T0 + timedelta(days=1), "evidence": HEARD}
    assert ticked(COPIES_PASSED, tick_inputs(**later)) == COPIES_PASSED
    assert steering.skip_refusal(COPIES_PASSED) == ("the bake at 95 % follows step 2 of 4; use promote instead")
    opened = steering.execute_command(COPIES_PASSED, RolloutCommand("p", "promote", 8), T0)
    assert state.is_evaluated(opened)
    assert not state.is_decided_by_copies(opened)
    short = ticked(opened, tick_inputs(**later, available=1))
    assert (state.desired_replicas(short, 2), state.canary_weight(short)) == (2, 0)
    baking = ticked(opened, tick_inputs(**later))
    assert (state.is_baking(baking), state.canary_weight(baking)) == (True, 95)
    harmed = state_machine.tick(
        baking, tick_inputs(**{**later, "evidence": RolloutEvaluation(silent=False, harm="errorRate is 9 times")})
    )
    assert (harmed.phase, harmed.verdict.decision, state.canary_weight(harmed)) == ("Stopped", "RolledBack", 0)
    aborted = transitions.stop(baking, Cause("Aborted", "by command x"), T0)
    assert (aborted.verdict.decision, state.canary_weight(aborted)) == ("Passed", 0)
    over = ticked(baking, tick_inputs(now=T0 + timedelta(days=1, minutes=10), evidence=HEARD))
    assert (over.phase, over.verdict.decision, over.verdict.winner) == ("Concluded", "Passed", "")
    full = ticked(
        steering.execute_command(COPIES_PASSED, RolloutCommand("f", "promote", 8, full=True), T0), tick_inputs(**later)
    )
    assert (full.phase, full.epoch.number) == ("Concluded", 1)


inputs = st.builds(
    RolloutInputs,
    shadow=st.sampled_from(
        [
            None,
            ShadowComparison(KNOWN, (), passed=True, silent=False),
            ShadowComparison(KNOWN, (), silent=False),
            ShadowComparison(KNOWN, ()),
            ShadowComparison(KNOWN, (), failed="agreement: 3 of 900"),
        ]
    ),
    webhook_result=st.sampled_from([None, WebhookResult(200), WebhookResult(404)]),
    now=st.integers(0, 10_000).map(lambda seconds: T0 + timedelta(seconds=seconds)),
    replicas=st.integers(1, 5),
    available=st.integers(0, 5),
    confirmed=st.booleans(),
    held=st.booleans(),
    failure=st.one_of(st.none(), st.just(Cause("LoadFailed", "boom"))),
    deadline_cause=st.sampled_from(["", "not ready within 5m: the store is away"]),
    evidence=st.sampled_from(
        [
            None,
            RolloutEvaluation(silent=False, requests=1000),
            RolloutEvaluation(),
            RolloutEvaluation(silent=False, harm="errorRate is 9 times"),
        ]
    ),
)
verbs = st.sampled_from(["", "pause", "resume", "promote", "abort"])


@given(st.lists(st.tuples(inputs, verbs, st.booleans()), max_size=40), st.sampled_from([frozen(), BAKED, SHADOWED]))
@example([(copied(), "", False)] * 3 + [(copied(), "promote", False)] * 2 + [(copied(), "", False)] * 2, SHADOWED)
def test_weights_rise_step_by_step_with_capacity_and_fall_only_to_zero(
    ticks: list[tuple[RolloutInputs, str, bool]], begun: ExperimentStatus
) -> None:
    status, promoted, fully = begun, False, False
    for number, (given_inputs, verb, full) in enumerate(ticks):
        before = status
        if verb and not phases.is_over(status):
            promoted, fully = promoted or verb == "promote", fully or (verb == "promote" and full)
            status = steering.execute_command(
                status, RolloutCommand(f"c{number}", verb, 8, full=full), given_inputs.now
            )
        else:
            result = given_inputs if shadow_comparison.active_shadow(status) else replace(given_inputs, shadow=None)
            status = state_machine.tick(status, result)
        rose = state.canary_weight(status) - state.canary_weight(before)
        assert sum(arm.weight for arm in status.arms) == 100
        if begun is SHADOWED and not promoted:
            assert state.canary_weight(status) == 0, "whatever evidence and policies say"
        if rose > 0 and begun is SHADOWED and not fully:
            assert (state.canary_weight(before), state.canary_weight(status)) in ((0, 95), (95, 100))
        if rose > 0:
            assert given_inputs.available >= replica_counts.canary_replicas(
                given_inputs.replicas, state.canary_weight(status)
            )
            assert not given_inputs.held
        if rose < 0:
            assert state.canary_weight(status) == 0
            assert status.phase == "Stopped"
        # An evaluated step begins another epoch at the same weight after its warm-up.
        began = status.evidence_epochs != before.evidence_epochs
        assert status.epoch.number - before.epoch.number == (1 if rose or began else 0)
