"""The traffic split of one service: its arms, their weights and buckets."""

from dataclasses import dataclass
from typing import Any

from sundog_operator.api import (
    PlanHeader,
    PlanShadow,
    PlanUnit,
)
from sundog_operator.core.edge.buckets import BUCKETS, Range
from sundog_operator.core.kubernetes import names

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SplitArm:
    """One arm of a service: a revision and its share of the traffic.

    Attributes:
        weight: percent of the traffic.
        cluster: the RayCluster; empty means the service's cluster.
        slow_us: thresholds in microseconds. Edges count the responses above each of them.
        choosable: an override may send requests to this arm at weight 0, too.
    """

    name: str
    revision: int
    weight: float
    ranges: tuple[Range, ...]
    cluster: str = ""
    slow_us: tuple[int, ...] = ()
    choosable: bool = False


@dataclass(frozen=True, slots=True)
class SplitFeedback:
    """The outcomes that edges accept.

    Attributes:
        metrics: names of the outcomes.
        max_units: the number of returning units whose first exposure is kept.
        caps: (name, cap in millionths) of the outcomes for which edges keep sums of capped totals as well.
        windows: (name, seconds) of the outcomes for which edges keep sums of a conversion window as well.
        delayed_windows: (name, (begin, end)) of such outcomes that only count between two times after the exposure, in seconds.
        products: (numerator, denominator) of the ratios, for which edges keep sums of products.
        covariates: (name, covariate) of the means that are adjusted by a total from before the first exposure.
    """

    metrics: tuple[str, ...]
    max_units: int
    caps: tuple[tuple[str, int], ...] = ()
    windows: tuple[tuple[str, int], ...] = ()
    products: tuple[tuple[str, str], ...] = ()
    covariates: tuple[tuple[str, str], ...] = ()
    delayed_windows: tuple[tuple[str, tuple[int, int]], ...] = ()


@dataclass(frozen=True, slots=True)
class Split:
    """The traffic split of one service, and the key under which edges count it.

    Attributes:
        attempt: with `epoch`, the key of the counters.
        unit: the unit that the attempt froze; None means the unit of the spec.
        shadow: which requests are copied to the canary; None means no copies.
        headers: a request with these headers goes to the canary, whatever its weight.
        feedback: the outcomes that edges accept; None means none.
        experiment: name of the Experiment that the split belongs to, a rollout's or a user's; empty means none.
    """

    attempt: str
    salt: str
    epoch: int
    arms: tuple[SplitArm, ...]
    unit: PlanUnit | None = None
    shadow: PlanShadow | None = None
    headers: tuple[PlanHeader, ...] = ()
    feedback: SplitFeedback | None = None
    experiment: str = ""

    @property
    def choosable(self) -> frozenset[str]:
        """Return the arms that overrides may choose. An arm without traffic may not be ready yet, or may be about to leave."""
        return frozenset(arm.name for arm in self.arms if arm.weight or arm.choosable)


def make_stable_split(service: str, uid: str, stable: int, followed: int | None = None) -> Split:
    """Return the split with all traffic on stable.

    A `followed` revision gets no traffic. Edges check the health of its replicas before the switch.

    Args:
        service: the ModelDeployment's name.
        uid: the ModelDeployment's uid.
        stable: number of the stable revision.
        followed: number of the next revision; None for none.
    """
    attempt = names.stable_attempt(service, stable, uid)
    arms = [SplitArm(names.STABLE, stable, 100, ((0, BUCKETS),))]
    if followed is not None:
        arms.append(SplitArm(names.CANARY, followed, 0, ()))
    return Split(attempt, attempt, 0, tuple(arms))
