"""Harm in a treatment's first blocks: stalls of a minute are no harm, and steady failures are."""

from typing import Any

import numpy as np
import pytest

from stalling_replicas import Stalling, always
from sundog_operator.core.forecast.rollout_simulation import SteadyTraffic, TrafficModel
from sundog_operator.core.stats import early_harm, multiple_testing
from sundog_operator.core.stats.beta_binomial import Numbers

RUNS = 3000
LEVEL = 0.01
THRESHOLD = multiple_testing.log_e_threshold(LEVEL)


def simulate(world: TrafficModel, weight: float, blocks: int = early_harm.MAX_BLOCKS, seed: int = 1) -> Numbers:
    """Return log E after each of the first blocks, shape (runs, blocks)."""
    draw, step = np.random.default_rng(seed), np.zeros(RUNS, int)
    counts = np.array([world.tick(draw, at, step, np.full(RUNS, weight)) for at in range(blocks)])
    ratios = early_harm.log_likelihood_ratio(counts[:, 2].T, counts[:, 3].T, weight, 0.25)
    return np.stack([early_harm.log_e(ratios[:, : 1 + at]) for at in range(blocks)], -1)


def share_found(world: TrafficModel, weight: float) -> float:
    return float((simulate(world, weight) >= THRESHOLD).any(-1).mean())


def test_a_block_has_the_likelihood_ratio_of_its_events() -> None:
    # With half of the traffic, the treatment has 5/6 of the events by the alternative, and 5/9 at the margin.
    found = early_harm.log_likelihood_ratio(np.array([0.0, 2.0]), np.array([3.0, 0.0]), 0.5, 0.25)
    assert found == pytest.approx([3 * np.log(1.5), 2 * np.log((1 / 6) / (4 / 9))])


def test_the_alternative_is_beyond_a_wide_margin() -> None:
    assert early_harm.log_likelihood_ratio(np.array([0.0]), np.array([1.0]), 0.25, 9.0)[0] > 0


def test_the_likelihood_ratio_is_one_on_average_at_the_margin_and_less_within() -> None:
    events, weight = 12, 0.25
    hits = np.arange(events + 1.0)
    for times, whole in ((1.25, 1.0), (1.0, None)):
        share = times * weight / (times * weight + 1 - weight)
        chance = np.array([np.prod([(events - i) / (i + 1) for i in range(int(hit))]) for hit in hits])
        chance *= share**hits * (1 - share) ** (events - hits)
        mean = (chance * np.exp(early_harm.log_likelihood_ratio(events - hits, hits, weight, 0.25))).sum()
        assert mean == pytest.approx(whole) if whole else mean < 1


def test_the_seven_worst_blocks_are_left_out() -> None:
    ratios = np.array([9.0, -1.0, 8.0, 7.0, 1.0, 6.0, 5.0, 4.0, 3.0])
    assert early_harm.log_e(ratios) == pytest.approx(1.0 - 1.0)
    assert early_harm.log_e(ratios[:7]) == 0
    assert early_harm.log_e(np.zeros((4, 0))).tolist() == [0.0] * 4


@pytest.mark.parametrize("weight", [0.05, 0.25, 0.5])
@pytest.mark.parametrize("rps", [1.0, 10.0, 100.0])
def test_a_treatment_at_the_margin_is_rarely_called_worse(rps: float, weight: float) -> None:
    assert share_found(SteadyTraffic(rps, 0.05, 1.25), weight) <= LEVEL


@pytest.mark.parametrize("rps", [1.0, 10.0, 100.0])
@pytest.mark.parametrize(
    "stalls",
    [
        always(2.0, 0.3),
        always(20.0, 0.2),
        always(20.0, 0.99),
        {**always(60.0, 0.99), "per_hour": 1.0},
    ],
    ids=str,
)
def test_stalls_of_one_replica_are_no_harm(stalls: dict[str, Any], rps: float) -> None:
    world = Stalling(RUNS, rps, 0.001, replicas=(1, 1), **stalls)
    assert share_found(world, 0.25) <= LEVEL + 3 * (LEVEL * (1 - LEVEL) / RUNS) ** 0.5


def test_stalls_of_one_to_sixty_seconds_are_no_harm() -> None:
    assert share_found(Stalling(RUNS, 100.0), 0.25) <= LEVEL


@pytest.mark.parametrize(
    ("rps", "weight", "base", "failing", "within"),
    [(20, 0.25, 1e-9, 0.14, 10), (20, 0.25, 0.01, 0.14, 11), (100, 0.05, 1e-9, 0.14, 10), (100, 0.25, 0.01, 0.05, 13)],
)
def test_steady_failures_are_found_soon(rps: float, weight: float, base: float, failing: float, within: int) -> None:
    assert (simulate(SteadyTraffic(rps, base, failing / base), weight) >= THRESHOLD)[:, within - 1].mean() >= 0.8
