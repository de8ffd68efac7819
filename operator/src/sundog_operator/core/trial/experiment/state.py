"""Inputs of an experiment's tick, and questions about its stored status."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sundog_operator.api import (
    CONTROL,
    ArmStatus,
    EvidenceEpoch,
    ExperimentStatus,
    FrozenPlan,
    PlanComparison,
    PlanOutcome,
    is_latency_metric,
)
from sundog_operator.api.reasons import Cause, PauseReason
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.edge import buckets, units
from sundog_operator.core.kubernetes import names
from sundog_operator.core.stats import error_shares
from sundog_operator.core.trial.evaluation import ExperimentEvaluation, TrialInputs

SUCCESS: Final = "success"
GUARDRAIL: Final = "guardrail"
SECONDARY: Final = "secondary"
HARM: Final = "Harm"
WINNER: Final = "Winner"
NO_WINNER: Final = "NoWinner"
FIRST_EPOCH: Final = 1
"""The warm-up. In epoch 0 stable still has all traffic, while the arms start."""
MAX_EPOCHS: Final = 40
"""Epochs of evidence: the first, one for each dropped arm, change of weights and win, and some for outages of control."""
MAX_UNITS_KEPT: Final = 100_000_000
"""Units whose first exposure edges keep."""
MAX_EPOCHS_FOR_LOAD: Final = 20
"""Epochs of evidence up to which one with unequal load of replicas is followed by another; the others are kept for outages and weights."""
COHORTS: Final = 24
"""Cohorts of units by window: edges count a cohort when the window of its last unit has passed."""


@dataclass(frozen=True, slots=True)
class ArmState:
    """Health of an arm.

    Attributes:
        available: replicas that Serve runs and every ready edge sees as healthy.
        desired: replicas that it needs.
        failure: why it must not go on; None where it may.
    """

    available: int = 0
    desired: int = 1
    failure: Cause | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentInputs(TrialInputs):
    """Inputs of one tick of an experiment.

    Attributes:
        arms: state by name of the arms beside control.
        end: why the experiment ends now; None where it goes on.
    """

    evidence: ExperimentEvaluation | None = None
    arms: Mapping[str, ArmState] = field(default_factory=dict)
    end: Cause | None = None


def is_frozen(status: ExperimentStatus) -> bool:
    """Return whether the status has a plan. A damaged status counts as not frozen, and so does a rollout's."""
    plan = status.plan.comparison
    return plan is not None and [arm.name for arm in status.arms] == [names.STABLE, *(arm.name for arm in plan.arms)]


def frozen_comparison(status: ExperimentStatus) -> PlanComparison:
    """Return the frozen comparison. Raises ValueError where there is none."""
    if status.plan.comparison is None:
        raise ValueError("the plan has no arms")
    return status.plan.comparison


def restarts_for_load(status: ExperimentStatus) -> bool:
    """Whether an epoch in which replicas had unequal load is followed by another one once their loads are equal.

    Other metrics pay for it: weights that follow outcomes wait longer, and means need a burn-in in each epoch. So weights have to be fixed,
    and a win has to need a metric of the edge: a success metric, or a latency that has to pass.
    """
    plan = frozen_comparison(status)
    needs_edge = any(each.role == "success" and each.metric is not None for each in plan.outcomes) or any(
        each.role == "guardrail" and is_latency_metric(each.metric) for each in status.plan.guardrails
    )
    return needs_edge and plan.allocation is None and len(status.evidence_epochs) < MAX_EPOCHS_FOR_LOAD


def unlisted_epochs(status: ExperimentStatus) -> int:
    """Return how many epochs of evidence the status no longer lists, so that no test uses them."""
    return status.evidence_epochs[-1].restarts if status.evidence_epochs else 0


def buckets_by_epoch(status: ExperimentStatus) -> Iterator[tuple[EvidenceEpoch, dict[str, int]]]:
    """Yield each epoch of evidence with the number of buckets of each arm."""
    for epoch in status.evidence_epochs:
        if epoch.buckets is not None and len(epoch.buckets) == len(status.arms):
            yield epoch, {arm.name: own for arm, own in zip(status.arms, epoch.buckets, strict=True)}


def comparable_epochs(status: ExperimentStatus, arms: Sequence[str]) -> list[tuple[int, list[int]]]:
    """Return the number of each epoch of evidence in which control was fit for comparison, with the buckets of the named arms."""
    return [
        (epoch.number, [by_arm.get(name, 0) for name in arms])
        for epoch, by_arm in buckets_by_epoch(status)
        if not epoch.troubled
    ]


def compared_arms(status: ExperimentStatus) -> list[str]:
    """Return control and the arms beside it, in the order of the plan; dropped arms keep their place."""
    return [CONTROL, *(arm.name for arm in treatment_arms(status))]


def planned_outcomes(status: ExperimentStatus, role: str) -> list[PlanOutcome]:
    """Return the metrics of one role, in the order of the plan."""
    return [each for each in frozen_comparison(status).outcomes if each.role == role]


def evidence_share(status: ExperimentStatus, *, equal_load: bool = False) -> float:
    """Return the share of a test's error for the present set of evidence.

    Each removal of an epoch that tests have used leaves another set, which has another chance to be wrong.

    Args:
        status: the status of an experiment with a frozen plan.
        equal_load: whether the test leaves out epochs with unequal load too, not only those in which control was unfit.
    """
    removed = [
        each for each in status.evidence_epochs if each.troubled or (equal_load and each.unequal_load and each.tested)
    ]
    return error_shares.evidence_share(unlisted_epochs(status) + len(removed))


def has_begun(status: ExperimentStatus) -> bool:
    """Return whether the arms ever had traffic."""
    return is_frozen(status) and status.epoch.number > 0


def treatment_arms(status: ExperimentStatus) -> list[ArmStatus]:
    """Return the arms that are compared with control, dropped ones included."""
    return [arm for arm in status.arms if arm.name not in names.STABLE_ARMS]


def active_arms(status: ExperimentStatus) -> list[ArmStatus]:
    """Return the treatment arms that were not dropped."""
    return [arm for arm in treatment_arms(status) if arm.dropped is None]


def target_buckets(status: ExperimentStatus) -> dict[str, int]:
    """Return each arm's intended number of buckets, by the plan, moved weights and dropped arms; stable has the rest."""
    dropped = {arm.name for arm in status.arms if arm.dropped is not None}
    planned = {arm.name: arm.buckets for arm in frozen_comparison(status).arms}
    if frozen_comparison(status).allocation is not None and has_begun(status):
        planned = {arm.name: sum(b - a for a, b in arm.ranges) for arm in status.arms if arm.name != names.STABLE}
    planned = {name: 0 if name in dropped else own for name, own in planned.items()}
    return {names.STABLE: buckets.BUCKETS - sum(planned.values()), **planned}


def max_target_buckets(status: ExperimentStatus, arm: str) -> int:
    """Return the largest number of buckets that an arm may get; with adaptive weights, all exposed buckets."""
    plan = frozen_comparison(status)
    if plan.allocation is None:
        return target_buckets(status).get(arm, 0)
    return sum(each.buckets for each in plan.arms)


def dropped_arms(status: ExperimentStatus) -> set[str]:
    """Return the names of the dropped arms."""
    return {arm.name for arm in treatment_arms(status) if arm.dropped is not None}


def max_first_exposures(status: ExperimentStatus) -> int:
    """Return the number of units whose first exposure edges keep, units outside of the experiment included.

    The experiment has all its own units by then.
    """
    plan = frozen_comparison(status)
    own = sum(arm.buckets for arm in plan.arms)
    return max(1, min(MAX_UNITS_KEPT, math.ceil(plan.max_units * buckets.BUCKETS / max(own, 1))))


def has_won(status: ExperimentStatus) -> bool:
    """Return whether an arm has won and the experiment goes on."""
    return status.paused is not None and status.paused.reason == PauseReason.WON


def control_revision(status: ExperimentStatus) -> int:
    """Return the number of control's revision; 0 where unknown."""
    return next((arm.revision or 0 for arm in status.arms if arm.name == CONTROL), 0)


def time_left_s(status: ExperimentStatus, evidence: ExperimentEvaluation | None, now: datetime) -> float:
    """Return the seconds until a limit ends the experiment, at the present rate of units; infinite before it has begun."""
    if status.since is None:
        return math.inf
    limits, lasted_s = frozen_comparison(status), (now - status.since).total_seconds()
    if status.units_reached_at is not None:
        filling_s = (status.units_reached_at - now).total_seconds()
    else:
        taken = units_taken(status, evidence)
        filling_s = max(0.0, lasted_s * (limits.max_units / taken - 1)) if taken else math.inf
    maturing_s = maturing_time(limits).total_seconds()
    return max(0.0, min(limits.max_duration.total_seconds() - lasted_s, filling_s + maturing_s))


def maturing_time(plan: PlanComparison) -> timedelta:
    """Return how long after its first exposure a unit counts in every metric: the longest window and its cohort; 0 without one."""
    longest = max((each.window for each in plan.outcomes if each.window is not None), default=timedelta())
    return longest + longest / COHORTS


def counts_exposures(plan: FrozenPlan) -> bool:
    """Return whether the number of exposed units is known: those of an experiment with feedback are stored."""
    return units.is_sticky(plan) and plan.comparison is not None and bool(plan.comparison.feedback_outcomes)


def count_exposed_units(status: ExperimentStatus, counted: Counters, arm: str) -> int:
    """Return the units that were first exposed to an arm in the epochs of evidence."""
    return sum(counted.count_exposed_units(each.number, arm, sticky=True) for each in status.evidence_epochs)


def units_taken(status: ExperimentStatus, evidence: ExperimentEvaluation | None) -> int:
    """Return the units of control and the arms so far; requests where units are unknown.

    An estimate never falls: an edge that is gone takes its sample with it, but its units were exposed.
    """
    known = evidence.units if evidence is not None else {}
    own = [arm for arm in status.arms if arm.name != names.STABLE]
    if counts_exposures(status.plan):
        # An epoch that is no evidence any more takes its units out of the evaluation, but they were exposed.
        return sum(max(arm.units if arm.units_from == "exposures" else 0, known.get(arm.name, 0)) for arm in own)
    return sum(max(arm.units, known.get(arm.name, arm.units or arm.requests)) for arm in own)
