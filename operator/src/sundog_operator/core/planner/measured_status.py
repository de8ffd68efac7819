"""Observed fields of the status: metrics, counts, capacity and startup."""

from datetime import datetime

from sundog_operator.api import ArmRevision, CapacityStatus, RevisionStatus, Startup
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import accelerators, names, pod_problems, pod_requests
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.experiment import arm_status
from sundog_operator.core.planner.rollout import candidate_placement
from sundog_operator.core.planner.rollout.deadline import AnyRevision
from sundog_operator.core.ray import startup
from sundog_operator.core.trial.rollout import state


def update_measured_fields(context: PlanContext) -> PlanContext:
    """Set replicas, weights and the address in the status."""
    progress = context.progress
    weight = state.canary_weight(progress) if progress else 0
    candidate, stable = context.status.candidate, context.status.stable
    shared = candidate_placement.desired_replicas(context)
    needed, is_asleep = context.replicas, context.status.idle is not None and context.status.idle.state == "AtZero"
    if candidate is not None:
        replicas = state.desired_replicas(progress, needed) if progress else _replicas_before_freeze(context, candidate)
        replicas = context.target_replicas(candidate.revision) if is_asleep else replicas
        context = context.set(candidate=_measured(context, candidate, weight, shared.candidate if shared else replicas))
    arms = _measured_arms(context)
    # Arms of a status without an active Experiment are damaged, and get no traffic.
    arms_weight = sum(arm.weight for arm in arms or ()) if context.experiment_progress is not None else 0
    context = context.set(arms=arms)
    if stable is not None:
        stable_weight = round(100 - weight - arms_weight, 2)
        wanted = context.target_replicas(stable.revision) if context.is_at_zero or is_asleep else needed
        context = context.set(stable=_measured(context, stable, stable_weight, shared.stable if shared else wanted))
    roles = (context.status.stable, context.status.candidate, *(context.status.arms or ()))
    shown = [revision for revision in roles if revision is not None]
    return context.set(
        replicas=sum(revision.replicas for revision in shown),
        ready_replicas=sum(revision.ready_replicas for revision in shown),
        selector=f"{names.LABEL_MODEL_DEPLOYMENT}={context.service}",
        # The address is set together with the traffic: before, nothing answers there.
        url=(context.observed.url if context.status.stable is not None else "") or context.status.url,
        capacity=_measure_capacity(context, needed),
        startup=_measure_startup(context),
    )


def _replicas_before_freeze(context: PlanContext, candidate: RevisionStatus) -> int:
    """Return a candidate's replicas before its plan is frozen: those of the first step, or without steps those for all traffic."""
    return candidate.replicas if context.status.experiment else context.replicas


def _measured_arms(context: PlanContext) -> tuple[ArmRevision, ...] | None:
    """Return the arms in the status, measured if their Experiment is active; None without arms."""
    progress, arms = context.experiment_progress, context.status.arms
    if progress is None or arms is None:
        return arms
    weights = {arm.name: arm.weight for arm in progress.arms}
    return tuple(
        _measured(context, arm, weights.get(arm.name, 0), arm_status.desired_replicas(context, progress, arm.name))
        for arm in arms
    )


def _measured(context: PlanContext, revision: AnyRevision, weight: float, wanted: int) -> AnyRevision:
    """Return a revision with its weight in percent, and its wanted and running replicas."""
    readiness = context.readiness(revision.revision)
    ready = readiness.running if readiness.known else revision.ready_replicas
    return revision.model_copy(update={"weight": weight, "replicas": wanted, "ready_replicas": ready})


def _measure_capacity(context: PlanContext, needed: int) -> CapacityStatus | None:
    """Return the accelerators of all live revisions, and how a candidate shares replicas; None if there is neither."""
    shared, requested, claimed = context.in_place, 0, 0
    resources = set()
    for number, replicas in desired_state.live_revisions(context.status).items():
        revision = context.revision(number)
        devices = accelerators.replica_devices(revisions.spec_of(revision).resources.gpu) if revision else None
        if devices is not None:
            requested += devices.count_pods(replicas) * devices.count
            resources.add(devices.resource)
            if devices.is_claimed:
                claimed += devices.count * sum(map(pod_problems.is_scheduled, context.pods_of(number)))
    if not resources and shared is None:
        return None
    allocated = claimed + sum(
        pod_requests.requested_devices(pod, resource)
        for pod in context.observed.pods
        if pod_problems.is_scheduled(pod)
        for resource in resources
    )
    return candidate_placement.make_capacity_status(
        CapacityStatus(gpus_requested=requested, gpus_allocated=allocated), shared, needed
    )


def _measure_startup(context: PlanContext) -> Startup | None:
    """Return the startup phases of the newest revision, once it is ready and a replica reported them to an edge."""
    newest, stored = context.status.candidate or context.status.stable, context.status.startup
    if newest is None:
        return stored
    if stored is not None and stored.revision == newest.revision:
        return _measure_cold_start(context, newest.revision, stored)
    # Edges ask only replicas of revisions in the stored status.
    known = next(
        (each for each in desired_state.revisions_in_status(context.before) if each.revision == newest.revision), None
    )
    if not isinstance(known, RevisionStatus) or not context.readiness(newest.revision).ready:
        return stored
    start = startup.find_reported_start(
        context.service, names.application(context.service, newest.revision), context.observed.edges
    )
    pods = context.pods_of(newest.revision)
    if start is None or not (pods or start.phases):
        return stored
    since = _wanted_since(context, known)
    return Startup(revision=newest.revision, woken_at=None, **startup.startup_phases(since, pods, start, context.now))


def _measure_cold_start(context: PlanContext, number: int, stored: Startup) -> Startup:
    """Return the phases of a revision's last start from zero once a replica reported them, else the stored ones."""
    start = startup.find_reported_start(
        context.service, names.application(context.service, number), context.observed.edges
    )
    woken = startup.find_new_cold_start(start, stored.woken_at)
    if start is None or woken is None:
        return stored
    return Startup(revision=number, woken_at=woken, **startup.cold_start_phases(woken, context.pods_of(number), start))


def _wanted_since(context: PlanContext, known: RevisionStatus) -> datetime | None:
    """Return since when a revision should run: the first one since the creation, any other since it got its role."""
    first = min((each.number for each in context.observed.revisions), default=1)
    is_first = known.revision == first and context.status.startup is None
    return (context.facts.created if is_first else None) or known.since
