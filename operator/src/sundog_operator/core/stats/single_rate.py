"""One rate against the most that it may be, with bounds that hold at every look; each trial is taken to be one of its own."""

from typing import NamedTuple, Self

import numpy as np

from sundog_operator.core.stats import multiple_testing, proportion
from sundog_operator.core.stats.findings import MetricVerdict

_SCALE = 0.01
"""Of a rate that nothing is asked of: about there its interval is tightest."""


class RateFinding(NamedTuple):
    """What is known of a rate: as it seems, None without a trial; between which it is; and what follows where something is asked."""

    rate: float | None
    lower: float
    upper: float
    verdict: str

    def turned(self) -> Self:
        """The same of what does not happen."""
        return self._replace(
            rate=None if self.rate is None else 1 - self.rate, lower=1 - self.upper, upper=1 - self.lower
        )


def evaluate_rate(
    hits: int, trials: int, unknown: int, most: float | None, alpha: float, questions: int = 1
) -> RateFinding:
    """Weigh a rate.

    Args:
        hits: trials that hit.
        trials: all of which it is known whether they did.
        unknown: further ones; to pass they count as hits, for harm they are left out.
        most: up to which rate it passes, in (0, 1); None asks nothing, and the verdict is then Undecided.
        alpha: the error of each direction: of passing a rate above `most`, and of finding one below it harmful, at any look.
        questions: how many rates are asked about, together or one after the other. Each may do harm alone, so they share that error; all
            have to pass, so none of the other is shared.

    Returns:
        The bounds at level α by the number of questions.
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
    optimum, limit = proportion.optimum_for_rate(most), np.array(most)
    worst = np.array(float(hits + unknown)), np.array(float(trials + unknown))
    if proportion.log_e(*worst, limit, optimum, 2 * alpha, "below") >= multiple_testing.log_e_threshold(alpha):
        return MetricVerdict.PASSED
    counts = np.array(float(hits)), np.array(float(trials))
    if proportion.log_e(*counts, limit, optimum, 2 * level, "above") >= multiple_testing.log_e_threshold(level):
        return MetricVerdict.HARM
    return MetricVerdict.UNDECIDED
