"""`sundog describe` of a rollout with evidence gates."""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from experiment_fixtures import two_arms
from printed import printed_lines
from rollout_fixtures import stored
from sundog_operator.api import (
    CapacityStatus,
    Condition,
    EdgeLoadStatus,
    Epoch,
    EvidenceEpoch,
    ExperimentStatus,
    FrozenPlan,
    MetricStatus,
    ModelDeploymentStatus,
    NotificationDelivery,
    NotificationReceiver,
    PassedStep,
    PauseStatus,
    PlanGuardrail,
    PlanHeader,
    PlanShadow,
    PlanStep,
    PlanWebhook,
    Rollout,
    RolloutNotice,
    ShadowStatus,
    StepStatus,
    TrafficReturnStatus,
    Verdict,
)
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.dispersion_sums import DispersionSums, EpochBlocks
from sundog_operator.core.trial.default_plan import StableTraffic, resolve_guardrails
from sundog_operator.core.trial.rollout import freeze, plan_text
from sundog_operator.shell.view.experiment import describe_experiment
from sundog_operator.shell.view.model_deployment import DeploymentDetails, describe_model_deployment, find_wait_reason
from sundog_operator.shell.view.plan_facts import describe_guardrail_limit
from sundog_operator.shell.view.verdict import ONE_SIDED_NOTE

Json = dict[str, Any]
NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
FIVE_MINUTES, DAY = timedelta(minutes=5), timedelta(days=1)
ERRORS = MetricStatus(
    name="errorRate",
    role="guardrail",
    arm="canary",
    events=(212, 74),
    ratio=1.047,
    interval=(0.7, 1.53),
    allowed=1.5,
    verdict="Undecided",
    needed=310,
    eta=timedelta(minutes=11, seconds=7),
    message="errorRate is 1.05 times stable's (0.7 to 1.53 at every evaluation)",
)
LATENCY = MetricStatus(
    name="latencyP99",
    role="guardrail",
    arm="canary",
    events=(400, 130),
    ratio=0.975,
    interval=(0.8, 1.2),
    allowed=1.0,
    verdict="Suspended",
    message="latencyP99 is 0.975 times stable's; not evaluated while each replica of the canary has 0.5 times the load",
)
REJECTIONS = MetricStatus(
    name="rejections",
    role="harm",
    arm="canary",
    events=(0, 0),
    interval=(0.0,),
    allowed=1.5,
    verdict="Passed",
    message="rejections happened in neither arm",
)
PLAN = FrozenPlan(
    strategy="canary",
    steps=(
        PlanStep(weight=25, gate="evidence", min_duration=FIVE_MINUTES, max_duration=DAY),
        PlanStep(weight=50, gate="evidence", min_duration=FIVE_MINUTES, max_duration=DAY),
        PlanStep(weight=100, gate="none"),
    ),
    alpha=0.05,
    guardrails=(
        PlanGuardrail(metric="errorRate", margin=0.25, floor=0.005),
        PlanGuardrail(
            metric="latencyP99", margin=0.1, threshold_microseconds=100_000, candidate_threshold_microseconds=110_000
        ),
        PlanGuardrail(metric="rejections", role="harm", margin=0.25),
    ),
    warmup_requests=200,
    warmup_duration=timedelta(minutes=1),
    requests_per_second=12.345,
    frozen_at=NOW,
)


def collecting(**changes: Any) -> ExperimentStatus:
    """Return a status with revision 8 at 25 % for three minutes, beside revision 7."""
    status = ExperimentStatus(
        phase="Running",
        plan=PLAN,
        step=StepStatus(
            index=1, of=3, since=NOW - timedelta(minutes=3), gate="evidence", reason=ERRORS.message, warm=True
        ),
        epoch=Epoch(number=2, since=NOW, confirmed=True),
        arms=freeze.arms_at_weight(25, 7, 8),
        evidence_epochs=(EvidenceEpoch(number=2, weight=25),),
        metrics=(ERRORS, LATENCY, REJECTIONS),
        counted_at=NOW - timedelta(seconds=40),
    )
    return status.model_copy(update=changes)


def described_lines(status: ExperimentStatus, width: int = 10_000) -> list[str]:
    """Return the lines, with single spaces."""
    obj = {
        "metadata": {"namespace": "vision", "name": "digits-r8", "uid": "uid-8"},
        "spec": {"modelDeployment": "digits"},
        "status": status.to_json(),
    }
    return printed_lines(describe_experiment(obj, (), NOW), width=width)


def described_deployment(status: Json) -> list[str]:
    """Return the lines of a ModelDeployment with this status."""
    meta = {"namespace": "vision", "name": "digits", "generation": 1}
    return printed_lines(
        describe_model_deployment(DeploymentDetails({"metadata": meta, "spec": {}, "status": status}), NOW)
    )


def test_metrics_are_shown_with_their_numbers_and_when_they_are_expected_to_decide() -> None:
    lines = described_lines(collecting())
    head = lines.index("Evidence, 40s old (events of stable/candidate)")
    assert lines[head + 1 : head + 5] == [
        "METRIC ROLE EVENTS VALUES CHANGE ALLOWED VERDICT ETA",
        "errorRate guardrail 212/74 – +4.7 % (-30 to 53) +50 % Undecided 11m",
        "latencyP99 guardrail 400/130 – -2.5 % (-20 to 20) +0 % Suspended",
        LATENCY.message,
    ]


@pytest.mark.parametrize(
    ("verdict", "interval", "expected"),
    [
        ("Better", (0.00616, 1.02), True),
        ("Worse", (0.97, 2.5), True),
        ("Worse", (0.97,), True),
        ("Better", (0.00616, 0.98), False),
        ("Worse", (1.1,), False),
        ("Undecided", (0.5, 1.5), False),
        ("Better", (), False),
    ],
)
def test_an_interval_around_1_beside_a_verdict_is_explained(
    verdict: str, interval: tuple[float, ...], expected: bool
) -> None:
    mistakes = MetricStatus(name="mistakes", role="secondary", arm="conv", verdict=verdict, interval=interval)
    assert (ONE_SIDED_NOTE in described_lines(collecting(metrics=(ERRORS, mistakes)))) is expected


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (
            "ModelNotFound",
            "your fix of ModelNotFound: revision 1: file:///m does not exist; meanwhile revision 1 is being deployed",
        ),
        ("Deploying", "revision 1 is being deployed"),
    ],
)
def test_a_retried_start_that_failed_waits_for_the_user(reason: str, expected: str) -> None:
    conditions = tuple(
        Condition(type=type_, status=status, reason=each, message=message, last_transition_time=NOW)  # type: ignore[arg-type]
        for type_, status, each, message in (
            ("RevisionReady", "False", reason, "revision 1: file:///m does not exist"),
            ("Progressing", "True", "Deploying", "revision 1 is being deployed"),
        )
    )
    status = ModelDeploymentStatus(observed_generation=2, conditions=conditions)
    assert find_wait_reason({"metadata": {"generation": 2}}, status) == expected


def test_a_revision_waits_for_an_experiment_unless_nothing_serves() -> None:
    def waits(ready: Literal["True", "False"]) -> str:
        conditions = (
            Condition(type="Ready", status=ready, reason="Seen", message="none is healthy", last_transition_time=NOW),
            Condition(
                type="Progressing",
                status="False",
                reason="ExperimentRunning",
                message="revision 2 waits until Experiment aa has ended",
                last_transition_time=NOW,
            ),
        )
        status = ModelDeploymentStatus(observed_generation=2, conditions=conditions)
        return find_wait_reason({"metadata": {"generation": 2}}, status)

    assert waits("True") == "revision 2 waits until Experiment aa has ended"
    assert waits("False") == "none is healthy"


@pytest.mark.parametrize(
    ("type_", "status", "reason", "expected"),
    [
        ("Stalled", "True", "LoadFailed", ["LoadFailed docs/reference/condition-reasons.md#loadfailed"]),
        ("RevisionReady", "False", "OOMKilled", ["OOMKilled docs/reference/condition-reasons.md#oomkilled"]),
        ("Ready", "True", "Serving", []),
        ("Progressing", "False", "Complete", []),
        ("RouteAccepted", "False", "NotAllowedByListeners", []),
    ],
)
def test_a_reason_that_needs_attention_has_the_link_of_its_entry(
    type_: str, status: Literal["True", "False"], reason: str, expected: list[str]
) -> None:
    condition = Condition(type=type_, status=status, reason=reason, message="m", last_transition_time=NOW)
    lines = described_lines(collecting(conditions=(condition,)))
    assert [line for line in lines if "condition-reasons.md" in line] == expected


@pytest.mark.parametrize(
    ("startup", "expected"),
    [
        (
            {"revision": 2, "cluster": "9s", "scheduled": "0s", "ray": "7s500ms", "load": "2m7s", "total": "55s137ms"},
            ["Started revision 2 in 55 s: cluster 9.0 s, ray 7.5 s, load 2 min 7 s"],
        ),
        ({"revision": 1, "load": "2s"}, ["Started revision 1: load 2.0 s"]),
        (None, []),
    ],
)
def test_a_start_says_where_the_time_went(startup: dict[str, Any] | None, expected: list[str]) -> None:
    lines = described_deployment({} if startup is None else {"startup": startup})
    assert [line for line in lines if line.startswith("Started")] == expected


def test_a_step_says_what_it_waits_for_and_a_sentence_is_shown_once() -> None:
    lines = described_lines(collecting())
    assert f"1 25 % evidence, 5m to 1d now: {ERRORS.message}" in lines
    assert "2 50 % evidence, 5m to 1d" in lines
    assert "3 100 % none" in lines
    assert sum(ERRORS.message in line for line in lines) == 1


def test_the_plan_says_what_the_candidate_is_held_to() -> None:
    lines = described_lines(collecting())
    head = lines.index("Plan")
    assert lines[head + 1 : head + 7] == [
        "traffic 12.3 requests a second at its start",
        "errorRate up to 25 % more than stable, or 0.5 % of all requests",
        "latencyP99 no more responses above 110 ms than stable has above 100 ms",
        "rejections for harm only, from 25 % more than stable; no gate waits for it",
        "alpha 0.05, the error of each direction",
        "this step takes at least 2m more; inconclusive in 23h, then it pauses",
    ]


def test_what_arms_are_held_to_is_shown_beside_control() -> None:
    lines = printed_lines(describe_experiment(stored(two_arms()), (), NOW))
    assert "errorRate up to 25 % more than control, or 0.5 % of all requests" in lines
    assert "rejections for harm only, from 25 % more than control; no gate waits for it" in lines
    head = lines.index("ARM REVISION WEIGHT REQUESTS ERRORS UNITS SINCE THE START")
    control = two_arms().arms[1]
    assert control.units > 0
    assert lines[head + 2] == f"control r7 6.68 % {control.requests} {control.errors} {control.units}"


def test_a_latency_that_a_list_leaves_out_is_shown_to_be_for_harm_alone() -> None:
    spec = Rollout.from_json({"guardrails": [{"metric": "errorRate"}, {"metric": "latencyP99"}]})
    left_out = next(each for each in resolve_guardrails(spec, StableTraffic(10)) if each.metric == "latencyP95")
    assert (
        describe_guardrail_limit(left_out, "stable")
        == "for harm only, from 25 % longer than stable; no gate waits for it"
    )


def test_alpha_is_shown_with_what_shadows_and_traffic_share_of_it() -> None:
    shared = PLAN.model_copy(update={"harm_shares": 3})
    both = "0.05, the error of each direction; to roll back, 0.0167 for each shadow step and for traffic"
    assert f"alpha {both}" in described_lines(collecting(plan=shared))
    alone = shared.model_copy(update={"guardrails": (), "harm_shares": 2})
    assert (
        plan_text.describe_alpha(alone) == "0.05, the error of each direction; to roll back, 0.025 for each shadow step"
    )


def test_alpha_is_shown_with_what_the_first_blocks_have_of_it() -> None:
    plan = PLAN.model_copy(update={"early_harm": 0.2})
    assert plan_text.describe_alpha(plan) == (
        "0.05, the error of each direction; 0.01 to roll back on errors in the canary's first blocks"
    )


def test_what_is_not_known_yet_is_shown() -> None:
    latency = PlanGuardrail(metric="latencyP95", margin=0.25)
    plan = PLAN.model_copy(update={"guardrails": (latency,), "requests_per_second": None})
    undecided = ERRORS.model_copy(update={"ratio": None, "interval": (), "eta": None, "events": (0, 0)})
    lines = described_lines(collecting(plan=plan, metrics=(undecided,), counted_at=None))
    assert "traffic unknown at its start" in lines
    assert "latencyP95 up to 25 % longer than stable, whose latency is not known yet" in lines
    assert "Evidence (events of stable/candidate)" in lines
    assert "errorRate guardrail 0/0 – – +50 % Undecided unknown" in lines


@pytest.mark.parametrize(
    ("begun_s", "counted_s", "closed", "expected"),
    [
        (272, 0, 4, "takes at least 80s more"),
        (272, 30, 4, "takes at least 50s more"),
        (272, 90, 4, "takes at least 28s more"),
        (272, 0, 12, "takes at least 28s more"),
        (600, 0, 4, "takes at least 80s more"),
    ],
)
def test_a_step_takes_its_least_duration_and_data(begun_s: int, counted_s: int, closed: int, expected: str) -> None:
    begun, counted_at = (NOW - timedelta(seconds=seconds) for seconds in (begun_s, counted_s))
    step = StepStatus(index=1, of=3, since=begun, gate="evidence", reason=ERRORS.message, warm=True)
    lengths = (DispersionSums(closed), DispersionSums(), DispersionSums())
    counters = Counters("uid-8", {"edge": {(2, "canary"): ArmCounts(assigned=1)}}, {2: EpochBlocks(100, lengths)})
    status = collecting(step=step, counted_at=counted_at, tallies=counters.pack())
    assert f"this step {expected}; inconclusive in 23h, then it pauses" in described_lines(status)


def test_a_warm_up_says_when_it_ends() -> None:
    step = StepStatus(index=1, of=3, since=NOW - timedelta(hours=30), gate="evidence", reason="warms up")
    lines = described_lines(collecting(step=step, metrics=(), evidence_epochs=()))
    expected = "warms up until 200 requests of the candidate or 1m; takes at least 2m more; inconclusive in 0s"
    assert f"this step {expected}, then it pauses" in lines
    assert not any(line.startswith("Evidence") for line in lines)


@pytest.mark.parametrize(
    ("policy", "follows"),
    [("rollback", "then stable gets all traffic"), ("promote", "then it passes without evidence")],
)
def test_what_follows_on_a_step_that_takes_too_long_is_the_plans(policy: str, follows: str) -> None:
    status = collecting(plan=PLAN.model_copy(update={"on_inconclusive": policy}))
    assert f"this step takes at least 2m more; inconclusive in 23h, {follows}" in described_lines(status)


def test_a_step_that_passed_without_evidence_says_by_what() -> None:
    step = StepStatus(index=2, of=3, gate="evidence", reason="collects evidence")
    passed = PassedStep(step=1, weight=25, by="onInconclusive: promote")
    lines = described_lines(collecting(step=step, without_evidence=(passed,)))
    assert any(line.endswith(" passed without evidence, by onInconclusive: promote") for line in lines)
    assert not any("passed without" in line for line in described_lines(collecting(step=step)))


def test_a_bake_shows_what_remains() -> None:
    bake = PlanStep(weight=98, gate="bake", min_duration=timedelta(minutes=30))
    plan = PLAN.model_copy(update={"steps": (*PLAN.steps[:2], bake, PLAN.steps[2])})
    step = StepStatus(index=3, of=4, since=NOW - timedelta(minutes=3), gate="bake", reason="bakes", warm=True)
    lines = described_lines(collecting(plan=plan, step=step))
    assert "3 98 % bake 30m, 2 % with stable now: bakes" in lines
    assert "this step promoted in 27m, unless it does harm" in lines
    held = described_lines(collecting(plan=plan, step=step, paused=PauseStatus(reason="Manual", since=NOW)))
    assert "this step its time is paused" in held
    over = described_lines(collecting(plan=plan, step=step.model_copy(update={"since": NOW - timedelta(minutes=31)})))
    assert not any(line.startswith("this step") for line in over)


def test_a_step_that_has_too_little_time_at_its_traffic_is_warned_of() -> None:
    gates = tuple(step.model_copy(update={"max_duration": FIVE_MINUTES}) for step in PLAN.steps[:2])
    slow = PLAN.model_copy(update={"steps": (*gates, PLAN.steps[2]), "requests_per_second": 1.0, "error_rate": 0.01})
    (warning,) = [line for line in described_lines(collecting(plan=slow)) if line.startswith("warning")]
    assert warning.startswith(
        "warning step 1 at 25 % is unlikely to be decided within its 5m: at 1 requests/s with 1.00% failures, "
    )
    ended = collecting(plan=slow, phase="Stopped")
    for status in (collecting(), ended):
        assert not any(line.startswith("warning") for line in described_lines(status))


def test_a_paused_rollout_has_its_reason_and_no_deadline() -> None:
    lines = described_lines(collecting(paused=PauseStatus(reason="Inconclusive", since=NOW)))
    assert "Rollout digits-r8: Running, paused (Inconclusive)" in lines
    assert not any("inconclusive in" in line for line in lines)


def test_a_gate_that_a_command_opened_waits_for_no_evidence() -> None:
    step = StepStatus(index=1, of=3, since=NOW, gate="none", reason="shifts traffic", warm=True)
    assert not any(line.startswith("this step") for line in described_lines(collecting(step=step)))


def test_an_ended_rollout_shows_the_evidence_that_it_ended_with() -> None:
    harm = ERRORS.model_copy(
        update={"verdict": "Harm", "ratio": 3.0, "interval": (2.1, 4.4), "eta": None, "message": "worse than allowed"}
    )
    status = collecting(
        phase="Stopped",
        metrics=(harm,),
        verdict=Verdict(decision="RolledBack", winner="stable", reason="RolledBack: worse than allowed"),
    )
    lines = described_lines(status)
    assert "Evidence at its end (events of stable/candidate)" in lines
    assert "errorRate guardrail 212/74 – +200 % (110 to 340) +50 % Harm" in lines
    assert sum("worse than allowed" in line for line in lines) == 1
    assert not any(line.startswith("this step") for line in lines)


def test_a_rollout_without_evidence_is_shown_as_ever() -> None:
    steps = (PlanStep(weight=25, gate="manual"), PlanStep(weight=100, gate="none"))
    status = collecting(plan=FrozenPlan(strategy="canary", steps=steps), metrics=())
    lines = described_lines(status)
    assert "Plan" not in lines
    assert not any(line.startswith("Evidence") for line in lines)


def test_a_webhook_is_named_without_its_secrets() -> None:
    gate = PlanWebhook(url="https://ann:secret@gate.example/confirm?token=secret")
    steps = (PlanStep(weight=25, gate="webhook", webhook=gate), PlanStep(weight=100, gate="none"))
    waits = StepStatus(index=1, of=2, since=NOW, gate="webhook", reason="asks webhook https://gate.example/confirm")
    lines = described_lines(collecting(plan=FrozenPlan(strategy="canary", steps=steps), step=waits, metrics=()))
    place = "webhook https://gate.example/confirm"
    assert f"1 25 % {place} now: asks {place}" in lines
    assert not any("secret" in line for line in lines)


def test_receivers_are_shown_by_their_hosts_with_how_far_they_are() -> None:
    receivers = [
        NotificationReceiver(webhook="https://ann:secret@a.example/secret?token=secret", events=("started",)),
        NotificationReceiver(webhook="https://b.example:8443/"),
        NotificationReceiver(webhook="https://c.example/"),
    ]
    notices = [
        RolloutNotice(event=event, reason="Manual: by hand", time=NOW) for event in ("started", "paused", "promoted")
    ]
    deliveries = [
        NotificationDelivery(receiver=0, told=1),
        NotificationDelivery(receiver=1, told=2, lost=1, problem="answered 500"),
    ]
    plan = PLAN.model_copy(update={"notify": tuple(receivers)})
    lines = described_lines(collecting(plan=plan, notices=tuple(notices), deliveries=tuple(deliveries)))
    at = lines.index("Notifications")
    assert lines[at + 1 : at + 4] == [
        "https://a.example all delivered",
        "https://b.example:8443 promoted is pending, 1 given up: answered 500",
        "https://c.example paused is pending",
    ]
    assert not any("secret" in line for line in lines)


def test_a_plan_that_somebody_took_the_steps_from_is_shown_without_them() -> None:
    status = collecting()
    damaged = status.model_copy(update={"plan": status.plan.model_copy(update={"steps": ()})})
    assert any("errorRate" in line for line in described_lines(damaged))


def test_the_table_fits_an_ordinary_terminal() -> None:
    lines = described_lines(collecting(metrics=(ERRORS, LATENCY, REJECTIONS)), width=100)
    assert "errorRate guardrail 212/74 – +4.7 % (-30 to 53) +50 % Undecided 11m" in lines


def test_a_step_by_header_says_which_and_what_became_of_such_requests() -> None:
    headers = (PlanHeader(name="x-canary", value="true"), PlanHeader(name="x-team", value="ranking"))
    steps = (PlanStep(weight=0, gate="headers", headers=headers), PlanStep(weight=0, gate="manual", headers=headers))
    stable, canary = freeze.arms_at_weight(0, 7, 8)
    status = ExperimentStatus(
        phase="Running",
        plan=FrozenPlan(strategy="canary", steps=steps),
        step=StepStatus(index=2, of=2, gate="manual", reason="waits for promote", since=NOW),
        arms=(stable, canary),
    )
    assert "1 0 % headers x-canary: true and x-team: ranking passed" in described_lines(status)
    assert "By header" not in described_lines(status)
    counted = canary.model_copy(update={"header_requests": 12, "header_errors": 1})
    lines = described_lines(status.model_copy(update={"arms": (stable, counted)}))
    assert "canary 12 requests, 1 errors; they do not count as evidence" in lines


def test_a_step_that_compares_copies_says_what_it_asks_and_what_became_of_them() -> None:
    shadow = PlanShadow(percent=20, by="argmax", min_agreement=0.995)
    plan = FrozenPlan(strategy="canary", steps=(PlanStep(weight=0, gate="shadow", shadow=shadow, max_duration=DAY),))
    known = ShadowStatus(
        sampled=130, sent=110, dropped=12, skipped=8, paired=105, agreed=100, disagreed=5, errors=3, timeouts=2
    )
    agreement = MetricStatus(name="agreement", role="shadow", ratio=0.909, interval=(0.8, 0.96), verdict="Undecided")
    lines = described_lines(
        ExperimentStatus(
            phase="Running",
            plan=plan,
            step=StepStatus(index=1, of=1, gate="shadow", reason="110 of 2000 pairs", since=NOW),
            arms=freeze.arms_at_weight(0, 7, 8),
            shadow=known.model_copy(
                update={
                    "latency_difference_microseconds": -1500,
                    "latency_difference_interval": (-1600, 20),
                    "earlier": ("step 1: 9 of 9 agree",),
                }
            ),
            metrics=(agreement,),
        )
    )
    assert "1 0 % 20 % copied, 99.5 % agree by argmax, up to 1d now: 110 of 2000 pairs" in lines
    assert (
        "shadow 110 copies of 130 sampled requests: 100 agree, 5 do not, 3 errors, 2 timeouts; 12 dropped and 8 left out;"
        " at the median 1.5 ms earlier than stable, known to be between 1.6 ms earlier and 0.02 ms later, the mirror's own time included"
    ) in lines
    assert "agreement shadow 90.9 % (80 to 96) – Undecided" in lines
    assert "before step 1: 9 of 9 agree" in lines


def test_a_verdict_on_copies_is_shown_while_a_person_is_waited_for() -> None:
    plan = freeze.freeze(Rollout(strategy="shadow"), 7, 8, NOW).plan
    verdict = Verdict(decision="Passed", reason="agreement by exact: 99.9 % of 901")
    step = StepStatus(index=2, of=3, gate="manual", reason="waits for promote", since=NOW)
    status = ExperimentStatus(
        phase="Running", plan=plan, step=step, arms=freeze.arms_at_weight(0, 7, 8), verdict=verdict
    )
    assert "agreement by exact: 99.9 % of 901" in described_lines(status)


@pytest.mark.parametrize(
    ("in_force", "expected"),
    [
        (True, "2 of 2 ready; requests at the edges need 6 since 2026-11-20T09:30:00Z"),
        (False, "since 2026-11-20T09:30:00Z, and get them after spec.autoscaling.upscaleDelay"),
    ],
)
def test_load_at_the_edges_is_shown(in_force: bool, expected: str) -> None:
    since = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
    load = EdgeLoadStatus(replicas=6, since=since, in_force=in_force)
    status = ModelDeploymentStatus(replicas=2, ready_replicas=2, edge_load=load)
    assert any(line.endswith(expected) for line in described_deployment(status.to_json()))


@pytest.mark.parametrize(
    ("spare", "expected"),
    [
        (0, "3 of 4 ready; in place: both revisions share the 4 that the service needs"),
        (1, "share the 4 that the service needs, and 1 more that the cluster has capacity for"),
    ],
)
def test_replicas_that_both_revisions_share_are_shown(spare: int, expected: str) -> None:
    capacity = CapacityStatus(mode="inPlace", needed_replicas=4, spare_replicas=spare)
    status = ModelDeploymentStatus(replicas=4, ready_replicas=3, capacity=capacity)
    assert expected in "\n".join(described_deployment(status.to_json()))


def test_traffic_that_goes_back_to_stable_is_shown() -> None:
    back = TrafficReturnStatus(reason="RolledBack", message="errorRate", since=NOW)
    lines = described_lines(collecting(giving_back=back))
    assert "Rollout digits-r8: Running, returns its traffic to stable (RolledBack)" in lines
