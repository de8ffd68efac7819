"""How the exposed units are shared among arms: fixed, or towards the better arm as outcomes come in. Pure: nothing is drawn.

Weights follow the first success metric. They change once in a while only: each change is an epoch, and within one all comparisons are made.
With units that come back first exposures alone count, as for every success metric.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sundog_operator.api import Allocation, parse_percent
from sundog_operator.core.stats import adaptive_allocation
from sundog_operator.core.stats.outcome_counts import OutcomeEpoch, OutcomeMetric

TOTAL_SHARE: Final = 10_000
"""Of which a share is a whole number: as many as there are buckets."""

_FLOOR: Final = "5%"
_DELTA: Final = 0.2
_LEAST_UNITS: Final = 100
"""Of each arm, before anything moves."""

_LEAST_PACE: Final = timedelta(hours=1)
_MOST_CHANGES: Final = 30
"""In the time that an experiment has: so many epochs are kept with it, and some more."""

_LEAST_MOVE: Final = 100
"""Of `WHOLE`: for less no epoch begins."""


@dataclass(frozen=True, slots=True)
class ThompsonRule:
    """How weights move.

    Attributes:
        floor: the least share of an arm that is in.
        delta: the share of the units that falls to all arms alike.
        pace: how long weights stay at least.
    """

    floor: float
    delta: float
    pace: timedelta


def freeze_allocation(allocation: Allocation, max_duration: timedelta) -> ThompsonRule | None:
    """As a plan has it; None where weights are fixed."""
    if allocation.mode == "fixed":
        return None
    return ThompsonRule(
        floor=parse_percent(allocation.floor or _FLOOR),
        delta=_DELTA if allocation.delta is None else allocation.delta,
        pace=max(_LEAST_PACE, max_duration / _MOST_CHANGES),
    )


def scale_to_buckets(shares: Sequence[int], buckets: int) -> tuple[int, ...]:
    """Shares of `WHOLE` in so many buckets, which are the experiment's."""
    return tuple(adaptive_allocation.round_shares(shares, buckets))


def next_weights(
    thompson: ThompsonRule,
    metric: OutcomeMetric,
    place: int,
    epochs: Sequence[OutcomeEpoch],
    out: Sequence[bool],
    since: timedelta,
) -> tuple[int, ...] | None:
    """The next shares of `WHOLE`, control first; None while those in force stay.

    Args:
        thompson: how they move.
        metric: that they follow.
        place: of its outcomes in the epochs.
        epochs: all of them, the newest last, whose shares are in force.
        out: whether each arm, control first, has dropped out.
        since: for how long the newest has lasted.
    """
    if since < thompson.pace or not epochs:
        return None
    now = adaptive_allocation.round_shares(epochs[-1].shares, TOTAL_SHARE)
    shares = adaptive_allocation.next_shares(
        metric,
        [each.outcomes[place] for each in epochs],
        [each.shares for each in epochs],
        out,
        floor=thompson.floor,
        delta=thompson.delta,
        least=_LEAST_UNITS,
    )
    if shares is None:
        return None
    wanted = adaptive_allocation.round_shares(shares, TOTAL_SHARE)
    if max(abs(new - old) for new, old in zip(wanted, now, strict=True)) < _LEAST_MOVE:
        return None
    return tuple(wanted)
