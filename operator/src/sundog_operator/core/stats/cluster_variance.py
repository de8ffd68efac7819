"""How much more counts vary by unit than chance would have it, where units stay with an arm: one user's requests succeed or fail together.

Units are hashed into groups that are independent of the arm and the same in every epoch. Over groups sums vary as much as over units, in
expectation exactly: so groups tell what a user's many requests, an error rate of his own and his coming back in later epochs are worth.
Source: random groups, as Deng, Knoblich and Lu (arXiv 1803.06336) have it for ratios of units.
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
    """Events and requests by group of units, each of shape (..., epochs, groups). The last place has what nobody knows the group of.

    Attributes:
        control: control's events.
        candidate: the candidate's events.
        control_requests: control's requests.
        candidate_requests: the candidate's requests.
        control_alone: control's events of requests without a unit, shape (..., epochs).
        candidate_alone: the candidate's of those.
        requests_alone: how many such requests both arms had.
    """

    control: Numbers
    candidate: Numbers
    control_requests: Numbers
    candidate_requests: Numbers
    control_without_unit: Numbers
    candidate_without_unit: Numbers
    requests_without_unit: Numbers

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Whether every number is one, and none is below 0; shape (...)."""
        grouped = np.stack([self.control, self.candidate, self.control_requests, self.candidate_requests])
        alone = np.stack([self.control_without_unit, self.candidate_without_unit, self.requests_without_unit])
        found: NDArray[np.bool_] = np.logical_and(
            (np.isfinite(grouped) & (grouped >= 0)).all((0, -1, -2)), (np.isfinite(alone) & (alone >= 0)).all((0, -1))
        )
        return found

    def each(self, change: Callable[[Numbers], Numbers]) -> Self:
        """The same with every part changed as counts of shape (..., epochs) are, group by group."""

        def changed(part: Numbers) -> Numbers:
            if part.ndim == self.control_without_unit.ndim:
                return change(part)
            return np.stack([change(group) for group in np.moveaxis(part, -1, 0)], -1)

        return replace(self, **{each.name: changed(getattr(self, each.name)) for each in fields(self)})


def design_effect(groups: GroupedEvents, null: Numbers, weight: Numbers) -> Numbers:
    """φ ≥ 1 over groups, of shape (...): the larger of two estimates of the same.

    A group's influence is what it adds to x − θ₀s beyond what its requests would at the null's rates. Over groups the influences, summed
    over epochs and arms before they are squared, have the variance of the test's sum; who weighs a lot and fell to the candidate is seen in
    it for as much as he weighs. Who fell to control is not where the candidate's weight is small: so the second estimate asks what each
    group would have added in either arm, and what the arm's being drawn at random makes of that.

    Args:
        groups: what was counted.
        null: θ₀, the candidate's share of events that is tested, shape (..., epochs).
        weight: the candidate's share of the requests, same shape.
    """
    x, c, share = groups.candidate, groups.control, null[..., None]
    events = (x + c).sum(-1, keepdims=True)
    with np.errstate(all="ignore"):
        candidate = _beside_others(x, groups.candidate_requests, share * events)
        control = _beside_others(c, groups.control_requests, (1 - share) * events)
        alone = groups.candidate_without_unit * (1 - null) ** 2 + groups.control_without_unit * null**2
        chance = (x.sum(-1) * (1 - null) ** 2 + c.sum(-1) * null**2 + alone).sum(-1)
        seen = _spread(((1 - share) * candidate - share * control).sum(-2))
        as_candidate, as_control = (1 - null) / (1 - weight), null / weight
        either = as_candidate[..., None] * candidate + as_control[..., None] * control
        of_chance = as_candidate**2 * x.sum(-1) + as_control**2 * c.sum(-1)
        drawn = _drawn(either, weight) + chance - (weight * (1 - weight) * of_chance + alone).sum(-1)
        index = (np.maximum(seen, drawn) + alone.sum(-1)) / chance
        found = dispersion.inflate_for_few_clusters(index, _clusters((x + c).sum(-2)))
    return np.where(np.isfinite(found), np.maximum(found, 1.0), 1.0)


def _beside_others(events: Numbers, requests: Numbers, expected: Numbers) -> Numbers:
    """What each group has more than its requests would have at the rate of all other groups of its arm.

    A lone one is compared with what the null expects, and so is what has no group: at worst all of it was one unit's.
    """
    share = requests / np.maximum(requests.sum(-1, keepdims=True), 1.0)
    beyond = events - events.sum(-1, keepdims=True) * share
    known = (share < 1) & (np.arange(share.shape[-1]) < share.shape[-1] - 1)
    found: Numbers = np.where(known, beyond / np.where(known, 1 - share, 1.0), events - expected * share)
    return found


def request_design_effect(groups: GroupedEvents) -> Numbers:
    """What requests are worth less than units, of shape (...), where all requests of a unit end alike.

    As long as there are no events nobody knows that they do not.
    """
    requests = (groups.control_requests + groups.candidate_requests).sum(-2)
    alone = groups.requests_without_unit.sum(-1)
    with np.errstate(all="ignore"):
        index = (_spread(requests) + alone) / (requests.sum(-1) + alone)
    return np.where(np.isfinite(index), np.maximum(index, 1.0), 1.0)


def _spread(sums: Numbers) -> Numbers:
    """What independent groups' sums vary by, of shape (...)."""
    count = sums.shape[-1]
    found: Numbers = ((sums**2).sum(-1) - sums.sum(-1) ** 2 / count) * count / max(count - 1, 1)
    return found


def _drawn(either: Numbers, weight: Numbers) -> Numbers:
    """The variance of what arms add that are drawn once for all epochs: who is the candidate's at a weight is so at a higher one."""
    centred = either - either.mean(-1, keepdims=True)
    together = np.einsum("...eg,...fg->...ef", centred, centred)
    first, second = weight[..., :, None], weight[..., None, :]
    kept = np.minimum(first, second) * (1 - np.maximum(first, second))
    found: Numbers = (together * kept).sum((-1, -2))
    return found


def _clusters(sums: Numbers) -> Numbers:
    found: Numbers = sums.sum(-1) ** 2 / (sums**2).sum(-1)
    return found
