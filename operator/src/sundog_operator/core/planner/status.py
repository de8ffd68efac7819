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


def report_metrics(draft: PlanContext, status: ExperimentStatus, *, moved: bool = False) -> ExperimentStatus:
    """Project what the evidence says: with every transition, once a minute, and as soon as there is anything."""
    known = current_metrics(draft)
    if known is None or not (moved or draft.is_report_due(status) or _nothing(status.metrics) > _nothing(known)):
        return status
    shadow = draft.copies.status if draft.copies else status.shadow
    return status.model_copy(update={"metrics": known, "shadow": shadow})


def current_metrics(draft: PlanContext) -> tuple[MetricStatus, ...] | None:
    """What is known of each metric, of those that copies are compared by too; None where nothing is weighed."""
    if draft.evaluation is None and draft.copies is None:
        return None
    copies = draft.copies.metrics if draft.copies else ()
    return (*copies, *(draft.evaluation.metrics if draft.evaluation else ()))


def _nothing(metrics: Sequence[MetricStatus]) -> float:
    """Of how many metrics nothing is known; of more than any where none is named."""
    return sum(each.verdict == MetricVerdict.NO_DATA for each in metrics) if metrics else math.inf


def report_counts(
    draft: PlanContext, status: ExperimentStatus, before: ExperimentStatus, counted: Counters | None, *, moved: bool
) -> ExperimentStatus:
    """Project what was counted into the arms: at every transition, else once a minute; a status must not change with each request.

    `counted` is what is known of edges that are gone as well; None where no evidence is weighed.
    """
    if draft.rollout is None or not (moved or draft.is_report_due(status)):
        return status
    arms = tuple(_counted(arm, draft.rollout.uid, draft.seen.edges, counted) for arm in status.arms)
    if arms == status.arms and status.metrics == before.metrics:
        return status
    return status.model_copy(update={"arms": arms, "counted_at": draft.now})


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


def update_measured_fields(draft: PlanContext) -> None:
    """Fill in replicas, weights and addresses."""
    progress = draft.progress
    weight = state.canary_weight(progress) if progress else 0
    candidate, stable, shared = draft.status.candidate, draft.status.stable, candidate_placement.desired_replicas(draft)
    needed = draft.replicas
    if candidate is not None:
        own = state.wanted_replicas(progress, needed) if progress else _before_freeze(draft, candidate)
        draft.set(candidate=_measured(draft, candidate, weight, shared.candidate if shared else own))
    of_arms = arm_status.update_arm_fields(draft)
    if stable is not None:
        left = round(100 - weight - of_arms, 2)
        draft.set(stable=_measured(draft, stable, left, shared.stable if shared else needed))
    roles = (draft.status.stable, draft.status.candidate, *(draft.status.arms or ()))
    shown = [revision for revision in roles if revision is not None]
    draft.set(
        replicas=sum(revision.replicas for revision in shown),
        ready_replicas=sum(revision.ready_replicas for revision in shown),
        selector=f"{names.LABEL_MODEL_DEPLOYMENT}={draft.service}",
        # Told with the status that gives traffic: before, nobody answers there.
        url=(draft.seen.url if draft.status.stable is not None else "") or draft.status.url,
        capacity=_measure_capacity(draft, needed),
        startup=_measure_startup(draft),
    )


def _before_freeze(draft: PlanContext, candidate: RevisionStatus) -> int:
    """A canary keeps what its first step asked for until its plan is frozen; any other candidate is to carry everything."""
    return candidate.replicas if draft.status.experiment else draft.replicas


def _measured(draft: PlanContext, revision: RevisionStatus, weight: float, wanted: int) -> RevisionStatus:
    readiness = draft.readiness(revision.revision)
    ready = readiness.running if readiness.known else revision.ready_replicas
    return revision.model_copy(update={"weight": weight, "replicas": wanted, "ready_replicas": ready})


def is_wanted(draft: PlanContext, newest: RevisionStatus) -> bool:
    """Whether the newest revision is the one that the spec asks for."""
    return draft.wanted is not None and newest.revision == draft.wanted.number


def _measure_capacity(draft: PlanContext, needed: int) -> CapacityStatus | None:
    """Accelerators of all revisions that run, and whether a candidate shares replicas; None where nothing of both is there to be told."""
    shared, requested = draft.in_place, 0
    resources = set()
    for number, replicas in desired_state.live_revisions(draft.status).items():
        revision = draft.revision(number)
        devices = accelerators.replica_devices(revisions.spec_of(revision).resources.gpu) if revision else None
        if devices is not None:
            requested += replicas * devices.count
            resources.add(devices.resource)
    if not resources and shared is None:
        return None
    allocated = sum(
        capacity.requested_devices(pod, resource)
        for pod in draft.seen.pods
        if pod_problems.is_scheduled(pod)
        for resource in resources
    )
    return candidate_placement.make_capacity_status(
        CapacityStatus(gpus_requested=requested, gpus_allocated=allocated), shared, needed
    )


def _measure_startup(draft: PlanContext) -> Startup | None:
    """The phases of the newest revision's start, told once it is ready and an edge has asked one of its replicas."""
    newest, told = draft.status.candidate or draft.status.stable, draft.status.startup
    if newest is None or (told is not None and told.revision == newest.revision):
        return told
    # Replicas are asked of what a status tells already.
    known = next(
        (each for each in desired_state.revisions_in_status(draft.before) if each.revision == newest.revision), None
    )
    if not isinstance(known, RevisionStatus) or not draft.readiness(newest.revision).ready:
        return told
    start = startup.find_reported_start(
        draft.service, names.application(draft.service, newest.revision), draft.seen.edges
    )
    pods = draft.pods_of(newest.revision)
    if start is None or not (pods or start.phases):
        return told
    since = _to_run_since(draft, known)
    return Startup(revision=newest.revision, **startup.startup_phases(since, pods, start, draft.now))


def _to_run_since(draft: PlanContext, known: RevisionStatus) -> datetime | None:
    """The first revision was to run from the begin; any other since it has the role that was told of it."""
    first = known.revision == 1 and draft.status.startup is None
    return (draft.created if first else None) or known.since
