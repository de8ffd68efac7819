"""Metrics of the edge as success metrics: false winners under bursts and returning users, and the requests that a win takes."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.random import Generator
from scipy.special import ndtr, ndtri

from sundog_operator.core.stats import dispersion, event_comparison
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.cluster_variance import GroupedEvents
from sundog_operator.core.stats.dispersion import BlockMoments
from sundog_operator.core.stats.event_counts import EventCounts
from sundog_operator.core.stats.outcome_counts import OutcomeMetric
from sundog_operator.core.stats.outcome_findings import OutcomeVerdict

ALPHA = 0.05
RUNS = 200
MOST_FALSE = math.floor(RUNS * (ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)))
SLOW = OutcomeMetric("latencyP95", goal="decrease", minimum_effect=0.05, counted="events")
SIGMA = 0.5
GROUPS = 100


def slow_share(lower: float) -> float:
    """Return the share of answers above control's p95 of an arm whose lognormal latencies are all lower by this share."""
    return float(1 - ndtr(ndtri(0.95) - math.log1p(-lower) / SIGMA))


@dataclass
class World:
    """Counts of many runs, block by block. With groups, units stay with their arm."""

    sticky: bool = False
    requests: Numbers = field(default_factory=lambda: np.zeros((RUNS, 2)))
    events: list[Numbers] = field(default_factory=list)
    groups: Numbers = field(default_factory=lambda: np.zeros((2, 2, RUNS, GROUPS)))

    def add(self, requests: Numbers, events: Numbers) -> None:
        """Add ten seconds: requests and events of (control, treatment), of shape (2, runs), or with groups (2, runs, groups)."""
        if self.sticky:
            self.groups += np.stack([requests, events])
            requests, events = requests.sum(-1), events.sum(-1)
        self.requests += requests.T
        self.events.append(events)

    def counts(self) -> EventCounts:
        events = np.stack(self.events)
        control, treatment = events.sum(0)[:, :, None]
        units = self.requests
        own, none = self.groups, np.zeros((RUNS, 1))
        by_group = [np.concatenate([each, none], -1)[:, None] for each in (own[1, 0], own[1, 1], own[0, 0], own[0, 1])]
        return EventCounts(
            control,
            treatment,
            units[:, :1],
            units[:, 1:],
            units[:, 1:] / units.sum(-1, keepdims=True) if self.sticky else np.full((RUNS, 1), 0.5),
            [self._moments(events, length // 10) for length in dispersion.LENGTHS_S],
            GroupedEvents(*by_group, none, none, none) if self.sticky else None,
        )

    @staticmethod
    def _moments(events: Numbers, blocks: int) -> BlockMoments:
        closed = len(events) // blocks
        long = events[: closed * blocks].reshape(closed, blocks, 2, RUNS).sum(1)
        x, s = long[:, 1], long.sum(1)
        sums = (np.full(RUNS, float(closed)), x.sum(0), s.sum(0), (x * x).sum(0), (x * s).sum(0), (s * s).sum(0))
        return BlockMoments(*(each[:, None] for each in sums))

    def verdicts(self) -> Numbers:
        """Return the verdicts, of shape (runs,), once there is enough time."""
        counts = self.counts()
        found = event_comparison.compare_counts(SLOW, counts, ALPHA).verdict
        return np.where(counts.enough, found, OutcomeVerdict.UNDECIDED)


def first_looks(draw: Generator, blocks: int, *, ratio: float = 1.0, stalls: float = 0.0, rps: float = 100) -> Numbers:
    """Return the first block, of shape (runs,), at which the arm is better; infinite for never. Stalls hit one arm's replicas."""
    world, first = World(), np.full(RUNS, np.inf)
    share = np.array([[0.05], [0.05 * ratio]])
    for block in range(1, blocks + 1):
        requests = draw.poisson(rps * 5, (2, RUNS)).astype(float)
        stalled = draw.random((2, RUNS)) < stalls
        events = draw.binomial(requests.astype(int), np.where(stalled, 0.3, share)).astype(float)
        world.add(requests, events)
        if block % 3 == 0:
            first = np.where((world.verdicts() == OutcomeVerdict.BETTER) & np.isinf(first), block, first)
    return first


@pytest.mark.parametrize("stalls", [0.0, 0.1])
def test_equal_arms_are_rarely_called_better(stalls: float) -> None:
    """At any of 30 looks, also while each arm's replicas stall for ten seconds ten times as often as usual."""
    assert np.isfinite(first_looks(np.random.default_rng(1), 90, stalls=stalls)).sum() <= MOST_FALSE


def test_returning_users_of_equal_arms_are_rarely_called_better() -> None:
    """A few heavy users, each with a slow share of their own, stay with their arm."""
    draw, users = np.random.default_rng(2), 600
    rate = draw.pareto(1.5, (RUNS, users)) / 2 + 0.02
    share = draw.beta(0.2, 3.8, (RUNS, users))
    treated = draw.random((RUNS, users)) < 0.5
    world, won = World(sticky=True), np.zeros(RUNS, bool)

    def by_group(each: Numbers) -> Numbers:
        arms = np.stack([np.where(treated, 0, each), np.where(treated, each, 0)])
        return arms.reshape(2, RUNS, users // GROUPS, GROUPS).sum(2).astype(float)

    for block in range(1, 37):
        requests = draw.poisson(rate)
        world.add(by_group(requests), by_group(draw.binomial(requests, share)))
        if block % 4 == 0:
            won |= world.verdicts() == OutcomeVerdict.BETTER
    assert won.sum() <= MOST_FALSE


def test_a_p95_that_is_15_percent_lower_wins_in_three_thousand_requests() -> None:
    """Of both arms, in half of the runs, with lognormal latencies of sigma 0.5. In four fifths they are fewer than five thousand."""
    ratio = slow_share(0.15) / 0.05
    assert ratio == pytest.approx(0.49, abs=0.01)
    first = first_looks(np.random.default_rng(3), 180, ratio=ratio, rps=20)
    assert 20 * 10 * np.median(first) <= 3200
    assert 20 * 10 * np.quantile(first, 0.8) <= 5000
    assert np.isfinite(first).all()


def one_run(control: float, treatment: float) -> EventCounts:
    world = World()
    for _ in range(60):
        world.add(np.full((2, RUNS), 500.0), np.full((2, RUNS), [[control], [treatment]]))
    return world.counts().select([True] + [False] * (RUNS - 1))


def test_each_direction_has_its_own_counts() -> None:
    """Unknown ends count against the conclusion: they keep an arm from being better by the one and worse by the other counts."""
    few, many = one_run(25, 15), one_run(15, 25)
    verdicts = [
        event_comparison.compare_events(SLOW, *each, ALPHA, ALPHA).verdict
        for each in ((few, few), (many, few), (many, many))
    ]
    assert verdicts == [OutcomeVerdict.BETTER, OutcomeVerdict.UNDECIDED, OutcomeVerdict.WORSE]


def test_invalid_counts_stay_invalid_while_a_finding_is_held() -> None:
    broken = replace(one_run(25, 15), control=np.full((1, 1), -1.0))
    found = event_comparison.compare_events(SLOW, broken, broken, ALPHA, ALPHA).hold("not evaluated")
    assert found.verdict == OutcomeVerdict.INVALID


def test_without_enough_blocks_nothing_is_decided() -> None:
    counts = one_run(25, 5)
    early = replace(counts, blocks=[each._replace(closed=np.full((1, 1), 11.0)) for each in counts.blocks])
    found = event_comparison.compare_events(SLOW, early, early, ALPHA, ALPHA)
    assert (found.verdict, found.needed, found.events) == (
        OutcomeVerdict.UNDECIDED,
        pytest.approx(math.nan, nan_ok=True),
        (1500, 300),
    )
    assert found.sentence("fast").endswith(": no verdict before 120 s of data in whole blocks of 30 s, so far 110 s")


def test_an_undecided_metric_says_how_many_events_decide() -> None:
    found = event_comparison.compare_events(SLOW, one_run(3, 2.7), one_run(3, 2.7), ALPHA, ALPHA)
    assert found.verdict == OutcomeVerdict.UNDECIDED
    assert found.exposed < found.needed < math.inf
    assert found.eta_s == pytest.approx((found.needed / found.exposed - 1) * 600)
    assert "more events" in found.sentence("fast")


def test_a_finding_has_the_rates_of_both_arms() -> None:
    counts = one_run(25, 15)
    found = event_comparison.compare_events(SLOW, counts, counts, ALPHA, ALPHA)
    assert (found.control, found.arm) == (25 / 500, 15 / 500)
    assert (found.events, found.requests) == ((1500, 900), (30_000, 30_000))
