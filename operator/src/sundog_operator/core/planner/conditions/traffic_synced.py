"""Condition `TrafficSynced`: whether every edge has the desired split and settings in force."""

from datetime import timedelta
from typing import Final

from sundog_operator.api import Condition
from sundog_operator.api.conditions import Conclusion
from sundog_operator.api.reasons import DeploymentReason
from sundog_operator.core.edge import confirmation as edge_confirmation
from sundog_operator.core.edge import secrets
from sundog_operator.core.edge.split import Split
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.context import PlanContext

CONFIRM_GRACE: Final = timedelta(seconds=30)


def evaluate_traffic_synced(context: PlanContext) -> Conclusion:
    """Return whether every edge has the desired entry in force, and late edges once they are late."""
    split = context.desired_split()
    if split is None:
        return Conclusion("False", DeploymentReason.NOTHING_SERVES, "no revision is ready for traffic")
    wanted = _find_wanted_hash(context, split)
    confirmation = edge_confirmation.confirm(context.service, split, context.observed.edges, wanted)
    if confirmation.confirmed:
        return Conclusion("True", DeploymentReason.IN_FORCE, f"every edge has epoch {split.epoch} in force")
    stored = context.facts.conditions.get("TrafficSynced")
    if stored is not None and _is_confirmation_late(context, stored):
        waiting = "; ".join(f"{pod} {why}" for pod, why in confirmation.waiting)
        waiting += f": {context.observed.edge_refusal}" if context.observed.edge_refusal else ""
        missing = "the newest settings are" if context.is_split_confirmed else f"epoch {split.epoch} is"
        message = f"{missing} not in force after {CONFIRM_GRACE.total_seconds():g} s: {waiting}"
        return Conclusion("False", DeploymentReason.EDGE_NOT_CONFIRMED, message)
    return Conclusion("Unknown", DeploymentReason.CONFIRMING, "waits for the edges to confirm the split")


def _find_wanted_hash(context: PlanContext, split: Split) -> str:
    """Return the hash of the entry that the split document should have after this plan; empty where it has none."""
    entry = desired_state.desired_entry(
        context.observed.deployment,
        context.status,
        split,
        context.spec,
        context.observed.split,
        context.observed.revisions,
        has_host=not context.observed.host_taken_by,
        domain=context.observed.domain,
    )
    return str((entry or {}).get("hash", ""))


def _is_confirmation_late(context: PlanContext, stored: Condition) -> bool:
    """Whether the edges have not confirmed the split for `CONFIRM_GRACE`, by the stored `TrafficSynced`."""
    if stored.reason == DeploymentReason.EDGE_NOT_CONFIRMED:
        return True
    return stored.status == "Unknown" and context.now - stored.last_transition_time >= CONFIRM_GRACE


def find_secret_problem(context: PlanContext) -> Conclusion | None:
    """Return the conclusion if a Secret of the endpoint is missing, or if an edge cannot use it; else None."""
    if context.spec is None:
        return None
    needed = secrets.secret_references(context.spec.endpoint)
    namespace = context.observed.deployment["metadata"]["namespace"]
    if (missing := secrets.find_missing_secrets(needed, context.observed.secrets, namespace)) is not None:
        return Conclusion("False", *missing)
    problems = edge_confirmation.find_edge_problems(context.service, context.observed.edges) if needed else []
    message = "; ".join(f"{pod}: {problem}" for pod, problem in problems)
    return Conclusion("False", DeploymentReason.SECRET_INVALID, message) if problems else None
