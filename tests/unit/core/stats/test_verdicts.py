"""Verdicts of the design's examples, of degenerate counts, and of many metrics at once."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_operator.core.stats.dispersion import BlockMoments
from sundog_operator.core.stats.event_counts import EventCounts, MetricLimits
from sundog_operator.core.stats.findings import MetricFinding, MetricVerdict
from sundog_operator.core.stats.verdicts import evaluate_verdicts, gate_interval

GATE = MetricLimits(margin=0.25, floor=0.005, next_weight=0.5, alpha=0.05, tests=2)


def counts(
    control: Any, treatment: Any, weight: Any, units: float = 10_000, *, blocks: float = 100, phi: float = 1
) -> EventCounts:
    """Return the counts of one metric and arm, or of several for nested lists; `units` are both arms' in each epoch."""
    control, treatment = np.array(control, float), np.array(treatment, float)
    weight = np.broadcast_to(np.array(weight, float), control.shape)
    moments = overdispersed_blocks(control, treatment, blocks, phi)
    return EventCounts(control, treatment, units * (1 - weight), units * weight, weight, [moments])


def overdispersed_blocks(control: Any, treatment: Any, blocks: float, phi: float) -> BlockMoments:
    """Return blocks over which both arms' events vary as Poisson counts of clusters of `phi`, without the correction for few clusters."""
    closed = np.full(control.shape, float(blocks) / control.shape[-1])
    with np.errstate(invalid="ignore"):
        both, scale = control + treatment, phi * (closed - 1) / closed
        squares, more = (total**2 / closed + scale * total for total in (treatment, both))
        return BlockMoments(closed, treatment, both, squares, treatment * both / closed + scale * treatment, more)


def finding(given_counts: EventCounts, limits: MetricLimits = GATE, *, newest_alone: bool = False) -> MetricFinding:
    return evaluate_verdicts(given_counts, limits, newest_alone=newest_alone).at()


@pytest.mark.parametrize(("weight", "failures"), [(0.05, 7), (0.25, 7), (0.5, 11)])
def test_few_failures_of_the_treatment_alone_are_harm(weight: float, failures: int) -> None:
    assert finding(counts([0], [failures], weight)).verdict == MetricVerdict.HARM
    assert finding(counts([0], [failures - 1], weight)).verdict != MetricVerdict.HARM


def test_five_times_the_errors_at_five_percent_are_harm_after_eleven_of_them() -> None:
    assert finding(counts([42], [11], 0.05)).verdict == MetricVerdict.HARM
    assert finding(counts([33], [8], 0.05)).verdict != MetricVerdict.HARM


def test_harm_is_discounted_by_the_dispersion() -> None:
    assert finding(counts([42], [11], 0.05, phi=3)).verdict == MetricVerdict.UNDECIDED


def test_nothing_is_decided_on_few_blocks() -> None:
    assert finding(counts([0], [1000], 0.5, blocks=11)).verdict == MetricVerdict.UNDECIDED
    assert finding(counts([0], [1000], 0.5, blocks=12)).verdict == MetricVerdict.HARM


def test_nothing_is_decided_before_two_block_lengths_have_data() -> None:
    """Depending on their start, twelve blocks of 10 s contain three or four of 30 s."""
    plain = counts([0], [1000], 0.5, blocks=12)
    three, four = (
        replace(plain, blocks=[*plain.blocks, overdispersed_blocks(plain.control, plain.treatment, of, 1)])
        for of in (3, 4)
    )
    assert finding(three).verdict == MetricVerdict.UNDECIDED
    assert finding(four).verdict == MetricVerdict.HARM


def test_without_errors_it_passes_by_the_floor_after_enough_requests() -> None:
    assert finding(counts([0], [0], 0.25, 500)).verdict == MetricVerdict.UNDECIDED
    assert finding(counts([0], [0], 0.25, 20_000)).verdict == MetricVerdict.PASSED
    without = MetricLimits(margin=0.25, floor=0, next_weight=0.5, alpha=0.05)
    assert finding(counts([0], [0], 0.25, 20_000), without).verdict == MetricVerdict.UNDECIDED


def test_the_floor_excuses_no_harm() -> None:
    wide = MetricLimits(margin=0.25, floor=0.5, next_weight=0.5, alpha=0.05)
    assert finding(counts([0], [40], 0.5), wide).verdict == MetricVerdict.HARM


def test_the_same_rates_pass() -> None:
    assert finding(counts([3000], [1000], 0.25, 400_000)).verdict == MetricVerdict.PASSED


def test_good_epochs_do_not_promote_a_bad_last_one() -> None:
    epochs = counts([950, 750, 400], [40, 200, 504], [0.05, 0.25, 0.5], 100_000)
    last = MetricLimits(margin=0.25, floor=0, next_weight=1, alpha=0.05)
    assert finding(epochs, last).passing > 0
    assert finding(epochs, last, newest_alone=True).verdict != MetricVerdict.PASSED


def test_a_good_first_epoch_excuses_no_harm_in_the_next() -> None:
    """Even if the first epoch is so good that its mass beyond the margin is below the least float."""
    for factor in (1, 10, 100):
        assert finding(counts([2000 * factor, 300], [500 * factor, 900], 0.5, 1e6)).verdict == MetricVerdict.HARM


def test_a_few_bursts_are_undecided() -> None:
    assert finding(counts([2], [1], 0.5, 1000, phi=20)).verdict == MetricVerdict.UNDECIDED


def test_epochs_with_different_ratios_have_a_verdict() -> None:
    """No single ratio fits both, as where a canary slows down with load."""
    changing, last = counts([22_500, 2800], [7500, 4200], [0.25, 0.5], 1e6), MetricLimits(0.75, 0, 1, 0.05)
    assert finding(changing, last, newest_alone=True).verdict == MetricVerdict.PASSED
    assert finding(changing, last).verdict in (MetricVerdict.PASSED, MetricVerdict.UNDECIDED)
    lower, upper = gate_interval(changing, last, newest_alone=False)
    assert not math.isnan(lower + upper)


@pytest.mark.parametrize(
    ("given_counts", "verdict"),
    [
        (counts([0], [0], 0.5, 0), MetricVerdict.NO_DATA),
        (counts([5], [5], 0.0), MetricVerdict.INVALID),
        (counts([5], [5], 1.0), MetricVerdict.INVALID),
        (counts([math.nan], [5], 0.5), MetricVerdict.INVALID),
        (counts([math.inf], [5], 0.5), MetricVerdict.INVALID),
        (counts([-1], [5], 0.5), MetricVerdict.INVALID),
        (counts([5], [5], 0.5, phi=math.nan), MetricVerdict.INVALID),
        (counts([5e11], [5e11], 0.5, 1e13), MetricVerdict.PASSED),
        (counts([1e12], [3e12], 0.5, 1e13), MetricVerdict.HARM),
        (counts([0, 0], [0, 0], [0.05, 0.25]), MetricVerdict.PASSED),
    ],
)
def test_any_counts_have_a_verdict_and_a_sentence(given_counts: EventCounts, verdict: MetricVerdict) -> None:
    for newest_alone in (False, True):
        found = finding(given_counts, newest_alone=newest_alone)
        assert found.verdict == verdict
        assert found.sentence("errorRate").startswith("errorRate")
        assert "nan" not in found.sentence("errorRate")


def test_an_undecided_finding_shows_the_needed_events_and_time() -> None:
    found = finding(counts([90], [30], 0.25, 10_000, blocks=60))
    assert found.verdict == MetricVerdict.UNDECIDED
    # 120 events in ten minutes.
    assert found.eta_s == pytest.approx((found.needed - 120) * 600 / 120)
    assert found.sentence("errorRate").endswith(
        f": needs about {found.needed:.0f} events, in about {found.eta_s / 60:.0f} minutes"
    )
    never = finding(counts([300], [200], 0.25, 40_000, blocks=60), MetricLimits(0.75, 0, 1, 0.0001))
    assert (never.needed, never.eta_s) == (math.inf, math.inf)
    assert never.sentence("errorRate").endswith("no number of events will decide")


def test_sentences_without_a_wait_and_with_a_ratio_of_1() -> None:
    found = finding(counts([90], [30], 0.25, 10_000, blocks=60))
    assert ", in about " not in replace(found, eta_s=0.0).sentence("errorRate", "stable")
    sentence = replace(found, allowed=1.0).sentence("errorRate", "stable")
    assert "; no more than stable's is allowed: needs about " in sentence


some = st.one_of(st.integers(0, 5000).map(float), st.sampled_from([0.0, 1e12, math.nan, math.inf, -1.0]))
epochs = st.lists(st.tuples(some, some, st.sampled_from([0.0, 0.01, 0.25, 0.5, 1.0])), min_size=1, max_size=5)


@given(epochs, st.sampled_from([0, 1, 2.5]), st.booleans())
def test_no_counts_raise(rows: list[tuple[float, float, float]], phi: float, newest_alone: bool) -> None:
    control, treatment, weight = zip(*rows, strict=True)
    found = finding(counts(control, treatment, weight, phi=phi), newest_alone=newest_alone)
    assert found.sentence("p99")


def test_many_at_once_equal_each_alone() -> None:
    random = np.random.default_rng(9)
    control, treatment = random.poisson(40, (3, 2, 4)).astype(float), random.poisson(20, (3, 2, 4)).astype(float)
    control[0, 0], treatment[1, 1], control[2, 0, 1] = 0, 0, math.nan
    weight = np.array([0.05, 0.1, 0.25, 0.5])
    margin = np.array([[0.1], [0.25], [0.5]])
    together = evaluate_verdicts(
        counts(control, treatment, weight), MetricLimits(margin, 0.01, 0.5, 0.05, 6), newest_alone=False
    )
    for metric, arm in itertools.product(range(3), range(2)):
        alone = MetricLimits(float(margin[metric, 0]), 0.01, 0.5, 0.05, 6)
        own = counts(control[metric, arm], treatment[metric, arm], weight)
        one = finding(own, alone)
        both = together.at(metric, arm)
        assert one.verdict == both.verdict
        for name in ("ratio", "harm", "passing", "needed"):
            assert getattr(one, name) == pytest.approx(getattr(both, name), rel=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("given_counts", "verdict"),
    [
        (counts([0], [100], 0.5, blocks=60), MetricVerdict.HARM),
        (counts([2000], [2000], 0.5, 100_000, blocks=60), MetricVerdict.PASSED),
        (counts([0], [0], 0.5, 0, blocks=60), MetricVerdict.NO_DATA),
        (counts([-1], [0], 0.5, blocks=60), MetricVerdict.INVALID),
    ],
)
def test_a_decided_finding_needs_no_number_of_events(given_counts: EventCounts, verdict: MetricVerdict) -> None:
    found = finding(given_counts)
    assert found.verdict == verdict
    assert math.isnan(found.needed)
