"""Counts of each epoch, as the tests of metrics take them."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sundog_operator.api import (
    EvidenceEpoch,
    PlanGuardrail,
)
from sundog_operator.api.rollout.guardrail_defaults import ERROR_RATE, REJECTIONS, RETRIES
from sundog_operator.core.analysis import (
    counters,
    dispersion_sums,
    edge_reports,
    stable_traffic,
    unit_groups,
)
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.arm_pair import ArmPair, CollectedCounts, EvaluationLimits, decides
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.unit_groups import GroupCounts
from sundog_operator.core.analysis.unit_samples import UnitSamples
from sundog_operator.core.edge.reported_counts import EVENTS, SLOW
from sundog_operator.core.stats.guardrail_comparison import (
    EpochCounts,
    GroupedCounts,
    SampledUnits,
)
from sundog_operator.core.stats.sample_ratio import ArmSplit

_MAX_WITHOUT_UNIT: Final = 0.05
"""Share of requests without a unit up to which units alone are tested."""


@dataclass(frozen=True, slots=True)
class EpochComparison:
    """Counts of an epoch for gates and for the harm test. Each takes requests with an unknown outcome for the worse.

    Both use the counts in blocks, where the dispersion is known. Gates use blocks whose requests have ended; the harm test uses blocks
    whose time is over. Overdue requests count as failures at gates alone: they may still be answered, and harm is final.

    Attributes:
        gate: counts for gates.
        harm: counts for the harm test.
        split: all requests until now, by arm.
        unknown: requests of the arm that were lost, and those that still run after their timeout.
        lost_by_control: requests of control that were lost.
    """

    gate: EpochCounts
    harm: EpochCounts
    split: ArmSplit
    unknown: tuple[int, int] = (0, 0)
    lost_by_control: int = 0


def collect_epochs(
    pair: ArmPair,
    limits: EvaluationLimits,
    epochs: Sequence[EvidenceEpoch],
    shares: Sequence[float],
    collected: CollectedCounts,
) -> list[EpochComparison]:
    """Return the counts of a pair in each epoch of evidence; `shares` are the arm's shares of the pair's traffic."""
    late = counters.count_overdue_requests(
        collected.tallies.attempt, collected.reports, collected.now_s, collected.timeout_s
    )
    present = collected.present
    samples = _read_samples(pair, limits, epochs, collected)
    return [
        _make_comparison(
            pair, limits, each.number, share, collected.tallies, present, late.get((each.number, pair.arm), 0), samples
        )
        for each, share in zip(epochs, shares, strict=True)
    ]


def _read_samples(
    pair: ArmPair, limits: EvaluationLimits, epochs: Sequence[EvidenceEpoch], collected: CollectedCounts
) -> UnitSamples | None:
    """Return the samples of units if units alone can be tested: few requests have no unit, and the arm's units stay."""
    if not limits.tests_units or not limits.guardrails:
        return None
    tallies = collected.tallies
    groups = [unit_groups.sum_groups(tallies.groups, each.number, arm) for each in epochs for arm in pair.both]
    without_unit = sum(own[0][unit_groups.WITHOUT_UNIT] for own in groups)
    if without_unit > _MAX_WITHOUT_UNIT * sum(sum(own[0]) for own in groups):
        return None
    samples = collected.samples
    return samples and samples.only([each.number for each in epochs], pair.both)


def _make_comparison(
    pair: ArmPair,
    limits: EvaluationLimits,
    epoch: int,
    share: float,
    known: Counters,
    present: Collection[str],
    overdue: int,
    samples: UnitSamples | None,
) -> EpochComparison:
    until_now = [known.of(epoch, name, present) for name in pair.both]
    control, arm = until_now
    kinds = _event_kinds(limits.guardrails)
    by_unit = _count_by_unit(pair, kinds, epoch, known, until_now, overdue) if limits.has_sticky_units else None

    sampled = samples.of(epoch, pair.both, share, kinds) if samples is not None else None

    def make_counts(folded: dispersion_sums.EpochBlocks, failed_control: int, failed_arm: int) -> EpochCounts:
        blocks = [
            [(each.closed, *each.of(EVENTS.index(kind), pair.index)) for each in folded.lengths] for kind in kinds
        ]
        counts = folded.counts(pair.index)
        both = [_with_unknown_ends(*each) for each in zip(counts, until_now, (failed_control, failed_arm), strict=True)]
        requests = both[0].assigned, both[1].assigned
        events = [(int(getattr(both[0], kind)), int(getattr(both[1], kind))) for kind in kinds]
        # Units with many requests make the share of requests differ from the weight: compare rates by actual requests.
        weight = requests[1] / sum(requests) if limits.has_sticky_units and min(requests) else share
        units = _scale_units(sampled, kinds, both, until_now) if sampled is not None else None
        return EpochCounts(weight, requests, events, blocks, by_unit, units)

    none = dispersion_sums.EpochBlocks.empty(0, 1 + pair.index)
    gate = make_counts(known.folded.get(epoch, none), 0, arm.lost + overdue)
    harm = make_counts(known.ended_blocks.get(epoch, none), control.lost, 0)
    split = ArmSplit.of_two(share, (control.assigned, arm.assigned))
    return EpochComparison(gate, harm, split, (arm.lost, overdue), control.lost)


def _scale_units(
    sampled: SampledUnits, kinds: Sequence[str], tested: Sequence[ArmCounts], until_now: Sequence[ArmCounts]
) -> SampledUnits | None:
    """Scale the units' events to the rates of the tested counts; None where an arm's tested events are of no unit.

    Units count as requests end. Tested counts are of blocks whose dispersion is known, and take unknown outcomes for the worse.
    """
    factors = []
    for kind in kinds:
        control, arm = (_rate_factor(kind, counts, now) for counts, now in zip(tested, until_now, strict=True))
        if control is None or arm is None:
            return None
        factors.append((control, arm))
    return sampled.scale_events(factors)


def _rate_factor(kind: str, tested: ArmCounts, until_now: ArmCounts) -> float | None:
    """Return the tested rate of an event, divided by that of all ended requests; 1 without events, None with tested events alone."""
    events, ended = getattr(until_now, kind), until_now.assigned - until_now.running - until_now.lost
    if not events or not ended:
        return None if getattr(tested, kind) else 1.0
    return float(getattr(tested, kind) / max(tested.assigned, 1) / (events / ended))


def _with_unknown_ends(counts: ArmCounts, until_now: ArmCounts, failed: int) -> ArmCounts:
    """Add lost requests, which no block contains, and so many failures."""
    return counts._replace(assigned=counts.assigned + until_now.lost, errors=counts.errors + failed)


def _count_by_unit(
    pair: ArmPair, kinds: Sequence[str], epoch: int, known: Counters, until_now: Sequence[ArmCounts], overdue: int
) -> GroupedCounts:
    """Return the counts by unit group until now. Failures without a known group may all belong to one unit.

    They only show how much a unit's requests vary together. For that, counts that are newer than the tested ones do no harm.
    """
    by_arm = [unit_groups.sum_groups(known.groups, epoch, name) for name in pair.both]
    control, arm = (
        each._replace(errors=each.errors + each.lost + late) for each, late in zip(until_now, (0, overdue), strict=True)
    )
    events = [(EVENTS.index(kind), (int(getattr(control, kind)), int(getattr(arm, kind)))) for kind in kinds]
    return _make_grouped_counts(by_arm, (control.assigned, arm.assigned), events)


def _make_grouped_counts(
    arms: Sequence[GroupCounts], requests: tuple[int, int], events: Sequence[tuple[int, tuple[int, int]]]
) -> GroupedCounts:
    """Return the counts by unit group, from all requests of each arm and the events of each kind, by index in `EVENTS`."""

    def by_group(column: int, whole: tuple[int, int]) -> tuple[Sequence[int], Sequence[int]]:
        stable, canary = (_with_rest(arm[column], total) for arm, total in zip(arms, whole, strict=True))
        return stable, canary

    def without_unit(column: int) -> tuple[int, int]:
        stable, canary = (arm[column][unit_groups.WITHOUT_UNIT] for arm in arms)
        return stable, canary

    return GroupedCounts(
        requests=by_group(0, requests),
        events=[by_group(1 + kind, whole) for kind, whole in events],
        requests_without_unit=sum(without_unit(0)),
        events_without_unit=[without_unit(1 + kind) for kind, _ in events],
    )


def _with_rest(column: Sequence[int], whole: int) -> Sequence[int]:
    """Return the groups' counts, and the counts without a known group as one more: at worst they belong to one unit."""
    return (*column[: unit_groups.GROUPS], max(0, whole - sum(column)))


_RATES: Final[Mapping[str, str]] = {ERROR_RATE: "errors", REJECTIONS: "rejections", RETRIES: "retried"}


def _event_kinds(guardrails: Sequence[PlanGuardrail]) -> list[str]:
    """Return the event of each metric; each latency has its own."""
    slow = itertools.chain(SLOW, itertools.repeat(SLOW[-1]))
    return [_RATES.get(each.metric) or next(slow) for each in guardrails]


def later_than_allowed(
    pair: ArmPair, limits: EvaluationLimits, epochs: Sequence[EvidenceEpoch], collected: CollectedCounts
) -> dict[str, tuple[int, int]]:
    """Return, by latency with a maximum: (requests of the arm that may have taken longer, all its requests) in the newest gate epoch.

    A request may have taken longer unless it was answered in time or rejected. Edges count thresholds to the microsecond, other times by
    bucket, and not by block: so these are all requests until now. New slow requests only keep a gate closed.

    Buckets are not stored. The requests of processes that report no more are left out with their buckets, or all would seem to have taken
    longer. Those of an edge that does not answer are kept.
    """
    longest = {each.metric: each.max_microseconds for each in limits.guardrails if each.max_microseconds is not None}
    newest = next((each.number for each in reversed(epochs) if decides(limits, each)), 0)
    tallies, present = collected.tallies, collected.present
    kept = present | edge_reports.find_silent_sources(tallies.sources, collected.reports)
    sources = {source: rows for source, rows in tallies.sources.items() if source in kept}
    tally = replace(tallies, sources=sources).of(newest, pair.arm, present)
    return {
        metric: (
            max(
                0,
                tally.assigned
                - tally.rejections
                - stable_traffic.count_answers_within(
                    tallies.attempt, pair.arm, newest, collected.reports, microseconds
                ),
            ),
            tally.assigned,
        )
        for metric, microseconds in longest.items()
    }
