"""Design effect of units that stay with an arm: requests of one unit correlate, so counts vary more than independent requests do.

A hash assigns each unit to a group. Groups are independent of the arm and the same in every epoch. The variance over groups equals the
variance over units in expectation. So it covers a unit's many requests, its own error rate, and its return in later epochs.
Source: random groups, as in Deng, Knoblich and Lu (arXiv 1803.06336) for ratios of units.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import dispersion
from sundog_operator.core.stats.beta_binomial import Numbers


@dataclass(frozen=True, slots=True)
class GroupedEvents:
    """Events and requests by group of units, each of shape (..., epochs, groups). The last group has the requests of unknown group.

    Attributes:
        control: control's events.
        treatment: the treatment's events.
        control_requests: control's requests.
        treatment_requests: the treatment's requests.
        control_without_unit: control's events of requests without a unit, shape (..., epochs).
        treatment_without_unit: the treatment's events of requests without a unit, same shape.
        requests_without_unit: requests without a unit in both arms, same shape.
    """

    control: Numbers
    treatment: Numbers
    control_requests: Numbers
    treatment_requests: Numbers
    control_without_unit: Numbers
    treatment_without_unit: Numbers
    requests_without_unit: Numbers

    @property
    def valid(self) -> NDArray[np.bool_]:
        """True where all numbers are finite and none is negative; shape (...)."""
        grouped = np.stack([self.control, self.treatment, self.control_requests, self.treatment_requests])
        alone = np.stack([self.control_without_unit, self.treatment_without_unit, self.requests_without_unit])
        found: NDArray[np.bool_] = np.logical_and(
            (np.isfinite(grouped) & (grouped >= 0)).all((0, -1, -2)), (np.isfinite(alone) & (alone >= 0)).all((0, -1))
        )
        return found

    def each(self, change: Callable[[Numbers], Numbers]) -> Self:
        """Return a copy in which `change` was applied to every part; it takes and returns counts of shape (..., epochs)."""

        def changed(part: Numbers) -> Numbers:
            if part.ndim == self.control_without_unit.ndim:
                return change(part)
            return np.stack([change(group) for group in np.moveaxis(part, -1, 0)], -1)

        return replace(self, **{each.name: changed(getattr(self, each.name)) for each in fields(self)})


def design_effect(groups: GroupedEvents, null: Numbers, weight: Numbers) -> Numbers:
    """Return the design effect φ ≥ 1 over groups, of shape (...): the larger of two estimates.

    A group's influence is its contribution to x − θ₀s beyond the expectation at the null's rates. The first estimate sums influences over
    epochs and arms before it squares them; it has the variance of the test's sum. It shows heavy units of the treatment. Where the
    treatment's weight is small, it does not show heavy units of control. So the second estimate takes the contribution that each group
    would have in either arm, and the variance from the random choice of the arm.

    Args:
        groups: the counts.
        null: θ₀, the treatment's share of events that is tested, shape (..., epochs).
        weight: the treatment's share of the requests, same shape.
    """
    x, c, share = groups.treatment, groups.control, null[..., None]
    events = (x + c).sum(-1, keepdims=True)
    with np.errstate(all="ignore"):
        treatment = _excess_events(x, groups.treatment_requests, share * events)
        control = _excess_events(c, groups.control_requests, (1 - share) * events)
        alone = groups.treatment_without_unit * (1 - null) ** 2 + groups.control_without_unit * null**2
        chance = (x.sum(-1) * (1 - null) ** 2 + c.sum(-1) * null**2 + alone).sum(-1)
        observed = _group_variance(((1 - share) * treatment - share * control).sum(-2))
        as_treatment, as_control = (1 - null) / (1 - weight), null / weight
        either = as_treatment[..., None] * treatment + as_control[..., None] * control
        of_chance = as_treatment**2 * x.sum(-1) + as_control**2 * c.sum(-1)
        by_assignment = (
            _assignment_variance(either, weight) + chance - (weight * (1 - weight) * of_chance + alone).sum(-1)
        )
        index = (np.maximum(observed, by_assignment) + alone.sum(-1)) / chance
        found = dispersion.inflate_for_few_clusters(index, _effective_clusters((x + c).sum(-2)))
    return np.where(np.isfinite(found), np.maximum(found, 1.0), 1.0)


def _excess_events(events: Numbers, requests: Numbers, expected: Numbers) -> Numbers:
    """Return each group's events beyond those that its requests would have at the rate of all other groups of its arm.

    A group without others is compared with the null's expectation. So is the group of unknown units: in the worst case it is one unit.
    """
    share = requests / np.maximum(requests.sum(-1, keepdims=True), 1.0)
    beyond = events - events.sum(-1, keepdims=True) * share
    known = (share < 1) & (np.arange(share.shape[-1]) < share.shape[-1] - 1)
    found: Numbers = np.where(known, beyond / np.where(known, 1 - share, 1.0), events - expected * share)
    return found


def request_design_effect(groups: GroupedEvents) -> Numbers:
    """Return the worst-case design effect of requests, at least 1, of shape (...): 1 + (m − 1)·ICC with an ICC of 1.

    For units of different sizes m, it is Σm²/Σm. It applies until events show how a unit's requests end.
    """
    requests = (groups.control_requests + groups.treatment_requests).sum(-2)
    alone = groups.requests_without_unit.sum(-1)
    with np.errstate(all="ignore"):
        index = (_group_variance(requests) + alone) / (requests.sum(-1) + alone)
    return np.where(np.isfinite(index), np.maximum(index, 1.0), 1.0)


def _group_variance(sums: Numbers) -> Numbers:
    """Return the variance of a sum of independent groups, shape (...), given the groups' sums."""
    count = sums.shape[-1]
    found: Numbers = ((sums**2).sum(-1) - sums.sum(-1) ** 2 / count) * count / max(count - 1, 1)
    return found


def _assignment_variance(either: Numbers, weight: Numbers) -> Numbers:
    """Return the variance from the random assignment of groups to arms, shape (...).

    One draw decides for all epochs: a unit that the treatment has at a weight stays with it at a higher weight.
    """
    centred = either - either.mean(-1, keepdims=True)
    together = np.einsum("...eg,...fg->...ef", centred, centred)
    first, second = weight[..., :, None], weight[..., None, :]
    kept = np.minimum(first, second) * (1 - np.maximum(first, second))
    found: Numbers = (together * kept).sum((-1, -2))
    return found


def _effective_clusters(sums: Numbers) -> Numbers:
    """Return the effective number of groups, Σ² by sum of squares, shape (...)."""
    found: Numbers = sums.sum(-1) ** 2 / (sums**2).sum(-1)
    return found
