"""What a plan says: measured fields of the status, conditions, events of a rollout, and when to look again."""

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sundog_operator.api import (
    Capacity,
    Condition,
    ConditionSet,
    ExperimentStatus,
    MetricStatus,
    RevisionStatus,
    Startup,
    experiment_conditions,
    model_deployment_conditions,
)
from sundog_operator.core import (
    accelerators,
    capacity,
    choose,
    events,
    http_route,
    live,
    names,
    pod_problems,
    power,
    references,
    revisions,
    secrets,
    traffic,
)
from sundog_operator.core.draft import Draft
from sundog_operator.core.events import Event
from sundog_operator.core.evidence.verdicts import Verdict
from sundog_operator.core.readiness import DEPLOYING
from sundog_operator.core.rollout import freeze, machine, notices, windows

POLL_S: Final = 0.2
WAITING_S: Final = 1.0
EVIDENCE_S: Final = 5.0
"""Between two looks at what the edges count: half of the shortest blocks."""

RESYNC_S: Final = 15.0
CONFIRM_GRACE: Final = timedelta(seconds=30)
COUNTS_PERIOD: Final = timedelta(seconds=60)
NOT_EVALUATED: Final = "counters are kept, but no evidence is weighed in a rollout without a gate of evidence"

Said = tuple[str, str, str]
"""(status, reason, message) of a condition."""


def tell(draft: Draft, status: ExperimentStatus) -> ExperimentStatus:
    """Project what the evidence says: once a minute, where nothing was said yet, and as soon as there is anything."""
    judged = draft.judgement
    if judged is None or not (_is_due(draft, status) or _nothing(status.metrics) > _nothing(judged.metrics)):
        return status
    return status.model_copy(update={"metrics": judged.metrics})


def _nothing(metrics: Sequence[MetricStatus]) -> float:
    """Of how many metrics nothing is known; of more than any where none is named."""
    return sum(each.verdict == Verdict.NO_DATA for each in metrics) if metrics else math.inf


def _is_due(draft: Draft, status: ExperimentStatus) -> bool:
    return status.counted_at is None or draft.now - status.counted_at >= COUNTS_PERIOD


def count(draft: Draft, status: ExperimentStatus, before: ExperimentStatus, *, moved: bool) -> ExperimentStatus:
    """Project the edges' counters into the arms: at every transition, else once a minute; a status must not change with each request."""
    if draft.rollout is None or not (moved or _is_due(draft, status)):
        return status
    counted = {arm.name: traffic.counts_of(draft.rollout.uid, arm.name, draft.seen.edges) for arm in status.arms}
    # Edges that do not answer must not take back what was counted before.
    arms = tuple(
        arm.model_copy(
            update={
                "requests": max(arm.requests, counted[arm.name][0]),
                "errors": max(arm.errors, counted[arm.name][1]),
            }
        )
        for arm in status.arms
    )
    if arms == status.arms and status.metrics == before.metrics:
        return status
    return status.model_copy(update={"arms": arms, "counted_at": draft.now})


def shift_events(draft: Draft, before: ExperimentStatus, after: ExperimentStatus) -> list[Event]:
    """The events of one transition."""
    paused = after.paused
    if draft.rollout is not None and paused is not None and paused != before.paused and paused.reason != machine.MANUAL:
        told = machine.paused_for(after)
        return [events.rollout_paused(draft.rollout.name, after.epoch.number, paused.reason, told)]
    if draft.rollout is None or machine.is_over(after) or machine.canary_weight(before) == machine.canary_weight(after):
        return []
    return [
        events.traffic_shifted(
            draft.rollout.name, after.epoch.number, machine.canary_weight(after), draft.rollout.revision
        )
    ]


def measure(draft: Draft) -> None:
    """Fill in replicas, weights and addresses."""
    progress = draft.progress
    weight = machine.canary_weight(progress) if progress else 0
    candidate, stable = draft.status.candidate, draft.status.stable
    if candidate is not None:
        wanted = machine.wanted_replicas(progress, draft.replicas) if progress else _before_freeze(draft, candidate)
        draft.set(candidate=_measured(draft, candidate, weight, wanted))
    if stable is not None:
        draft.set(stable=_measured(draft, stable, 100 - weight, draft.replicas))
    shown = [revision for revision in (draft.status.stable, draft.status.candidate) if revision is not None]
    draft.set(
        replicas=sum(revision.replicas for revision in shown),
        ready_replicas=sum(revision.ready_replicas for revision in shown),
        selector=f"{names.LABEL_MODEL_DEPLOYMENT}={draft.service}",
        url=draft.seen.url or draft.status.url,
        capacity=_measure_capacity(draft),
        startup=_measure_startup(draft),
    )


def _before_freeze(draft: Draft, candidate: RevisionStatus) -> int:
    """A canary keeps what its first step asked for until its plan is frozen; any other candidate is to carry everything."""
    return candidate.replicas if draft.status.experiment else draft.replicas


def _measured(draft: Draft, revision: RevisionStatus, weight: int, wanted: int) -> RevisionStatus:
    readiness = draft.readiness(revision.revision)
    ready = readiness.running if readiness.known else revision.ready_replicas
    return revision.model_copy(update={"weight": weight, "replicas": wanted, "ready_replicas": ready})


def conclude(draft: Draft) -> None:
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
        said[http_route.CONDITION] = route
    said["Stalled"] = _stalled(draft, said)
    said["Ready"] = _ready(draft, said)
    settled = said["Ready"][0] == "True" or said["Stalled"][0] == "True"
    said["Reconciling"] = ("False", "", "") if settled else ("True", said["Ready"][1], said["Ready"][2])
    conditions = model_deployment_conditions(draft.before.conditions, generation=generation, at=draft.now)
    mark = {"True": conditions.mark_true, "False": conditions.mark_false, "Unknown": conditions.mark_unknown}
    for type_, (status, reason, message) in said.items():
        mark[status](type_, reason, message, at=draft.now)
    if draft.spec is not None and not draft.spec.endpoint.gateway.name:
        conditions.drop(http_route.CONDITION)
    draft.set(conditions=conditions.conditions(), observed_generation=generation)
    _tell_refusal(draft, said["SpecAccepted"], generation)


def _tell_refusal(draft: Draft, said: Said, generation: int) -> None:
    status, reason, message = said
    known = _before(draft, "SpecAccepted")
    told = known is not None and known.status == "False" and known.observed_generation == generation
    if status == "False" and not told:
        draft.events.append(events.spec_refused(reason, message, generation))


def _before(draft: Draft, type_: str) -> Condition | None:
    return next((condition for condition in draft.before.conditions if condition.type == type_), None)


def _spec_accepted(draft: Draft) -> Said:
    if draft.seen.foreign:
        found = ", ".join(draft.seen.foreign)
        return "False", "NotOwned", f"{found}: exists and was not made by Sundog; it is left alone. Rename or delete it"
    if draft.acceptance.spec is None:
        return "False", draft.acceptance.reason, draft.acceptance.message
    if draft.seen.host_taken_by:
        host = draft.acceptance.spec.endpoint.host
        return "False", "HostTaken", f"spec.endpoint.host: {host} belongs to ModelDeployment {draft.seen.host_taken_by}"
    return "True", "Accepted", ""


def _capacity_available(draft: Draft) -> Said:
    spec = draft.spec
    devices = accelerators.devices_of(spec.resources.gpu) if spec is not None else None
    if spec is None or devices is None:
        return "True", "NoGPURequested", "no GPU is requested"
    newest = draft.status.candidate or draft.status.stable
    short = draft.no_room
    if short is None and newest is not None and draft.wanted is not None and newest.revision == draft.wanted.number:
        placed = sum(pod_problems.is_scheduled(pod) for pod in draft.pods_of(newest.revision))
        short = choose.shortage_for(draft, spec, newest.replicas - placed)
    if short is not None:
        reason, message = short
        return "False", reason, f"revision {draft.wanted.number}: {message}" if draft.wanted else message
    return "True", "Fits", f"{devices.count} {devices.resource} for each replica"


def _measure_capacity(draft: Draft) -> Capacity | None:
    """Accelerators of all revisions that run; None where none asks for any."""
    requested = 0
    resources = set()
    for number, replicas in live.live_revisions(draft.status).items():
        revision = draft.revision(number)
        devices = accelerators.devices_of(revisions.spec_of(revision).resources.gpu) if revision else None
        if devices is not None:
            requested += replicas * devices.count
            resources.add(devices.resource)
    if not resources:
        return None
    allocated = sum(
        capacity.requested(pod, resource)
        for pod in draft.seen.pods
        if pod_problems.is_scheduled(pod)
        for resource in resources
    )
    return Capacity(gpus_requested=requested, gpus_allocated=allocated, mode="surge")


def _measure_startup(draft: Draft) -> Startup | None:
    """The phases of the newest revision's start, told once it is ready."""
    newest, told = draft.status.candidate or draft.status.stable, draft.status.startup
    if newest is None or (told is not None and told.revision == newest.revision):
        return told
    # Replicas are asked once a status says that there are some.
    known = next((each for each in live.told(draft.before) if each.revision == newest.revision), None)
    if not isinstance(known, RevisionStatus) or not known.ready_replicas or not draft.readiness(newest.revision).ready:
        return told
    phases = {name: timedelta(seconds=round(seconds, 3)) for name, seconds in draft.seen.phases.items()}
    times = {**pod_problems.start_times(draft.pods_of(newest.revision)), **phases}
    shown = {name: time for name, time in times.items() if name in ("scheduled", "image", "download", "load", "warmup")}
    return Startup(revision=newest.revision, **shown) if shown else told


def _revision_ready(draft: Draft) -> Said:
    newest = draft.status.candidate or draft.status.stable
    told = _before(draft, "RevisionReady")
    if newest is None:
        return "Unknown", "NoRevision", "there is no revision yet"
    readiness = draft.readiness(newest.revision)
    if not readiness.ready and not readiness.failed and (hindered := _hindered(draft, newest.revision)) is not None:
        return "False", *hindered
    if newest is draft.status.stable and readiness.failed:
        return "False", readiness.reason, f"revision {newest.revision}: {readiness.message}"
    waits = newest.failures > 0 and not readiness.failed and not readiness.ready
    # While the next attempt is on its way, what the last one died of is what a user has to know.
    if (waits or _is_refused_revision(draft)) and told is not None and told.status == "False":
        return "False", told.reason, told.message
    if not readiness.known:
        cluster = draft.cluster_of(newest.revision)
        problem = cluster.problem if cluster else ""
        return "Unknown", readiness.reason, problem or readiness.message
    if newest.weight and not traffic.healthy_replicas(draft.service, newest.revision, draft.seen.edges):
        return "False", "NoHealthyReplica", f"revision {newest.revision}: no edge sees a healthy replica"
    return (
        ("True" if readiness.ready else "False"),
        readiness.reason,
        f"revision {newest.revision}: {readiness.message}",
    )


def _hindered(draft: Draft, number: int) -> tuple[str, str] | None:
    """(reason, message) of what keeps the pods of a revision, or the head or store of their cluster, from running."""
    if draft.spec is not None and draft.wanted is not None and draft.wanted.number == number:
        namespace = draft.seen.deployment["metadata"]["namespace"]
        missing = references.problem(references.needs(draft.spec), draft.seen.references, namespace)
        if missing is not None:
            return missing[0], f"revision {number}: {missing[1]}"
    if (own := pod_problems.problem(draft.pods_of(number))) is not None:
        return own[0], f"revision {number}: {own[1]}"
    # A head without its store does not start: what keeps the store from running is nearer to the cause.
    for what, found in (("the store of Ray", draft.stores_of(number)), ("the head of Ray", draft.heads_of(number))):
        if (other := pod_problems.problem(found)) is not None:
            return other[0], f"{what}: {other[1]}"
    return None


def _is_refused_revision(draft: Draft) -> bool:
    """Whether what the spec stands for failed and is held back: its reason must stay visible although stable is fine."""
    last = draft.status.last_rollout
    failed = last is not None and last.outcome == "Aborted" and not last.reason.startswith("by command")
    return failed and draft.wanted is not None and draft.is_held_back(draft.wanted.number)


def _traffic_synced(draft: Draft) -> Said:
    split = live.split_of(draft.service, draft.status, draft.rollout.uid if draft.rollout else "", draft.progress)
    if split is None:
        return "False", "NothingServes", "no revision is ready for traffic"
    confirmation = traffic.confirm(draft.service, split, draft.seen.edges)
    if confirmation.confirmed:
        return "True", "InForce", f"every edge has epoch {split.epoch} in force"
    told = _before(draft, "TrafficSynced")
    late = told is not None and told.status == "Unknown" and draft.now - told.last_transition_time >= CONFIRM_GRACE
    if late or (told is not None and told.reason == "EdgeNotConfirmed"):
        waiting = "; ".join(f"{pod} {why}" for pod, why in confirmation.waiting)
        return "False", "EdgeNotConfirmed", f"not in force after {CONFIRM_GRACE.total_seconds():g} s: {waiting}"
    return "Unknown", "Confirming", "waits for every edge to have the split in force"


def _secret_problem(draft: Draft) -> Said | None:
    """A Secret that the endpoint needs and that is not there, or that an edge cannot use, whatever split the edges have in force."""
    if draft.spec is None:
        return None
    needed, namespace = secrets.uses(draft.spec.endpoint), draft.seen.deployment["metadata"]["namespace"]
    if (missing := secrets.problem(needed, draft.seen.secrets, namespace)) is not None:
        return "False", *missing
    told = traffic.problems(draft.service, draft.seen.edges) if needed else []
    return ("False", secrets.INVALID, "; ".join(f"{pod}: {what}" for pod, what in told)) if told else None


def _route_accepted(draft: Draft) -> Said | None:
    """What became of the HTTPRoute; None where none is asked for. A spec that is refused leaves it as it was."""
    if draft.spec is None or not draft.spec.endpoint.gateway.name:
        return None
    seen = draft.seen
    return http_route.answer(seen.deployment, draft.spec.endpoint, seen.route, served=seen.routes_served)


def _progressing(draft: Draft) -> Said:
    progress, candidate, last = draft.progress, draft.status.candidate, draft.status.last_rollout
    if candidate is not None and candidate.retry_at is not None:
        return (
            "True",
            "Retrying",
            f"revision {candidate.revision} is tried again at {candidate.retry_at:%Y-%m-%dT%H:%M:%SZ}",
        )
    if progress is not None and candidate is not None:
        paused = progress.paused is not None or draft.held or draft.opens_at is not None
        step = progress.step
        text = f"step {step.index} of {step.of}: {step.reason}" if step else f"waits for revision {candidate.revision}"
        why = f"{progress.plan.reason}: " if progress.plan.reason else f"revision {candidate.revision}, "
        waits = f"; revision {draft.status.queued} waits until it has ended" if draft.status.queued else ""
        waits += f"; {draft.rehearsal}" if draft.rehearsal else ""
        return "True", "Paused" if paused else "RollingOut", f"{why}{text}{waits}"
    if candidate is not None:
        return "True", "Deploying", f"revision {candidate.revision} is being deployed{_and_waits(draft, candidate)}"
    if draft.rehearsal:
        return "False", "DryRun", draft.rehearsal
    if draft.status.queued is not None:
        drains = ", ".join(str(retiring.revision) for retiring in draft.status.retiring)
        told = f"revision {draft.status.queued} waits until the replicas of revision {drains} are gone"
        return "True", "Queued", told if drains else f"revision {draft.status.queued} begins"
    if draft.wanted is not None and draft.is_held_back(draft.wanted.number) and last is not None:
        return "False", last.outcome, f"revision {last.revision}: {last.reason}"
    if draft.no_room is not None and draft.status.stable is not None:
        return "False", *draft.no_room
    return "False", "Complete" if draft.status.stable else "NotStarted", ""


def _and_waits(draft: Draft, candidate: RevisionStatus) -> str:
    """What else a candidate without steps waits for."""
    opening = choose.opening_for(draft, candidate)
    return f", {windows.outside(opening)}" if opening is not None else ""


def _promoted(draft: Draft, traffic_synced: Said) -> Said:
    if draft.wanted is None:
        return "Unknown", "SpecRefused", ""
    if draft.stable_number != draft.wanted.number or draft.status.candidate is not None:
        return "False", "NotPromoted", f"revision {draft.wanted.number} does not have all traffic"
    if traffic_synced[0] != "True":
        return "False", "Confirming", traffic_synced[2]
    return "True", "Promoted", f"revision {draft.wanted.number} has all traffic"


def _ready(draft: Draft, said: dict[str, Said]) -> Said:
    """Whether the stable revision serves, as the edges see it: Ray being silent changes nothing for traffic."""
    stable = draft.status.stable
    if stable is None:
        cause = "SpecAccepted" if said["SpecAccepted"][0] == "False" else "RevisionReady"
        _, reason, message = said[cause]
        return "False", reason, message
    synced = said["TrafficSynced"]
    if synced[1] in (secrets.NOT_FOUND, secrets.INCOMPLETE):
        return synced
    healthy = traffic.healthy_replicas(draft.service, stable.revision, draft.seen.edges)
    if healthy:
        more = [*_what_fails(said), *_what_is_asked(draft)]
        return "True", "Serving", "; ".join([f"revision {stable.revision} serves", *more])
    return (
        "False",
        "NoHealthyReplica",
        f"no edge sees a healthy replica of revision {stable.revision}: {said['TrafficSynced'][2]}",
    )


def _what_fails(said: dict[str, Said]) -> list[str]:
    """Why what the spec asks for is not what serves, for `kubectl get` shows the message of Ready. A start that goes on is no failure."""
    shown = (
        ("SpecAccepted", "False"),
        ("RevisionReady", "False"),
        ("Stalled", "True"),
        (http_route.CONDITION, "False"),
    )
    for type_, bad in shown:
        status, reason, message = said.get(type_, ("", "", ""))
        if status == bad and reason != DEPLOYING:
            return [f"{reason}: {message}"]
    return []


def _what_is_asked(draft: Draft) -> list[str]:
    """What a person is waited for, by name: somebody who looks would else wait too."""
    candidate, progress = draft.status.candidate, draft.progress
    if candidate is None or progress is None:
        return []
    if progress.paused is not None and progress.paused.reason != machine.MANUAL:
        return [f"revision {candidate.revision} is paused ({progress.paused.reason})"]
    asked = progress.step is not None and progress.step.reason == machine.WAITS_FOR_PROMOTE
    return [f"revision {candidate.revision} {machine.WAITS_FOR_PROMOTE}"] if asked else []


def _stalled(draft: Draft, said: dict[str, Said]) -> Said:
    status, reason, message = said["SpecAccepted"]
    if status == "False":
        return "True", reason, message
    last = draft.status.last_rollout
    if draft.wanted is not None and draft.is_held_back(draft.wanted.number) and last is not None:
        return "True", last.outcome, f"revision {last.revision} is held back: {last.reason}"
    candidate = draft.status.candidate
    if draft.no_room is not None and candidate is None:
        return "True", *draft.no_room
    if candidate is not None and candidate.retry_at is None:
        readiness = draft.readiness(candidate.revision)
        if readiness.failed and not readiness.retryable:
            return "True", readiness.reason, f"revision {candidate.revision}: {readiness.message}"
    if candidate is not None and draft.status.stable is None and choose.is_late(draft, candidate):
        return "True", "ProgressDeadlineExceeded", f"{said['RevisionReady'][2]}; it is tried on"
    return "False", "", ""


def conclude_rollout(draft: Draft) -> None:
    """Set the conditions of the Experiment whose status is about to be committed."""
    attempt = next(
        (rollout for rollout in draft.seen.rollouts if draft.commit and rollout.name == draft.commit[0]), None
    )
    if draft.commit is None or attempt is None:
        return
    name, status = draft.commit
    conditions = experiment_conditions(attempt.status.conditions, generation=attempt.generation, at=draft.now)
    mark_running = conditions.mark_false if machine.is_over(status) else conditions.mark_true
    reason = status.verdict.reason.partition(":")[0] if machine.is_over(status) else status.phase
    mark_running("Running", reason, status.verdict.reason if machine.is_over(status) else "", at=draft.now)
    conditions.mark_true("Ready", status.phase, "", at=draft.now)
    _mark_evidence(draft, status, conditions)
    update = {"observed_generation": attempt.generation, "conditions": conditions.conditions()}
    draft.commit = (name, notices.noted(attempt.status, status.model_copy(update=update), draft.now))


def _mark_evidence(draft: Draft, status: ExperimentStatus, conditions: ConditionSet) -> None:
    if not status.plan.guardrails:
        why = freeze.unweighed(status.plan)
        told = why if status.plan.reason else NOT_EVALUATED
        conditions.mark_unknown("DataQuality", "NotEvaluated", told, at=draft.now)
        conditions.mark_false("Conclusive", freeze.UNDECIDED, why, at=draft.now)
        return
    broken = draft.judgement.broken if draft.judgement else ""
    if broken:
        conditions.mark_false("DataQuality", "SampleRatioMismatch", broken, at=draft.now)
    elif draft.judgement is not None and draft.judgement.unheard:
        told = f"no gate opens before {', '.join(draft.judgement.unheard)} has told what was counted there"
        conditions.mark_unknown("DataQuality", "EdgeSilent", told, at=draft.now)
    elif draft.judgement is not None:
        conditions.mark_true("DataQuality", "Consistent", "", at=draft.now)
    if status.verdict.decision == freeze.UNDECIDED:
        waits = "" if machine.is_over(status) else _waits_for(status)
        conditions.mark_false("Conclusive", freeze.UNDECIDED, waits, at=draft.now)
    else:
        conditions.mark_true("Conclusive", status.verdict.decision, status.verdict.reason, at=draft.now)


def _waits_for(status: ExperimentStatus) -> str:
    """What evidence is missing, and whether the plan gives it too little time."""
    return "; ".join(filter(None, (machine.waiting_for_evidence(status), power.doubt(status.plan))))


def requeue_after_s(draft: Draft) -> float:
    """Poll while something is on its way, look after a step that waits, else look in from time to time."""
    truths = {condition.type: condition.status for condition in draft.status.conditions}
    if draft.commit is not None or draft.creates:
        return 0.0
    if (
        draft.status.candidate is None
        and draft.status.queued is None
        and not draft.status.retiring
        and truths["Ready"] == truths["TrafficSynced"] == "True"
    ):
        # No watch tells of replicas that come or go.
        return RESYNC_S if draft.status.ready_replicas == draft.status.replicas else WAITING_S
    if _waits_for_a_window(draft) and truths["TrafficSynced"] == "True":
        return WAITING_S
    if truths.get("Stalled") == "True" and draft.status.stable is None:
        return RESYNC_S
    candidate = draft.status.candidate
    if candidate is not None and candidate.retry_at is not None and not draft.status.retiring:
        return min(max((candidate.retry_at - draft.now).total_seconds(), POLL_S), RESYNC_S)
    if _secret_problem(draft) is not None and draft.status.candidate is None and not draft.status.retiring:
        return WAITING_S
    progress = draft.progress
    collecting = (
        progress is not None
        and progress.step is not None
        and progress.step.since is not None
        and progress.epoch.confirmed
    )
    if collecting and draft.judgement is not None and truths["TrafficSynced"] == "True":
        return EVIDENCE_S
    return WAITING_S if collecting and truths["TrafficSynced"] == "True" else POLL_S


def _waits_for_a_window(draft: Draft) -> bool:
    """Whether a candidate is ready and has no traffic yet, outside of windows."""
    candidate = draft.status.candidate
    if candidate is None or candidate.weight or draft.status.stable is None or draft.opens_at is None:
        return False
    return draft.available(candidate.revision) >= candidate.replicas
