"""Sample-ratio mismatch: published values, no false alarms, and invariance."""

import math

import numpy as np
import pytest

from sundog_operator.core.stats import sample_ratio
from sundog_operator.core.stats.sample_ratio import ArmSplit

THIRDS = np.array([0.4, 0.4, 0.2])


@pytest.mark.parametrize(("units", "log_e"), [((60, 63, 32), -4.18381398), ((2, 2, 1), -1.17111898)])
def test_a_flat_mixture(units: tuple[int, ...], log_e: float) -> None:
    found = sample_ratio.log_e(np.array([units], float), THIRDS[None], np.ones((1, 3)))
    assert float(found) == pytest.approx(log_e, abs=5e-9)


@pytest.mark.parametrize(
    ("units", "wide", "ours"),
    [
        ((5100, 4900), 0.6535, 0.6193),
        ((5200, 4800), 3.6539, 6.0758),
        ((50_500, 49_500), 3.3466, 2.6428),
        ((821_588, 815_482), 8.7660, 7.6794),
    ],
)
def test_two_arms(units: tuple[int, int], wide: float, ours: float) -> None:
    counts, halves = np.array([units], float), np.full((1, 2), 0.5)
    assert float(sample_ratio.log_e(counts, halves, 10_000 * halves)) == pytest.approx(wide, abs=5e-5)
    assert float(sample_ratio.log_e(counts, halves)) == pytest.approx(ours, abs=5e-5)


def test_epochs_are_multiplied_and_their_order_does_not_matter() -> None:
    units = np.array([[900.0, 100.0], [480.0, 520.0]])
    shares = np.array([[0.9, 0.1], [0.5, 0.5]])
    both = sample_ratio.log_e(units, shares)
    assert float(both) == pytest.approx(
        float(sample_ratio.log_e(units[:1], shares[:1]) + sample_ratio.log_e(units[1:], shares[1:]))
    )
    assert float(sample_ratio.log_e(units[::-1], shares[::-1])) == pytest.approx(float(both))


def test_a_correct_split_rarely_alarms() -> None:
    random = np.random.default_rng(8)
    steps = random.multinomial(500, [0.9, 0.1], (500, 100)).astype(float)
    units = steps.cumsum(1)[:, :, None, :]
    log_e = sample_ratio.log_e(units, np.broadcast_to([0.9, 0.1], units.shape))
    assert (log_e.max(1) >= math.log(1000)).mean() <= 0.001 + 3 * math.sqrt(0.001 / 500)


def test_a_lossy_arm_is_found() -> None:
    log_e = sample_ratio.log_e(np.array([[50_000.0, 47_500.0]]), np.full((1, 2), 0.5))
    assert float(log_e) > math.log(1000)


def test_any_number_of_arms_with_dropped_ones() -> None:
    units, shares = [(60, 63, 32, 0), (500, 0, 510, 0)], [(4, 4, 2, 0), (1, 0, 1, 0)]
    apart = [
        float(sample_ratio.log_e(np.array([row], float), np.array([share])))
        for row, share in (((60, 63, 32), (0.4, 0.4, 0.2)), ((500, 510), (0.5, 0.5)))
    ]
    assert sample_ratio.mismatch_log_e(units, shares) == pytest.approx(sum(apart))
    reversed_arms = [tuple(reversed(each)) for each in units], [tuple(reversed(each)) for each in shares]
    assert sample_ratio.mismatch_log_e(*reversed_arms) == pytest.approx(sum(apart))
    assert math.isinf(sample_ratio.mismatch_log_e([(60, 63, 32, 1)], shares[:1]))
    assert sample_ratio.mismatch_log_e([(60, 0)], [(1, 0)]) == sample_ratio.mismatch_log_e([], []) == 0


def test_ten_arms_with_a_correct_split_rarely_alarm() -> None:
    """400 experiments of 50 000 units, at 50 looks each."""
    draw, shares = np.random.default_rng(5), np.full(10, 0.1)
    units = draw.multinomial(1000, shares, (50, 400)).cumsum(0).astype(float)
    assert (sample_ratio.log_e(units[..., None, :], shares[None]) >= math.log(1000)).any(0).sum() <= 2
    assert sample_ratio.mismatch_log_e([(6000, *(5000,) * 9)], [(1,) * 10]) > math.log(1000)


def test_a_split_by_weights_is_no_mismatch_and_another_is() -> None:
    def split(weight: float, *, more: int = 0) -> ArmSplit:
        return ArmSplit.of_two(weight, (round(10_000 * (1 - weight)), round(10_000 * weight) + more))

    assert sample_ratio.splits_log_e([]) == 0
    assert sample_ratio.splits_log_e([split(0.05), split(0.5)]) < 0
    assert sample_ratio.splits_log_e([split(0.05, more=400), split(0.5)]) > math.log(1000)
    assert sample_ratio.splits_log_e([ArmSplit.of_two(1.0, (0, 900)), ArmSplit.of_two(0.0, (900, 0))]) == 0


def test_a_split_among_many_arms_is_one_test() -> None:
    shares = (0.8, 0.1, 0.05, 0.05)
    assert sample_ratio.splits_log_e([ArmSplit(shares, (8000, 1000, 500, 500))]) < 0
    assert sample_ratio.splits_log_e([ArmSplit(shares, (8000, 1000, 750, 250))]) > math.log(1000)
    # An arm without a share is left out.
    assert sample_ratio.splits_log_e([ArmSplit((0.9, 0.1, 0.0), (900, 100, 0))]) == sample_ratio.splits_log_e(
        [ArmSplit((0.9, 0.1), (900, 100))]
    )
