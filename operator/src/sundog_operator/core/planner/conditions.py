"""What a plan says: measured fields of the status, conditions, events of a rollout, and when to look again."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sundog_operator.api import (
    ArmStatus,
    CapacityStatus,
    Condition,
    ConditionSet,
    ExperimentStatus,
    LastRollout,
    MetricStatus,
    RevisionStatus,
    Startup,
    experiment_conditions,
    model_deployment_conditions,
)
from sundog_operator.core import events, revisions
from sundog_operator.core.analysis import counters, power
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.edge import http_route, salts, secrets
from sundog_operator.core.edge import split as edge_split
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.kubernetes import accelerators, capacity, names, pod_problems
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner import candidate as planner_candidate
from sundog_operator.core.planner import candidate_placement, desired_state, held_back_revisions
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.experiment import conditions as conditions_of_experiment
from sundog_operator.core.planner.experiment import lifecycle
from sundog_operator.core.planner.problems import terminating_pods
from sundog_operator.core.planner.problems.pending_pods import find_pending_reason
from sundog_operator.core.ray import startup
from sundog_operator.core.ray.readiness import DEPLOYING
from sundog_operator.core.rollout import (
    baseline_outage,
    freeze,
    notifications,
    state_machine,
    steps_without_evidence,
    windows,
)
from sundog_operator.core.stats.verdicts import MetricVerdict

RAY_GRACE: Final = timedelta(seconds=10)
"""For how long a RayCluster that does not answer yet is no news: it is made for the first revision, and comes up meanwhile."""
POLL_S: Final = 0.2
WAITING_POLL_S: Final = 1.0
EVIDENCE_POLL_S: Final = 5.0
"""Between two looks at what the edges count: half of the shortest blocks."""

RESYNC_S: Final = 15.0
CONFIRM_GRACE: Final = timedelta(seconds=30)
NOT_EVALUATED: Final = "counters are kept, but no evidence is weighed in a rollout without a gate of evidence"
EVALUATED_IN_BAKE: Final = "copies are compared; evidence of traffic is weighed in the bake"

_NO_HEALTHY_REPLICA: Final = "NoHealthyReplica"
EXPERIMENT_RUNNING: Final = "ExperimentRunning"

Conclusion = tuple[str, str, str]
"""(status, reason, message) of a condition."""


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
        arm, edge_split.count_requests_and_errors(attempt, arm.name, edges), counted
    )
    update: dict[str, int] = {"requests": requests, "errors": errors}
    by_header, failed = edge_split.count_requests_and_errors(attempt, arm.name, edges, forced=True)
    if by_header:
        update["header_requests"] = max(arm.header_requests or 0, by_header)
        update["header_errors"] = max(arm.header_errors or 0, failed)
    return arm.model_copy(update=update)


def transition_events(draft: PlanContext, before: ExperimentStatus, after: ExperimentStatus) -> list[KubernetesEvent]:
    """The events of one transition; its end is told once the status of the ModelDeployment has it."""
    rollout, paused, weight = draft.rollout, after.paused, state_machine.canary_weight(after)
    if rollout is None or state_machine.is_over(after):
        return []
    if paused is not None and paused != before.paused and paused.reason != state_machine.MANUAL:
        told = state_machine.describe_pause(after)
        return [events.rollout_paused(rollout.name, after.epoch.number, paused.reason, told, paused.since)]
    if (
        before.paused is not None
        and baseline_outage.is_paused_for_baseline(before)
        and paused is None
        and after.giving_back is None
    ):
        return [events.rollout_resumed(rollout.name, before.paused.reason, before.paused.since)]
    if state_machine.canary_weight(before) != weight:
        why = state_machine.weight_change_reason(after)
        return [events.traffic_shifted(rollout.name, after.epoch.number, weight, rollout.revision, why)]
    if (step := state_machine.step_entered_without_shift(before, after)) is not None:
        return [events.gate_opened(rollout.name, step.index, weight, step.opened_by or "")]
    return []


def update_measured_fields(draft: PlanContext) -> None:
    """Fill in replicas, weights and addresses."""
    progress = draft.progress
    weight = state_machine.canary_weight(progress) if progress else 0
    candidate, stable, shared = draft.status.candidate, draft.status.stable, candidate_placement.desired_replicas(draft)
    needed = draft.replicas
    if candidate is not None:
        own = state_machine.wanted_replicas(progress, needed) if progress else _before_freeze(draft, candidate)
        draft.set(candidate=_measured(draft, candidate, weight, shared.candidate if shared else own))
    of_arms = lifecycle.update_arm_fields(draft)
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


def set_conditions(draft: PlanContext) -> None:
    """Set all conditions, and that this generation was observed."""
    generation = int(draft.seen.deployment["metadata"].get("generation", 0))
    said = {
        "SpecAccepted": _spec_accepted(draft),
        "CapacityAvailable": _capacity_available(draft),
        "RevisionReady": _revision_ready(draft),
        "TrafficSynced": _traffic_synced(draft),
        "Progressing": _progressing(draft),
    }
    said["Promoted"] = _promoted(draft, said["TrafficSynced"])
    if (problem := _secret_problem(draft)) is not None:
        said["TrafficSynced"] = problem
    if (route := _route_accepted(draft)) is not None:
        said[http_route.ROUTE_ACCEPTED] = route
    said["Stalled"] = _stalled(draft, said)
    said["Ready"] = _ready(draft, said)
    settled = said["Ready"][0] == "True" or said["Stalled"][0] == "True"
    said["Reconciling"] = ("False", "", "") if settled else ("True", said["Ready"][1], said["Ready"][2])
    conditions = model_deployment_conditions(draft.before.conditions, generation=generation, at=draft.now)
    mark = {"True": conditions.mark_true, "False": conditions.mark_false, "Unknown": conditions.mark_unknown}
    for type_, (status, reason, message) in said.items():
        mark[status](type_, reason, message, at=draft.now)
    if draft.spec is not None and not draft.spec.endpoint.gateway.name:
        conditions.drop(http_route.ROUTE_ACCEPTED)
    draft.set(conditions=conditions.conditions(), observed_generation=generation)
    _tell_refusal(draft, said["SpecAccepted"], generation)


def _tell_refusal(draft: PlanContext, said: Conclusion, generation: int) -> None:
    status, reason, message = said
    known = _before(draft, "SpecAccepted")
    told = known is not None and known.status == "False" and known.observed_generation == generation
    if status == "False" and not told:
        draft.events.append(events.spec_refused(reason, message, generation))


def _before(draft: PlanContext, type_: str) -> Condition | None:
    return next((condition for condition in draft.before.conditions if condition.type == type_), None)


def _spec_accepted(draft: PlanContext) -> Conclusion:
    if draft.seen.foreign:
        found = ", ".join(draft.seen.foreign)
        return "False", "NotOwned", f"{found}: exists and was not made by Sundog; it is left alone. Rename or delete it"
    if draft.acceptance.spec is None:
        return "False", draft.acceptance.reason, draft.acceptance.message
    if draft.seen.host_taken_by:
        host = draft.acceptance.spec.endpoint.host
        return "False", "HostTaken", f"spec.endpoint.host: {host} belongs to ModelDeployment {draft.seen.host_taken_by}"
    if told := salts.make_reuse_message("ModelDeployment", draft.service, draft.seen.salts):
        return "True", salts.SALT_REUSED, told
    return "True", "Accepted", ""


def _capacity_available(draft: PlanContext) -> Conclusion:
    spec = draft.spec
    devices = accelerators.replica_devices(spec.resources.gpu) if spec is not None else None
    newest = draft.status.candidate or draft.status.stable
    short, in_place = draft.capacity_shortage, draft.in_place is not None
    if short is None and spec is not None and newest is not None and not in_place and _is_wanted(draft, newest):
        placed = sum(pod_problems.is_scheduled(pod) for pod in draft.pods_of(newest.revision))
        short = candidate_placement.find_shortage(
            draft, spec, newest.replicas - placed - terminating_pods.count_terminating(draft, newest.revision)
        )
    if short is not None:
        reason, message = short
        return "False", reason, f"revision {draft.wanted.number}: {message}" if draft.wanted else message
    if devices is None:
        return "True", "NoGPURequested", "no GPU is requested"
    # What a candidate in place lacks comes as stable's replicas go: how far that is, the rollout tells.
    where = ", in the place of stable's" if in_place else ""
    return "True", "Fits", f"{devices.count} {devices.resource} for each replica{where}"


def _is_wanted(draft: PlanContext, newest: RevisionStatus) -> bool:
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


def _revision_ready(draft: PlanContext) -> Conclusion:
    newest = draft.status.candidate or draft.status.stable
    told = _before(draft, "RevisionReady")
    if newest is None:
        return "Unknown", "NoRevision", "there is no revision yet"
    readiness = draft.readiness(newest.revision)
    if not readiness.ready and not readiness.failed and (waited_for := _waits_for_pods(draft, newest.revision)):
        return waited_for
    if newest is draft.status.stable and readiness.failed:
        return "False", readiness.reason, f"revision {newest.revision}: {readiness.message}"
    waits = newest.failures > 0 and not readiness.failed and not readiness.ready
    # While the next attempt is on its way, what the last one died of is what a user has to know.
    if (waits or _is_refused_revision(draft)) and told is not None and told.status == "False":
        return "False", told.reason, told.message
    if not readiness.known and told is not None and _has_just_begun(draft, newest, told):
        return "False", told.reason, told.message
    if not readiness.known:
        cluster = draft.cluster_of(newest.revision)
        problem = cluster.problem if cluster else ""
        return "Unknown", readiness.reason, problem or readiness.message
    if _has_traffic(draft, newest) and (missed := _missed_by_edges(draft, newest.revision, told)):
        return missed
    return (
        ("True" if readiness.ready else "False"),
        readiness.reason,
        f"revision {newest.revision}: {readiness.message}",
    )


def _waits_for_pods(draft: PlanContext, number: int) -> Conclusion | None:
    """What its pods wait for; None where that is nothing but their start."""
    if (hinders := find_pending_reason(draft, number)) is not None:
        return "False", *hinders
    if terminating_pods.has_enough_terminating(draft, number):
        return "False", DEPLOYING, f"revision {number}: {terminating_pods.describe_wait(draft, number)}"
    return None


def _missed_by_edges(draft: PlanContext, number: int, told: Condition | None) -> Conclusion | None:
    """That no edge sees a healthy replica of it, or saw one when it last told; None else."""
    healthy = edge_split.reported_replicas(draft.service, number, draft.seen.edges)
    if healthy == 0:
        return "False", _NO_HEALTHY_REPLICA, f"revision {number}: no edge sees a healthy replica"
    # Who tells nothing takes nothing back.
    if healthy is None and told is not None and told.reason == _NO_HEALTHY_REPLICA:
        return "False", told.reason, told.message
    return None


def _has_just_begun(draft: PlanContext, newest: RevisionStatus, told: Condition) -> bool:
    """Whether it was told a moment ago that it is being deployed: what keeps Ray is worth telling of what lasts."""
    deploying = (
        told.status == "False" and told.reason == DEPLOYING and told.message.startswith(f"revision {newest.revision}:")
    )
    return deploying and newest.since is not None and draft.now - newest.since < RAY_GRACE


def _has_traffic(draft: PlanContext, newest: RevisionStatus) -> bool:
    if newest is draft.status.candidate and draft.progress is not None:
        return state_machine.has_traffic(draft.progress)
    return bool(newest.weight)


def _is_refused_revision(draft: PlanContext) -> bool:
    """Whether what the spec stands for failed and is held back: its reason must stay visible although stable is fine."""
    hold = draft.hold
    return hold is not None and hold.outcome == "Aborted" and not hold.reason.startswith("by command")


def _traffic_synced(draft: PlanContext) -> Conclusion:
    split = draft.split()
    if split is None:
        return "False", "NothingServes", "no revision is ready for traffic"
    confirmation = edge_split.confirm(draft.service, split, draft.seen.edges)
    if confirmation.confirmed:
        return "True", "InForce", f"every edge has epoch {split.epoch} in force"
    told = _before(draft, "TrafficSynced")
    late = told is not None and told.status == "Unknown" and draft.now - told.last_transition_time >= CONFIRM_GRACE
    if late or (told is not None and told.reason == "EdgeNotConfirmed"):
        waiting = "; ".join(f"{pod} {why}" for pod, why in confirmation.waiting)
        return "False", "EdgeNotConfirmed", f"not in force after {CONFIRM_GRACE.total_seconds():g} s: {waiting}"
    return "Unknown", "Confirming", "waits for every edge to have the split in force"


def _secret_problem(draft: PlanContext) -> Conclusion | None:
    """A Secret that the endpoint needs and that is not there, or that an edge cannot use, whatever split the edges have in force."""
    if draft.spec is None:
        return None
    needed, namespace = secrets.secret_references(draft.spec.endpoint), draft.seen.deployment["metadata"]["namespace"]
    if (missing := secrets.find_missing_secrets(needed, draft.seen.secrets, namespace)) is not None:
        return "False", *missing
    told = edge_split.find_edge_problems(draft.service, draft.seen.edges) if needed else []
    return ("False", secrets.INVALID, "; ".join(f"{pod}: {what}" for pod, what in told)) if told else None


def _route_accepted(draft: PlanContext) -> Conclusion | None:
    """What became of the HTTPRoute; None where none is asked for. A spec that is refused leaves it as it was."""
    if draft.spec is None or not draft.spec.endpoint.gateway.name:
        return None
    seen = draft.seen
    return http_route.evaluate_route(seen.deployment, draft.spec.endpoint, seen.route, served=seen.routes_served)


def _progressing(draft: PlanContext) -> Conclusion:
    progress, candidate = draft.progress, draft.status.candidate
    asks = (
        progress is not None
        and progress.paused is not None
        and progress.paused.reason == state_machine.DEADLINE_EXCEEDED
    )
    if candidate is not None and candidate.retry_at is not None and not asks:
        return (
            "True",
            "Retrying",
            f"revision {candidate.revision} is tried again at {candidate.retry_at:%Y-%m-%dT%H:%M:%SZ}",
        )
    if progress is not None and candidate is not None:
        paused = progress.paused is not None or draft.held or draft.opens_at is not None
        step = progress.step
        waiting = (
            state_machine.describe_pause(progress) if progress.paused else f"waits for revision {candidate.revision}"
        )
        text = f"step {step.index} of {step.of}: {step.reason}" if step else waiting
        why = f"{progress.plan.reason}: " if progress.plan.reason else f"revision {candidate.revision}, "
        waits = f"; revision {draft.status.queued} waits until it has ended" if draft.status.queued else ""
        waits += f"; {draft.dry_run_message}" if draft.dry_run_message else ""
        if draft.is_giving_back:
            return "True", "RollingBack", f"{why}{step.reason if step else ''}{waits}"
        return "True", "Paused" if paused else "RollingOut", f"{why}{text}{waits}"
    if candidate is not None:
        return "True", "Deploying", f"revision {candidate.revision} is being deployed{_and_waits(draft, candidate)}"
    if draft.dry_run_message:
        return "False", "DryRun", draft.dry_run_message
    if draft.status.queued is not None and draft.own is not None:
        return (
            "False",
            EXPERIMENT_RUNNING,
            f"revision {draft.status.queued} waits until Experiment {draft.own.name} has ended",
        )
    if draft.status.queued is not None:
        drains = ", ".join(str(retiring.revision) for retiring in draft.status.retiring)
        told = f"revision {draft.status.queued} waits until the replicas of revision {drains} are gone"
        return "True", "Queued", told if drains else f"revision {draft.status.queued} begins"
    if (hold := draft.hold) is not None:
        return "False", hold.outcome, f"revision {hold.revision}: {_held_for(draft, hold)}"
    if draft.capacity_shortage is not None and draft.status.stable is not None:
        return "False", *draft.capacity_shortage
    return "False", "Complete" if draft.status.stable else "NotStarted", ""


def _held_for(draft: PlanContext, hold: LastRollout) -> str:
    """Why a revision is held back, and what became of a way back that was tried since."""
    last = draft.status.last_rollout
    if (
        last is None
        or last.revision == hold.revision
        or last.at < hold.at
        or not held_back_revisions.is_failed_rollout(last)
    ):
        return hold.reason
    return f"{hold.reason}; revision {last.revision}: {last.reason}"


def _and_waits(draft: PlanContext, candidate: RevisionStatus) -> str:
    """What else a candidate without steps waits for."""
    opening = planner_candidate.window_opening_for(draft, candidate)
    return f", {windows.describe_closed_windows(opening)}" if opening is not None else ""


def _promoted(draft: PlanContext, traffic_synced: Conclusion) -> Conclusion:
    if draft.wanted is None:
        return "Unknown", "SpecRefused", ""
    if draft.stable_number != draft.wanted.number or draft.status.candidate is not None:
        return "False", "NotPromoted", f"revision {draft.wanted.number} does not have all traffic"
    if traffic_synced[0] != "True":
        return "False", "Confirming", traffic_synced[2]
    return "True", "Promoted", f"revision {draft.wanted.number} has all traffic"


def _ready(draft: PlanContext, said: dict[str, Conclusion]) -> Conclusion:
    """Whether the stable revision serves, as the edges see it: Ray being silent changes nothing for traffic."""
    stable = draft.status.stable
    if stable is None:
        cause = "SpecAccepted" if said["SpecAccepted"][0] == "False" else "RevisionReady"
        _, reason, message = said[cause]
        return "False", reason, message
    synced = said["TrafficSynced"]
    if synced[1] in (secrets.NOT_FOUND, secrets.INCOMPLETE):
        return synced
    healthy = edge_split.reported_replicas(draft.service, stable.revision, draft.seen.edges)
    if healthy:
        more = [*_what_fails(said), *_what_is_asked(draft)]
        return "True", "Serving", "; ".join([f"revision {stable.revision} serves", *more])
    if healthy is None and (kept := _as_told(draft, synced)) is not None:
        return kept
    return (
        "False",
        _NO_HEALTHY_REPLICA,
        f"no edge sees a healthy replica of revision {stable.revision}: {said['TrafficSynced'][2]}",
    )


def _as_told(draft: PlanContext, synced: Conclusion) -> Conclusion | None:
    """That stable serves, where that was told and no edge tells otherwise, for as long as edges have to confirm a split.

    An agent that starts anew is away for seconds, in which its HAProxy serves on. In a cluster no request comes in without a ready edge.
    """
    told = _before(draft, "Ready")
    if told is None or told.status != "True" or synced[0] == "False":
        return None
    if draft.seen.in_cluster and not any(edge.ready for edge in draft.seen.edges):
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


def _what_is_asked(draft: PlanContext) -> list[str]:
    """What a rollout waits for, a person or evidence: somebody who looks would else not know whether to wait too."""
    candidate, progress = draft.status.candidate, draft.progress
    if candidate is None or progress is None:
        return []
    if progress.paused is not None:
        return [f"revision {candidate.revision} is paused ({progress.paused.reason})"]
    step = progress.step
    if step is None:
        return []
    if step.reason == state_machine.WAITS_FOR_PROMOTE:
        return [f"revision {candidate.revision} {state_machine.WAITS_FOR_PROMOTE}"]
    if step.gate == "evidence" and step.since is not None:
        return [f"revision {candidate.revision} waits for evidence at {state_machine.canary_weight(progress)} %"]
    return []


def _stalled(draft: PlanContext, said: dict[str, Conclusion]) -> Conclusion:
    status, reason, message = said["SpecAccepted"]
    if status == "False":
        return "True", reason, message
    if (hold := draft.hold) is not None:
        return "True", hold.outcome, f"revision {hold.revision} is held back: {_held_for(draft, hold)}"
    candidate = draft.status.candidate
    if draft.capacity_shortage is not None and candidate is None:
        return "True", *draft.capacity_shortage
    if candidate is not None and candidate.retry_at is None:
        readiness = draft.readiness(candidate.revision)
        if readiness.failed and not readiness.retryable:
            return "True", readiness.reason, f"revision {candidate.revision}: {readiness.message}"
    if candidate is not None and _is_late(draft, candidate):
        return (
            "True",
            state_machine.DEADLINE_EXCEEDED,
            f"{planner_candidate.describe_deadline(draft)}: {said['RevisionReady'][2]}; it is tried on",
        )
    return "False", "", ""


def _is_late(draft: PlanContext, candidate: RevisionStatus) -> bool:
    """Whether a candidate that nothing pauses is tried on although its time is over: a first revision, or one without steps."""
    if draft.status.stable is None:
        return planner_candidate.has_exceeded_deadline(draft, candidate)
    return draft.progress is None and planner_candidate.find_deadline_pause_reason(draft, candidate) != ""


def set_rollout_conditions(draft: PlanContext) -> None:
    """Set the conditions of the Experiment whose status is about to be committed."""
    attempt = next(
        (rollout for rollout in draft.seen.rollouts if draft.commit and rollout.name == draft.commit[0]), None
    )
    if draft.commit is None or attempt is None:
        return
    name, status = draft.commit
    conditions = experiment_conditions(attempt.status.conditions, generation=attempt.generation, at=draft.now)
    mark_running = conditions.mark_false if state_machine.is_over(status) else conditions.mark_true
    reason = status.verdict.reason.partition(":")[0] if state_machine.is_over(status) else status.phase
    mark_running("Running", reason, status.verdict.reason if state_machine.is_over(status) else "", at=draft.now)
    conditions.mark_true("Ready", status.phase, "", at=draft.now)
    _mark_evidence(draft, status, conditions)
    update = {"observed_generation": attempt.generation, "conditions": conditions.conditions()}
    draft.commit = (name, notifications.add_notices(attempt.status, status.model_copy(update=update), draft.now))


def _mark_evidence(draft: PlanContext, status: ExperimentStatus, conditions: ConditionSet) -> None:
    if not status.plan.guardrails:
        why = freeze.no_evidence_reason(status.plan)
        told = why if status.plan.reason else NOT_EVALUATED
        conditions.mark_unknown("DataQuality", "NotEvaluated", told, at=draft.now)
        if status.verdict.decision == freeze.UNDECIDED:
            conditions.mark_false("Conclusive", freeze.UNDECIDED, _undecided(status, why), at=draft.now)
        else:
            conditions.mark_true("Conclusive", status.verdict.decision, status.verdict.reason, at=draft.now)
        return
    broken = draft.evaluation.broken if draft.evaluation else ""
    if broken:
        conditions.mark_false("DataQuality", "SampleRatioMismatch", broken, at=draft.now)
    elif draft.evaluation is not None and draft.evaluation.unreachable_edges:
        told = f"no gate opens before {', '.join(draft.evaluation.unreachable_edges)} has told what was counted there"
        conditions.mark_unknown("DataQuality", "EdgeSilent", told, at=draft.now)
    elif draft.evaluation is not None:
        conditions.mark_true("DataQuality", "Consistent", _lost(*draft.evaluation.lost), at=draft.now)
    elif not state_machine.is_evaluated(status):
        conditions.mark_unknown("DataQuality", "NotEvaluated", EVALUATED_IN_BAKE, at=draft.now)
    # What the gates have let pass may still be rolled back, as in a bake.
    settled = state_machine.is_over(status) or state_machine.is_decided_by_copies(status)
    if status.verdict.decision == freeze.UNDECIDED or not settled:
        conditions.mark_false("Conclusive", freeze.UNDECIDED, _undecided(status, _waits_for(status)), at=draft.now)
    else:
        conditions.mark_true("Conclusive", status.verdict.decision, status.verdict.reason, at=draft.now)


def _undecided(status: ExperimentStatus, why: str) -> str:
    """Why evidence decides nothing yet, and what may promote without it; of one that has ended, how."""
    if state_machine.is_over(status) and (status.plan.guardrails or status.without_evidence):
        return status.verdict.reason
    return "; ".join(filter(None, (why, steps_without_evidence.describe_exceptions(status.plan))))


def _lost(stable: int, canary: int) -> str:
    """How many requests that were to be evidence have no known end; empty where all have one."""
    if not stable + canary:
        return ""
    return (
        f"{stable} of {names.STABLE}'s requests and {canary} of the candidate's were lost, nobody knows how they ended"
    )


def _waits_for(status: ExperimentStatus) -> str:
    """What evidence is missing, and whether the plan gives it too little time; of a bake, what it waits for."""
    if state_machine.is_baking(status) and status.step is not None:
        return status.step.reason
    return "; ".join(
        filter(None, (state_machine.describe_missing_evidence(status), power.find_undecidable_step(status.plan)))
    )


def requeue_after_s(draft: PlanContext) -> float:
    """Poll while something is on its way, look after a step that waits, else look in from time to time."""
    truths = {condition.type: condition.status for condition in draft.status.conditions}
    # A ControllerRevision that was made is there; what a rollout or an arm needs next is decided by the next pass.
    if draft.commit is not None or draft.made or any(each["kind"] == "Experiment" for each in draft.objects_to_create):
        return 0.0
    if (asked_s := conditions_of_experiment.requeue_after_s(draft)) is not None:
        return asked_s
    if (
        draft.status.candidate is None
        and draft.status.queued is None
        and not draft.status.retiring
        and truths["Ready"] == truths["TrafficSynced"] == "True"
    ):
        # No watch tells of replicas that come or go.
        return RESYNC_S if draft.status.ready_replicas == draft.status.replicas else WAITING_POLL_S
    if _waits_for_a_window(draft) and truths["TrafficSynced"] == "True":
        return WAITING_POLL_S
    if truths.get("Stalled") == "True" and draft.status.stable is None:
        return RESYNC_S
    candidate = draft.status.candidate
    if candidate is not None and candidate.retry_at is not None and not draft.status.retiring:
        return min(max((candidate.retry_at - draft.now).total_seconds(), POLL_S), RESYNC_S)
    if _secret_problem(draft) is not None and draft.status.candidate is None and not draft.status.retiring:
        return WAITING_POLL_S
    progress = draft.progress
    collecting = (
        progress is not None
        and progress.step is not None
        and progress.step.since is not None
        and progress.epoch.confirmed
        and not draft.is_giving_back
    )
    if collecting and (draft.evaluation or draft.copies) is not None and truths["TrafficSynced"] == "True":
        return EVIDENCE_POLL_S
    return WAITING_POLL_S if collecting and truths["TrafficSynced"] == "True" else POLL_S


def _waits_for_a_window(draft: PlanContext) -> bool:
    """Whether a candidate is ready and has no traffic yet, outside of windows."""
    candidate = draft.status.candidate
    if candidate is None or candidate.weight or draft.status.stable is None or draft.opens_at is None:
        return False
    return draft.available(candidate.revision) >= candidate.replicas
