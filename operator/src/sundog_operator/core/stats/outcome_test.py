"""Whether an arm of an experiment is better than control by the outcomes of its units: success metrics, which are rates or means of a unit.

A unit is counted once, in the epoch and arm of its first exposure, whatever becomes of it later (intention to treat). Its outcomes come
after that, some of them long after. All of what is here compares arms within an epoch, so an epoch whose outcomes are not in yet has few
of them in both arms alike, and the ratio is fair at every moment. It is so as long as (1) outcomes are counted by the epoch of the
exposure, not by the time at which they come: else weights that change would mix; (2) arms answer equally late. An arm that merely has the
same outcomes sooner is ahead for a while, and may be found better for that; for whom that matters, an outcome is to be counted only some
fixed time after the exposure, by whoever counts. Of a mean a unit's total grows while it comes back: then the null is that at no moment the
arms differ, and no theorem covers a total without an end.

A **rate** is the share of exposed units whose first event was above 0. It is judged by those units alone (`ratios`): which arm each is of
is a draw with the arms' shares, so the error is exact, with any number of epochs and whatever the base rate does. That needs a split that
is as the shares say, which the sample-ratio test sees to.

A **mean** is the sum of a unit's values, by exposed unit (`contrasts`): asymptotic, with a burn-in.

Everything is judged at α by the number of tests, each direction by itself: P(an arm that is not better is ever found better) ≤ α over all
arms and metrics at all looks, whatever depends on what, for probabilities of errors add up at most (Ville and the union bound).
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import count_ratio, mean_ratio, multiple_testing
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.mean_ratio import UnitValueSums
from sundog_operator.core.stats.outcome_counts import (
    MILLIONTHS,
    OutcomeCounts,
    OutcomeEpoch,
    OutcomeMetric,
    OutcomePairs,
    pair_with_control,
)
from sundog_operator.core.stats.outcome_findings import OutcomeFinding, OutcomeFindings, OutcomeVerdict
from sundog_operator.core.stats.pooled_count_ratio import RatioEvidence, make_mixture


def evaluate_outcomes(
    metrics: Sequence[OutcomeMetric],
    epochs: Sequence[OutcomeEpoch],
    alpha: float,
    *,
    tests: int | None = None,
    elapsed_s: float = math.nan,
) -> list[list[OutcomeFinding]]:
    """Of each metric, a finding of each arm beside control, in the order of the shares.

    Args:
        metrics: as in the plan.
        epochs: those of evidence, at least one; all with the same arms.
        alpha: the error of each direction, of all tests together.
        tests: among how many it is shared: metrics times arms as the plan has them, which is also the default.
        elapsed_s: the seconds in which the units were exposed, for what is expected of the future; NaN where nobody can tell.
    """
    shares = np.array([epoch.shares for epoch in epochs], float).T
    level = alpha / max(1, tests or len(metrics) * (len(shares) - 1))
    return [
        _judge(metric, [epoch.outcomes[index] for epoch in epochs], shares, level, elapsed_s)
        for index, metric in enumerate(metrics)
    ]


def find_discoveries(findings: Sequence[Sequence[OutcomeFinding]], alpha: float) -> list[tuple[int, int]]:
    """Secondary metrics that differ from control's, as (metric, arm) of `judge`: with a share of α false ones at most (e-BH).

    It holds at the look at which one stops. E of a difference is the mean of those of both directions.
    """
    places = [(metric, arm) for metric, row in enumerate(findings) for arm in range(len(row))]
    log_es = np.array([np.logaddexp(each.better, each.worse) - math.log(2) for row in findings for each in row])
    return [places[index] for index in multiple_testing.find_discoveries(log_es, alpha)] if places else []


def compare_pairs(metric: OutcomeMetric, pairs: OutcomePairs, bar: float) -> OutcomeFindings:
    """What any counts say of a metric, given what log E has to reach."""
    return (_of_rate if metric.type == "rate" else _of_mean)(metric, pairs, bar)


def _of_rate(metric: OutcomeMetric, pairs: OutcomePairs, bar: float) -> OutcomeFindings:
    control, candidate = (np.asarray(arm[2], float) for arm in (pairs.control, pairs.candidate))
    evidence = RatioEvidence(control, candidate, pairs.weight, make_mixture(metric.scale))
    ratio, likelihood = evidence.maximum_likelihood()
    # With a ratio of its own in each epoch events are this much more likely than with any that they have in common.
    differs = (
        count_ratio.log_e(control, candidate, pairs.weight, 1.0) - likelihood >= bar
        if control.shape[-1] > 1
        else np.zeros(ratio.shape, bool)
    )
    above, below = evidence.above(), evidence.below()
    return _compared(
        metric,
        pairs,
        (_each(control.sum(-1), pairs.exposed[0]), _each(candidate.sum(-1), pairs.exposed[1])),
        ratio,
        evidence.interval(bar),
        (above, below),
        lambda ratio: evidence.growth(ratio, bar),
        differs,
        bar,
    )


def _of_mean(metric: OutcomeMetric, pairs: OutcomePairs, bar: float) -> OutcomeFindings:
    control, candidate = (UnitValueSums(arm[0], arm[1], arm[3], arm[4]) for arm in (pairs.control, pairs.candidate))
    seen = mean_ratio.make_contrast(control, candidate)
    with np.errstate(all="ignore"):
        ratio = np.where(seen.control > 0, seen.candidate / seen.control, np.nan)
    means = (
        _each(arm.total.sum(-1), exposed * MILLIONTHS)
        for arm, exposed in zip((control, candidate), pairs.exposed, strict=True)
    )
    above, below = (seen.log_e(1.0, metric.deviation, sign) for sign in (1, -1))
    return _compared(
        metric,
        pairs,
        means,
        ratio,
        seen.interval(metric.deviation, bar),
        (above, below),
        lambda ratio: seen.growth(ratio, metric.deviation, bar),
        np.zeros(ratio.shape, bool),
        bar,
    )


def _compared(
    metric: OutcomeMetric,
    pairs: OutcomePairs,
    values: Iterable[Numbers],
    ratio: Numbers,
    interval: tuple[Numbers, Numbers],
    log_es: tuple[Numbers, Numbers],
    growth: Callable[[Numbers | None], Numbers],
    differs: NDArray[np.bool_],
    bar: float,
) -> OutcomeFindings:
    better, worse = log_es if metric.goal == "increase" else log_es[::-1]
    lower, upper = interval
    # What is not known is not below.
    small = upper < metric.worth if metric.goal == "increase" else lower > metric.worth
    cases = [
        ((pairs.exposed[0] == 0) | (pairs.exposed[1] == 0), OutcomeVerdict.NO_DATA),
        (worse >= bar, OutcomeVerdict.WORSE),
        (differs, OutcomeVerdict.HETEROGENEOUS),
        (better >= bar, OutcomeVerdict.BETTER),
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


def _each(total: Numbers, exposed: mean_ratio.Integers) -> Numbers:
    with np.errstate(all="ignore"):
        found: Numbers = np.asarray(total, float) / np.asarray(exposed, float)
    return found


def _judge(
    metric: OutcomeMetric, outcomes: Sequence[Sequence[OutcomeCounts]], shares: Numbers, alpha: float, elapsed_s: float
) -> list[OutcomeFinding]:
    """Of one metric; `outcomes` by epoch and arm, shares of shape (arms, epochs)."""
    valid = np.array([all(row[arm].valid for row in outcomes) for arm in range(len(shares))])
    sane = valid[1:] & valid[0]
    weight, counted = pair_with_control(shares)
    counted &= sane[:, None]
    counts = np.array(outcomes, object).transpose(2, 1, 0)
    pairs = OutcomePairs(
        control=np.where(counted, counts[:, :1], 0),
        candidate=np.where(counted, counts[:, 1:], 0),
        weight=np.where(counted, weight, 0.5),
    )
    known = compare_pairs(metric, pairs, multiple_testing.log_e_threshold(alpha))
    growth = known.growth() if (known.verdict == OutcomeVerdict.UNDECIDED).any() else known.uplift
    control, candidate = pairs.exposed
    return [
        _finding(metric, known, arm, control[arm] + candidate[arm], float(growth[arm]), elapsed_s)
        if sane[arm]
        else OutcomeFinding(metric, verdict=OutcomeVerdict.INVALID)
        for arm in range(len(sane))
    ]


def _finding(
    metric: OutcomeMetric, known: OutcomeFindings, arm: int, exposed: int, growth: float, elapsed_s: float
) -> OutcomeFinding:
    """Of one arm, given how many units both have, and how many times as many typically decide."""
    verdict: OutcomeVerdict = known.verdict[arm]
    if verdict == OutcomeVerdict.NO_DATA:
        return OutcomeFinding(metric, exposed=exposed)
    needed, eta_s = (
        (exposed * growth, (growth - 1) * elapsed_s) if verdict == OutcomeVerdict.UNDECIDED else (math.nan, math.nan)
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
