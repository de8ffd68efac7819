"""Outcomes as guardrails: verdicts at a margin, shared errors, sentences, and simulated errors and power."""

import math
from dataclasses import replace

import numpy as np
import pytest

from sundog_operator.core.stats import outcome_comparison
from sundog_operator.core.stats.outcome_counts import OutcomeCounts, OutcomeEpoch, OutcomeMetric, OutcomePairs
from sundog_operator.core.stats.outcome_findings import OutcomeFinding, OutcomeVerdict

RATE = OutcomeMetric("checkout", margin=0.1)
COMPLAINTS = OutcomeMetric("complaints", goal="decrease", margin=0.1)
MEAN = OutcomeMetric("revenue", "mean", margin=0.1)
COST = OutcomeMetric("cost", "mean", "decrease", margin=0.1)
RUNS, LOOKS, ALPHA = 1000, 40, 0.05


def of(exposed: int, positive: int, value: int = 1_000_000) -> OutcomeCounts:
    """Return the counts of units that each have one event or none."""
    return OutcomeCounts(exposed, positive, positive if value > 0 else 0, positive * value, positive * value**2)


def find(metric: OutcomeMetric, *arms: OutcomeCounts, harm_tests: int = 4) -> OutcomeFinding:
    epochs = [OutcomeEpoch((1,) * len(arms), [arms])]
    return outcome_comparison.evaluate_guardrails([metric], epochs, ALPHA, harm_tests=harm_tests, elapsed_s=86_400)[0][
        0
    ]


@pytest.mark.parametrize(
    ("metric", "control", "arm", "verdict"),
    [
        (RATE, of(100_000, 10_000), of(100_000, 10_000), OutcomeVerdict.PASSED),
        (RATE, of(100_000, 10_000), of(100_000, 12_000), OutcomeVerdict.PASSED),
        (RATE, of(100_000, 10_000), of(100_000, 9000), OutcomeVerdict.UNDECIDED),
        (RATE, of(100_000, 10_000), of(100_000, 8000), OutcomeVerdict.HARM),
        (RATE, of(1000, 100), of(1000, 100), OutcomeVerdict.UNDECIDED),
        (RATE, of(1000, 0), of(1000, 0), OutcomeVerdict.UNDECIDED),
        (RATE, of(0, 0), of(1000, 10), OutcomeVerdict.NO_DATA),
        (RATE, of(10, 1), OutcomeCounts(5, 6, 6, 6, 6), OutcomeVerdict.INVALID),
        (COMPLAINTS, of(100_000, 10_000), of(100_000, 10_000), OutcomeVerdict.PASSED),
        (COMPLAINTS, of(100_000, 10_000), of(100_000, 11_000), OutcomeVerdict.UNDECIDED),
        (COMPLAINTS, of(100_000, 10_000), of(100_000, 12_000), OutcomeVerdict.HARM),
        (MEAN, of(100_000, 10_000), of(100_000, 10_000), OutcomeVerdict.PASSED),
        (MEAN, of(100_000, 10_000), of(100_000, 9000), OutcomeVerdict.UNDECIDED),
        (MEAN, of(100_000, 10_000), of(100_000, 8000), OutcomeVerdict.HARM),
        (MEAN, of(100_000, 20), of(100_000, 20), OutcomeVerdict.UNDECIDED),
        (COST, of(100_000, 10_000), of(100_000, 10_000), OutcomeVerdict.PASSED),
        (COST, of(100_000, 10_000), of(100_000, 12_000), OutcomeVerdict.HARM),
    ],
)
def test_verdicts(metric: OutcomeMetric, control: OutcomeCounts, arm: OutcomeCounts, verdict: OutcomeVerdict) -> None:
    finding = find(metric, control, arm)
    assert finding.verdict == verdict
    assert finding.sentence("wide")


@pytest.mark.parametrize("metric", [MEAN, COST])
@pytest.mark.parametrize("positive", [8000, 10_000, 12_000])
def test_a_margin_of_a_negative_mean_decides_nothing(metric: OutcomeMetric, positive: int) -> None:
    """Of −100 in control, 90 % are −90: an equal arm would do harm."""
    finding = find(metric, of(100_000, 10_000, -(10**6)), of(100_000, positive, -(10**6)))
    assert finding.verdict == OutcomeVerdict.UNDECIDED
    assert math.isinf(finding.needed)
    assert finding.sentence("wide").endswith("a margin in percent needs a mean of control above 0")


def test_sentences_name_the_margin() -> None:
    texts = [
        find(RATE, of(100_000, 10_000), of(100_000, positive)).sentence("wide") for positive in (10_000, 9000, 8000)
    ]
    assert texts[0].endswith(": within its margin of 10 %")
    assert "; up to 10 % below is allowed: " in texts[1]
    assert texts[2].startswith("checkout of wide is 20 % below control's")
    assert texts[2].endswith(": worse than its margin of 10 %")
    waiting = find(COMPLAINTS, of(10_000, 1000), of(10_000, 1000))
    assert "; up to 10 % above is allowed: needs about " in waiting.sentence("wide")
    assert waiting.sentence("wide", out=True).endswith("; up to 10 % above is allowed: the arm was dropped")


def test_passing_shares_alpha_among_arms_and_harm_among_guardrails_as_well() -> None:
    control, worse, equal = of(10_000, 1000), of(10_000, 740), of(10_000, 1000)
    tests = math.floor(ALPHA * math.exp(find(RATE, control, worse).worse))
    assert tests > 4
    assert find(RATE, control, worse, harm_tests=tests).verdict == OutcomeVerdict.HARM
    assert find(RATE, control, worse, harm_tests=tests + 1).verdict == OutcomeVerdict.UNDECIDED
    assert find(RATE, control, worse, equal, harm_tests=tests // 2).verdict == OutcomeVerdict.HARM
    assert find(RATE, control, worse, equal, harm_tests=tests // 2 + 1).verdict == OutcomeVerdict.UNDECIDED
    enough = of(20_000, 2000)
    arms = math.floor(ALPHA * math.exp(find(RATE, enough, enough).better))
    assert find(RATE, *[enough] * (1 + arms), harm_tests=10**6).verdict == OutcomeVerdict.PASSED
    assert find(RATE, *[enough] * (2 + arms), harm_tests=10**6).verdict == OutcomeVerdict.UNDECIDED


def test_the_units_that_are_needed_decide() -> None:
    finding = find(RATE, of(10_000, 1000), of(10_000, 1000))
    times = finding.needed / finding.exposed
    assert find(RATE, *[of(int(10_000 * times * 1.01), int(1000 * times * 1.01))] * 2).verdict == OutcomeVerdict.PASSED
    assert finding.eta_s == pytest.approx((times - 1) * 86_400)


def test_no_single_ratio_over_epochs_does_not_pass() -> None:
    epochs = [
        OutcomeEpoch((1, 1), [[of(100_000, 10_000), of(100_000, positive)]]) for positive in (13_000, 9_500, 13_000)
    ]
    (finding,) = outcome_comparison.evaluate_guardrails([RATE], epochs, ALPHA, harm_tests=4)[0]
    assert finding.verdict == OutcomeVerdict.HETEROGENEOUS
    assert finding.sentence().endswith("no single ratio fits all epochs, so it cannot pass")


def simulate(metric: OutcomeMetric, ratio: float, weights: tuple[float, ...] = (0.5,)) -> dict[str, float]:
    """Return the share of runs in which the guardrail ever passed or did harm, with a look after every batch of units.

    A tenth of control's units have a value; of a mean, one in ten of those has nine times as much. Each weight holds for an equal part of
    the looks.
    """
    draw, counts = np.random.default_rng(5), np.zeros((2, 5, RUNS, len(weights)))
    seen = {OutcomeVerdict.PASSED: np.zeros(RUNS, bool), OutcomeVerdict.HARM: np.zeros(RUNS, bool)}
    for look in range(LOOKS):
        epoch = look * len(weights) // LOOKS
        for arm, (share, rate) in enumerate(((1 - weights[epoch], 0.1), (weights[epoch], 0.1 * ratio))):
            units = draw.poisson(3000 * share, RUNS)
            valued = draw.binomial(units, rate)
            large = draw.binomial(valued, 0.1)
            counts[arm, ..., epoch] += units, valued, valued, valued + 8 * large, valued + 80 * large
        control, candidate = counts[..., : epoch + 1].astype(object)
        pairs = OutcomePairs(control, candidate, np.array(weights[: epoch + 1]))
        found = outcome_comparison.compare_pairs(metric, pairs, math.log(1 / ALPHA))
        for verdict, runs in seen.items():
            runs |= found.verdict == verdict
    return {str(verdict): float(runs.mean()) for verdict, runs in seen.items()}


@pytest.mark.parametrize(
    ("metric", "ratio", "weights"),
    [
        (RATE, 0.9, (0.5,)),
        (RATE, 0.9, (0.5, 0.2, 0.7)),
        (COMPLAINTS, 1.1, (0.5,)),
        (MEAN, 0.9, (0.5,)),
        (MEAN, 0.9, (0.5, 0.2, 0.7)),
        (COST, 1.1, (0.1,)),
    ],
)
def test_an_arm_at_its_margin_rarely_passes_and_rarely_does_harm(
    metric: OutcomeMetric, ratio: float, weights: tuple[float, ...]
) -> None:
    found = simulate(metric, ratio, weights)
    limit = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)
    assert found["Passed"] <= limit
    assert found["Harm"] <= limit


@pytest.mark.parametrize(("metric", "least"), [(RATE, 0.95), (MEAN, 0.7)])
def test_an_equal_arm_passes(metric: OutcomeMetric, least: float) -> None:
    found = simulate(metric, 1.0)
    assert found["Passed"] >= least
    assert found["Harm"] <= 0.01


def test_a_guardrail_never_has_a_verdict_of_another_metric() -> None:
    arms = of(10**7, 10**6), of(10**7, 10**6)
    effect = replace(RATE, minimum_effect=0.02)
    assert find(effect, *arms).verdict == OutcomeVerdict.PASSED
