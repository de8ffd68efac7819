"""What of an experiment was to be counted and was not: lines of requests, and what a store of outcomes had no room for. Pure.

A unit that stays is exposed by the first line of it, so a lost line may be a unit that is missing. That is so in all arms alike if
nothing is wrong, and then says nothing of them. A share q that one arm alone has lost makes its rate wrong by q. So 1 % may be missing:
evidence for effects of 5 % ends where chance moves a ratio by about as much, and the check of the split finds units that one arm lacks
more of. Nor does it matter while no more is missing than the square root of what was counted, by which chance moves the number of units
of an arm: a killed agent loses that much in the first minutes.

All is compared with what was counted since the evidence began, so any loss heals as more is counted. Arms that are out are left aside,
for theirs would not. Rows have what was lost of each arm; what edges tell of gaps and of lines that were dropped is of all their
services, and is in these rows as well. What an edge does not tell while it is away is no loss.
"""

import math
from collections.abc import Iterator
from typing import Final

from sundog_operator.api import CONTROL, ExperimentStatus
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.arm_pair import CollectedCounts
from sundog_operator.core.analysis.feedback import FeedbackSums
from sundog_operator.core.edge import units
from sundog_operator.core.experiments import state

REQUESTS_LOST: Final = "RequestsLost"
OVERFLOW: Final = "FeedbackOverflow"

MAX_LOST_SHARE: Final = 0.01
"""The share of what was to be counted that may be missing, however much that is."""

_MANY: Final = 0.1
"""The share of outcomes of no unit that is told: some are of those who came before the experiment, or of others."""

_UNTIL: Final = "nothing is won before that is less of all that was counted"


def find_data_loss(status: ExperimentStatus, seen: CollectedCounts) -> tuple[str, str] | None:
    """(reason, message) of why nothing may be won by what was counted; None where enough was."""
    if lost := _of_lines(status, seen):
        return REQUESTS_LOST, lost
    if lost := _of_outcomes(status, seen.tallies.feedback):
        return OVERFLOW, lost
    return None


def report_unknown_units(seen: CollectedCounts) -> str:
    """How many outcomes are of no unit that is known, where that is worth a look; empty where it is not.

    They say nothing of the arms, and whoever reports outcomes can make as many as he likes: nothing waits for them to be fewer.
    """
    sums = seen.tallies.feedback
    counted = sum(own.units for own in sums.outcomes.values())
    if sums.unknown <= _MANY * (counted + sums.unknown):
        return ""
    return (
        f"{sums.unknown} outcomes are of no unit that was exposed, and count nowhere,"
        f" beside {counted} units with one that counts"
    )


def _is_much(lost: int, of: int) -> bool:
    return lost > max(MAX_LOST_SHARE * of, math.sqrt(of))


def _share(lost: int, of: int) -> str:
    return f"{100 * lost / of:.3g} %, and {100 * MAX_LOST_SHARE:g} % may be missing"


def _of_lines(status: ExperimentStatus, seen: CollectedCounts) -> str:
    much = [(arm, own) for arm, own in _requests(status, seen) if _is_much(own.lost, own.assigned)]
    if not much:
        return ""
    arm, own = max(much, key=lambda each: each[1].lost / each[1].assigned)
    return (
        f"of {own.assigned} requests of {arm} nobody knows how {own.lost} have ended ({_share(own.lost, own.assigned)}): their lines"
        f" were lost, and with them units that came first; {_UNTIL}"
    )


def _requests(status: ExperimentStatus, seen: CollectedCounts) -> Iterator[tuple[str, ArmCounts]]:
    """Of control and of each arm that goes on, those of its evidence."""
    present = seen.present
    epochs = [each.number for each in status.evidence_epochs if not each.troubled]
    for arm in (CONTROL, *(each.name for each in state.active_arms(status))):
        total = ArmCounts()
        for number in epochs:
            total = total.plus(seen.tallies.of(number, arm, present))
        yield arm, total


def _of_outcomes(status: ExperimentStatus, sums: FeedbackSums) -> str:
    exposed = sum(sums.exposed.values())
    if units.is_sticky(status.plan) and exposed >= state.max_first_exposures(status):
        # It has its units, and is about to end: those that came later count in no arm, whatever comes of them.
        return ""
    counted = exposed + sum(own.units for own in sums.outcomes.values())
    if not _is_much(sums.overflow, counted + sums.overflow):
        return ""
    return (
        f"there was no room for {sums.overflow} exposures and outcomes beside {counted} units that count"
        f" ({_share(sums.overflow, counted + sums.overflow)}): what came later is missing; {_UNTIL}"
    )
