"""Events: pure constructors, one per thing that happens. Wording lives here, and each has a key under which it is told once."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sundog_operator.api import format_timestamp

NOTE_LIMIT = 1024
"""Bytes of UTF-8: an event with more is refused whole."""


@dataclass(frozen=True, slots=True)
class KubernetesEvent:
    """Something that happened to an object. Equal `dedupe` of one object and reason: the same event."""

    type: Literal["Normal", "Warning"]
    reason: str
    action: str
    note: str
    dedupe_key: str


def _because(why: str) -> str:
    return f": {why}" if why else ""


def _since(of: str, reason: str, since: datetime) -> str:
    """The key of what lasts since an instant for a reason: for the same since another, it is another event."""
    return f"{of}/{reason}/{format_timestamp(since)}"


def revision_created(number: int) -> KubernetesEvent:
    """A change of the spec made a revision."""
    return KubernetesEvent(
        "Normal", "RevisionCreated", "CreateRevision", f"the spec makes revision {number}", str(number)
    )


def rollout_started(experiment: str, revision: int, stable: int) -> KubernetesEvent:
    """A candidate is being brought up beside stable."""
    note = f"rollout {experiment} of revision {revision} begins; revision {stable} keeps serving"
    return KubernetesEvent("Normal", "RolloutStarted", "Rollout", note, experiment)


def traffic_shifted(experiment: str, epoch: int, weight: int, revision: int, why: str) -> KubernetesEvent:
    """A new weight was committed. `why` is what decided that; empty for the first one."""
    note = f"rollout {experiment}: revision {revision} gets {weight} % from epoch {epoch} on{_because(why)}"
    return KubernetesEvent("Normal", "TrafficShifted", "Shift", note, f"{experiment}/{epoch}")


def gate_opened(experiment: str, step: int, weight: int, why: str) -> KubernetesEvent:
    """A gate opened, and the step after it begins at the same weight. With another weight, that tells of it."""
    note = f"rollout {experiment}: step {step} begins, at {weight} % as before{_because(why)}"
    return KubernetesEvent("Normal", "GateOpened", "OpenGate", note, f"{experiment}/{step}")


def rollout_paused(experiment: str, epoch: int, reason: str, message: str, since: datetime) -> KubernetesEvent:
    """A rollout stands still until somebody looks. Paused again for the same since another time, it is another event."""
    key = _since(f"{experiment}/{epoch}", reason, since)
    return KubernetesEvent("Warning", "RolloutPaused", "Pause", f"rollout {experiment}: {message}", key)


def rollout_resumed(experiment: str, reason: str, since: datetime) -> KubernetesEvent:
    """A rollout goes on by itself that was paused for so long, for that reason."""
    paused = f"it was paused for {reason} since {format_timestamp(since)}"
    note = f"rollout {experiment} goes on: {paused}, and stable has done well for 5 minutes"
    return KubernetesEvent("Normal", "RolloutResumed", "Resume", note, _since(experiment, reason, since))


def revision_promoted(revision: int, previous: int | None, attempt: str, why: str = "") -> KubernetesEvent:
    """A revision became stable, by an attempt that is told from others of the same revision. `why` is what decided that."""
    note = f"revision {revision} is stable" + (f"; it was revision {previous}" if previous else "") + _because(why)
    return KubernetesEvent("Normal", "Promoted", "Promote", note, f"{previous}-{revision}/{attempt}")


def rollout_ended(outcome: str, attempt: str, message: str) -> KubernetesEvent:
    """A rollout ended without its candidate becoming stable."""
    kind: Literal["Normal", "Warning"] = "Normal" if outcome == "Superseded" else "Warning"
    return KubernetesEvent(kind, f"Rollout{outcome}", "RollBack", message, f"{attempt}/{outcome}")


def experiment_started(experiment: str, uid: str, arms: Sequence[str], stable: int) -> KubernetesEvent:
    """The arms of an Experiment of a user's own are being brought up."""
    note = f"Experiment {experiment}: {', '.join(arms)} beside revision {stable}, which keeps serving"
    return KubernetesEvent("Normal", "ExperimentStarted", "StartExperiment", note, uid)


def experiment_running(experiment: str, uid: str, epoch: int, told: str) -> KubernetesEvent:
    """Its arms have traffic."""
    note = f"Experiment {experiment}: {told} from epoch {epoch} on"
    return KubernetesEvent("Normal", "ExperimentRunning", "StartExperiment", note, f"{uid}/{epoch}")


def arm_dropped(experiment: str, uid: str, arm: str, why: str) -> KubernetesEvent:
    """An arm lost its traffic while others go on."""
    return KubernetesEvent(
        "Warning", "ArmDropped", "DropArm", f"Experiment {experiment}: arm {arm}: {why}", f"{uid}/{arm}"
    )


def weights_moved(experiment: str, uid: str, epoch: int, shares: str) -> KubernetesEvent:
    """The weights of its arms followed their outcomes."""
    note = f"Experiment {experiment}: outcomes move its weights to {shares} from epoch {epoch} on"
    return KubernetesEvent("Normal", "WeightsMoved", "Shift", note, f"{uid}/{epoch}")


def experiment_paused(experiment: str, uid: str, reason: str, message: str, since: datetime) -> KubernetesEvent:
    """It counts no evidence, for control is no measure of anything."""
    note = f"Experiment {experiment} counts no evidence until control has done well for 5 minutes: {message}"
    return KubernetesEvent("Warning", "ExperimentPaused", "Pause", note, _since(uid, reason, since))


def experiment_resumed(experiment: str, uid: str, reason: str, since: datetime) -> KubernetesEvent:
    """It counts evidence again, by itself."""
    note = f"Experiment {experiment} counts evidence again: it was paused for {reason} since {format_timestamp(since)}"
    return KubernetesEvent("Normal", "ExperimentResumed", "Resume", note, _since(uid, reason, since))


def evidence_doubted(experiment: str, uid: str, reason: str, message: str, since: datetime) -> KubernetesEvent:
    """Nothing is concluded from what is counted, since then and for that reason. Numbers in what it says may change: it is told once."""
    note = f"Experiment {experiment}: nothing is concluded meanwhile ({reason}): {message}"
    return KubernetesEvent("Warning", "EvidenceDoubted", "DecideExperiment", note, _since(uid, reason, since))


def arm_won(experiment: str, uid: str, reason: str) -> KubernetesEvent:
    """An arm has won, and the experiment goes on until somebody ends it."""
    return KubernetesEvent("Normal", "ArmWon", "DecideExperiment", f"Experiment {experiment}: {reason}", uid)


def experiment_ended(experiment: str, uid: str, phase: str, reason: str) -> KubernetesEvent:
    """It has ended, and all traffic is stable's. Of one that is gone nobody knows the uid."""
    kind: Literal["Normal", "Warning"] = "Normal" if phase == "Concluded" else "Warning"
    note = f"Experiment {experiment}: {reason}"
    return KubernetesEvent(kind, f"Experiment{phase}", "EndExperiment", note, f"{uid or experiment}/{phase}")


def log_not_written(experiment: str, sequence: int, problem: str) -> KubernetesEvent:
    """An exposure log could not be written."""
    note = f"Experiment {experiment}: exposure log {sequence}: {problem}; it is tried again, and the experiment goes on"
    return KubernetesEvent("Warning", "LogNotWritten", "WriteLog", note, f"{experiment}/{sequence}")


def service_refused(problem: str) -> KubernetesEvent:
    """The API server does not let the Service of a ModelDeployment be written. Numbers in what it says may change: it is told once."""
    note = f"its Service cannot be written, and its address may lead nowhere: {problem}; it is tried again"
    return KubernetesEvent("Warning", "ServiceRefused", "WriteService", note, "")


def replica_lost(revision: int, replicas: Sequence[str], running: int, wanted: int, problem: str) -> KubernetesEvent:
    """Replicas ended that nobody asked to. `problem` is what Serve says of them; empty where it says nothing."""
    which = f"replica {replicas[0]}" if len(replicas) == 1 else f"{len(replicas)} replicas"
    note = f"revision {revision}: {which} ended, and Serve starts another in its place; {running} of {wanted} run"
    said = " ".join(problem.split())
    return KubernetesEvent("Warning", "ReplicaLost", "ReplaceReplica", note + _because(said), ",".join(replicas))


def edge_replaced(pod: str, uid: str, epoch: int) -> KubernetesEvent:
    """An edge that did not take up an abort is deleted."""
    note = f"edge {pod} has not put epoch {epoch} in force for 60 s after an abort: it is deleted, and another takes its place"
    return KubernetesEvent("Warning", "EdgeReplaced", "ReplaceEdge", note, uid)


def poison_request(revision: int, count: int, attempt: str) -> KubernetesEvent:
    """Requests took two replicas with them. It is told again when there are twice as many."""
    requests = "1 request" if count == 1 else f"{count} requests"
    note = (
        f"revision {revision}: {requests} ended without an answer at two replicas, one after the other, and may have ended both; "
        "each was tried no third time"
    )
    return KubernetesEvent(
        "Warning", "PoisonRequest", "RetryRequest", note, f"{attempt}/{revision}/{count.bit_length()}"
    )


def notification_failed(experiment: str, receiver: int, place: str, problem: str) -> KubernetesEvent:
    """A receiver could not be told what happened in a rollout."""
    note = f"rollout {experiment}: {place} (notify[{receiver}]) {problem}; it is tried for an hour, and the rollout goes on"
    return KubernetesEvent("Warning", "NotificationFailed", "Notify", note, f"{experiment}/{receiver}")


def revision_failed(revision: int, reason: str, message: str, failures: int) -> KubernetesEvent:
    """A revision could not be started."""
    return KubernetesEvent(
        "Warning", reason, "StartRevision", f"revision {revision}: {message}", f"{revision}/{failures}"
    )


def command_handled(verb: str, ident: str, result: str, message: str) -> KubernetesEvent:
    """A command was accepted or rejected."""
    kind: Literal["Normal", "Warning"] = "Normal" if result == "Accepted" else "Warning"
    note = f"{verb} {ident}: {result}" + (f": {message}" if message else "")
    return KubernetesEvent(kind, f"Command{result}", "Command", note, ident)


def spec_refused(reason: str, message: str, generation: int) -> KubernetesEvent:
    """The spec cannot be acted on."""
    return KubernetesEvent("Warning", reason, "AcceptSpec", message, str(generation))


def make_event_object(event: KubernetesEvent, regarding: dict[str, Any], instance: str, at: str) -> dict[str, Any]:
    """The events.k8s.io object. Its name follows from what it says, so that telling it twice is a conflict and no second event."""
    meta = regarding["metadata"]
    digest = hashlib.sha256("\0".join((meta["uid"], event.reason, event.dedupe_key)).encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{digest}", "namespace": meta["namespace"]},
        "eventTime": at,
        "type": event.type,
        "reason": event.reason,
        "action": event.action,
        "note": event.note.encode()[:NOTE_LIMIT].decode(errors="ignore"),
        "regarding": {
            "apiVersion": regarding["apiVersion"],
            "kind": regarding["kind"],
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
        },
        "reportingController": "serving.sundog.dev/operator",
        "reportingInstance": instance,
    }
