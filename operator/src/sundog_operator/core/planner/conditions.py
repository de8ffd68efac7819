"""What a plan says: measured fields of the status, conditions, events of a rollout, and when to look again."""

from datetime import timedelta
from typing import Final

from sundog_operator.api import (
    Condition,
    LastRollout,
    RevisionStatus,
    model_deployment_conditions,
)
from sundog_operator.core import events
from sundog_operator.core.edge import confirmation as edge_confirmation
from sundog_operator.core.edge import http_route, salts, secrets
from sundog_operator.core.kubernetes import accelerators, pod_problems
from sundog_operator.core.planner import candidate_placement, deadline, held_back_revisions, outcome
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.problems import terminating_pods
from sundog_operator.core.planner.problems.pending_pods import find_pending_reason
from sundog_operator.core.planner.status import is_wanted
from sundog_operator.core.ray.readiness import DEPLOYING
from sundog_operator.core.rollout import (
    explanations,
    state,
    windows,
)

RAY_GRACE: Final = timedelta(seconds=10)
"""For how long a RayCluster that does not answer yet is no news: it is made for the first revision, and comes up meanwhile."""
CONFIRM_GRACE: Final = timedelta(seconds=30)
_NO_HEALTHY_REPLICA: Final = "NoHealthyReplica"
EXPERIMENT_RUNNING: Final = "ExperimentRunning"
Conclusion = tuple[str, str, str]
"""(status, reason, message) of a condition."""


def set_conditions(context: PlanContext) -> None:
    """Set all conditions, and that this generation was observed."""
    generation = int(context.observed.deployment["metadata"].get("generation", 0))
    said = {
        "SpecAccepted": _spec_accepted(context),
        "CapacityAvailable": _capacity_available(context),
        "RevisionReady": _revision_ready(context),
        "TrafficSynced": _traffic_synced(context),
        "Progressing": _progressing(context),
    }
    said["Promoted"] = _promoted(context, said["TrafficSynced"])
    if (problem := secret_problem(context)) is not None:
        said["TrafficSynced"] = problem
    if (route := _route_accepted(context)) is not None:
        said[http_route.ROUTE_ACCEPTED] = route
    said["Stalled"] = _stalled(context, said)
    said["Ready"] = _ready(context, said)
    settled = said["Ready"][0] == "True" or said["Stalled"][0] == "True"
    said["Reconciling"] = ("False", "", "") if settled else ("True", said["Ready"][1], said["Ready"][2])
    conditions = model_deployment_conditions(context.before.conditions, generation=generation, at=context.now)
    mark = {"True": conditions.mark_true, "False": conditions.mark_false, "Unknown": conditions.mark_unknown}
    for type_, (status, reason, message) in said.items():
        mark[status](type_, reason, message, at=context.now)
    if context.spec is not None and not context.spec.endpoint.gateway.name:
        conditions.drop(http_route.ROUTE_ACCEPTED)
    context.set(conditions=conditions.conditions(), observed_generation=generation)
    _tell_refusal(context, said["SpecAccepted"], generation)


def _tell_refusal(context: PlanContext, said: Conclusion, generation: int) -> None:
    status, reason, message = said
    known = _before(context, "SpecAccepted")
    told = known is not None and known.status == "False" and known.observed_generation == generation
    if status == "False" and not told:
        context.events.append(events.spec_refused(reason, message, generation))


def _before(context: PlanContext, type_: str) -> Condition | None:
    return next((condition for condition in context.before.conditions if condition.type == type_), None)


def _spec_accepted(context: PlanContext) -> Conclusion:
    if context.observed.foreign:
        found = ", ".join(context.observed.foreign)
        return "False", "NotOwned", f"{found}: exists and was not made by Sundog; it is left alone. Rename or delete it"
    if context.acceptance.spec is None:
        return "False", context.acceptance.reason, context.acceptance.message
    if context.observed.host_taken_by:
        host = context.acceptance.spec.endpoint.host
        return (
            "False",
            "HostTaken",
            f"spec.endpoint.host: {host} belongs to ModelDeployment {context.observed.host_taken_by}",
        )
    if told := salts.make_reuse_message("ModelDeployment", context.service, context.observed.salts):
        return "True", salts.SALT_REUSED, told
    return "True", "Accepted", ""


def _capacity_available(context: PlanContext) -> Conclusion:
    spec = context.spec
    devices = accelerators.replica_devices(spec.resources.gpu) if spec is not None else None
    newest = context.status.candidate or context.status.stable
    short, in_place = context.capacity_shortage, context.in_place is not None
    if short is None and spec is not None and newest is not None and not in_place and is_wanted(context, newest):
        placed = sum(pod_problems.is_scheduled(pod) for pod in context.pods_of(newest.revision))
        short = candidate_placement.find_shortage(
            context, spec, newest.replicas - placed - terminating_pods.count_terminating(context, newest.revision)
        )
    if short is not None:
        reason, message = short
        return "False", reason, f"revision {context.wanted.number}: {message}" if context.wanted else message
    if devices is None:
        return "True", "NoGPURequested", "no GPU is requested"
    # What a candidate in place lacks comes as stable's replicas go: how far that is, the rollout tells.
    where = ", in the place of stable's" if in_place else ""
    return "True", "Fits", f"{devices.count} {devices.resource} for each replica{where}"


def _revision_ready(context: PlanContext) -> Conclusion:
    newest = context.status.candidate or context.status.stable
    told = _before(context, "RevisionReady")
    if newest is None:
        return "Unknown", "NoRevision", "there is no revision yet"
    readiness = context.readiness(newest.revision)
    if not readiness.ready and not readiness.failed and (waited_for := _waits_for_pods(context, newest.revision)):
        return waited_for
    if newest is context.status.stable and readiness.failed:
        return "False", readiness.reason, f"revision {newest.revision}: {readiness.message}"
    waits = newest.failures > 0 and not readiness.failed and not readiness.ready
    # While the next attempt is on its way, what the last one died of is what a user has to know.
    if (waits or _is_refused_revision(context)) and told is not None and told.status == "False":
        return "False", told.reason, told.message
    if not readiness.known and told is not None and _has_just_begun(context, newest, told):
        return "False", told.reason, told.message
    if not readiness.known:
        cluster = context.cluster_of(newest.revision)
        problem = cluster.problem if cluster else ""
        return "Unknown", readiness.reason, problem or readiness.message
    if _has_traffic(context, newest) and (missed := _missed_by_edges(context, newest.revision, told)):
        return missed
    return (
        ("True" if readiness.ready else "False"),
        readiness.reason,
        f"revision {newest.revision}: {readiness.message}",
    )


def _waits_for_pods(context: PlanContext, number: int) -> Conclusion | None:
    """What its pods wait for; None where that is nothing but their start."""
    if (hinders := find_pending_reason(context, number)) is not None:
        return "False", *hinders
    if terminating_pods.has_enough_terminating(context, number):
        return "False", DEPLOYING, f"revision {number}: {terminating_pods.describe_wait(context, number)}"
    return None


def _missed_by_edges(context: PlanContext, number: int, told: Condition | None) -> Conclusion | None:
    """That no edge sees a healthy replica of it, or saw one when it last told; None else."""
    healthy = edge_confirmation.reported_replicas(context.service, number, context.observed.edges)
    if healthy == 0:
        return "False", _NO_HEALTHY_REPLICA, f"revision {number}: no edge sees a healthy replica"
    # Who tells nothing takes nothing back.
    if healthy is None and told is not None and told.reason == _NO_HEALTHY_REPLICA:
        return "False", told.reason, told.message
    return None


def _has_just_begun(context: PlanContext, newest: RevisionStatus, told: Condition) -> bool:
    """Whether it was told a moment ago that it is being deployed: what keeps Ray is worth telling of what lasts."""
    deploying = (
        told.status == "False" and told.reason == DEPLOYING and told.message.startswith(f"revision {newest.revision}:")
    )
    return deploying and newest.since is not None and context.now - newest.since < RAY_GRACE


def _has_traffic(context: PlanContext, newest: RevisionStatus) -> bool:
    if newest is context.status.candidate and context.progress is not None:
        return state.has_traffic(context.progress)
    return bool(newest.weight)


def _is_refused_revision(context: PlanContext) -> bool:
    """Whether what the spec stands for failed and is held back: its reason must stay visible although stable is fine."""
    hold = context.hold
    return hold is not None and hold.outcome == "Aborted" and not hold.reason.startswith("by command")


def _traffic_synced(context: PlanContext) -> Conclusion:
    split = context.desired_split()
    if split is None:
        return "False", "NothingServes", "no revision is ready for traffic"
    confirmation = edge_confirmation.confirm(context.service, split, context.observed.edges)
    if confirmation.confirmed:
        return "True", "InForce", f"every edge has epoch {split.epoch} in force"
    told = _before(context, "TrafficSynced")
    late = told is not None and told.status == "Unknown" and context.now - told.last_transition_time >= CONFIRM_GRACE
    if late or (told is not None and told.reason == "EdgeNotConfirmed"):
        waiting = "; ".join(f"{pod} {why}" for pod, why in confirmation.waiting)
        return "False", "EdgeNotConfirmed", f"not in force after {CONFIRM_GRACE.total_seconds():g} s: {waiting}"
    return "Unknown", "Confirming", "waits for every edge to have the split in force"


def secret_problem(context: PlanContext) -> Conclusion | None:
    """A Secret that the endpoint needs and that is not there, or that an edge cannot use, whatever split the edges have in force."""
    if context.spec is None:
        return None
    needed, namespace = (
        secrets.secret_references(context.spec.endpoint),
        context.observed.deployment["metadata"]["namespace"],
    )
    if (missing := secrets.find_missing_secrets(needed, context.observed.secrets, namespace)) is not None:
        return "False", *missing
    told = edge_confirmation.find_edge_problems(context.service, context.observed.edges) if needed else []
    return ("False", secrets.INVALID, "; ".join(f"{pod}: {what}" for pod, what in told)) if told else None


def _route_accepted(context: PlanContext) -> Conclusion | None:
    """What became of the HTTPRoute; None where none is asked for. A spec that is refused leaves it as it was."""
    if context.spec is None or not context.spec.endpoint.gateway.name:
        return None
    seen = context.observed
    return http_route.evaluate_route(seen.deployment, context.spec.endpoint, seen.route, served=seen.routes_served)


def _progressing(context: PlanContext) -> Conclusion:
    progress, candidate = context.progress, context.status.candidate
    asks = progress is not None and progress.paused is not None and progress.paused.reason == state.DEADLINE_EXCEEDED
    if candidate is not None and candidate.retry_at is not None and not asks:
        return (
            "True",
            "Retrying",
            f"revision {candidate.revision} is tried again at {candidate.retry_at:%Y-%m-%dT%H:%M:%SZ}",
        )
    if progress is not None and candidate is not None:
        paused = progress.paused is not None or context.is_held or context.window_opens_at is not None
        step = progress.step
        waiting = (
            explanations.describe_pause(progress) if progress.paused else f"waits for revision {candidate.revision}"
        )
        text = f"step {step.index} of {step.of}: {step.reason}" if step else waiting
        why = f"{progress.plan.reason}: " if progress.plan.reason else f"revision {candidate.revision}, "
        waits = f"; revision {context.status.queued} waits until it has ended" if context.status.queued else ""
        waits += f"; {context.dry_run_message}" if context.dry_run_message else ""
        if context.is_giving_back:
            return "True", "RollingBack", f"{why}{step.reason if step else ''}{waits}"
        return "True", "Paused" if paused else "RollingOut", f"{why}{text}{waits}"
    if candidate is not None:
        return "True", "Deploying", f"revision {candidate.revision} is being deployed{_and_waits(context, candidate)}"
    if context.dry_run_message:
        return "False", "DryRun", context.dry_run_message
    if context.status.queued is not None and context.experiment is not None:
        return (
            "False",
            EXPERIMENT_RUNNING,
            f"revision {context.status.queued} waits until Experiment {context.experiment.name} has ended",
        )
    if context.status.queued is not None:
        drains = ", ".join(str(retiring.revision) for retiring in context.status.retiring)
        told = f"revision {context.status.queued} waits until the replicas of revision {drains} are gone"
        return "True", "Queued", told if drains else f"revision {context.status.queued} begins"
    if (hold := context.hold) is not None:
        return "False", hold.outcome, f"revision {hold.revision}: {_held_for(context, hold)}"
    if context.capacity_shortage is not None and context.status.stable is not None:
        return "False", *context.capacity_shortage
    return "False", "Complete" if context.status.stable else "NotStarted", ""


def _held_for(context: PlanContext, hold: LastRollout) -> str:
    """Why a revision is held back, and what became of a way back that was tried since."""
    last = context.status.last_rollout
    if (
        last is None
        or last.revision == hold.revision
        or last.at < hold.at
        or not held_back_revisions.is_failed_rollout(last)
    ):
        return hold.reason
    return f"{hold.reason}; revision {last.revision}: {last.reason}"


def _and_waits(context: PlanContext, candidate: RevisionStatus) -> str:
    """What else a candidate without steps waits for."""
    opening = outcome.window_opening_for(context, candidate)
    return f", {windows.describe_closed_windows(opening)}" if opening is not None else ""


def _promoted(context: PlanContext, traffic_synced: Conclusion) -> Conclusion:
    if context.wanted is None:
        return "Unknown", "SpecRefused", ""
    if context.stable_number != context.wanted.number or context.status.candidate is not None:
        return "False", "NotPromoted", f"revision {context.wanted.number} does not have all traffic"
    if traffic_synced[0] != "True":
        return "False", "Confirming", traffic_synced[2]
    return "True", "Promoted", f"revision {context.wanted.number} has all traffic"


def _ready(context: PlanContext, said: dict[str, Conclusion]) -> Conclusion:
    """Whether the stable revision serves, as the edges see it: Ray being silent changes nothing for traffic."""
    stable = context.status.stable
    if stable is None:
        cause = "SpecAccepted" if said["SpecAccepted"][0] == "False" else "RevisionReady"
        _, reason, message = said[cause]
        return "False", reason, message
    synced = said["TrafficSynced"]
    if synced[1] in (secrets.NOT_FOUND, secrets.INCOMPLETE):
        return synced
    healthy = edge_confirmation.reported_replicas(context.service, stable.revision, context.observed.edges)
    if healthy:
        more = [*_what_fails(said), *_what_is_asked(context)]
        return "True", "Serving", "; ".join([f"revision {stable.revision} serves", *more])
    if healthy is None and (kept := _as_told(context, synced)) is not None:
        return kept
    return (
        "False",
        _NO_HEALTHY_REPLICA,
        f"no edge sees a healthy replica of revision {stable.revision}: {said['TrafficSynced'][2]}",
    )


def _as_told(context: PlanContext, synced: Conclusion) -> Conclusion | None:
    """That stable serves, where that was told and no edge tells otherwise, for as long as edges have to confirm a split.

    An agent that starts anew is away for seconds, in which its HAProxy serves on. In a cluster no request comes in without a ready edge.
    """
    told = _before(context, "Ready")
    if told is None or told.status != "True" or synced[0] == "False":
        return None
    if context.observed.in_cluster and not any(edge.ready for edge in context.observed.edges):
        return None
    return told.status, told.reason, told.message


def _what_fails(said: dict[str, Conclusion]) -> list[str]:
    """Why what the spec asks for is not what serves, for `kubectl get` shows the message of Ready. A start that goes on is no failure."""
    shown = (
        ("SpecAccepted", "False"),
        ("RevisionReady", "False"),
        ("Stalled", "True"),
        (http_route.ROUTE_ACCEPTED, "False"),
    )
    for type_, bad in shown:
        status, reason, message = said.get(type_, ("", "", ""))
        if status == bad and reason != DEPLOYING:
            return [f"{reason}: {message}"]
    return []


def _what_is_asked(context: PlanContext) -> list[str]:
    """What a rollout waits for, a person or evidence: somebody who looks would else not know whether to wait too."""
    candidate, progress = context.status.candidate, context.progress
    if candidate is None or progress is None:
        return []
    if progress.paused is not None:
        return [f"revision {candidate.revision} is paused ({progress.paused.reason})"]
    step = progress.step
    if step is None:
        return []
    if step.reason == state.WAITS_FOR_PROMOTE:
        return [f"revision {candidate.revision} {state.WAITS_FOR_PROMOTE}"]
    if step.gate == "evidence" and step.since is not None:
        return [f"revision {candidate.revision} waits for evidence at {state.canary_weight(progress)} %"]
    return []


def _stalled(context: PlanContext, said: dict[str, Conclusion]) -> Conclusion:
    status, reason, message = said["SpecAccepted"]
    if status == "False":
        return "True", reason, message
    if (hold := context.hold) is not None:
        return "True", hold.outcome, f"revision {hold.revision} is held back: {_held_for(context, hold)}"
    candidate = context.status.candidate
    if context.capacity_shortage is not None and candidate is None:
        return "True", *context.capacity_shortage
    if candidate is not None and candidate.retry_at is None:
        readiness = context.readiness(candidate.revision)
        if readiness.failed and not readiness.retryable:
            return "True", readiness.reason, f"revision {candidate.revision}: {readiness.message}"
    if candidate is not None and _is_late(context, candidate):
        return (
            "True",
            state.DEADLINE_EXCEEDED,
            f"{deadline.describe_deadline(context)}: {said['RevisionReady'][2]}; it is tried on",
        )
    return "False", "", ""


def _is_late(context: PlanContext, candidate: RevisionStatus) -> bool:
    """Whether a candidate that nothing pauses is tried on although its time is over: a first revision, or one without steps."""
    if context.status.stable is None:
        return deadline.has_exceeded_deadline(context, candidate)
    return context.progress is None and deadline.find_deadline_pause_reason(context, candidate) != ""
