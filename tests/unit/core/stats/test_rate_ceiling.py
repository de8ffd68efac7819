"""One arm's rate against a ceiling: rarely called below it in error, and fast where it is below."""

import numpy as np
import pytest

from sundog_operator.core.stats import rate_ceiling

EVEN = [(12, 0, 0, 0, 0, 0)] * 3


@pytest.mark.parametrize(
    ("hits", "trials", "below"),
    [(0, 100, False), (0, 200, True), (19, 1000, False), (8, 1000, True), (0, 0, False), (10**12, 10**14, True)],
)
def test_rates_known_to_be_below_two_percent(hits: int, trials: int, below: bool) -> None:
    assert rate_ceiling.is_below(hits, trials, EVEN, 0.02, 0.05) is below


def test_a_rate_at_the_ceiling_is_rarely_called_below_it_over_all_looks() -> None:
    rng, runs = np.random.default_rng(7), 200
    steps = np.unique(np.geomspace(50, 20_000, 25).astype(int))
    wrong = 0
    for _ in range(runs):
        hits = rng.binomial(np.diff(steps, prepend=0), 0.02).cumsum()
        wrong += any(rate_ceiling.is_below(int(h), int(n), EVEN, 0.02, 0.05) for h, n in zip(hits, steps, strict=True))
    assert wrong <= 18
    assert wrong > 0


def test_a_burst_counts_as_about_one_failure() -> None:
    """30 failures in 3000 requests: one in each of 30 blocks, or ten in each of three."""
    spread = [(30, 30, 60, 30, 60, 120)]
    bursts = [(30, 30, 60, 300, 600, 1200)]
    assert rate_ceiling.is_below(30, 3000, spread, 0.02, 0.05)
    assert not rate_ceiling.is_below(30, 3000, bursts, 0.02, 0.05)
