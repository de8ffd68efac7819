"""Counts of each epoch as the tests of metrics take them."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sundog_operator.api import (
    EvidenceEpoch,
    PlanGuardrail,
)
from sundog_operator.core.analysis import (
    counters,
    dispersion_sums,
    stable_traffic,
    unit_groups,
)
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.arm_pair import ArmPair, CollectedCounts, EvaluationLimits, decides
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.unit_groups import GroupCounts
from sundog_operator.core.edge.reported_counts import EVENTS, SLOW
from sundog_operator.core.rollout.resolve import (
    ERROR_RATE,
    REJECTIONS,
    RETRIES,
)
from sundog_operator.core.stats.guardrail_test import (
    ArmSplit,
    EpochCounts,
    GroupedCounts,
)


@dataclass(frozen=True, slots=True)
class EpochComparison:
    """An epoch as gates see it, and as the test of harm does: what became of a request that nobody knows of is taken for the worse.

    Both see what lies in blocks, by which it is known how events come together: gates in those whose requests have ended, harm in those
    that are over. Requests that run on although their time is over fail at gates alone: they may still be answered, and harm is not taken
    back.

    Attributes:
        split: how all requests until now fell to the arms.
        unknown: of how many requests of the arm nobody knows how they ended, and how many run on although their time is over.
    """

    gate: EpochCounts
    harm: EpochCounts
    split: ArmSplit
    unknown: tuple[int, int] = (0, 0)


def collect_epochs(
    pair: ArmPair,
    limits: EvaluationLimits,
    epochs: Sequence[EvidenceEpoch],
    shares: Sequence[float],
    seen: CollectedCounts,
) -> list[EpochComparison]:
    """What was counted of a pair in epochs of evidence, in each of which the arm was to get such a share of what both get."""
    late = counters.count_overdue_requests(seen.tallies.attempt, seen.reports, seen.now_s, seen.timeout_s)
    present = seen.present
    return [
        _compared(pair, limits, each.number, share, seen.tallies, present, late.get((each.number, pair.arm), 0))
        for each, share in zip(epochs, shares, strict=True)
    ]


def _compared(
    pair: ArmPair,
    limits: EvaluationLimits,
    epoch: int,
    share: float,
    known: Counters,
    present: Collection[str],
    overdue: int,
) -> EpochComparison:
    until_now = [known.of(epoch, name, present) for name in pair.both]
    control, arm = until_now
    kinds = _kinds(limits.guardrails)
    by_unit = _units_of(pair, kinds, epoch, known, until_now, overdue) if limits.has_sticky_units else None

    def made(folded: dispersion_sums.EpochBlocks, failed_control: int, failed_arm: int) -> EpochCounts:
        blocks = [
            [(each.closed, *each.of(EVENTS.index(kind), pair.place)) for each in folded.lengths] for kind in kinds
        ]
        counts = folded.counts(pair.place)
        both = [_with_unknown_ends(*each) for each in zip(counts, until_now, (failed_control, failed_arm), strict=True)]
        requests = both[0].assigned, both[1].assigned
        events = [(int(getattr(both[0], kind)), int(getattr(both[1], kind))) for kind in kinds]
        # Who asks often draws a share of requests that is not the weight: rates are compared by the requests that came.
        weight = requests[1] / sum(requests) if limits.has_sticky_units and min(requests) else share
        return EpochCounts(weight, requests, events, blocks, by_unit)

    none = dispersion_sums.EpochBlocks.begun(0, 1 + pair.place)
    gate = made(known.folded.get(epoch, none), 0, arm.lost + overdue)
    harm = made(known.over.get(epoch, none), control.lost, 0)
    return EpochComparison(gate, harm, ArmSplit.of_two(share, (control.assigned, arm.assigned)), (arm.lost, overdue))


def _with_unknown_ends(counts: ArmCounts, until_now: ArmCounts, failed: int) -> ArmCounts:
    """What blocks have, and what was lost, which no block has; so many requests are taken for failures."""
    return counts._replace(assigned=counts.assigned + until_now.lost, errors=counts.errors + failed)


def _units_of(
    pair: ArmPair, kinds: Sequence[str], epoch: int, known: Counters, until_now: Sequence[ArmCounts], overdue: int
) -> GroupedCounts:
    """What is known by group of units until now, with failures of which nobody knows the group: they may all be one unit's.

    It only tells how much a unit's requests vary together, for which newer counts than those that are judged do no harm.
    """
    by_arm = [unit_groups.sum_groups(known.groups, epoch, name) for name in pair.both]
    control, arm = (
        each._replace(errors=each.errors + each.lost + late) for each, late in zip(until_now, (0, overdue), strict=True)
    )
    events = [(EVENTS.index(kind), (int(getattr(control, kind)), int(getattr(arm, kind)))) for kind in kinds]
    return _by_unit(by_arm, (control.assigned, arm.assigned), events)


def _by_unit(
    arms: Sequence[GroupCounts], requests: tuple[int, int], events: Sequence[tuple[int, tuple[int, int]]]
) -> GroupedCounts:
    """What is known by group of units, given all requests of each arm and all events of each kind, which has that place in `EVENTS`."""

    def split(column: int, whole: tuple[int, int]) -> tuple[Sequence[int], Sequence[int]]:
        stable, canary = (_with_rest(arm[column], all_) for arm, all_ in zip(arms, whole, strict=True))
        return stable, canary

    def alone(column: int) -> tuple[int, int]:
        stable, canary = (arm[column][unit_groups.WITHOUT_UNIT] for arm in arms)
        return stable, canary

    return GroupedCounts(
        requests=split(0, requests),
        events=[split(1 + kind, whole) for kind, whole in events],
        requests_without_unit=sum(alone(0)),
        events_without_unit=[alone(1 + kind) for kind, _ in events],
    )


def _with_rest(column: Sequence[int], whole: int) -> Sequence[int]:
    """The groups' counts and, as those of a last one, what nobody knows the group of: at worst all of it was one unit's."""
    return (*column[: unit_groups.GROUPS], max(0, whole - sum(column)))


_RATES: Final[Mapping[str, str]] = {ERROR_RATE: "errors", REJECTIONS: "rejections", RETRIES: "retried"}


def _kinds(guardrails: Sequence[PlanGuardrail]) -> list[str]:
    """Which of the events that are told apart each metric is about: of latencies each has its own."""
    slow = itertools.chain(SLOW, itertools.repeat(SLOW[-1]))
    return [_RATES.get(each.metric) or next(slow) for each in guardrails]


def later_than_allowed(
    pair: ArmPair, limits: EvaluationLimits, epochs: Sequence[EvidenceEpoch], seen: CollectedCounts
) -> dict[str, tuple[int, int]]:
    """By latency with a longest time, how many of the arm's requests of the newest epoch of gates may have taken longer, and of how many.

    All do that are not known to have been answered in time or rejected: edges count thresholds to the microsecond, other times by bucket.
    Times are not told by block, so this is of all requests until now; what is late and new only keeps a gate shut.
    """
    longest = {each.metric: each.max_microseconds for each in limits.guardrails if each.max_microseconds is not None}
    newest = next((each.number for each in reversed(epochs) if decides(limits, each)), 0)
    tally, attempt = seen.tallies.of(newest, pair.arm, seen.present), seen.tallies.attempt
    return {
        metric: (
            max(
                0,
                tally.assigned
                - tally.rejections
                - stable_traffic.count_answers_within(attempt, pair.arm, newest, seen.reports, microseconds),
            ),
            tally.assigned,
        )
        for metric, microseconds in longest.items()
    }
