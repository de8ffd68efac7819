"""Whether stable is fit to be compared with. What fails both arms, such as a database that is away, tells nothing of a candidate. Pure."""

from collections.abc import Sequence
from typing import Final

from sundog_operator.api import FrozenPlan
from sundog_operator.core.analysis.blocks import BLOCK_S, GRACE_S, BlockCounts, BlocksByEpoch, sum_arm_counts
from sundog_operator.core.kubernetes import names
from sundog_operator.core.rollout.evaluation import CONTROL_DEGRADED, CONTROL_UNHEALTHY, HEALTHY, BaselineHealth
from sundog_operator.core.rollout.resolve import ERROR_RATE

_MINUTE: Final = 60 // BLOCK_S
_FIVE_MINUTES: Final = 5 * _MINUTE
_FAILURES: Final = 20
"""Of stable in a minute, before anything is said of it: fewer are no outage."""

_TIMES: Final = 5.0
_MORE: Final = 0.05
"""Stable is much worse than before with five times the share of failures, and five percent of all requests more."""


def evaluate_baseline(
    plan: FrozenPlan,
    blocks: BlocksByEpoch,
    now_s: float,
    control: str = names.STABLE,
    arms: Sequence[str] = (names.CANARY,),
) -> BaselineHealth:
    """What the last minute of blocks that are over says of control, and the last five. It is no test: a pause costs no more than time.

    `arms` are those that are compared with it.
    """
    newest = int(now_s - GRACE_S) // BLOCK_S
    if _sum(control, blocks, newest - _FIVE_MINUTES - _MINUTE, newest).errors < _FAILURES:
        return HEALTHY
    (reason, message), *before = (_minute(plan, blocks, newest - ago, control, arms) for ago in range(_FIVE_MINUTES))
    return BaselineHealth(reason, message, settled=not reason and not any(reason for reason, _ in before))


def _minute(plan: FrozenPlan, blocks: BlocksByEpoch, end: int, control: str, arms: Sequence[str]) -> tuple[str, str]:
    stable, *others = (_sum(arm, blocks, end - _MINUTE, end) for arm in (control, *arms))
    if stable.errors < _FAILURES:
        return "", ""
    failed, ceiling, before = stable.errors / stable.ended, _ceiling(plan), plan.error_rate
    told = f"{failed:.1%} of {control}'s requests failed in a minute"
    if ceiling is not None and failed > ceiling:
        for name, arm in zip(arms, others, strict=True):
            if arm.errors > ceiling * arm.ended:
                who = "the candidate" if plan.comparison is None else f"arm {name}"
                found = f"{told} and {arm.errors / arm.ended:.1%} of {who}'s, where max is {ceiling * 100:g} %"
                return CONTROL_UNHEALTHY, found
    if before is not None and failed > max(_TIMES * before, before + _MORE):
        return (
            CONTROL_DEGRADED,
            f"{told}, and {before:.2%} before the {'rollout' if plan.comparison is None else 'experiment'}",
        )
    return "", ""


def _sum(arm: str, blocks: BlocksByEpoch, begin: int, end: int) -> BlockCounts:
    return sum_arm_counts(
        arm, (each[number] for each in blocks.values() for number in range(begin, end) if number in each)
    )


def _ceiling(plan: FrozenPlan) -> float | None:
    return next((each.max for each in plan.guardrails if each.metric == ERROR_RATE), None)
