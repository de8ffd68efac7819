"""Condition `Ready`: whether stable serves."""

from sundog_operator.api import RevisionStatus
from sundog_operator.api.conditions import Conclusion
from sundog_operator.api.reasons import DeploymentReason, PauseReason
from sundog_operator.core.edge import confirmation as edge_confirmation
from sundog_operator.core.edge import http_route
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.problems.pending_pods import find_pending_reason
from sundog_operator.core.trial.rollout import state


def evaluate_ready(context: PlanContext, conclusions: dict[str, Conclusion]) -> Conclusion:
    """Return whether stable serves, by the edges alone: traffic continues while Ray does not answer."""
    stable = context.status.stable
    if stable is None:
        cause = "SpecAccepted" if conclusions["SpecAccepted"].status == "False" else "RevisionReady"
        return conclusions[cause]._replace(status="False")
    synced = conclusions["TrafficSynced"]
    if synced.reason in (DeploymentReason.SECRET_NOT_FOUND, DeploymentReason.SECRET_INCOMPLETE):
        return synced
    refuses_all = edge_confirmation.refuses_every_caller(context.service, context.observed.edges)
    if synced.reason == DeploymentReason.SECRET_INVALID and refuses_all:
        return synced._replace(message=f"{synced.message}; until then the edge rejects every request")
    if context.is_at_zero and synced.status != "False":
        return _ready_at_zero(stable, conclusions["RevisionReady"])
    healthy = edge_confirmation.reported_replicas(context.service, stable.revision, context.observed.edges)
    if not healthy and context.is_rollout_at_zero and synced.status != "False":
        return _ready_at_zero(stable, _start_of_stable(context, stable))
    if healthy:
        more = [*_find_problem(conclusions), *_find_rollout_wait(context)]
        return Conclusion("True", DeploymentReason.SERVING, "; ".join([f"revision {stable.revision} serves", *more]))
    if healthy is None and (stored := _stored_ready(context, synced)) is not None:
        return stored
    message = f"no edge sees a healthy replica of revision {stable.revision}: {synced.message}"
    return Conclusion("False", DeploymentReason.NO_HEALTHY_REPLICA, message)


def _ready_at_zero(stable: RevisionStatus, revision_ready: Conclusion) -> Conclusion:
    """Return whether requests at zero can start a replica: edges hold them meanwhile. A start with a problem is not ready."""
    if revision_ready.reason not in (DeploymentReason.READY, DeploymentReason.DEPLOYING):
        return revision_ready
    text = "the next request starts one" if revision_ready.status == "True" else "one starts for waiting requests"
    return Conclusion("True", DeploymentReason.SERVING, f"revision {stable.revision} has no replica; {text}")


def _start_of_stable(context: PlanContext, stable: RevisionStatus) -> Conclusion:
    """Return whether stable is at zero, starts, or has a problem. `RevisionReady` is about the canary during a rollout."""
    readiness = context.readiness(stable.revision)
    pending = None if readiness.ready or readiness.failed else find_pending_reason(context, stable.revision)
    if pending is not None:
        return Conclusion("False", *pending)
    reason = readiness.reason if readiness.known else DeploymentReason.DEPLOYING
    return Conclusion(
        "True" if readiness.ready else "False", reason, f"revision {stable.revision}: {readiness.message}"
    )


def _stored_ready(context: PlanContext, synced: Conclusion) -> Conclusion | None:
    """Return the stored `Ready` if stable served and no edge reports otherwise, until the edges are late with a split.

    An agent that restarts does not answer for seconds, while its HAProxy still serves. In a cluster, requests need a ready edge.
    """
    stored = context.facts.conditions.get("Ready")
    if stored is None or stored.status != "True" or synced.status == "False":
        return None
    if context.observed.in_cluster and not any(edge.ready for edge in context.observed.edges):
        return None
    return Conclusion.of(stored)


def _find_problem(conclusions: dict[str, Conclusion]) -> list[str]:
    """Return why the wanted revision does not serve, at most one text: `kubectl get` shows the message of Ready.

    A revision that starts is no problem.
    """
    problem_statuses = (
        ("SpecAccepted", "False"),
        ("RevisionReady", "False"),
        ("Stalled", "True"),
        (http_route.ROUTE_ACCEPTED, "False"),
    )
    for type_, bad in problem_statuses:
        found = conclusions.get(type_)
        if found is not None and found.status == bad and found.reason != DeploymentReason.DEPLOYING:
            return [f"{found.reason}: {found.message}"]
    return []


def _find_rollout_wait(context: PlanContext) -> list[str]:
    """Return whether a rollout waits for a user or for evidence, at most one text, so that a reader knows whether to act."""
    candidate, progress = context.status.candidate, context.progress
    if candidate is None or progress is None:
        return []
    if progress.paused is not None:
        return [f"revision {candidate.revision} is paused ({progress.paused.reason})"]
    step = progress.step
    if step is None:
        return []
    if step.code == PauseReason.WAITS_FOR_PROMOTE:
        return [f"revision {candidate.revision} {state.WAITS_FOR_PROMOTE}"]
    if step.gate == "evidence" and step.since is not None:
        return [f"revision {candidate.revision} waits for evidence at {state.canary_weight(progress)} %"]
    return []
