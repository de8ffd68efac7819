"""Test of one rate against its maximum, whatever any other rate is, with bounds that hold at every evaluation."""

from typing import Literal, NamedTuple, Self

import numpy as np

from sundog_operator.core.stats import multiple_testing, proportion
from sundog_operator.core.stats.findings import MetricVerdict

_SCALE = 0.01
"""Rate near which the interval is tightest where no maximum is given."""


class RateFinding(NamedTuple):
    """Estimate, confidence sequence and verdict of one rate.

    Attributes:
        rate: hits by trials; None without a trial.
        lower: lower end of the confidence sequence, in [0, 1].
        upper: upper end.
        verdict: a `MetricVerdict` as text.
    """

    rate: float | None
    lower: float
    upper: float
    verdict: str

    def turned(self) -> Self:
        """Return the finding of the complement, 1 − rate."""
        return self._replace(
            rate=None if self.rate is None else 1 - self.rate, lower=1 - self.upper, upper=1 - self.lower
        )


def rate_interval(hits: int, trials: int, alpha: float, dispersion: float = 1.0) -> tuple[float, float]:
    """Return the confidence sequence of one rate at level α, as (lower, upper): (0, 1) without trials.

    `dispersion` is that of trials that depend on each other, at least 1: log E is divided by it.
    """
    bar = dispersion * multiple_testing.log_e_threshold(alpha)
    counts = np.array(float(hits)), np.array(float(trials))
    lower, upper = proportion.interval(*counts, bar, proportion.optimum_for_rate(_SCALE), alpha)
    return float(lower), float(upper)


def evaluate_rate(
    hits: int, trials: int, unknown: int, most: float | None, alpha: float, questions: int = 1
) -> RateFinding:
    """Test a rate against its maximum. Source: the beta-binomial mixture of `proportion`.

    Args:
        hits: trials that hit.
        trials: trials with a known outcome.
        unknown: trials with an unknown outcome. The test to pass counts them as hits; the test for harm leaves them out.
        most: the largest rate that passes, in (0, 1). With None nothing is tested, and the verdict is Undecided.
        alpha: the error of each direction at all evaluations together: passing a rate above `most`, or calling a rate below it harm.
        questions: number of rates that are tested. Each of them alone can be harm, so they share that error (Bonferroni). All of
            them have to pass, so the error of passing is not shared.

    Returns:
        The finding. Its bounds have level α by the number of questions; its verdict is NoData without a trial.
    """
    if not trials:
        return RateFinding(None, 0.0, 1.0, str(MetricVerdict.NO_DATA))
    optimum, level = proportion.optimum_for_rate(most or _SCALE), alpha / questions
    bar, counts = multiple_testing.log_e_threshold(level), (np.array(float(hits)), np.array(float(trials)))
    lower, upper = (float(end) for end in proportion.interval(*counts, bar, optimum, level))
    return RateFinding(hits / trials, lower, upper, str(_verdict(hits, trials, unknown, most, alpha, level)))


def _verdict(hits: int, trials: int, unknown: int, most: float | None, alpha: float, level: float) -> MetricVerdict:
    if most is None:
        return MetricVerdict.UNDECIDED
    if is_beyond(hits + unknown, trials + unknown, most, alpha, "below"):
        return MetricVerdict.PASSED
    return MetricVerdict.HARM if is_beyond(hits, trials, most, level, "above") else MetricVerdict.UNDECIDED


def is_beyond(
    hits: int, trials: int, limit: float, alpha: float, side: Literal["below", "above"], dispersion: float = 1.0
) -> bool:
    """Return whether a rate is known to be on a side of a limit, at every evaluation.

    The test is the one-sided beta-binomial mixture of `proportion`.

    Args:
        hits: trials that hit.
        trials: all trials.
        limit: a share in (0, 1).
        alpha: the probability of the answer "yes" where the rate is at the limit or on its other side.
        side: the side of the limit.
        dispersion: that of trials that depend on each other, at least 1: log E is divided by it.
    """
    counts, optimum = (np.array(float(hits)), np.array(float(trials))), proportion.optimum_for_rate(limit)
    evidence = proportion.log_e(*counts, np.array(limit), optimum, 2 * alpha, side)
    return bool(evidence / dispersion >= multiple_testing.log_e_threshold(alpha))
