"""Test of whether an experiment's arm is better than control, or not worse by more than a margin: rates, means, ratios of units' outcomes.

Each unit counts once, in the epoch and arm of its first exposure, whatever happens later (intention to treat). Outcomes come after the
exposure, some of them long after. Tests compare arms within an epoch. So a recent epoch has few outcomes in both arms alike, and the ratio
is unbiased at every moment. That needs two conditions:

1. Outcomes count in the epoch of the exposure, not at the time at which they come; otherwise changing weights would mix.
2. Arms answer equally late. An arm that has the same outcomes sooner is ahead for a while, and may be called better. To avoid that,
   report each outcome at a fixed time after its exposure.

For a mean, a unit's total grows while the unit returns. The null is then that the arms differ at no moment; no theorem covers a total
without an end.

A **rate** is the share of exposed units whose first event was above 0. Its test uses the known numbers of exposed units of both arms
(`binomial_ratio`): asymptotic, and for rare events nearly exact. Plans of earlier releases, and metrics of the edge, use the events alone
(`pooled_count_ratio`): each one's arm is a draw with the arms' shares. So their error is exact for any number of epochs and any base rate.
That needs a split that matches the shares, which the sample-ratio test checks.

A **mean** is the sum of units' values by exposed units (`mean_ratio`): asymptotic, with a burn-in. A covariate from before the exposure
may adjust it.

A **ratio** is the sum of units' values by the sum of their values of another feedback, its denominator. Units stay the observations, so
its variance is that of the units' linearised values (`mean_ratio`). It is asymptotic like a mean.

Every test has the level α by the number of tests, for each direction. So P(an arm that is not better is ever called better) ≤ α over all
arms, metrics and evaluations, under any dependence (Ville's inequality and the union bound).

A **guardrail** is tested against the ratio at its margin instead of 1. It passes if the arm is known to be better than that, which is
non-inferiority; it is harm if the arm is known to be worse. All guardrails must pass, so passing shares α among arms only. Harm shares α
among arms and all guardrails, those of the edge included. A margin in percent needs a mean or ratio of control above 0.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import mean_ratio, multiple_testing
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.binomial_ratio import BinomialEvidence, UnitCounts
from sundog_operator.core.stats.mean_ratio import Contrast, UnitPairSums, UnitValueSums
from sundog_operator.core.stats.outcome_counts import (
    MILLIONTHS,
    OutcomeCounts,
    OutcomeEpoch,
    OutcomeMetric,
    OutcomePairs,
    pair_with_control,
)
from sundog_operator.core.stats.outcome_findings import OutcomeFinding, OutcomeFindings, OutcomeVerdict
from sundog_operator.core.stats.pooled_count_ratio import MixtureEvidence, RatioEvidence, make_mixture


class _Bars(NamedTuple):
    """Log E of a rejection: of "not better" and of "not worse"."""

    better: float
    worse: float

    @classmethod
    def of_levels(cls, better: float, worse: float) -> "_Bars":
        return cls(multiple_testing.log_e_threshold(better), multiple_testing.log_e_threshold(worse))

    def sides(self, metric: OutcomeMetric) -> tuple[float, float]:
        """Return the bars of a higher and of a lower ratio."""
        return (self.better, self.worse) if metric.goal == "increase" else (self.worse, self.better)


def evaluate_outcomes(
    metrics: Sequence[OutcomeMetric],
    epochs: Sequence[OutcomeEpoch],
    alpha: float,
    *,
    tests: int | None = None,
    elapsed_s: float = math.nan,
) -> list[list[OutcomeFinding]]:
    """Return, for each metric, a finding of each arm beside control, in the order of the shares.

    Args:
        metrics: the metrics of the plan.
        epochs: the epochs of evidence, at least one, all with the same arms.
        alpha: the error of each direction, of all tests together.
        tests: number of tests that share the error; metrics times arms by default.
        elapsed_s: seconds in which units were exposed, to estimate durations; NaN where unknown.
    """
    shares = np.array([epoch.shares for epoch in epochs], float).T
    level = alpha / max(1, tests or len(metrics) * (len(shares) - 1))
    return _evaluate_metrics(metrics, epochs, shares, _Bars.of_levels(level, level), elapsed_s)


def evaluate_guardrails(
    guardrails: Sequence[OutcomeMetric],
    epochs: Sequence[OutcomeEpoch],
    alpha: float,
    *,
    harm_tests: float,
    elapsed_s: float = math.nan,
) -> list[list[OutcomeFinding]]:
    """Return, for each guardrail, a finding of each arm beside control, in the order of the shares.

    Args:
        guardrails: metrics with a margin.
        epochs: the epochs of evidence, at least one, all with the same arms.
        alpha: the error of each direction. Arms share it.
        harm_tests: the part of an arm's alpha that one test of harm has, as its inverse: without other tests of harm the number of
            guardrails, those of the edge included.
        elapsed_s: seconds in which units were exposed, to estimate durations; NaN where unknown.
    """
    shares = np.array([epoch.shares for epoch in epochs], float).T
    level = alpha / max(1, len(shares) - 1)
    bars = _Bars.of_levels(level, level / max(1, harm_tests))
    return _evaluate_metrics(guardrails, epochs, shares, bars, elapsed_s)


def _evaluate_metrics(
    metrics: Sequence[OutcomeMetric],
    epochs: Sequence[OutcomeEpoch],
    shares: Numbers,
    bars: _Bars,
    elapsed_s: float,
) -> list[list[OutcomeFinding]]:
    return [
        _evaluate_metric(metric, [epoch.outcomes[index] for epoch in epochs], shares, bars, elapsed_s)
        for index, metric in enumerate(metrics)
    ]


def find_discoveries(findings: Sequence[Sequence[OutcomeFinding]], alpha: float) -> list[tuple[int, int]]:
    """Return the secondary metrics that differ from control's, as (metric, arm) indices, with a false discovery rate of at most α (e-BH).

    The rate holds at the evaluation at which the experiment stops. The E of a difference is the mean of both directions' E. Held findings
    count as tests, but their counts allow no verdict, so they must not lower the threshold of others.
    """
    places = [(metric, arm) for metric, row in enumerate(findings) for arm in range(len(row))]
    log_es = np.array(
        [
            -math.inf if each.held else np.logaddexp(each.better, each.worse) - math.log(2)
            for row in findings
            for each in row
        ]
    )
    return [places[index] for index in multiple_testing.find_discoveries(log_es, alpha)] if places else []


def compare_pairs(
    metric: OutcomeMetric, pairs: OutcomePairs, bar: float, dispersion: Numbers | None = None
) -> OutcomeFindings:
    """Return the findings of a metric for many pairs; `bar` is the log E of a rejection.

    `dispersion` is that of a rate whose events depend on each other, at least 1, of the pairs' shape: log E is divided by it.
    """
    bars = _Bars(bar, bar)
    return _compare(metric, pairs, bars) if dispersion is None else _compare_rates(metric, pairs, bars, dispersion)


def _compare(metric: OutcomeMetric, pairs: OutcomePairs, bars: _Bars) -> OutcomeFindings:
    return (_compare_rates if metric.type == "rate" else _compare_averages)(metric, pairs, bars)


def make_rate_evidence(metric: OutcomeMetric, pairs: OutcomePairs) -> MixtureEvidence:
    """Return the evidence about a rate, by the numbers of units, or by the events alone."""
    mixture, positive = make_mixture(metric.scale), _floats(pairs, 2)
    if not metric.by_units:
        return RatioEvidence(*positive, pairs.weight, mixture, metric.tested)
    (control, treatment), (events, treatment_events) = _floats(pairs, 0), positive
    return BinomialEvidence(
        (UnitCounts(control, events), UnitCounts(treatment, treatment_events)), mixture, metric.tested
    )


def _floats(pairs: OutcomePairs, field: int) -> tuple[Numbers, Numbers]:
    """Return a field of `OutcomeCounts` of control and of the treatment."""
    return np.asarray(pairs.control[field], float), np.asarray(pairs.treatment[field], float)


def _compare_rates(
    metric: OutcomeMetric, pairs: OutcomePairs, bars: _Bars, dispersion: float | Numbers = 1.0
) -> OutcomeFindings:
    """Return the findings of a rate, by the numbers of units, or by the events alone."""
    control, treatment = _floats(pairs, 2)
    evidence = make_rate_evidence(metric, pairs)
    ratio, likelihood = evidence.maximum_likelihood()
    # Log E of a separate ratio per epoch against the best common ratio.
    differs = (
        evidence.apart() - likelihood >= bars.better * dispersion
        if control.shape[-1] > 1
        else np.zeros(ratio.shape, bool)
    )
    above, below = evidence.above() / dispersion, evidence.below() / dispersion
    return _with_verdicts(
        metric,
        pairs,
        (_divide(control.sum(-1), pairs.exposed[0]), _divide(treatment.sum(-1), pairs.exposed[1])),
        ratio,
        evidence.interval(bars.better * dispersion),
        (above, below),
        lambda ratio: evidence.growth(ratio, *(bar * dispersion for bar in bars.sides(metric))),
        differs,
        bars,
    )


def _compare_averages(metric: OutcomeMetric, pairs: OutcomePairs, bars: _Bars) -> OutcomeFindings:
    """Return the findings of a mean or of a ratio, by the sums of units' values."""
    contrast, values = _contrast_ratios(pairs) if metric.type == "ratio" else _contrast_means(metric, pairs)
    with np.errstate(all="ignore"):
        ratio = np.where(contrast.control > 0, contrast.treatment / contrast.control, np.nan)
    # A percentage of an average of 0 or less allows nothing.
    testable = (contrast.control > 0) | (metric.margin is None)
    above, below = (
        np.where(testable, contrast.log_e(metric.tested, metric.deviation, sign), -np.inf) for sign in (1, -1)
    )

    def growth(ratio: Numbers | None) -> Numbers:
        bar, bar_below = bars.sides(metric)
        found = contrast.growth(ratio, metric.deviation, bar, tested=metric.tested, bar_below=bar_below)
        return np.where(testable, found, np.inf)

    return _with_verdicts(
        metric,
        pairs,
        values,
        ratio,
        contrast.interval(metric.deviation, bars.better),
        (above, below),
        growth,
        np.zeros(ratio.shape, bool),
        bars,
    )


def _contrast_means(metric: OutcomeMetric, pairs: OutcomePairs) -> tuple[Contrast, tuple[Numbers, ...]]:
    """Return the contrast of means, and control's and each arm's mean over all epochs."""
    values = tuple(
        _divide(arm[3].sum(-1), exposed * MILLIONTHS)
        for arm, exposed in zip((pairs.control, pairs.treatment), pairs.exposed, strict=True)
    )
    if metric.adjusted:
        return mean_ratio.make_adjusted_contrast(_sum_pairs(pairs.control), _sum_pairs(pairs.treatment)), values
    control, treatment = (UnitValueSums(arm[0], arm[1], arm[3], arm[4]) for arm in (pairs.control, pairs.treatment))
    return mean_ratio.make_contrast(control, treatment), values


def _sum_pairs(arm: mean_ratio.Integers) -> UnitPairSums:
    """Return the sums of units' two values, given the fields of `OutcomeCounts`."""
    own, other = UnitValueSums(arm[0], arm[1], arm[3], arm[4]), UnitValueSums(arm[0], arm[5], arm[6], arm[7])
    return UnitPairSums(own, other, arm[8])


def _contrast_ratios(pairs: OutcomePairs) -> tuple[Contrast, tuple[Numbers, ...]]:
    """Return the contrast of ratios of sums, and control's and each arm's ratio over all epochs."""
    control, treatment = _sum_pairs(pairs.control), _sum_pairs(pairs.treatment)
    values = (_divide(arm.own.total.sum(-1), arm.other.total.sum(-1)) for arm in (control, treatment))
    return mean_ratio.make_ratio_contrast(control, treatment), tuple(values)


def _with_verdicts(
    metric: OutcomeMetric,
    pairs: OutcomePairs,
    values: Iterable[Numbers],
    ratio: Numbers,
    interval: tuple[Numbers, Numbers],
    log_es: tuple[Numbers, Numbers],
    growth: Callable[[Numbers | None], Numbers],
    differs: NDArray[np.bool_],
    bars: _Bars,
) -> OutcomeFindings:
    """Return the findings with their verdicts; earlier cases of the list win."""
    better, worse = log_es if metric.goal == "increase" else log_es[::-1]
    lower, upper = interval
    is_guardrail = metric.margin is not None
    # An unknown bound is NaN, so it is never small.
    small = upper < metric.worth if metric.goal == "increase" else lower > metric.worth
    cases = [
        ((pairs.exposed[0] == 0) | (pairs.exposed[1] == 0), OutcomeVerdict.NO_DATA),
        (worse >= bars.worse, OutcomeVerdict.HARM if is_guardrail else OutcomeVerdict.WORSE),
        (differs, OutcomeVerdict.HETEROGENEOUS),
        (better >= bars.better, OutcomeVerdict.PASSED if is_guardrail else OutcomeVerdict.BETTER),
        (small, OutcomeVerdict.NO_EFFECT),
    ]
    verdict = np.full(ratio.shape, OutcomeVerdict.UNDECIDED, object)
    for where, found in reversed(cases):
        verdict[where] = found

    def soonest() -> Numbers:
        first = growth(None)
        return first if math.isnan(metric.worth) else np.minimum(first, growth(np.full(ratio.shape, metric.worth)))

    control, arm = values
    return OutcomeFindings(control, arm, ratio - 1, lower - 1, upper - 1, better, worse, verdict, soonest)


def _divide(total: Numbers, exposed: mean_ratio.Integers) -> Numbers:
    with np.errstate(all="ignore"):
        found: Numbers = np.asarray(total, float) / np.asarray(exposed, float)
    return found


def _evaluate_metric(
    metric: OutcomeMetric, outcomes: Sequence[Sequence[OutcomeCounts]], shares: Numbers, bars: _Bars, elapsed_s: float
) -> list[OutcomeFinding]:
    """Return the findings of one metric; `outcomes` are by epoch and arm, `shares` of shape (arms, epochs)."""
    valid = np.array([all(row[arm].valid for row in outcomes) for arm in range(len(shares))])
    comparable = valid[1:] & valid[0]
    weight, counted = pair_with_control(shares)
    counted &= comparable[:, None]
    counts = np.array(outcomes, object).transpose(2, 1, 0)
    pairs = OutcomePairs(
        control=np.where(counted, counts[:, :1], 0),
        treatment=np.where(counted, counts[:, 1:], 0),
        weight=np.where(counted, weight, 0.5),
    )
    known = _compare(metric, pairs, bars)
    growth = known.growth() if (known.verdict == OutcomeVerdict.UNDECIDED).any() else known.uplift
    control, treatment = pairs.exposed
    return [
        _finding(metric, known, arm, control[arm] + treatment[arm], float(growth[arm]), elapsed_s)
        if comparable[arm]
        else OutcomeFinding(metric, verdict=OutcomeVerdict.INVALID)
        for arm in range(len(comparable))
    ]


def _finding(
    metric: OutcomeMetric, known: OutcomeFindings, arm: int, exposed: int, growth: float, elapsed_s: float
) -> OutcomeFinding:
    """Return the finding of one arm, given both arms' units and the factor of units that typically decides."""
    verdict: OutcomeVerdict = known.verdict[arm]
    if verdict == OutcomeVerdict.NO_DATA:
        return OutcomeFinding(metric, exposed=exposed)
    counting_s = elapsed_s - metric.window_s
    needed, eta_s = (
        (exposed * growth, (growth - 1) * counting_s if counting_s > 0 else math.nan)
        if verdict == OutcomeVerdict.UNDECIDED
        else (math.nan, math.nan)
    )
    return OutcomeFinding(
        metric,
        control=float(known.control[arm]),
        arm=float(known.arm[arm]),
        uplift=float(known.uplift[arm]),
        lower=float(known.lower[arm]),
        upper=float(known.upper[arm]),
        better=float(known.better[arm]),
        worse=float(known.worse[arm]),
        exposed=exposed,
        needed=needed,
        eta_s=math.inf if math.isnan(eta_s) else eta_s,
        verdict=verdict,
    )
