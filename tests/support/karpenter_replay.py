"""Karpenter's choice of an instance type for one pod, as in its source: a stand-in without its controllers, prices and limits.

Read in kubernetes-sigs/karpenter at 2266468 (2026-08-20): `pkg/controllers/provisioning/scheduling/preferences.go` (`Relax`),
`pkg/scheduling/requirements.go` (`NewPodRequirements`, `Compatible`) and `requirement.go`. The instance types have the labels of
aws/karpenter-provider-aws at 1d927085d (`pkg/providers/instancetype/types.go`).

- The first required term, and the preferred term of the highest weight, are requirements.
- A requirement of a label that neither Karpenter nor the NodePool knows is never met, unless it excludes values.
- If nothing fits, one thing is dropped: the first required term where there are several, else the preferred term of the highest weight.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CAPACITY_TYPE = "karpenter.sh/capacity-type"
NAME = "karpenter.k8s.aws/instance-gpu-name"
MEMORY = "karpenter.k8s.aws/instance-gpu-memory"
WELL_KNOWN = frozenset({CAPACITY_TYPE, NAME, MEMORY})
"""Labels that each instance type has, or has not, by definition."""

Json = dict[str, Any]


@dataclass(frozen=True)
class InstanceType:
    """An instance type, and how it may be bought now: `spot`, `on-demand`, both or neither."""

    name: str
    labels: Mapping[str, str]
    offers: Sequence[str] = ("spot", "on-demand")

    def without(self, *offers: str) -> "InstanceType":
        return InstanceType(self.name, self.labels, tuple(each for each in self.offers if each not in offers))


def card(name: str, gpu: str, mib: int) -> InstanceType:
    return InstanceType(name, {NAME: gpu, MEMORY: str(mib)})


OFFERED: Mapping[str, InstanceType] = {
    each.name: each
    for each in (
        InstanceType("m7i.large", {}),
        card("g6f.large", "l4", 2861),
        card("g6.xlarge", "l4", 22888),
        card("g5.xlarge", "a10g", 22888),
        card("p4d.24xlarge", "a100", 40960),
        card("p4de.24xlarge", "a100", 81920),
        card("p5.4xlarge", "h100", 81920),
    )
}


def launch(affinity: Json | None, offered: Iterable[InstanceType]) -> tuple[str, str, int] | None:
    """Return the instance type that Karpenter launches for a pod with this affinity, how it is bought, and what was dropped before.

    None if it launches nothing. Of several types that fit the first is taken, and spot where both are offered.
    """
    of_nodes = (affinity or {}).get("nodeAffinity", {})
    terms = of_nodes.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    required = [each["matchExpressions"] for each in terms]
    weighted = of_nodes.get("preferredDuringSchedulingIgnoredDuringExecution", [])
    preferred = [each["preference"]["matchExpressions"] for each in sorted(weighted, key=lambda each: -each["weight"])]
    known = list(offered)
    dropped = 0
    while True:
        wanted = [*(required[0] if required else []), *(preferred[0] if preferred else [])]
        for each in known:
            for offer in each.offers:
                if all(_allows(expression, {**each.labels, CAPACITY_TYPE: offer}) for expression in wanted):
                    return each.name, offer, dropped
        if len(required) > 1:
            required = required[1:]
        elif preferred:
            preferred = preferred[1:]
        else:
            return None
        dropped += 1


def _allows(expression: Json, labels: Mapping[str, str]) -> bool:
    operator, found, values = expression["operator"], labels.get(expression["key"]), expression.get("values", [])
    if operator in ("NotIn", "DoesNotExist"):
        return found not in values if operator == "NotIn" else found is None
    if expression["key"] not in WELL_KNOWN or found is None:
        return False
    if operator == "In":
        return found in values
    return int(found) > int(values[0]) if operator == "Gt" else int(found) < int(values[0])
