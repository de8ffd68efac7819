"""Evaluation of the active rollout, and its report in the status."""

import math
from collections.abc import Sequence

from sundog_operator.api import ArmStatus, ExperimentStatus, MetricStatus
from sundog_operator.core.analysis import counters, evaluate, rollout_outcomes
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.arm_pair import ROLLOUT_PAIR
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.planner import trial_status
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.stats.findings import MetricVerdict
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.evaluation import RolloutEvaluation
from sundog_operator.core.trial.rollout import state


def evaluate_rollout(context: PlanContext) -> tuple[Counters | None, RolloutEvaluation | None]:
    """Return the updated counters of the active attempt, and its evaluation; None where there is none."""
    progress, attempt = context.progress, context.rollout
    if progress is None or attempt is None or phases.is_over(progress):
        return None, None
    is_evaluated = state.is_evaluated(progress)
    selection = (
        rollout_outcomes.make_feedback_selection(context.service, attempt.uid, progress) if is_evaluated else None
    )
    collected, problem = trial_status.collect_counts(context, progress, attempt.uid, ROLLOUT_PAIR.control, selection)
    counted = collected.tallies
    if not is_evaluated:
        return counted, None
    if problem is not None:
        # Edges cannot report outcomes before they have the first split that asks for them.
        is_expected = progress.epoch.confirmed or counted.feedback.sequence > 0
        problem = (context.observed.storeless or problem) if is_expected else None
    stable, candidate = map(context.facts.healthy_replicas, state.arm_revisions(progress))
    return counted, evaluate.evaluate_rollout(progress, collected, (stable, candidate), problem)


def report_metrics(context: PlanContext, status: ExperimentStatus, *, moved: bool = False) -> ExperimentStatus:
    """Return the status with the current metrics: at each transition, once a minute, and as soon as a metric has data."""
    known = current_metrics(context)
    if known is None or not (
        moved or context.is_report_due(status) or _count_without_data(status.metrics) > _count_without_data(known)
    ):
        return status
    shadow = context.shadow.status if context.shadow else status.shadow
    return status.model_copy(update={"metrics": known, "shadow": shadow})


def current_metrics(context: PlanContext) -> tuple[MetricStatus, ...] | None:
    """Return the current metrics, including those of the shadow comparison; None if nothing is evaluated."""
    if context.evaluation is None and context.shadow is None:
        return None
    shadow = context.shadow.metrics if context.shadow else ()
    return (*shadow, *(context.evaluation.metrics if context.evaluation else ()))


def _count_without_data(metrics: Sequence[MetricStatus]) -> float:
    """Return the number of metrics without data; infinity if there are no metrics."""
    return sum(each.verdict == MetricVerdict.NO_DATA for each in metrics) if metrics else math.inf


def count_arm(arm: ArmStatus, counted: Counters | None) -> dict[str, int]:
    """Return the fields of an arm that have its requests. `counted` includes edges that are gone; None if nothing is counted."""
    requests, errors = counters.monotonic_totals(arm, counted)
    forced = counted.over_epochs(arm.name, forced=True) if counted is not None else ArmCounts()
    by_header = {
        "header_requests": max(arm.header_requests or 0, forced.assigned),
        "header_errors": max(arm.header_errors or 0, forced.errors),
    }
    return {"requests": requests, "errors": errors, **(by_header if forced.assigned else {})}
