"""Lines of a preview about the capacity for a revision's replicas."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Final

from sundog_operator.api import ModelDeploymentSpec, PlanInPlace
from sundog_operator.core.kubernetes import accelerators, capacity
from sundog_operator.core.planner.context import make_context
from sundog_operator.core.planner.facts import ObservedState
from sundog_operator.core.planner.plan import ReconcilePlan
from sundog_operator.core.planner.rollout.candidate_placement import count_pods_beside
from sundog_operator.core.trial.rollout import in_place

_UNKNOWN_NODES: Final = (
    "free GPUs are unknown: it takes permission to list nodes, pods of all namespaces and ResourceQuotas. Ask an administrator for it,"
    " or to run `sundog plan`"
)


def find_shared_capacity(plan: ReconcilePlan) -> PlanInPlace | None:
    """Return how a new candidate shares stable's replicas; None if it gets replicas of its own, or none starts."""
    return in_place.in_place_from_capacity(plan.status.capacity) if plan.status.candidate is not None else None


def describe_missing_capacity(plan: ReconcilePlan) -> Iterator[str]:
    """Describe what the revision lacks, if anything."""
    yield from (c.message for c in plan.status.conditions if (c.type, c.status) == ("CapacityAvailable", "False"))


def describe_capacity(
    spec: ModelDeploymentSpec, observed: ObservedState, plan: ReconcilePlan, now: datetime
) -> Iterator[str]:
    """Describe how replicas are shared, or what capacity there is for those that the load needs now."""
    context = replace(make_context(observed, now), spec=spec, status=plan.status)
    missing, shared = tuple(describe_missing_capacity(plan)), find_shared_capacity(plan)
    if shared is not None:
        spare = "one more replica runs meanwhile" if shared.spare else "stable has one less while each replica starts"
        yield f"both revisions share the service's {context.replicas} replicas, and traffic follows them; {spare}"
    elif missing:
        yield from missing
        held = plan.status.candidate is None
        yield "it does not start until this changes" if held else "its pods are created, and wait for nodes"
    elif _are_nodes_unknown(spec, observed):
        yield _UNKNOWN_NODES
    elif observed.available is not None and observed.available.resource:
        pods, _, lacking = count_pods_beside(context, spec)
        yield from capacity.describe_available(observed.available, pods, lacking)


def _are_nodes_unknown(spec: ModelDeploymentSpec, observed: ObservedState) -> bool:
    """Whether free devices would be counted, if the user might list the nodes."""
    devices = accelerators.replica_devices(spec.resources.gpu)
    if not observed.in_cluster or devices is None or devices.is_claimed or spec.scheduling.queue:
        return False
    return observed.available is None or observed.available.on_nodes is None
