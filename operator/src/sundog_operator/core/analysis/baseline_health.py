"""Health of stable as the baseline. Failures of both arms, such as a database outage, are no information about the canary. Pure."""

from collections.abc import Sequence
from typing import Final

from sundog_operator.api import FrozenPlan
from sundog_operator.api.reasons import Cause, PauseReason
from sundog_operator.core.analysis.blocks import BLOCK_S, GRACE_S, BlockCounts, BlocksByEpoch, sum_arm_counts
from sundog_operator.core.kubernetes import names
from sundog_operator.core.trial.default_plan import ERROR_RATE
from sundog_operator.core.trial.evaluation import HEALTHY, BaselineHealth

_MINUTE: Final = 60 // BLOCK_S
_FIVE_MINUTES: Final = 5 * _MINUTE
_FAILURES: Final = 20
"""Failures of stable in a minute that an outage has at least."""

_DEGRADED_RATIO: Final = 5.0
_DEGRADED_INCREASE: Final = 0.05
"""An outage has five times the share of failures before, and five percentage points more."""


def evaluate_baseline(
    plan: FrozenPlan,
    blocks: BlocksByEpoch,
    now_s: float,
    control: str = names.STABLE,
    arms: Sequence[str] = (names.CANARY,),
) -> BaselineHealth:
    """Evaluate the last minute of complete blocks of control, and the last five. This is no statistical test: a pause only costs time.

    `arms` are compared with control.
    """
    newest = int(now_s - GRACE_S) // BLOCK_S
    if _sum(control, blocks, newest - _FIVE_MINUTES - _MINUTE, newest).errors < _FAILURES:
        return HEALTHY
    present, *before = (_find_outage(plan, blocks, newest - ago, control, arms) for ago in range(_FIVE_MINUTES))
    return BaselineHealth(present, settled=present is None and not any(before))


def _find_outage(plan: FrozenPlan, blocks: BlocksByEpoch, end: int, control: str, arms: Sequence[str]) -> Cause | None:
    """Return why control is unfit as a baseline in the minute up to a block; None if it is fit."""
    stable, *others = (_sum(arm, blocks, end - _MINUTE, end) for arm in (control, *arms))
    if stable.errors < _FAILURES:
        return None
    failed, ceiling, before = stable.errors / stable.ended, _ceiling(plan), plan.error_rate
    text = f"{failed:.1%} of {control}'s requests failed in a minute"
    if ceiling is not None and failed > ceiling:
        for name, arm in zip(arms, others, strict=True):
            if arm.errors > ceiling * arm.ended:
                who = "the canary" if plan.comparison is None else f"arm {name}"
                found = f"{text} and {arm.errors / arm.ended:.1%} of {who}'s; max is {ceiling * 100:g} %"
                return Cause(PauseReason.CONTROL_UNHEALTHY, found)
    if before is not None and failed > max(_DEGRADED_RATIO * before, before + _DEGRADED_INCREASE):
        what = "rollout" if plan.comparison is None else "experiment"
        return Cause(PauseReason.CONTROL_DEGRADED, f"{text}, and {before:.2%} before the {what}")
    return None


def _sum(arm: str, blocks: BlocksByEpoch, begin: int, end: int) -> BlockCounts:
    return sum_arm_counts(
        arm, (each[number] for each in blocks.values() for number in range(begin, end) if number in each)
    )


def _ceiling(plan: FrozenPlan) -> float | None:
    return next((each.max for each in plan.guardrails if each.metric == ERROR_RATE), None)
