"""How many replicas a candidate needs, and how much each of them has to do beside one of stable."""

import math
from typing import Final

from sundog_operator.api import PlanStep

EQUAL: Final = 1.2
"""How many times the load of one arm's replicas may be that of the other's, for their latencies to be compared."""


def canary_replicas(replicas: int, weight: int) -> int:
    """ceil(replicas · weight / 100), at least 1.

    Rounds up: a canary short of its share would look slow for the wrong reason.
    """
    return max(1, math.ceil(replicas * weight / 100))


def step_replicas(step: PlanStep, replicas: int) -> int:
    """Replicas that a step needs of the candidate, where all traffic needs so many.

    Before a gate of evidence a replica of the candidate gets no more than one of stable: else it would look slow for that alone.
    """
    least = canary_replicas(replicas, step.weight)
    if step.gate != "evidence" or step.weight >= 100:
        return least
    return min(replicas, max(least, math.ceil(replicas * step.weight / (100 - step.weight))))


def ratio(weight: int, stable: int, canary: int) -> float:
    """Load of a replica of the candidate at that weight in percent, by that of one of stable; NaN where an arm has none, or no traffic."""
    if not stable or not canary or weight in (0, 100):
        return math.nan
    return (weight / canary) / ((100 - weight) / stable)
