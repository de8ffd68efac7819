"""Conditions of a ModelDeployment."""

from typing import Final

from sundog_operator.api import ModelDeploymentSpec, RevisionStatus, model_deployment_conditions
from sundog_operator.api.conditions import Conclusion
from sundog_operator.api.reasons import Cause, DeploymentReason
from sundog_operator.core import events
from sundog_operator.core.edge import http_route, salts
from sundog_operator.core.kubernetes import accelerators, pod_problems
from sundog_operator.core.kubernetes.shared_pods import is_shared
from sundog_operator.core.planner import shared_capacity
from sundog_operator.core.planner.conditions.progressing import describe_hold, evaluate_progressing
from sundog_operator.core.planner.conditions.ready import evaluate_ready
from sundog_operator.core.planner.conditions.revision_ready import evaluate_revision_ready
from sundog_operator.core.planner.conditions.traffic_synced import evaluate_traffic_synced, find_secret_problem
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.problems import terminating_pods
from sundog_operator.core.planner.rollout import candidate_placement, deadline

PLACEMENT_REASONS: Final = frozenset(
    {
        DeploymentReason.INSUFFICIENT_CAPACITY,
        DeploymentReason.INSUFFICIENT_QUOTA,
        DeploymentReason.UNSCHEDULABLE,
        DeploymentReason.POD_REFUSED,
    }
)
"""Reasons of pods that wait for resources. Each has an event."""


def set_conditions(context: PlanContext) -> PlanContext:
    """Set all conditions and the observed generation."""
    generation = context.facts.generation
    conclusions = {
        "SpecAccepted": _spec_accepted(context),
        "CapacityAvailable": _capacity_available(context),
        "RevisionReady": evaluate_revision_ready(context),
        "TrafficSynced": evaluate_traffic_synced(context),
        "Progressing": evaluate_progressing(context),
    }
    conclusions["Promoted"] = _promoted(context, conclusions["TrafficSynced"])
    if (problem := find_secret_problem(context)) is not None:
        conclusions["TrafficSynced"] = problem
    if (route := _route_accepted(context)) is not None:
        conclusions[http_route.ROUTE_ACCEPTED] = route
    if (changed := _model_changed(context)) is not None:
        conclusions["ModelUnchanged"] = changed
    conclusions["Stalled"] = stalled = _stalled(context, conclusions)
    conclusions["Ready"] = ready = evaluate_ready(context, conclusions)
    is_settled = ready.status == "True" or stalled.status == "True"
    reconciling = Conclusion("False", "", "") if is_settled else Conclusion("True", ready.reason, ready.message)
    conclusions["Reconciling"] = reconciling
    conditions = model_deployment_conditions(context.before.conditions, generation=generation, at=context.now)
    for type_, conclusion in conclusions.items():
        conditions.mark(type_, conclusion, at=context.now)
    if changed is None:
        conditions.drop("ModelUnchanged")
    if context.spec is not None and not context.spec.endpoint.gateway.name:
        conditions.drop(http_route.ROUTE_ACCEPTED)
    context = context.set(conditions=conditions.conditions(), observed_generation=generation)
    context = _report_refusal(context, conclusions["SpecAccepted"], generation)
    for type_ in ("CapacityAvailable", "RevisionReady"):
        context = _report_waiting_pods(context, type_, conclusions[type_])
    return context


def _model_changed(context: PlanContext) -> Conclusion | None:
    """Return that the files of the spec's revision changed since it was created; None if they did not, or no one reports them."""
    revision, found = context.spec_revision, context.facts.model_files
    if context.spec is None or revision is None or not revision.files or found in ("", revision.files):
        return None
    return Conclusion(
        "False",
        DeploymentReason.FILES_CHANGED,
        f"files at {context.spec.model.uri} changed since revision {revision.number} was created: running replicas keep what they"
        " loaded, later ones load the changed files. For a rollout change model.uri, or run `sundog local up --watch`",
    )


def _report_waiting_pods(context: PlanContext, type_: str, conclusion: Conclusion) -> PlanContext:
    """Add an event if pods of the newest revision begin to wait for resources, or wait for others than before."""
    if conclusion.reason not in PLACEMENT_REASONS:
        return context
    event = events.pods_lack_resources(conclusion.reason, conclusion.message)
    stored = context.facts.conditions.get(type_)
    before = None if stored is None else events.pods_lack_resources(stored.reason, stored.message)
    is_known = before is not None and (before.reason, before.dedupe_key) == (event.reason, event.dedupe_key)
    return context if is_known else context.report(event)


def _report_refusal(context: PlanContext, spec_accepted: Conclusion, generation: int) -> PlanContext:
    """Add an event if the spec is refused, once for each generation."""
    stored = context.facts.conditions.get("SpecAccepted")
    is_reported = stored is not None and stored.status == "False" and stored.observed_generation == generation
    if spec_accepted.status != "False" or is_reported:
        return context
    return context.report(events.spec_refused(spec_accepted.reason, spec_accepted.message, generation))


def _spec_accepted(context: PlanContext) -> Conclusion:
    if context.observed.foreign:
        found = ", ".join(context.observed.foreign)
        return Conclusion(
            "False", DeploymentReason.NOT_OWNED, f"{found}: exists and was not made by Sundog; rename or delete it"
        )
    if context.observed.acceptance.spec is None:
        return Conclusion("False", context.observed.acceptance.reason, context.observed.acceptance.message)
    if context.observed.host_taken_by:
        host = context.observed.acceptance.spec.endpoint.host
        message = (
            f"spec.endpoint.host: ModelDeployment {context.observed.host_taken_by} has {host}. Choose another host"
        )
        return Conclusion("False", DeploymentReason.HOST_TAKEN, message)
    if reuse := salts.make_reuse_message("ModelDeployment", context.service, context.observed.salts):
        return Conclusion("True", DeploymentReason.SALT_REUSED, reuse)
    return Conclusion("True", DeploymentReason.ACCEPTED, "")


def _capacity_available(context: PlanContext) -> Conclusion:
    spec = context.spec
    devices = accelerators.replica_devices(spec.resources.gpu) if spec is not None else None
    newest = context.status.candidate or context.status.stable
    short, in_place, wanted = context.capacity_shortage, context.in_place is not None, context.spec_revision
    is_deployed = newest is not None and wanted is not None and newest.revision == wanted.number
    if short is None and spec is not None and newest is not None and is_deployed and not in_place:
        short = _find_missing_capacity(context, spec, newest)
    if short is not None:
        message = f"revision {wanted.number}: {short.message}" if wanted is not None else short.message
        return Conclusion("False", short.reason, message)
    if devices is None:
        return Conclusion("True", DeploymentReason.NO_GPU_REQUESTED, "no GPU is requested")
    # A candidate in place gets devices as stable gives up replicas. The rollout shows how far that is.
    where = ", in place of stable's" if in_place else ""
    return Conclusion("True", DeploymentReason.FITS, f"{accelerators.describe_devices(devices)}{where}")


def _find_missing_capacity(context: PlanContext, spec: ModelDeploymentSpec, newest: RevisionStatus) -> Cause | None:
    """Return the shortage of the spec's revision, which is deployed; None if its replicas fit, or if capacity is unknown."""
    number = newest.revision
    if is_shared(spec):
        missing = max(newest.replicas - context.readiness(number).running, 0)
        return shared_capacity.find_shortage(context, spec, missing, of=number)
    placed, waiting = pod_problems.count_placed(context.pods_of(number))
    wanted = context.count_pods(number, newest.replicas)
    more = wanted - placed - terminating_pods.count_terminating(context, number)
    return candidate_placement.find_shortage(context, spec, more, created=waiting)


def _route_accepted(context: PlanContext) -> Conclusion | None:
    """Return the conclusion about the HTTPRoute; None if the spec needs none, or is refused."""
    if context.spec is None or not context.spec.endpoint.gateway.name:
        return None
    observed = context.observed
    return http_route.evaluate_route(
        observed.deployment, context.spec.endpoint, observed.route, served=observed.routes_served
    )


def _promoted(context: PlanContext, traffic_synced: Conclusion) -> Conclusion:
    if context.spec_revision is None:
        return Conclusion("Unknown", DeploymentReason.SPEC_REFUSED, "")
    if context.stable_number != context.spec_revision.number or context.status.candidate is not None:
        return Conclusion(
            "False", DeploymentReason.NOT_PROMOTED, f"revision {context.spec_revision.number} does not have all traffic"
        )
    if not context.is_split_confirmed:
        return Conclusion("False", DeploymentReason.CONFIRMING, traffic_synced.message)
    return Conclusion("True", DeploymentReason.PROMOTED, f"revision {context.spec_revision.number} has all traffic")


def _stalled(context: PlanContext, conclusions: dict[str, Conclusion]) -> Conclusion:
    if conclusions["SpecAccepted"].status == "False":
        return conclusions["SpecAccepted"]._replace(status="True")
    if (hold := context.hold) is not None:
        return Conclusion(
            "True", hold.outcome, f"revision {hold.revision} is held back: {describe_hold(context, hold)}"
        )
    candidate = context.status.candidate
    if context.capacity_shortage is not None and candidate is None:
        return Conclusion("True", *context.capacity_shortage)
    if candidate is not None and candidate.retry_at is None:
        readiness = context.readiness(candidate.revision)
        if readiness.failed and not readiness.retryable:
            return Conclusion("True", readiness.reason, f"revision {candidate.revision}: {readiness.message}")
    if candidate is not None and _is_late(context, candidate):
        message = f"{deadline.describe_deadline(context)}: {conclusions['RevisionReady'].message}; still retrying"
        return Conclusion("True", DeploymentReason.PROGRESS_DEADLINE_EXCEEDED, message)
    return Conclusion("False", "", "")


def _is_late(context: PlanContext, candidate: RevisionStatus) -> bool:
    """Whether the operator retries a late candidate that no pause holds: a first revision, or one without steps."""
    if context.status.stable is None:
        return deadline.has_exceeded_deadline(context, candidate)
    return context.progress is None and deadline.find_deadline_pause_reason(context, candidate) != ""
