"""Constructors of Kubernetes events, one for each thing that can happen. Pure.

The wording lives here. Each event has a key, under which it is recorded once.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sundog_operator.api import format_timestamp
from sundog_operator.api.reasons import EventReason

NOTE_LIMIT = 1024
"""Bytes of UTF-8. The API server rejects an event with a longer note."""


@dataclass(frozen=True, slots=True)
class KubernetesEvent:
    """Something that happened to an object. Events of one object and reason with equal `dedupe_key` are the same event."""

    type: Literal["Normal", "Warning"]
    reason: str
    action: str
    note: str
    dedupe_key: str


def _because(why: str) -> str:
    return f": {why}" if why else ""


def _since(of: str, reason: str, since: datetime) -> str:
    """Return the key of something that lasts since an instant: the same reason since another instant is another event."""
    return f"{of}/{reason}/{format_timestamp(since)}"


def revision_created(number: int) -> KubernetesEvent:
    """The operator created a revision for a changed spec."""
    return KubernetesEvent(
        "Normal", EventReason.REVISION_CREATED, "CreateRevision", f"created revision {number} for the spec", str(number)
    )


def rollout_started(experiment: str, revision: int, stable: int) -> KubernetesEvent:
    """A candidate starts beside stable."""
    note = f"rollout {experiment} of revision {revision} started; revision {stable} keeps serving"
    return KubernetesEvent("Normal", EventReason.ROLLOUT_STARTED, "Rollout", note, experiment)


def traffic_shifted(experiment: str, epoch: int, weight: int, revision: int, why: str) -> KubernetesEvent:
    """The operator committed a new weight. `why` is the reason; empty for the first weight."""
    note = f"rollout {experiment}: revision {revision} gets {weight} % of the traffic from epoch {epoch}{_because(why)}"
    return KubernetesEvent("Normal", EventReason.TRAFFIC_SHIFTED, "Shift", note, f"{experiment}/{epoch}")


def traffic_kept(serving: int, named: int | None) -> KubernetesEvent:
    """The status named a revision without replicas as stable, such as one from an earlier backup."""
    note = (
        f"the status names revision {named} as stable, but revision {serving} serves: it keeps the traffic until a revision"
        " of the spec is healthy"
    )
    return KubernetesEvent("Warning", EventReason.TRAFFIC_KEPT, "Recover", note, f"{serving}/{named}")


def gate_opened(experiment: str, step: int, weight: int, why: str) -> KubernetesEvent:
    """A gate opened, and the next step starts at the same weight. Another weight has the event `traffic_shifted` instead."""
    note = f"rollout {experiment}: step {step} started, still at {weight} %{_because(why)}"
    return KubernetesEvent("Normal", EventReason.GATE_OPENED, "OpenGate", note, f"{experiment}/{step}")


def rollout_paused(experiment: str, epoch: int, reason: str, message: str, since: datetime) -> KubernetesEvent:
    """A rollout is paused until a user acts. A later pause for the same reason is another event."""
    key = _since(f"{experiment}/{epoch}", reason, since)
    return KubernetesEvent("Warning", EventReason.ROLLOUT_PAUSED, "Pause", f"rollout {experiment}: {message}", key)


def rollout_resumed(experiment: str, reason: str, since: datetime) -> KubernetesEvent:
    """The operator resumed a rollout that was paused for `reason` since `since`."""
    note = (
        f"rollout {experiment} resumed: it was paused ({reason}) since {format_timestamp(since)},"
        " and stable has been healthy for 5 minutes"
    )
    return KubernetesEvent("Normal", EventReason.ROLLOUT_RESUMED, "Resume", note, _since(experiment, reason, since))


def revision_promoted(revision: int, previous: int | None, attempt: str, why: str = "") -> KubernetesEvent:
    """A revision became stable. `attempt` identifies this attempt at the revision; `why` is the reason."""
    note = f"revision {revision} is stable" + (f"; it replaces revision {previous}" if previous else "") + _because(why)
    return KubernetesEvent("Normal", EventReason.PROMOTED, "Promote", note, f"{previous}-{revision}/{attempt}")


def rollout_ended(outcome: str, attempt: str, message: str) -> KubernetesEvent:
    """A rollout ended without its candidate becoming stable."""
    kind: Literal["Normal", "Warning"] = "Normal" if outcome == "Superseded" else "Warning"
    return KubernetesEvent(kind, EventReason(f"Rollout{outcome}"), "RollBack", message, f"{attempt}/{outcome}")


def experiment_started(experiment: str, uid: str, arms: Sequence[str], stable: int) -> KubernetesEvent:
    """The arms of a user's Experiment start."""
    note = f"Experiment {experiment}: starting {', '.join(arms)} beside revision {stable}, which keeps serving"
    return KubernetesEvent("Normal", EventReason.EXPERIMENT_STARTED, "StartExperiment", note, uid)


def experiment_running(experiment: str, uid: str, epoch: int, shares: str) -> KubernetesEvent:
    """The arms of an Experiment have traffic."""
    note = f"Experiment {experiment}: {shares} from epoch {epoch}"
    return KubernetesEvent("Normal", EventReason.EXPERIMENT_RUNNING, "StartExperiment", note, f"{uid}/{epoch}")


def arm_dropped(experiment: str, uid: str, arm: str, why: str) -> KubernetesEvent:
    """The operator dropped one arm; the other arms keep their traffic."""
    return KubernetesEvent(
        "Warning", EventReason.ARM_DROPPED, "DropArm", f"Experiment {experiment}: arm {arm}: {why}", f"{uid}/{arm}"
    )


def weights_moved(experiment: str, uid: str, epoch: int, shares: str) -> KubernetesEvent:
    """The outcomes of the arms changed their weights."""
    note = f"Experiment {experiment}: outcomes moved the weights to {shares} from epoch {epoch}"
    return KubernetesEvent("Normal", EventReason.WEIGHTS_MOVED, "Shift", note, f"{uid}/{epoch}")


def experiment_paused(experiment: str, uid: str, reason: str, message: str, since: datetime) -> KubernetesEvent:
    """An Experiment collects no evidence, because its control is unhealthy."""
    note = f"Experiment {experiment} collects no evidence until control has been healthy for 5 minutes: {message}"
    return KubernetesEvent("Warning", EventReason.EXPERIMENT_PAUSED, "Pause", note, _since(uid, reason, since))


def experiment_resumed(experiment: str, uid: str, reason: str, since: datetime) -> KubernetesEvent:
    """An Experiment collects evidence again, without a user's action."""
    note = f"Experiment {experiment} collects evidence again: it was paused ({reason}) since {format_timestamp(since)}"
    return KubernetesEvent("Normal", EventReason.EXPERIMENT_RESUMED, "Resume", note, _since(uid, reason, since))


def evidence_doubted(experiment: str, uid: str, reason: str, message: str, since: datetime) -> KubernetesEvent:
    """The data allows no verdict since `since`, for `reason`. Its key leaves out `message`, whose numbers may change."""
    note = f"Experiment {experiment}: no verdict while its data is in doubt ({reason}): {message}"
    return KubernetesEvent(
        "Warning", EventReason.EVIDENCE_DOUBTED, "DecideExperiment", note, _since(uid, reason, since)
    )


def arm_won(experiment: str, uid: str, reason: str) -> KubernetesEvent:
    """An arm won, and the experiment runs until a user ends it."""
    return KubernetesEvent("Normal", EventReason.ARM_WON, "DecideExperiment", f"Experiment {experiment}: {reason}", uid)


def experiment_ended(experiment: str, uid: str, phase: str, reason: str) -> KubernetesEvent:
    """An Experiment ended, and stable has all traffic. `uid` is empty for an Experiment that was deleted."""
    kind: Literal["Normal", "Warning"] = "Normal" if phase == "Concluded" else "Warning"
    note = f"Experiment {experiment}: {reason}"
    return KubernetesEvent(
        kind, EventReason(f"Experiment{phase}"), "EndExperiment", note, f"{uid or experiment}/{phase}"
    )


def log_not_written(experiment: str, sequence: int, problem: str) -> KubernetesEvent:
    """The operator could not write an exposure log."""
    note = f"Experiment {experiment}: exposure log {sequence}: {problem}; still retrying, and the experiment continues"
    return KubernetesEvent("Warning", EventReason.LOG_NOT_WRITTEN, "WriteLog", note, f"{experiment}/{sequence}")


def pods_lack_resources(reason: str, message: str) -> KubernetesEvent:
    """Pods of a revision wait for resources. The key leaves out the numbers, so it changes with the constraint only."""
    constraint = "".join(each for each in message if not each.isdigit())
    return KubernetesEvent("Warning", reason, "PlacePods", message, constraint)


def service_refused(problem: str) -> KubernetesEvent:
    """The API server rejected the Service of a ModelDeployment. The key leaves out `problem`, whose numbers may change."""
    note = f"Service: not written, so the address may not work: {problem}; still retrying"
    return KubernetesEvent("Warning", EventReason.SERVICE_REFUSED, "WriteService", note, "")


def replica_lost(revision: int, replicas: Sequence[str], running: int, desired: int, problem: str) -> KubernetesEvent:
    """Replicas ended unexpectedly. `problem` is what Serve reports about them; it may be empty."""
    which = f"replica {replicas[0]}" if len(replicas) == 1 else f"{len(replicas)} replicas"
    note = f"revision {revision}: {which} ended; Serve starts a replacement; {running} of {desired} run"
    cause = " ".join(problem.split())
    return KubernetesEvent(
        "Warning", EventReason.REPLICA_LOST, "ReplaceReplica", note + _because(cause), ",".join(replicas)
    )


def edge_replaced(pod: str, uid: str, epoch: int) -> KubernetesEvent:
    """The operator deletes an edge pod that did not apply an abort."""
    note = f"edge {pod}: epoch {epoch} is not in force 60 s after an abort; deleting the pod, and another replaces it"
    return KubernetesEvent("Warning", EventReason.EDGE_REPLACED, "ReplaceEdge", note, uid)


def head_replaced(pod: str, uid: str, container: str) -> KubernetesEvent:
    """The operator deletes a head of which a container has ended."""
    note = f"Pod {pod}: container {container} has ended; the head is replaced"
    return KubernetesEvent("Warning", EventReason.HEAD_REPLACED, "ReplaceHead", note, uid)


def poison_request(revision: int, count: int, attempt: str) -> KubernetesEvent:
    """Requests may have crashed two replicas each. There is another event when their number has doubled."""
    requests = "1 request" if count == 1 else f"{count} requests"
    note = (
        f"revision {revision}: {requests} got no answer from two replicas, one after the other, and may have crashed both;"
        " the edges do not retry a third time"
    )
    return KubernetesEvent(
        "Warning", EventReason.POISON_REQUEST, "RetryRequest", note, f"{attempt}/{revision}/{count.bit_length()}"
    )


def notification_failed(experiment: str, receiver: int, origin: str, problem: str) -> KubernetesEvent:
    """A receiver did not accept a notification of a rollout."""
    note = f"rollout {experiment}: {origin} (notify[{receiver}]) {problem}; retrying for an hour, and the rollout continues"
    return KubernetesEvent("Warning", EventReason.NOTIFICATION_FAILED, "Notify", note, f"{experiment}/{receiver}")


def revision_failed(revision: int, reason: str, message: str, failures: int) -> KubernetesEvent:
    """A revision could not start."""
    return KubernetesEvent(
        "Warning", reason, "StartRevision", f"revision {revision}: {message}", f"{revision}/{failures}"
    )


def command_handled(verb: str, ident: str, result: str, message: str) -> KubernetesEvent:
    """The operator accepted or rejected a command."""
    kind: Literal["Normal", "Warning"] = "Normal" if result == "Accepted" else "Warning"
    note = f"{verb} {ident}: {result}" + (f": {message}" if message else "")
    return KubernetesEvent(kind, EventReason(f"Command{result}"), "Command", note, ident)


def spec_refused(reason: str, message: str, generation: int) -> KubernetesEvent:
    """The operator refused a spec."""
    return KubernetesEvent("Warning", reason, "AcceptSpec", message, str(generation))


def make_event_object(event: KubernetesEvent, regarding: dict[str, Any], instance: str, at: str) -> dict[str, Any]:
    """Return the events.k8s.io object. Its name is a hash of uid, reason and key: a second write is a conflict, and no new event."""
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
