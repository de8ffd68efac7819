"""Fields of the status that tell what was observed: metrics, counts, capacity and startup."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sundog_operator.api import (
    ArmStatus,
    CapacityStatus,
    ExperimentStatus,
    MetricStatus,
    RevisionStatus,
    Startup,
)
from sundog_operator.core import revisions
from sundog_operator.core.analysis import counters
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.edge import request_counts
from sundog_operator.core.kubernetes import accelerators, capacity, names, pod_problems
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner import candidate_placement, desired_state
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.experiment import arm_status
from sundog_operator.core.ray import startup
from sundog_operator.core.rollout import (
    state,
)
from sundog_operator.core.stats.findings import MetricVerdict

NOT_EVALUATED: Final = "counters are kept, but no evidence is weighed in a rollout without a gate of evidence"
EVALUATED_IN_BAKE: Final = "copies are compared; evidence of traffic is weighed in the bake"


def report_metrics(context: PlanContext, status: ExperimentStatus, *, moved: bool = False) -> ExperimentStatus:
    """Project what the evidence says: with every transition, once a minute, and as soon as there is anything."""
    known = current_metrics(context)
    if known is None or not (moved or context.is_report_due(status) or _nothing(status.metrics) > _nothing(known)):
        return status
    shadow = context.shadow.status if context.shadow else status.shadow
    return status.model_copy(update={"metrics": known, "shadow": shadow})


def current_metrics(context: PlanContext) -> tuple[MetricStatus, ...] | None:
    """What is known of each metric, of those that copies are compared by too; None where nothing is weighed."""
    if context.evaluation is None and context.shadow is None:
        return None
    copies = context.shadow.metrics if context.shadow else ()
    return (*copies, *(context.evaluation.metrics if context.evaluation else ()))


def _nothing(metrics: Sequence[MetricStatus]) -> float:
    """Of how many metrics nothing is known; of more than any where none is named."""
    return sum(each.verdict == MetricVerdict.NO_DATA for each in metrics) if metrics else math.inf


def report_counts(
    context: PlanContext, status: ExperimentStatus, before: ExperimentStatus, counted: Counters | None, *, moved: bool
) -> ExperimentStatus:
    """Project what was counted into the arms: at every transition, else once a minute; a status must not change with each request.

    `counted` is what is known of edges that are gone as well; None where no evidence is weighed.
    """
    if context.rollout is None or not (moved or context.is_report_due(status)):
        return status
    arms = tuple(_counted(arm, context.rollout.uid, context.observed.edges, counted) for arm in status.arms)
    if arms == status.arms and status.metrics == before.metrics:
        return status
    return status.model_copy(update={"arms": arms, "counted_at": context.now})


def _counted(arm: ArmStatus, attempt: str, edges: Sequence[EdgeReport], counted: Counters | None) -> ArmStatus:
    requests, errors = counters.monotonic_totals(
        arm, request_counts.count_requests_and_errors(attempt, arm.name, edges), counted
    )
    update: dict[str, int] = {"requests": requests, "errors": errors}
    by_header, failed = request_counts.count_requests_and_errors(attempt, arm.name, edges, forced=True)
    if by_header:
        update["header_requests"] = max(arm.header_requests or 0, by_header)
        update["header_errors"] = max(arm.header_errors or 0, failed)
    return arm.model_copy(update=update)


def update_measured_fields(context: PlanContext) -> None:
    """Fill in replicas, weights and addresses."""
    progress = context.progress
    weight = state.canary_weight(progress) if progress else 0
    candidate, stable, shared = (
        context.status.candidate,
        context.status.stable,
        candidate_placement.desired_replicas(context),
    )
    needed = context.replicas
    if candidate is not None:
        own = state.wanted_replicas(progress, needed) if progress else _before_freeze(context, candidate)
        context.set(candidate=_measured(context, candidate, weight, shared.candidate if shared else own))
    of_arms = arm_status.update_arm_fields(context)
    if stable is not None:
        left = round(100 - weight - of_arms, 2)
        context.set(stable=_measured(context, stable, left, shared.stable if shared else needed))
    roles = (context.status.stable, context.status.candidate, *(context.status.arms or ()))
    shown = [revision for revision in roles if revision is not None]
    context.set(
        replicas=sum(revision.replicas for revision in shown),
        ready_replicas=sum(revision.ready_replicas for revision in shown),
        selector=f"{names.LABEL_MODEL_DEPLOYMENT}={context.service}",
        # Told with the status that gives traffic: before, nobody answers there.
        url=(context.observed.url if context.status.stable is not None else "") or context.status.url,
        capacity=_measure_capacity(context, needed),
        startup=_measure_startup(context),
    )


def _before_freeze(context: PlanContext, candidate: RevisionStatus) -> int:
    """A canary keeps what its first step asked for until its plan is frozen; any other candidate is to carry everything."""
    return candidate.replicas if context.status.experiment else context.replicas


def _measured(context: PlanContext, revision: RevisionStatus, weight: float, wanted: int) -> RevisionStatus:
    readiness = context.readiness(revision.revision)
    ready = readiness.running if readiness.known else revision.ready_replicas
    return revision.model_copy(update={"weight": weight, "replicas": wanted, "ready_replicas": ready})


def is_wanted(context: PlanContext, newest: RevisionStatus) -> bool:
    """Whether the newest revision is the one that the spec asks for."""
    return context.wanted is not None and newest.revision == context.wanted.number


def _measure_capacity(context: PlanContext, needed: int) -> CapacityStatus | None:
    """Accelerators of all revisions that run, and whether a candidate shares replicas; None where nothing of both is there to be told."""
    shared, requested = context.in_place, 0
    resources = set()
    for number, replicas in desired_state.live_revisions(context.status).items():
        revision = context.revision(number)
        devices = accelerators.replica_devices(revisions.spec_of(revision).resources.gpu) if revision else None
        if devices is not None:
            requested += replicas * devices.count
            resources.add(devices.resource)
    if not resources and shared is None:
        return None
    allocated = sum(
        capacity.requested_devices(pod, resource)
        for pod in context.observed.pods
        if pod_problems.is_scheduled(pod)
        for resource in resources
    )
    return candidate_placement.make_capacity_status(
        CapacityStatus(gpus_requested=requested, gpus_allocated=allocated), shared, needed
    )


def _measure_startup(context: PlanContext) -> Startup | None:
    """The phases of the newest revision's start, told once it is ready and an edge has asked one of its replicas."""
    newest, told = context.status.candidate or context.status.stable, context.status.startup
    if newest is None or (told is not None and told.revision == newest.revision):
        return told
    # Replicas are asked of what a status tells already.
    known = next(
        (each for each in desired_state.revisions_in_status(context.before) if each.revision == newest.revision), None
    )
    if not isinstance(known, RevisionStatus) or not context.readiness(newest.revision).ready:
        return told
    start = startup.find_reported_start(
        context.service, names.application(context.service, newest.revision), context.observed.edges
    )
    pods = context.pods_of(newest.revision)
    if start is None or not (pods or start.phases):
        return told
    since = _to_run_since(context, known)
    return Startup(revision=newest.revision, **startup.startup_phases(since, pods, start, context.now))


def _to_run_since(context: PlanContext, known: RevisionStatus) -> datetime | None:
    """The first revision was to run from the begin; any other since it has the role that was told of it."""
    first = known.revision == 1 and context.status.startup is None
    return (context.created if first else None) or known.since
