"""Dispersion of events over blocks."""

from typing import Any

import numpy as np
import pytest

from sundog_operator.core.stats.dispersion import BlockMoments, dispersion_factor

NULL = np.array([0.25])


def sums(treatment: Any, control: Any, length: int = 1) -> BlockMoments:
    """Return the sums over a series of shortest blocks, joined to blocks of `length` of them."""
    x, c = (np.asarray(series, float).reshape(-1, length).sum(-1) for series in (treatment, control))
    s = x + c
    return BlockMoments(
        *(np.array([float(part)]) for part in (x.size, x.sum(), s.sum(), (x**2).sum(), (x * s).sum(), (s**2).sum()))
    )


def test_independent_events_have_no_dispersion() -> None:
    random = np.random.default_rng(1)
    treatment, control = random.poisson(3, 4000), random.poisson(9, 4000)
    assert dispersion_factor([sums(treatment, control)], NULL) == pytest.approx(1, abs=0.05)
    # A higher rate of the treatment is no dispersion either.
    assert dispersion_factor([sums(random.poisson(12, 4000), control)], NULL) == pytest.approx(1, abs=0.05)


def test_a_stall_of_the_treatment_alone_counts_as_about_one_event() -> None:
    treatment = np.zeros(60)
    treatment[17] = 15
    assert 15 < float(dispersion_factor([sums(treatment, np.zeros(60))], NULL)) < 15 * 6
    treatment[[5, 22, 31, 46]] = 15
    assert 13 < float(dispersion_factor([sums(treatment, np.zeros(60))], NULL)) < 15 * 2


def test_few_bursts_of_the_treatment_beside_many_of_control_weigh_more_against_it() -> None:
    control, treatment = np.tile([0.0, 30.0], 60), np.zeros(120)
    treatment[[10, 70]] = 20
    found, of_harm = (
        float(dispersion_factor([sums(treatment, control)], NULL, of_harm=of_harm)) for of_harm in (False, True)
    )
    assert 1.5 * found < of_harm < 8 * found
    even = np.random.default_rng(4).poisson(3, (2, 4000))
    assert dispersion_factor([sums(even[0], 3 * even[1])], NULL, of_harm=True) == pytest.approx(1.2, abs=0.3)


def test_a_stall_that_lasts_shows_in_longer_blocks() -> None:
    treatment = np.zeros(120)
    treatment[12:18] = treatment[72:78] = 5
    short, long = sums(treatment, np.zeros(120)), sums(treatment, np.zeros(120), 6)
    assert (
        dispersion_factor([short, long], NULL) == dispersion_factor([long], NULL) > 3 * dispersion_factor([short], NULL)
    )


def test_bursts_of_both_arms_are_no_dispersion() -> None:
    burst = np.random.default_rng(2).gamma(0.2, 20, 2000)
    random = np.random.default_rng(3)
    treatment, control = random.poisson(burst), random.poisson(3 * burst)
    assert dispersion_factor([sums(treatment, control)], NULL) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("treatment", "control"),
    [([], []), ([0] * 20, [0] * 20), ([9, 0, 0], [0, 0, 0])],
    ids=("nothing closed", "no events", "few blocks"),
)
def test_without_data_nothing_is_discounted(treatment: list[int], control: list[int]) -> None:
    assert dispersion_factor([sums(treatment, control)], NULL) == 1
    assert dispersion_factor([], NULL) == 1


def test_epochs_are_compared_with_their_own_means() -> None:
    random = np.random.default_rng(4)
    first, second = (
        sums(random.poisson(1, 500), random.poisson(19, 500)),
        sums(random.poisson(10, 500), random.poisson(10, 500)),
    )
    both = BlockMoments(*(np.concatenate(parts) for parts in zip(first, second, strict=True)))
    assert dispersion_factor([both], np.array([0.05, 0.5])) == pytest.approx(1, abs=0.1)
