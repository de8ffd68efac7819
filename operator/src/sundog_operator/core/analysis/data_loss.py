"""Lost data of a comparison: log lines of requests, and outcomes without space in a store or with an impossible time. Pure.

A sticky unit is exposed by its first log line, so a lost line may be a missing unit. If lines are lost in all arms alike, the comparison
stays fair. If one arm alone loses a share q, its rate is wrong by q. So 1 % may be missing. Tests for effects of 5 % end where random
variation moves a ratio by about 1 %. The sample-ratio test detects larger losses of one arm. Losses up to the square root of the counts are
also allowed, because units per arm vary that much by chance. A killed agent loses that much in the first minutes.

Losses are compared with everything since the evidence began, so any loss becomes negligible as more is counted. Dropped arms are ignored,
because theirs would not. Rows have each arm's losses. Edges report gaps and dropped lines for all their services; these are in the rows
too. Counts that an unreachable edge has not reported yet are not lost.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from sundog_operator.api.reasons import Cause, ExperimentReason
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.arm_pair import CollectedCounts
from sundog_operator.core.analysis.feedback import FeedbackSums, feedback_of_sums

MAX_LOST_SHARE: Final = 0.01
"""Share of the data that may be missing."""

_MANY: Final = 0.1
"""Share of ignored outcomes that is reported. Some belong to earlier exposures or to other experiments."""


def find_data_loss(
    collected: CollectedCounts, arms: Sequence[str], epochs: Sequence[int], *, until: str, has_all_units: bool = False
) -> Cause | None:
    """Return why too much data is missing for a decision; None where enough is there.

    Args:
        collected: the collected counts.
        arms: the compared arms.
        epochs: the epochs of evidence.
        until: the part of the sentence that says what waits, such as "no arm can win".
        has_all_units: whether no further unit is wanted, so that those without space do not matter.
    """
    until = f"{until} until the missing share is below the limit"
    if lost := _describe_lost_lines(collected, arms, epochs, until):
        return Cause(ExperimentReason.REQUESTS_LOST, lost)
    if not has_all_units and (lost := _describe_overflow(collected.tallies.feedback, until)):
        return Cause(ExperimentReason.FEEDBACK_OVERFLOW, lost)
    if lost := _describe_undelayed(collected.tallies.feedback, until):
        return Cause(ExperimentReason.EDGE_OUTDATED, lost)
    if lost := _describe_clock_skew(collected.tallies.feedback, until):
        return Cause(ExperimentReason.CLOCK_SKEW, lost)
    return None


def report_ignored_outcomes(collected: CollectedCounts) -> str:
    """Return a sentence about outcomes that can belong to no compared unit, where they are many; empty otherwise.

    Callers may report every outcome that they have, also those of other units and times. So these never block a decision.
    """
    sums = collected.tallies.feedback
    counted = _count_units_with_outcomes(sums)
    ignored = {
        "belong to no exposed unit": sums.unknown,
        "are of an ended attempt, from before the first exposure of their unit, or from more than 30 days after it": max(
            sums.late - sums.early, 0
        ),
    }
    many = [f"{count} outcomes {what} and are ignored" for what, count in ignored.items() if _is_many(count, counted)]
    return "; ".join([*many, f"{counted} units have an outcome that counts"]) if many else ""


def _is_many(ignored: int, counted: int) -> bool:
    return ignored > _MANY * (counted + ignored)


def _count_units_with_outcomes(sums: FeedbackSums) -> int:
    # Sums of the same feedback, with and without caps, have the same units.
    counted: dict[tuple[str, int, str], int] = {}
    for (name, epoch, arm), own in sums.outcomes.items():
        key = (feedback_of_sums(name), epoch, arm)
        counted[key] = max(counted.get(key, 0), own.units)
    return sum(counted.values())


def _exceeds_limit(lost: int, of: int) -> bool:
    return lost > max(MAX_LOST_SHARE * of, math.sqrt(of))


def _format_share(lost: int, of: int) -> str:
    return f"{100 * lost / of:.3g} %, limit {100 * MAX_LOST_SHARE:g} %"


def _describe_lost_lines(collected: CollectedCounts, arms: Sequence[str], epochs: Sequence[int], until: str) -> str:
    losses = [(arm, own) for arm, own in _requests(collected, arms, epochs) if _exceeds_limit(own.lost, own.assigned)]
    if not losses:
        return ""
    arm, own = max(losses, key=lambda each: each[1].lost / each[1].assigned)
    return (
        f"{own.lost} of {own.assigned} requests of {arm} have no known outcome ({_format_share(own.lost, own.assigned)}): their log lines"
        f" were lost, and with them first exposures; {until}"
    )


def _requests(
    collected: CollectedCounts, arms: Sequence[str], epochs: Sequence[int]
) -> Iterator[tuple[str, ArmCounts]]:
    """Yield the evidence's counts of each arm."""
    present = collected.present
    for arm in arms:
        total = ArmCounts()
        for number in epochs:
            total = total.plus(collected.tallies.of(number, arm, present))
        yield arm, total


def _describe_overflow(sums: FeedbackSums, until: str) -> str:
    counted = sum(sums.exposed.values()) + _count_units_with_outcomes(sums)
    if not _exceeds_limit(sums.overflow, counted + sums.overflow):
        return ""
    return (
        f"the feedback store had no space for {sums.overflow} exposures and outcomes beside {counted} units"
        f" ({_format_share(sums.overflow, counted + sums.overflow)}): later ones are missing; {until}"
    )


def _describe_undelayed(sums: FeedbackSums, until: str) -> str:
    counted = sum(sums.exposed.values()) + max(sums.accepted, _count_units_with_outcomes(sums))
    if not _exceeds_limit(sums.undelayed, counted):
        return ""
    return (
        f"edges of an earlier release took {sums.undelayed} of {counted} exposures and outcomes"
        f" ({_format_share(sums.undelayed, counted)}): they count for no metric with `after`; {until}. Upgrade the edges"
    )


def _describe_clock_skew(sums: FeedbackSums, until: str) -> str:
    """Return a sentence about outcomes whose time is impossible; empty where they are few.

    Arms whose outcomes come sooner lose more of them, so the arms' rates are not comparable.
    """
    lost, counted = sums.early + sums.future, max(sums.accepted, _count_units_with_outcomes(sums))
    if not _exceeds_limit(lost, counted + lost):
        return ""
    return (
        f"{sums.early} outcomes are timed before the exposure that they name, and {sums.future} in the future, beside {counted} that count"
        f" ({_format_share(lost, counted + lost)}): a clock of a caller or an edge is wrong; {until}."
        " Correct that clock, or report outcomes without a time"
    )
