"""How two revisions share the replicas that a service needs, where there is no room for a candidate beside stable. Pure.

The candidate gets one replica after the other, each in the place of one of stable's, and traffic once it is ready: of a service that needs
n, an n-th of all. So stable lacks one replica at most of those that its traffic needs, while one of the candidate's starts, and with a
spare one none. It goes back in the same way. Weights are whole percents, which adds less than one percent of the service.
"""

import math
from dataclasses import dataclass

from sundog_operator.api import CAPACITY_IN_PLACE, CapacityStatus, PlanInPlace
from sundog_operator.core.rollout.replica_counts import canary_replicas


@dataclass(frozen=True, slots=True)
class ArmReplicas:
    """Replicas of each revision."""

    stable: int
    candidate: int


def in_place_from_capacity(capacity: CapacityStatus | None) -> PlanInPlace | None:
    """How a candidate shares stable's replicas, as the status says from its begin on; None where its own come on top."""
    if capacity is None or capacity.mode != CAPACITY_IN_PLACE:
        return None
    return PlanInPlace(spare=capacity.spare_replicas or 0)


def compute_replicas(needed: int, spare: int, weight: int, target: int) -> ArmReplicas:
    """Replicas that each is to have, while the candidate's weight in force is on its way to another, or is as it should be.

    `needed` are replicas for all traffic, `spare` those beyond them that there is room for; both weights are in percent. The candidate has
    what it is to get traffic for and one of its next at most, so that traffic follows before stable shrinks again.
    """
    wanted = canary_replicas(needed, max(weight, target))
    candidate = min(wanted, _borne_by(needed, weight) + 1, _most(needed, spare))
    own = stable_replicas(needed, min(weight, target))
    return ArmReplicas(stable=max(1, min(own, needed + spare - candidate)), candidate=candidate)


def reachable_weight(needed: int, spare: int, target: int, ready: int) -> int:
    """The weight that a candidate with so many ready replicas may have on its way to a target, in percent."""
    enough = min(canary_replicas(needed, target), _most(needed, spare))
    return target if ready >= enough else min(target, supported_weight(needed, ready))


def remaining_weight(needed: int, spare: int, weight: int, ready: int) -> int:
    """The weight that a candidate which gives its traffic back keeps, once stable has so many ready replicas, in percent.

    Without a spare replica the candidate's next one has to go before stable's can come, so its traffic goes first.
    """
    short = 0 if spare else 1
    return min(weight, supported_weight(needed, max(0, needed - ready - short)))


def stable_replicas(needed: int, weight: int) -> int:
    """Replicas that stable needs while the candidate has a weight."""
    return math.ceil(needed * (100 - weight) / 100)


def supported_weight(needed: int, ready: int) -> int:
    """The percent of the traffic that so many replicas bear."""
    return min(100, 100 * ready // max(needed, 1))


def _borne_by(needed: int, weight: int) -> int:
    """The most replicas that bear no more than a weight."""
    return min(needed, -(-needed * (weight + 1) // 100) - 1)


def _most(needed: int, spare: int) -> int:
    """Of the candidate: the last one needs the place of stable's last, which stays for as long as stable has traffic."""
    return max(1, min(needed, needed + spare - 1))
