"""How many replicas a candidate needs, and how much each of them has to do beside one of stable."""

import math
from typing import Final

from sundog_operator.api import PlanStep
from sundog_operator.core.edge.buckets import BUCKETS

MAX_COMPARABLE_RATIO: Final = 1.2
"""How many times the load of one arm's replicas may be that of the other's, for their latencies to be compared."""


def canary_replicas(replicas: int, weight: int) -> int:
    """ceil(replicas · weight / 100), at least 1.

    Rounds up: a canary short of its share would look slow for the wrong reason.
    """
    return max(1, math.ceil(replicas * weight / 100))


def step_replicas(step: PlanStep, replicas: int) -> int:
    """Replicas that a step needs of the candidate, where all traffic needs so many.

    Before a gate of evidence a replica of the candidate gets no more than one of stable: else it would look slow for that alone. A scale
    may ask for more, and for no more than all traffic needs.
    """
    least = max(canary_replicas(replicas, step.weight), min(replicas, _scaled(step, replicas)))
    if step.shadow is not None:
        # Copies come on top of its own share.
        share = step.weight + math.ceil(step.shadow.percent * (100 - step.weight) / 100)
        return max(least, min(replicas, canary_replicas(replicas, share)))
    if step.gate != "evidence" or step.weight >= 100:
        return least
    return min(replicas, max(least, math.ceil(replicas * step.weight / (100 - step.weight))))


def _scaled(step: PlanStep, replicas: int) -> int:
    if step.replicas is not None:
        return step.replicas
    return 0 if step.replicas_percent is None else canary_replicas(replicas, step.replicas_percent)


def describe_scale(step: PlanStep) -> str:
    """What a step asks for by itself, such as `2 replicas` or `50 % of the replicas`; empty where it asks for none."""
    if step.replicas is not None:
        return f"{step.replicas} replica{'s' if step.replicas > 1 else ''}"
    return "" if step.replicas_percent is None else f"{step.replicas_percent} % of the replicas"


def arm_replicas(replicas: int, buckets: int, of_stable: int) -> int:
    """Replicas of an arm with so many buckets beside stable, which has those that are left and enough replicas for all traffic.

    As of a candidate: a replica of the arm gets no more than one of stable, as far as there can be that few.
    """
    least = math.ceil(replicas * buckets / BUCKETS)
    alike = math.ceil(replicas * buckets / of_stable) if of_stable else replicas
    return max(1, min(replicas, max(least, alike)))


def pool_load_ratio(buckets: int, arm: int, of_stable: int, stable: int) -> float:
    """Load of a replica of an arm by that of one of stable, given the buckets and replicas of each; NaN where one has none."""
    if not arm or not stable or not buckets or not of_stable:
        return math.nan
    return (buckets / arm) / (of_stable / stable)


def load_ratio(weight: int, stable: int, canary: int) -> float:
    """Load of a replica of the candidate at that weight in percent, by that of one of stable; NaN where an arm has none, or no traffic."""
    if not stable or not canary or weight in (0, 100):
        return math.nan
    return (weight / canary) / ((100 - weight) / stable)
