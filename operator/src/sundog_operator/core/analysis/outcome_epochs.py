"""Outcomes of the compared arms by epoch, from the sums of the feedback store. Pure."""

from collections.abc import Iterable, Sequence

from sundog_operator.api import PlanOutcome
from sundog_operator.core.analysis import feedback
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSelection, FeedbackSums
from sundog_operator.core.stats.outcome_counts import OutcomeCounts, OutcomeEpoch


def select_sums(
    service: str, attempt: str, outcomes: Sequence[PlanOutcome], epochs: Iterable[int], arms: Iterable[str]
) -> FeedbackSelection:
    """Return the selection of the outcomes' sums to keep from the edges' reports."""
    return FeedbackSelection(
        service=service,
        attempt=attempt,
        epochs=frozenset(epochs),
        arms=frozenset(arms),
        metrics=frozenset(
            (
                *map(feedback.name_sums, outcomes),
                *map(_name_reported_sums, outcomes),
                *filter(None, map(feedback.name_other_sums, outcomes)),
            )
        ),
        products=frozenset(filter(None, map(feedback.name_product, outcomes))),
        has_delayed=any(each.after is not None for each in outcomes),
    )


def find_unreported(outcome: PlanOutcome, sums: FeedbackSums) -> str:
    """Return the feedback of an outcome of which no unit has any; empty where all of it was reported."""
    reported = sums.reported_metrics
    if _name_reported_sums(outcome) not in reported:
        return outcome.feedback
    return outcome.denominator if outcome.denominator and outcome.denominator not in reported else ""


def _name_reported_sums(outcome: PlanOutcome) -> str:
    """Return the name of the sums that show whether anything was reported; those of a window wait until it has passed."""
    return outcome.feedback if feedback.window_s(outcome) else feedback.name_sums(outcome)


def count_epochs(
    counted: Counters,
    outcomes: Sequence[PlanOutcome],
    arms: Sequence[str],
    shares: Iterable[tuple[int, Sequence[int]]],
    *,
    is_sticky: bool,
) -> list[OutcomeEpoch]:
    """Return the counts of each outcome and arm by epoch.

    Args:
        counted: the edges' counts of requests and outcomes.
        outcomes: the outcomes of the plan, in the order of the result.
        arms: the baseline and the arms that are compared with it.
        shares: numbers of epochs, with the arms' shares of the traffic in one unit, such as percent or buckets.
        is_sticky: whether a unit stays with its arm; otherwise each request is a unit.
    """
    found = []
    for epoch, own in shares:
        exposed = [counted.count_exposed_units(epoch, arm, sticky=is_sticky) for arm in arms]
        of_arms = list(zip(arms, exposed, strict=True))
        counts = [[_count(each, counted.feedback, epoch, arm, units) for arm, units in of_arms] for each in outcomes]
        found.append(OutcomeEpoch(own, counts))
    return found


def _count(outcome: PlanOutcome, sums: FeedbackSums, epoch: int, arm: str, exposed: int) -> OutcomeCounts:
    """Return the counts of one outcome, epoch and arm. With a window, units count once theirs has passed."""
    if window_s := feedback.window_s(outcome):
        exposed = sums.matured.get((window_s, epoch, arm), 0)
    own = sums.of(feedback.name_sums(outcome), epoch, arm)
    if not (other_name := feedback.name_other_sums(outcome)):
        return OutcomeCounts(exposed, *own)
    other = sums.of(other_name, epoch, arm)
    product = sums.products.get((feedback.name_product(outcome), epoch, arm), 0)
    return OutcomeCounts(exposed, *own, other.units, other.total, other.squares, product)
