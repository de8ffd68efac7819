"""What a tick of an experiment is given, and questions about its stored status."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sundog_operator.api import (
    CONTROL,
    ArmStatus,
    ExperimentStatus,
    PlanComparison,
)
from sundog_operator.core.edge import buckets
from sundog_operator.core.experiments.evaluation import ExperimentEvaluation
from sundog_operator.core.kubernetes import names

HARM: Final = "Harm"
ARM_UNAVAILABLE: Final = "ArmUnavailable"
MAX_DURATION: Final = "MaxDuration"
MAX_UNITS: Final = "MaxUnits"
WINNER: Final = "Winner"
NO_WINNER: Final = "NoWinner"
WON: Final = "Won"
"""Why nothing moves any more of one that goes on although an arm has won."""
MAX_EPOCHS: Final = 40
"""Of evidence: one, one more for each arm that is dropped, each time that weights move and a win, and some for outages of control."""
MAX_UNITS_KEPT: Final = 100_000_000
"""Of which edges keep the first exposure."""


@dataclass(frozen=True, slots=True)
class ArmState:
    """How an arm does, its counts aside.

    Attributes:
        available: replicas that Serve runs and every ready edge sees healthy.
        wanted: how many it needs.
        failure: why it must not go on, as (reason, message).
    """

    available: int = 0
    wanted: int = 1
    failure: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ExperimentInputs:
    """What a tick may look at.

    Attributes:
        confirmed: every edge has the current epoch in force.
        arms: those beside control, by name.
        end: why it ends now, as (reason, message).
        evidence: what is known of the arms; None where nothing was weighed.
    """

    now: datetime
    confirmed: bool
    arms: Mapping[str, ArmState] = field(default_factory=dict)
    end: tuple[str, str] | None = None
    evidence: ExperimentEvaluation | None = None


def is_frozen(status: ExperimentStatus) -> bool:
    """Whether it has its plan. A status that somebody damaged counts as not frozen, and so does one of a rollout."""
    plan = status.plan.comparison
    return plan is not None and [arm.name for arm in status.arms] == [names.STABLE, *(arm.name for arm in plan.arms)]


def frozen_comparison(status: ExperimentStatus) -> PlanComparison:
    """What was frozen. Raises ValueError where nothing was."""
    if status.plan.comparison is None:
        raise ValueError("the plan has no arms")
    return status.plan.comparison


def has_begun(status: ExperimentStatus) -> bool:
    """Whether its arms ever had traffic."""
    return is_frozen(status) and status.epoch.number > 0


def treatment_arms(status: ExperimentStatus) -> list[ArmStatus]:
    """The arms that are compared with control, dropped ones included."""
    return [arm for arm in status.arms if arm.name not in names.STABLE_ARMS]


def active_arms(status: ExperimentStatus) -> list[ArmStatus]:
    """Those that were not dropped."""
    return [arm for arm in treatment_arms(status) if arm.dropped is None]


def target_buckets(status: ExperimentStatus) -> dict[str, int]:
    """How many buckets each arm is to have, by the plan and what was dropped since, or as weights have moved; the rest is stable's."""
    dropped = {arm.name for arm in status.arms if arm.dropped is not None}
    planned = {arm.name: arm.buckets for arm in frozen_comparison(status).arms}
    if frozen_comparison(status).allocation is not None and has_begun(status):
        planned = {arm.name: sum(b - a for a, b in arm.ranges) for arm in status.arms if arm.name != names.STABLE}
    planned = {name: 0 if name in dropped else own for name, own in planned.items()}
    return {names.STABLE: buckets.BUCKETS - sum(planned.values()), **planned}


def max_target_buckets(status: ExperimentStatus, arm: str) -> int:
    """How many buckets an arm may come to have: where weights move, all that is exposed."""
    plan = frozen_comparison(status)
    if plan.allocation is None:
        return target_buckets(status).get(arm, 0)
    return sum(each.buckets for each in plan.arms)


def dropped_arms(status: ExperimentStatus) -> set[str]:
    """The names of those that were."""
    return {arm.name for arm in treatment_arms(status) if arm.dropped is not None}


def max_first_exposures(status: ExperimentStatus) -> int:
    """Of how many units, those outside of the experiment included, edges keep the first exposure: it has taken its own by then."""
    plan = frozen_comparison(status)
    own = sum(arm.buckets for arm in plan.arms)
    return max(1, min(MAX_UNITS_KEPT, math.ceil(plan.max_units * buckets.BUCKETS / max(own, 1))))


def has_won(status: ExperimentStatus) -> bool:
    """Whether it goes on although an arm has won."""
    return status.paused is not None and status.paused.reason == WON


def control_revision(status: ExperimentStatus) -> int:
    """The revision that control is."""
    return next((arm.revision or 0 for arm in status.arms if arm.name == CONTROL), 0)


def time_left_s(status: ExperimentStatus, evidence: ExperimentEvaluation | None, now: datetime) -> float:
    """Seconds until what ends it without a verdict, if units go on to come as they did; infinite before it has begun."""
    if status.since is None:
        return math.inf
    limits, lasted_s = frozen_comparison(status), (now - status.since).total_seconds()
    taken = units_taken(status, evidence)
    filling_s = lasted_s * (limits.max_units / taken - 1) if taken else math.inf
    return max(0.0, min(limits.max_duration.total_seconds() - lasted_s, filling_s))


def units_taken(status: ExperimentStatus, evidence: ExperimentEvaluation | None) -> int:
    """Units that fell to control and the arms so far; where nobody knows them, requests.

    Never fewer than were told before: an edge that is gone takes its sample with it, and not those who were in it.
    """
    known = evidence.units if evidence is not None else {}
    own = (arm for arm in status.arms if arm.name != names.STABLE)
    return sum(max(arm.units, known.get(arm.name, arm.units or arm.requests)) for arm in own)
