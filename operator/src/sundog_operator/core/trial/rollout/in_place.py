"""Replicas of an in-place rollout: two revisions share the replicas of a service without capacity for a canary beside stable. Pure.

The canary gets one replica after the other, each in place of one of stable's, and then its traffic: 1/n of all if the service needs n.
While a canary replica starts, stable lacks at most one replica for its traffic; with a spare replica it lacks none. A rollback works in
the same way. Weights are whole percents, which adds less than one percent of the service.
"""

import math
from dataclasses import dataclass

from sundog_operator.api import CAPACITY_IN_PLACE, CapacityStatus, PlanInPlace
from sundog_operator.core.trial.replica_counts import canary_replicas


@dataclass(frozen=True, slots=True)
class ArmReplicas:
    """Replicas of each revision."""

    stable: int
    candidate: int


def in_place_from_capacity(capacity: CapacityStatus | None) -> PlanInPlace | None:
    """Return how the canary shares stable's replicas, from the status; None if its replicas are additional."""
    if capacity is None or capacity.mode != CAPACITY_IN_PLACE:
        return None
    return PlanInPlace(spare=capacity.spare_replicas or 0)


def compute_replicas(needed: int, spare: int, weight: int, target: int) -> ArmReplicas:
    """Return the replicas of each revision while the canary's weight moves to a target, or stays.

    `needed` are replicas for all traffic, `spare` are those beyond them that the cluster has capacity for. Both weights are in percent.
    The canary has the replicas for its traffic and at most one more, so that traffic follows before stable shrinks again.
    """
    wanted = canary_replicas(needed, max(weight, target))
    candidate = min(wanted, _replicas_within(needed, weight) + 1, _max_canary_replicas(needed, spare))
    own = stable_replicas(needed, min(weight, target))
    return ArmReplicas(stable=max(1, min(own, needed + spare - candidate)), candidate=candidate)


def reachable_weight(needed: int, spare: int, target: int, ready: int) -> int:
    """Return the weight that a canary with so many ready replicas may have on its way to a target, in percent."""
    enough = min(canary_replicas(needed, target), _max_canary_replicas(needed, spare))
    return target if ready >= enough else min(target, supported_weight(needed, ready))


def remaining_weight(needed: int, spare: int, weight: int, ready: int) -> int:
    """Return the weight that the canary keeps while its traffic returns to stable, in percent; `ready` are replicas of stable.

    Without a spare replica, the canary's next replica must end before stable's can start, so its traffic moves first.
    """
    short = 0 if spare else 1
    return min(weight, supported_weight(needed, max(0, needed - ready - short)))


def stable_replicas(needed: int, weight: int) -> int:
    """Return the replicas that stable needs while the canary has a weight."""
    return math.ceil(needed * (100 - weight) / 100)


def supported_weight(needed: int, ready: int) -> int:
    """Return the percent of traffic that so many replicas can serve."""
    return min(100, 100 * ready // max(needed, 1))


def _replicas_within(needed: int, weight: int) -> int:
    """Return the most replicas that can serve no more than a weight."""
    return min(needed, -(-needed * (weight + 1) // 100) - 1)


def _max_canary_replicas(needed: int, spare: int) -> int:
    """Return the limit of canary replicas. The last one needs the place of stable's last, which stays while stable has traffic."""
    return max(1, min(needed, needed + spare - 1))
