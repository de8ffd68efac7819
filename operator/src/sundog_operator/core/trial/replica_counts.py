"""Replicas that a canary or an arm needs, and the load of its replicas relative to stable's."""

import math
from typing import Final

from sundog_operator.api import PlanStep
from sundog_operator.core.edge.buckets import BUCKETS

MAX_COMPARABLE_RATIO: Final = 1.2
"""Limit of the load ratio between replicas of two arms up to which their latencies are compared."""


def canary_replicas(replicas: int, weight: int) -> int:
    """Return ceil(replicas · weight / 100), at least 1.

    Round up, because a canary with too few replicas looks slow only for that.
    """
    return max(1, math.ceil(replicas * weight / 100))


def step_replicas(step: PlanStep, replicas: int) -> int:
    """Return the replicas that a step needs of the canary, if all traffic needs `replicas`.

    Before an evidence gate, a canary replica gets no more traffic than one of stable, or it would look slow only for that.
    `scale` may ask for more replicas, up to those for all traffic.
    """
    least = max(canary_replicas(replicas, step.weight), min(replicas, _scale_replicas(step, replicas)))
    if step.shadow is not None:
        # Copies are additional to its own share.
        share = step.weight + math.ceil(step.shadow.percent * (100 - step.weight) / 100)
        return max(least, min(replicas, canary_replicas(replicas, share)))
    if step.gate != "evidence" or step.weight >= 100:
        return least
    return min(replicas, max(least, math.ceil(replicas * step.weight / (100 - step.weight))))


def _scale_replicas(step: PlanStep, replicas: int) -> int:
    if step.replicas is not None:
        return step.replicas
    return 0 if step.replicas_percent is None else canary_replicas(replicas, step.replicas_percent)


def describe_scale(step: PlanStep) -> str:
    """Describe the replicas that a step asks for, such as `2 replicas` or `50 % of the replicas`; empty if it asks for none."""
    if step.replicas is not None:
        return f"{step.replicas} replica{'s' if step.replicas > 1 else ''}"
    return "" if step.replicas_percent is None else f"{step.replicas_percent} % of the replicas"


def arm_replicas(replicas: int, buckets: int, of_stable: int) -> int:
    """Return the replicas of an arm with so many buckets beside stable, which has the other buckets and enough replicas for all traffic.

    As for a canary, a replica of the arm gets no more traffic than one of stable, if that is possible.
    """
    least = math.ceil(replicas * buckets / BUCKETS)
    equal_load = math.ceil(replicas * buckets / of_stable) if of_stable else replicas
    return max(1, min(replicas, max(least, equal_load)))


def pool_load_ratio(buckets: int, arm: int, of_stable: int, stable: int) -> float:
    """Return the load of an arm's replica relative to one of stable, from buckets and replicas of each; NaN if one has none."""
    if not arm or not stable or not buckets or not of_stable:
        return math.nan
    return (buckets / arm) / (of_stable / stable)


def is_comparable(ratio: float) -> bool:
    """Whether replicas of two arms have about the same load; false for NaN."""
    return 1 / MAX_COMPARABLE_RATIO <= ratio <= MAX_COMPARABLE_RATIO


def load_ratio(weight: int, stable: int, canary: int) -> float:
    """Return the load of a canary replica relative to one of stable at a weight in percent; NaN if an arm has no replica or traffic."""
    if not stable or not canary or weight in (0, 100):
        return math.nan
    return (weight / canary) / ((100 - weight) / stable)
