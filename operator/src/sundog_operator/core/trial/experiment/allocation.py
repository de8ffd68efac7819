"""Allocation of exposed units to arms: by fixed weights, or by weights that adapt to outcomes. Pure, without random draws.

Adaptive weights follow the first success metric. They change rarely: each change begins an epoch, and comparisons are made within epochs.
Sticky units count from their first exposure, as for every success metric.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sundog_operator.api import Allocation, parse_percent
from sundog_operator.core.stats import thompson_sampling
from sundog_operator.core.stats.outcome_counts import OutcomeEpoch, OutcomeMetric

TOTAL_SHARE: Final = 10_000
"""Sum of the shares as integers; equal to the number of buckets."""

_FLOOR: Final = "5%"
_DELTA: Final = 0.2
_MIN_UNITS: Final = 100
"""Units that each arm needs before the first change."""

_MIN_INTERVAL: Final = timedelta(hours=1)
_MAX_CHANGES: Final = 30
"""Most changes during an experiment; a status keeps about as many epochs."""

_MIN_SHARE_CHANGE: Final = 100
"""Smallest change of a share (of `TOTAL_SHARE`) for which weights change, which begins an epoch."""


@dataclass(frozen=True, slots=True)
class ThompsonRule:
    """Rule by which Thompson sampling changes weights.

    Attributes:
        floor: the smallest share of an active arm.
        delta: the share of the units that is spread evenly.
        min_interval: the shortest time between two changes.
    """

    floor: float
    delta: float
    min_interval: timedelta


def freeze_allocation(allocation: Allocation, max_duration: timedelta) -> ThompsonRule | None:
    """Return the rule to keep in the plan; None for fixed weights."""
    if allocation.mode == "fixed":
        return None
    return ThompsonRule(
        floor=parse_percent(allocation.floor or _FLOOR),
        delta=_DELTA if allocation.delta is None else allocation.delta,
        min_interval=max(_MIN_INTERVAL, max_duration / _MAX_CHANGES),
    )


def scale_to_buckets(shares: Sequence[int], buckets: int) -> tuple[int, ...]:
    """Convert shares of `TOTAL_SHARE` to numbers of the experiment's buckets."""
    return tuple(thompson_sampling.round_shares(shares, buckets))


def next_weights(
    thompson: ThompsonRule,
    metric: OutcomeMetric,
    metric_index: int,
    epochs: Sequence[OutcomeEpoch],
    out: Sequence[bool],
    since: timedelta,
) -> tuple[int, ...] | None:
    """Return the next shares of `TOTAL_SHARE`, control first; None if the present ones stay.

    Args:
        thompson: the rule.
        metric: the metric that shares follow.
        metric_index: index of the metric's outcomes in each epoch.
        epochs: all epochs; the newest is last, and its shares are in force.
        out: whether each arm, control first, was dropped.
        since: time since the newest epoch began.
    """
    if since < thompson.min_interval or not epochs:
        return None
    now = thompson_sampling.round_shares(epochs[-1].shares, TOTAL_SHARE)
    shares = thompson_sampling.next_shares(
        metric,
        [each.outcomes[metric_index] for each in epochs],
        [each.shares for each in epochs],
        out,
        floor=thompson.floor,
        delta=thompson.delta,
        least=_MIN_UNITS,
    )
    if shares is None:
        return None
    wanted = thompson_sampling.round_shares(shares, TOTAL_SHARE)
    if max(abs(new - old) for new, old in zip(wanted, now, strict=True)) < _MIN_SHARE_CHANGE:
        return None
    return tuple(wanted)
