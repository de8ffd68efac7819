"""The status of a rollout's or of a user's Experiment in a pass: its counts, the status to commit, and its conditions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sundog_operator.api import ArmStatus, ExperimentStatus, MetricStatus, ShadowStatus, experiment_conditions
from sundog_operator.api.conditions import Conclusion
from sundog_operator.api.reasons import Cause
from sundog_operator.core.analysis import counters, feedback
from sundog_operator.core.analysis.arm_pair import CollectedCounts
from sundog_operator.core.analysis.counters import Counters, CountScope
from sundog_operator.core.kubernetes import grace_periods, names
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.facts import RolloutAttempt
from sundog_operator.core.trial import history
from sundog_operator.core.trial.default_plan import StableTraffic, needs_threshold
from sundog_operator.core.trial.experiment.queue import UserExperiment
from sundog_operator.core.trial.phases import UNDECIDED

DEFAULT_REQUEST_TIMEOUT_S: Final = 30.0


def collect_counts(
    context: PlanContext,
    status: ExperimentStatus,
    attempt: str,
    control: str,
    selection: feedback.FeedbackSelection | None,
) -> tuple[CollectedCounts, Cause | None]:
    """Return the updated counts of the Experiment with the UID `attempt`, and why the edges' outcomes are not usable.

    `selection` has the outcomes to keep from the edges' reports; None for none, which is no problem.
    """
    edges, timeout_s = context.observed.edges, request_deadline_s(context.observed.split)
    now_s = counters.counted_until_s(edges, context.now.timestamp())
    scope = CountScope(
        epochs=[epoch.number for epoch in status.evidence_epochs],
        in_force=status.epoch.number,
        now_s=now_s,
        timeout_s=timeout_s,
        control=control,
        arms=[arm.name for arm in status.arms if arm.name not in names.STABLE_ARMS],
    )
    blocks, problem = counters.collect_blocks(attempt, edges), None
    counted = counters.update_counters(Counters.unpack(status.tallies, attempt), edges, blocks, scope)
    if selection is not None:
        serving = [edge for edge in edges if edge.ready or edge.terminating]
        sums, problem = feedback.update_sums(counted.feedback, serving, selection)
        counted = replace(counted, feedback=sums)
    traffic = StableTraffic()
    if needs_threshold(status.plan.guardrails):
        stable = next((arm.revision or 0 for arm in status.arms if arm.name == control), 0)
        traffic = context.traffic_of(stable, attempt, status.epoch.number)
    return CollectedCounts(counted, edges, blocks, traffic, now_s, timeout_s), problem


def request_deadline_s(split: Mapping[str, Any] | None) -> float:
    """Return the seconds for which a request may wait and run at the edges, by their split and not by the present spec."""
    configured = split or {}
    run_s = float(configured.get("requestTimeoutSeconds", DEFAULT_REQUEST_TIMEOUT_S))
    return run_s + grace_periods.replica_wait_s(configured)


def next_status(
    context: PlanContext,
    before: ExperimentStatus,
    ticked: ExperimentStatus,
    counted: Counters | None,
    count_arm: Callable[[ArmStatus, Counters | None], Mapping[str, Any]],
    metrics: Sequence[MetricStatus] | None,
    shadow: ShadowStatus | None = None,
) -> ExperimentStatus | None:
    """Return the status to commit after a tick, with the counts that led to it and a point of its history; None without a change.

    Counts are written at each transition, else once a minute: a status must not change with each request. `count_arm` returns
    the fields of an arm that have its counts, none while nothing is counted. `metrics` and `shadow` are those of this pass.
    """

    def with_counts(status: ExperimentStatus) -> ExperimentStatus:
        counts = [count_arm(arm, counted) for arm in status.arms]
        arms = tuple(arm.model_copy(update=dict(own)) for arm, own in zip(status.arms, counts, strict=True))
        if not any(counts) or (arms, status.metrics, status.verdict) == (status.arms, before.metrics, before.verdict):
            return status
        return status.model_copy(update={"arms": arms, "counted_at": context.now})

    after = with_counts(ticked) if context.is_report_due(ticked) else ticked
    if after == before and (metrics is None or not context.has_terminating_edge(before)):
        return None
    committed = with_counts(after)
    tallies = committed.tallies if counted is None else counted.pack()
    committed = committed.model_copy(update={"tallies": tallies, "shadow": shadow or committed.shadow})
    return None if committed == before else history.record_point(committed, metrics or committed.metrics, context.now)


def with_conditions(
    stored: RolloutAttempt | UserExperiment,
    status: ExperimentStatus,
    conclusions: Mapping[str, Conclusion],
    now: datetime,
) -> ExperimentStatus:
    """Return a status with its conditions. Those without a conclusion stay as they are stored."""
    conditions = experiment_conditions(stored.status.conditions, generation=stored.generation, at=now)
    for type_, conclusion in conclusions.items():
        conditions.mark(type_, conclusion, at=now)
    update = {"observed_generation": stored.generation, "conditions": conditions.conditions()}
    return status.model_copy(update=update)


def evaluate_conclusive(status: ExperimentStatus, undecided: str) -> Conclusion:
    """Return the condition `Conclusive`: the verdict's decision, or the reason `undecided` that there is none."""
    if status.verdict.decision == UNDECIDED:
        return Conclusion("False", UNDECIDED, undecided)
    return Conclusion("True", status.verdict.decision, status.verdict.reason)
