"""Prometheus checks: the queries, how results add up, and what the state machine does with them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sundog_operator.api import CheckStatus, ExperimentStatus, Rollout
from sundog_operator.core.observed import PrometheusResult
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.evaluation import RolloutEvaluation
from sundog_operator.core.trial.rollout import explanations, freeze, prometheus_checks, state, state_machine, steering
from sundog_operator.core.trial.rollout.commands import RolloutCommand
from sundog_operator.core.trial.rollout.state import RolloutInputs

T0 = datetime(2026, 11, 25, 12, tzinfo=UTC)
OOM: dict[str, Any] = {"name": "oom", "prometheus": {"query": "oom"}, "threshold": {"max": 0}}
SMOKE: dict[str, Any] = {
    "name": "smoke",
    "prometheus": {"query": 'up{namespace="{{namespace}}", r="{{ revision }}/{{stableRevision}}", s="{{service}}", arm="{{arm}}"}'},
    "threshold": {"min": 1, "max": 2},
    "count": 3,
}  # fmt: skip
TIMED: dict[str, Any] = {"weight": 25, "gate": "time", "minDuration": "60s"}


class Walk:
    """An attempt with one tick every ten seconds, and with all replicas available."""

    def __init__(self, *steps: dict[str, Any], **fields: Any) -> None:
        self.now = T0
        self.readings: dict[str, PrometheusResult] = {}
        self.held = False
        rollout = Rollout.from_json({"steps": list(steps) or [TIMED], **fields})
        self.status = freeze.freeze(rollout, stable=7, candidate=8, now=T0)

    def tick(self, **readings: float | str) -> ExperimentStatus:
        self.now += timedelta(seconds=10)
        asked = {
            query.slot: query.about
            for query in prometheus_checks.make_queries(self.status, "n", "s", "u", stands_still=self.held)
        }
        for name, given in readings.items():
            slot = name if name == prometheus_checks.ANALYSIS else f"guardrail {name}"
            result = PrometheusResult(problem=given) if isinstance(given, str) else PrometheusResult(given)
            self.readings[asked.get(slot, "")] = PrometheusResult(result.value, result.problem, self.now)
        known = {slot: self.readings[about] for slot, about in asked.items() if about in self.readings}
        taken = prometheus_checks.record_readings(self.status, known)
        self.status = state_machine.tick(
            taken,
            RolloutInputs(
                now=self.now, replicas=2, available=2, confirmed=True, held=self.held, evidence=self.evidence()
            ),
        )
        return self.status

    def evidence(self) -> RolloutEvaluation | None:
        judged = self.status.plan.guardrails
        return RolloutEvaluation(passed=True, silent=False, guardrails=judged) if judged else None

    def ticks(self, number: int, **readings: float | str) -> ExperimentStatus:
        for _ in range(number):
            self.tick(**readings)
        return self.status

    def minutes(self, number: int, **readings: float | str) -> ExperimentStatus:
        """Run one check a minute."""
        for _ in range(number):
            self.tick(**readings)
            self.ticks(5)
        return self.status

    @property
    def at(self) -> tuple[int, int]:
        return (self.status.step.index if self.status.step else 0), state.canary_weight(self.status)


def with_guardrail(**fields: Any) -> Walk:
    """Return an attempt at 25 % with a guardrail."""
    walk = Walk(TIMED, {"weight": 50, "gate": "manual"}, guardrails=[OOM], **fields)
    walk.ticks(3)
    assert walk.at == (1, 25)
    return walk


def with_analysis(**fields: Any) -> Walk:
    """Return an attempt at an analysis step, at 25 %."""
    manual = {"weight": 50, "gate": "manual"}
    walk = Walk({"weight": 25, "gate": "time", "minDuration": "0s"}, {"analysis": SMOKE}, manual, **fields)
    walk.ticks(7)
    assert walk.at == (2, 25)
    return walk


def test_placeholders_are_filled_without_quotes() -> None:
    walk = with_analysis()
    (query,) = prometheus_checks.make_queries(walk.status, "vision", "digits", "u", stands_still=False)
    assert query.expression == 'up{namespace="vision", r="8/7", s="digits", arm="canary"}'
    assert (query.slot, query.about, query.interval_s) == ("analysis", "u/analysis/2", 60)


def test_a_guardrail_is_queried_while_both_arms_have_traffic() -> None:
    walk = Walk(TIMED, guardrails=[OOM])
    assert prometheus_checks.make_queries(walk.status, "n", "s", "u", stands_still=False) == ()
    walk = with_guardrail()
    held, free = (
        prometheus_checks.make_queries(walk.status, "n", "s", "u", stands_still=held) for held in (True, False)
    )
    assert [each.slot for each in held] == ["guardrail oom"] == [each.slot for each in free]
    paused = walk.status.model_copy(update={"paused": {"reason": "Manual"}})
    assert prometheus_checks.make_queries(paused, "n", "s", "u", stands_still=False) == free
    over = walk.status.model_copy(update={"phase": "Stopped"})
    assert prometheus_checks.make_queries(over, "n", "s", "u", stands_still=False) == ()


@pytest.mark.parametrize("still", ["held", "paused"])
def test_an_analysis_is_queried_while_its_step_runs(still: str) -> None:
    status = with_analysis().status
    if still == "paused":
        status = status.model_copy(update={"paused": {"reason": "Manual"}})
    assert prometheus_checks.make_queries(status, "n", "s", "u", stands_still=still == "held") == ()


def test_a_step_waits_for_a_guardrail_without_a_result() -> None:
    walk = with_guardrail()
    walk.ticks(30)
    assert walk.at == (1, 25)
    assert walk.status.step is not None
    assert walk.status.step.reason == "waits for a check to pass: check oom has not run yet"
    walk.ticks(2, oom=0)
    assert walk.at == (2, 50)


def test_a_guardrail_has_to_pass_anew_at_each_weight() -> None:
    walk = Walk(TIMED, {**TIMED, "weight": 50}, guardrails=[OOM])
    while walk.at != (2, 50):
        walk.tick(oom=0)
    walk.ticks(30)
    assert walk.at == (2, 50)
    walk.ticks(4, oom=0)
    assert walk.status.phase == phases.CONCLUDED


def test_so_many_failing_checks_in_a_row_roll_back() -> None:
    walk = with_guardrail()
    walk.minutes(2, oom=1)
    assert (walk.status.phase, walk.status.checks[0].failed) == ("Running", 2)
    walk.minutes(1, oom=0)
    assert walk.status.checks[0].failed == 0
    walk.minutes(2, oom=1)
    assert walk.status.phase == "Running"
    walk.minutes(1, oom=1)
    assert (walk.status.phase, state.canary_weight(walk.status)) == ("Stopped", 0)
    assert walk.status.verdict.reason == "RolledBack: check oom gives 1, more than 0: 3 times in a row"
    assert walk.status.verdict.decision == "Undecided", "a limit of a user is no evidence"
    assert walk.status.checks[0].verdict == "Failed"


def test_no_data_between_failing_checks_resets_nothing() -> None:
    walk = with_guardrail()
    walk.minutes(2, oom=1)
    walk.minutes(3, oom="gives no data")
    assert walk.status.phase == "Running"
    walk.minutes(1, oom=1)
    assert walk.status.phase == "Stopped"


@pytest.mark.parametrize("hold", ["paused", "held"])
def test_a_failing_check_rolls_back_while_paused(hold: str) -> None:
    walk = with_guardrail()
    walk.held = hold == "held"
    if hold == "paused":
        walk.status = steering.execute_command(walk.status, RolloutCommand("a", "pause", 8), walk.now)
    walk.minutes(3, oom=1)
    assert walk.status.phase == "Stopped"


def test_a_failing_check_at_one_weight_counts_on_at_the_next() -> None:
    walk = with_guardrail()
    walk.minutes(2, oom=1)
    walk.status = steering.execute_command(walk.status, RolloutCommand("a", "promote", 8), walk.now)
    walk.ticks(2)
    assert walk.at == (2, 50)
    walk.ticks(2, oom=1)
    assert walk.status.phase == "Stopped"


def test_an_epoch_with_the_same_weights_needs_no_new_query() -> None:
    """As at the end of a warm-up: so many failing checks in a row are so many intervals."""
    rare = {**OOM, "prometheus": {"query": "oom", "interval": "10m", "failureLimit": 2}}
    walk = Walk({"weight": 25}, guardrails=[rare])
    walk.ticks(3)
    warm_up, asked = (
        walk.status.epoch.number,
        prometheus_checks.make_queries(walk.status, "n", "s", "u", stands_still=False),
    )
    walk.ticks(50, oom=1)
    assert walk.status.epoch.number > warm_up
    assert prometheus_checks.make_queries(walk.status, "n", "s", "u", stands_still=False) == asked
    assert (walk.status.phase, walk.status.checks[0].failed) == ("Running", 1)
    walk.ticks(15, oom=1)
    assert walk.status.phase == "Stopped"


def test_a_result_counts_once_and_none_before_its_time() -> None:
    walk = with_guardrail()
    walk.tick(oom=1)
    walk.ticks(20)
    assert walk.status.checks[0].failed == 1
    walk.tick(oom=1)
    walk.ticks(3, oom=1)
    assert walk.status.checks[0].failed == 2


@pytest.mark.parametrize("back", [timedelta(seconds=50), timedelta(seconds=80), timedelta(days=400)])
def test_a_clock_that_is_set_back_delays_a_check_for_two_intervals_at_most(back: timedelta) -> None:
    walk = with_guardrail()
    walk.tick(oom=1)
    walk.now -= back
    walk.ticks(12, oom=1)
    assert walk.status.checks[0].failed == (2 if back < timedelta(minutes=1) else 3)
    assert walk.status.checks[0].at is not None
    assert walk.now - walk.status.checks[0].at <= timedelta(minutes=1)


@pytest.mark.parametrize(
    ("policy", "phase", "paused"),
    [("pause", "Running", "Inconclusive"), ("rollback", "Stopped", ""), ("promote", "Running", "")],
)
def test_no_number_is_no_success_and_inconclusive_in_the_end(policy: str, phase: str, paused: str) -> None:
    walk = with_guardrail(onInconclusive=policy)
    walk.minutes(4, oom="cannot reach Prometheus: Refused")
    assert (walk.at, walk.status.paused) == ((1, 25), None)
    walk.minutes(1, oom="cannot reach Prometheus: Refused")
    assert (walk.status.phase, walk.status.paused.reason if walk.status.paused else "") == (phase, paused)
    assert walk.at == {"pause": (1, 25), "rollback": (1, 0), "promote": (2, 50)}[policy]
    if policy == "pause":
        result = "paused because check oom cannot reach Prometheus: Refused: 5 times in a row"
        assert explanations.describe_pause(walk.status) == result
    passed = [(each.step, each.by) for each in walk.status.without_evidence or ()]
    by = "onInconclusive: promote, because check oom has no number"
    assert passed == ([(1, by)] if policy == "promote" else [])
    if policy == "promote":
        assert explanations.weight_change_reason(walk.status).endswith(f"; {by}")


def test_resume_resets_the_inconclusive_results() -> None:
    walk = with_guardrail()
    walk.minutes(5, oom="gives no data")
    assert walk.status.paused is not None
    walk.status = steering.execute_command(walk.status, RolloutCommand("a", "resume", 8), walk.now)
    walk.minutes(4, oom="gives no data")
    assert walk.status.paused is None
    walk.minutes(1, oom="gives no data")
    assert walk.status.paused is not None


def test_promote_passes_a_step_whatever_prometheus_says() -> None:
    walk = with_guardrail()
    walk.minutes(5, oom="gives no data")
    walk.status = steering.execute_command(walk.status, RolloutCommand("a", "promote", 8, full=True), walk.now)
    walk.ticks(5)
    assert walk.status.phase == phases.CONCLUDED


def test_a_failing_check_is_not_passed_for_taking_too_long() -> None:
    """`onInconclusive: promote` replaces evidence, but not a failing check."""
    step = {"weight": 25, "minDuration": "0s", "maxDuration": "2m"}
    walk = Walk(step, guardrails=[OOM], onInconclusive="promote", warmup={"duration": "0s"})
    walk.minutes(2, oom=1)
    walk.ticks(12)
    assert walk.at == (1, 25)
    walk.ticks(6, oom=0)
    assert walk.status.phase == phases.CONCLUDED


def test_a_step_that_took_too_long_names_the_check_that_it_waited_for() -> None:
    step = {"weight": 25, "minDuration": "0s", "maxDuration": "2m"}
    walk = Walk(step, guardrails=[OOM], warmup={"duration": "0s"})
    walk.minutes(2, oom=1)
    walk.ticks(12)
    assert explanations.describe_pause(walk.status).startswith("paused because it took too long: check oom gives 1, ")


def test_an_analysis_ends_after_so_many_good_checks() -> None:
    walk = with_analysis()
    assert walk.status.step is not None
    assert walk.status.step.reason == "asks Prometheus"
    walk.minutes(2, analysis=1)
    assert walk.status.step is not None
    assert walk.status.step.reason == "check smoke gives 1, at least 1 and at most 2; 2 of 3 checks passed"
    walk.minutes(2, analysis=3)
    assert walk.at == (2, 25)
    walk.minutes(1, analysis=2)
    assert walk.at == (3, 50)


def test_an_analysis_rolls_back() -> None:
    walk = with_analysis()
    walk.minutes(3, analysis=0.5)
    assert walk.status.verdict.reason == "RolledBack: check smoke gives 0.5, less than 1: 3 times in a row"


def test_an_analysis_without_a_number_is_inconclusive_and_never_passes() -> None:
    walk = with_analysis()
    walk.minutes(5, analysis="gives no data")
    assert (walk.at, walk.status.paused and walk.status.paused.reason) == ((2, 25), "Inconclusive")
    walk.minutes(50)
    assert walk.at == (2, 25)


def test_an_analysis_before_the_first_weight_decides_whether_there_is_any_traffic() -> None:
    walk = Walk({"analysis": {**SMOKE, "count": 1}}, {"weight": 25, "gate": "manual"})
    walk.ticks(10)
    assert walk.at == (1, 0)
    walk.ticks(4, analysis=1)
    assert walk.at == (2, 25)


def test_a_passing_check_is_written_once_a_minute() -> None:
    walk = with_guardrail()
    walk.tick(oom=0)
    first = walk.status.checks[0]
    walk.ticks(5, oom=-1)
    assert walk.status.checks[0] == first
    walk.tick(oom=-2)
    assert walk.status.checks[0].value == -2


def test_only_prometheus_as_guardrails_leaves_the_metrics_as_they_are_by_default() -> None:
    """An evidence gate without a metric would open at once."""
    with_check = freeze.resolve_plan(Rollout.from_json({"guardrails": [OOM]}), freeze.UNKNOWN_TRAFFIC)
    without = freeze.resolve_plan(Rollout(), freeze.UNKNOWN_TRAFFIC)
    assert with_check.guardrails == without.guardrails
    assert [each.name for each in with_check.checks] == ["oom"]


def test_a_status_of_a_check_that_the_plan_does_not_have_is_left_out() -> None:
    walk = with_guardrail()
    damaged = walk.status.model_copy(update={"checks": (CheckStatus(name="other", verdict="Passed"),)})
    assert [(each.name, each.verdict) for each in prometheus_checks.check_statuses(damaged)] == [("oom", "")]
