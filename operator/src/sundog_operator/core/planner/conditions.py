"""Conditions of a ModelDeployment."""

from datetime import timedelta
from typing import Final

from sundog_operator.api import (
    Condition,
    ExperimentStatus,
    LastRollout,
    ModelDeploymentSpec,
    RevisionStatus,
    model_deployment_conditions,
)
from sundog_operator.api.conditions import Conclusion
from sundog_operator.api.reasons import Cause, DeploymentReason, EndReason, PauseReason
from sundog_operator.core import events
from sundog_operator.core.edge import confirmation as edge_confirmation
from sundog_operator.core.edge import http_route, salts, secrets
from sundog_operator.core.kubernetes import accelerators, pod_problems
from sundog_operator.core.kubernetes.shared_pods import is_shared
from sundog_operator.core.planner import candidate_placement, deadline, held_back_revisions, outcome, shared_capacity
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.problems import terminating_pods
from sundog_operator.core.planner.problems.pending_pods import find_pending_reason
from sundog_operator.core.planner.status import is_wanted
from sundog_operator.core.trial.rollout import explanations, state, windows

RAY_GRACE: Final = timedelta(seconds=10)
"""Time for which a new revision's RayCluster may not answer while it starts."""
CONFIRM_GRACE: Final = timedelta(seconds=30)
PLACEMENT_REASONS: Final = frozenset(
    {
        DeploymentReason.INSUFFICIENT_CAPACITY,
        DeploymentReason.INSUFFICIENT_QUOTA,
        DeploymentReason.UNSCHEDULABLE,
        DeploymentReason.POD_REFUSED,
    }
)
"""Reasons of pods that wait for resources. Each has an event."""


def set_conditions(context: PlanContext) -> None:
    """Set all conditions and the observed generation."""
    generation = int(context.observed.deployment["metadata"].get("generation", 0))
    conclusions = {
        "SpecAccepted": _spec_accepted(context),
        "CapacityAvailable": _capacity_available(context),
        "RevisionReady": _revision_ready(context),
        "TrafficSynced": _traffic_synced(context),
        "Progressing": _progressing(context),
    }
    conclusions["Promoted"] = _promoted(context, conclusions["TrafficSynced"])
    if (problem := secret_problem(context)) is not None:
        conclusions["TrafficSynced"] = problem
    if (route := _route_accepted(context)) is not None:
        conclusions[http_route.ROUTE_ACCEPTED] = route
    if (changed := _model_changed(context)) is not None:
        conclusions["ModelUnchanged"] = changed
    conclusions["Stalled"] = stalled = _stalled(context, conclusions)
    conclusions["Ready"] = ready = _ready(context, conclusions)
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
    context.set(conditions=conditions.conditions(), observed_generation=generation)
    _report_refusal(context, conclusions["SpecAccepted"], generation)
    for type_ in ("CapacityAvailable", "RevisionReady"):
        _report_waiting_pods(context, type_, conclusions[type_])


def _model_changed(context: PlanContext) -> Conclusion | None:
    """Return that the files of the spec's revision changed since it was created; None if they did not, or no one reports them."""
    revision, found = context.spec_revision, context.model_files
    if context.spec is None or revision is None or not revision.files or found in ("", revision.files):
        return None
    return Conclusion(
        "False",
        DeploymentReason.FILES_CHANGED,
        f"files at {context.spec.model.uri} changed since revision {revision.number} was created: running replicas keep what they"
        " loaded, later ones load the changed files. For a rollout change model.uri, or run `sundog local up --watch`",
    )


def _report_waiting_pods(context: PlanContext, type_: str, conclusion: Conclusion) -> None:
    """Add an event if pods of the newest revision begin to wait for resources, or wait for others than before."""
    if conclusion.reason not in PLACEMENT_REASONS:
        return
    event, stored = events.pods_lack_resources(conclusion.reason, conclusion.message), context.stored_condition(type_)
    before = None if stored is None else events.pods_lack_resources(stored.reason, stored.message)
    if before is None or (before.reason, before.dedupe_key) != (event.reason, event.dedupe_key):
        context.events.append(event)


def _report_refusal(context: PlanContext, spec_accepted: Conclusion, generation: int) -> None:
    """Add an event if the spec is refused, once for each generation."""
    stored = context.stored_condition("SpecAccepted")
    is_reported = stored is not None and stored.status == "False" and stored.observed_generation == generation
    if spec_accepted.status == "False" and not is_reported:
        context.events.append(events.spec_refused(spec_accepted.reason, spec_accepted.message, generation))


def _spec_accepted(context: PlanContext) -> Conclusion:
    if context.observed.foreign:
        found = ", ".join(context.observed.foreign)
        return Conclusion(
            "False", DeploymentReason.NOT_OWNED, f"{found}: exists and was not made by Sundog; rename or delete it"
        )
    if context.acceptance.spec is None:
        return Conclusion("False", context.acceptance.reason, context.acceptance.message)
    if context.observed.host_taken_by:
        host = context.acceptance.spec.endpoint.host
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
    short, in_place = context.capacity_shortage, context.in_place is not None
    if short is None and spec is not None and newest is not None and not in_place and is_wanted(context, newest):
        short = _find_missing_room(context, spec, newest)
    if short is not None:
        message = (
            f"revision {context.spec_revision.number}: {short.message}" if context.spec_revision else short.message
        )
        return Conclusion("False", short.reason, message)
    if devices is None:
        return Conclusion("True", DeploymentReason.NO_GPU_REQUESTED, "no GPU is requested")
    # A candidate in place gets devices as stable gives up replicas. The rollout shows how far that is.
    where = ", in place of stable's" if in_place else ""
    return Conclusion("True", DeploymentReason.FITS, f"{accelerators.describe_devices(devices)}{where}")


def _find_missing_room(context: PlanContext, spec: ModelDeploymentSpec, newest: RevisionStatus) -> Cause | None:
    """Return the shortage of the spec's revision, which is deployed; None if its replicas have room, or if capacity is unknown."""
    number = newest.revision
    if is_shared(spec):
        missing = max(newest.replicas - context.readiness(number).running, 0)
        return shared_capacity.find_shortage(context, spec, missing, of=number)
    placed, waiting = pod_problems.count_placed(context.pods_of(number))
    wanted = context.count_pods(number, newest.replicas)
    more = wanted - placed - terminating_pods.count_terminating(context, number)
    return candidate_placement.find_shortage(context, spec, more, created=waiting)


def _revision_ready(context: PlanContext) -> Conclusion:
    newest = context.status.candidate or context.status.stable
    stored = context.stored_condition("RevisionReady")
    if newest is None:
        return Conclusion("Unknown", DeploymentReason.NO_REVISION, "there is no revision yet")
    readiness = context.readiness(newest.revision)
    if not readiness.ready and not readiness.failed and (pending := _find_pending_pods(context, newest.revision)):
        return pending
    if newest is context.status.stable and readiness.failed:
        return Conclusion("False", readiness.reason, f"revision {newest.revision}: {readiness.message}")
    is_retrying = newest.failures > 0 and not readiness.failed and not readiness.ready
    # During the next attempt, a user needs the cause of the last failure.
    if (is_retrying or _is_failed_revision_held(context)) and stored is not None and stored.status == "False":
        return Conclusion.of(stored)
    if not readiness.known and stored is not None and _is_new_deployment(context, newest, stored):
        return Conclusion.of(stored)
    if not readiness.known:
        cluster = context.cluster_of(newest.revision)
        problem = cluster.problem if cluster else ""
        return Conclusion("Unknown", readiness.reason, problem or readiness.message)
    if (
        not (context.is_at_zero or context.is_rollout_at_zero)
        and _has_traffic(context, newest)
        and (unhealthy := _find_unhealthy(context, newest.revision, stored))
    ):
        return unhealthy
    message = f"revision {newest.revision}: {readiness.message}"
    return Conclusion("True" if readiness.ready else "False", readiness.reason, message)


def _find_pending_pods(context: PlanContext, number: int) -> Conclusion | None:
    """Return the conclusion if pods of a revision are pending; None if they only start."""
    if (pending := find_pending_reason(context, number)) is not None:
        return Conclusion("False", *pending)
    if terminating_pods.has_enough_terminating(context, number):
        return Conclusion(
            "False", DeploymentReason.DEPLOYING, f"revision {number}: {terminating_pods.describe_wait(context, number)}"
        )
    return None


def _find_unhealthy(context: PlanContext, number: int, stored: Condition | None) -> Conclusion | None:
    """Return the conclusion if no edge sees a healthy replica of a revision, now or in the last report; else None."""
    healthy = edge_confirmation.reported_replicas(context.service, number, context.observed.edges)
    if healthy == 0:
        return Conclusion(
            "False", DeploymentReason.NO_HEALTHY_REPLICA, f"revision {number}: no edge sees a healthy replica"
        )
    # Without a report of an edge, the stored condition stays.
    if healthy is None and stored is not None and stored.reason == DeploymentReason.NO_HEALTHY_REPLICA:
        return Conclusion.of(stored)
    return None


def _is_new_deployment(context: PlanContext, newest: RevisionStatus, stored: Condition) -> bool:
    """Whether a revision was reported as deploying a moment ago, so that a RayCluster without an answer is no problem yet."""
    before = context.before.candidate or context.before.stable
    is_same = before is not None and before.revision == newest.revision
    is_deploying = is_same and stored.status == "False" and stored.reason == DeploymentReason.DEPLOYING
    return is_deploying and newest.since is not None and context.now - newest.since < RAY_GRACE


def _has_traffic(context: PlanContext, newest: RevisionStatus) -> bool:
    if newest is context.status.candidate and context.progress is not None:
        return state.has_traffic(context.progress)
    return bool(newest.weight)


def _is_failed_revision_held(context: PlanContext) -> bool:
    """Whether the wanted revision failed and is held back. Its reason must stay visible although stable serves."""
    hold = context.hold
    return hold is not None and hold.outcome == "Aborted" and hold.code != EndReason.ABORTED


def _traffic_synced(context: PlanContext) -> Conclusion:
    split = context.desired_split()
    if split is None:
        return Conclusion("False", DeploymentReason.NOTHING_SERVES, "no revision is ready for traffic")
    wanted = context.wanted_entry_hash(split)
    confirmation = edge_confirmation.confirm(context.service, split, context.observed.edges, wanted)
    if confirmation.confirmed:
        return Conclusion("True", DeploymentReason.IN_FORCE, f"every edge has epoch {split.epoch} in force")
    stored = context.stored_condition("TrafficSynced")
    if stored is not None and _is_confirmation_late(context, stored):
        waiting = "; ".join(f"{pod} {why}" for pod, why in confirmation.waiting)
        waiting += f": {context.observed.edge_refusal}" if context.observed.edge_refusal else ""
        missing = "the newest settings are" if context.is_split_confirmed else f"epoch {split.epoch} is"
        message = f"{missing} not in force after {CONFIRM_GRACE.total_seconds():g} s: {waiting}"
        return Conclusion("False", DeploymentReason.EDGE_NOT_CONFIRMED, message)
    return Conclusion("Unknown", DeploymentReason.CONFIRMING, "waits for the edges to confirm the split")


def _is_confirmation_late(context: PlanContext, stored: Condition) -> bool:
    """Whether the edges have not confirmed the split for `CONFIRM_GRACE`, by the stored `TrafficSynced`."""
    if stored.reason == DeploymentReason.EDGE_NOT_CONFIRMED:
        return True
    return stored.status == "Unknown" and context.now - stored.last_transition_time >= CONFIRM_GRACE


def secret_problem(context: PlanContext) -> Conclusion | None:
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


def _route_accepted(context: PlanContext) -> Conclusion | None:
    """Return the conclusion about the HTTPRoute; None if the spec needs none, or is refused."""
    if context.spec is None or not context.spec.endpoint.gateway.name:
        return None
    observed = context.observed
    return http_route.evaluate_route(
        observed.deployment, context.spec.endpoint, observed.route, served=observed.routes_served
    )


def _progressing(context: PlanContext) -> Conclusion:
    progress, candidate = context.progress, context.status.candidate
    paused = progress.paused if progress is not None else None
    is_deadline_pause = paused is not None and paused.reason == PauseReason.PROGRESS_DEADLINE_EXCEEDED
    if candidate is not None and candidate.retry_at is not None and not is_deadline_pause:
        return Conclusion(
            "True",
            DeploymentReason.RETRYING,
            f"revision {candidate.revision}: retry at {candidate.retry_at:%Y-%m-%dT%H:%M:%SZ}",
        )
    if progress is not None and candidate is not None:
        return _rollout_progressing(context, progress, candidate)
    if candidate is not None:
        return Conclusion(
            "True",
            DeploymentReason.DEPLOYING,
            f"revision {candidate.revision} is being deployed{_window_text(context, candidate)}",
        )
    return _not_progressing(context)


def _rollout_progressing(context: PlanContext, progress: ExperimentStatus, candidate: RevisionStatus) -> Conclusion:
    """Return the conclusion of a rollout with a plan: its step, a queued revision, and the message of a dry run."""
    step = progress.step
    prefix = f"{progress.plan.reason}: " if progress.plan.reason else f"revision {candidate.revision}, "
    suffix = f"; revision {context.status.queued} waits until this rollout has ended" if context.status.queued else ""
    suffix += f"; {context.dry_run_message}" if context.dry_run_message else ""
    idle = context.status.idle
    if idle is not None and idle.state == "AtZero":
        suffix += "; no request comes, so both revisions are at zero: the next one starts them"
    if context.is_giving_back:
        return Conclusion("True", DeploymentReason.ROLLING_BACK, f"{prefix}{step.reason if step else ''}{suffix}")
    if step is not None:
        text = f"step {step.index} of {step.of}: {step.reason}"
    elif progress.paused is not None:
        text = explanations.describe_pause(progress)
    else:
        text = f"waits for revision {candidate.revision}"
    is_paused = progress.paused is not None or context.is_held or context.window_opens_at is not None
    return Conclusion(
        "True", DeploymentReason.PAUSED if is_paused else DeploymentReason.ROLLING_OUT, f"{prefix}{text}{suffix}"
    )


def _not_progressing(context: PlanContext) -> Conclusion:
    """Return the conclusion without a candidate: a dry run, a queued or held-back revision, or none of these."""
    if context.dry_run_message:
        return Conclusion("False", DeploymentReason.DRY_RUN, context.dry_run_message)
    if context.status.queued is not None and context.experiment is not None:
        message = f"revision {context.status.queued} waits until Experiment {context.experiment.name} has ended"
        return Conclusion("False", DeploymentReason.EXPERIMENT_RUNNING, message)
    if context.status.queued is not None:
        draining = ", ".join(str(retiring.revision) for retiring in context.status.retiring)
        message = f"revision {context.status.queued} waits until the replicas of revision {draining} are gone"
        return Conclusion(
            "True", DeploymentReason.QUEUED, message if draining else f"revision {context.status.queued} starts next"
        )
    if (hold := context.hold) is not None:
        return Conclusion("False", hold.outcome, f"revision {hold.revision}: {_hold_reason(context, hold)}")
    if context.capacity_shortage is not None and context.status.stable is not None:
        return Conclusion("False", *context.capacity_shortage)
    return Conclusion("False", DeploymentReason.COMPLETE if context.status.stable else DeploymentReason.NOT_STARTED, "")


def _hold_reason(context: PlanContext, hold: LastRollout) -> str:
    """Return why a revision is held back, and the outcome of a later rollback."""
    last = context.status.last_rollout
    if (
        last is None
        or last.revision == hold.revision
        or last.at < hold.at
        or not held_back_revisions.is_failed_rollout(last)
    ):
        return hold.reason
    return f"{hold.reason}; revision {last.revision}: {last.reason}"


def _window_text(context: PlanContext, candidate: RevisionStatus) -> str:
    """Return the window that a candidate without steps waits for, as the end of a sentence; may be empty."""
    opening = outcome.window_opening_for(context, candidate)
    return f", {windows.describe_closed_windows(opening)}" if opening is not None else ""


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


def _ready(context: PlanContext, conclusions: dict[str, Conclusion]) -> Conclusion:
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
    stored = context.stored_condition("Ready")
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


def _stalled(context: PlanContext, conclusions: dict[str, Conclusion]) -> Conclusion:
    if conclusions["SpecAccepted"].status == "False":
        return conclusions["SpecAccepted"]._replace(status="True")
    if (hold := context.hold) is not None:
        return Conclusion("True", hold.outcome, f"revision {hold.revision} is held back: {_hold_reason(context, hold)}")
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
