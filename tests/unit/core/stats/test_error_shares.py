"""Shares of an error for evidence that begins again."""

import math

import numpy as np
import pytest

from sundog_operator.core.stats import error_shares


def test_a_gate_that_starts_again_never_spends_more_than_its_error() -> None:
    shares = [error_shares.epoch_error_share(number) for number in range(1, 500)]
    assert shares[:2] == pytest.approx([0.9, 0.09])
    assert sum(shares) <= 1 + 1e-12
    assert min(shares) > 0


def test_sets_of_evidence_never_spend_more_than_alpha() -> None:
    shares = [error_shares.evidence_share(removed) for removed in range(100_000)]
    assert shares[:3] == pytest.approx([0.9, 0.0608, 0.0152], abs=1e-4)
    assert 0.999 < sum(shares) <= 1
    assert all(error_shares.evidence_share(removed) > 1e-5 for removed in range(40))


def test_the_first_error_in_any_of_many_sets_of_evidence_is_rare() -> None:
    """4000 experiments with ten sets of 200 looks each, by likelihood ratios of normal means: each set is removed, and another begins."""
    sets, alpha, shift = 10, 0.05, 0.4
    walk = np.random.default_rng(3).standard_normal((4000, sets, 200)).cumsum(-1)
    highest = (shift * walk - np.arange(1, 201) * shift**2 / 2).max(-1)
    shares = np.array([error_shares.evidence_share(removed) for removed in range(sets)])
    assert (highest >= math.log(1 / alpha)).any(-1).mean() > 5 * alpha
    assert 0.5 * alpha < (highest >= np.log(1 / (alpha * shares))).any(-1).mean() <= alpha
