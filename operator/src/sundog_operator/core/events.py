"""Events: pure constructors, one per thing that happens. Wording lives here, and each has a key under which it is told once."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

NOTE_LIMIT = 1024
"""Bytes of UTF-8: an event with more is refused whole."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an object. Equal `dedupe` of one object and reason: the same event."""

    type: Literal["Normal", "Warning"]
    reason: str
    action: str
    note: str
    dedupe: str


def revision_created(number: int) -> Event:
    """A change of the spec made a revision."""
    return Event("Normal", "RevisionCreated", "CreateRevision", f"the spec makes revision {number}", str(number))


def rollout_started(experiment: str, revision: int, stable: int) -> Event:
    """A candidate is being brought up beside stable."""
    note = f"rollout {experiment} of revision {revision} begins; revision {stable} keeps serving"
    return Event("Normal", "RolloutStarted", "Rollout", note, experiment)


def traffic_shifted(experiment: str, epoch: int, weight: int, revision: int) -> Event:
    """A new weight was committed."""
    note = f"rollout {experiment}: revision {revision} gets {weight} % from epoch {epoch} on"
    return Event("Normal", "TrafficShifted", "Shift", note, f"{experiment}/{epoch}")


def rollout_paused(experiment: str, epoch: int, reason: str, message: str) -> Event:
    """A rollout stands still until somebody looks."""
    return Event(
        "Warning", "RolloutPaused", "Pause", f"rollout {experiment}: {message}", f"{experiment}/{epoch}/{reason}"
    )


def promoted(revision: int, previous: int | None) -> Event:
    """A revision became stable."""
    note = f"revision {revision} is stable" + (f"; it was revision {previous}" if previous else "")
    return Event("Normal", "Promoted", "Promote", note, f"{previous}-{revision}")


def rollout_ended(outcome: str, attempt: str, message: str) -> Event:
    """A rollout ended without its candidate becoming stable."""
    kind: Literal["Normal", "Warning"] = "Normal" if outcome == "Superseded" else "Warning"
    return Event(kind, f"Rollout{outcome}", "RollBack", message, f"{attempt}/{outcome}")


def edge_replaced(pod: str, uid: str, epoch: int) -> Event:
    """An edge that did not take up an abort is deleted."""
    note = f"edge {pod} has not put epoch {epoch} in force for 60 s after an abort: it is deleted, and another takes its place"
    return Event("Warning", "EdgeReplaced", "ReplaceEdge", note, uid)


def notification_failed(experiment: str, receiver: int, place: str, problem: str) -> Event:
    """A receiver could not be told what happened in a rollout."""
    note = f"rollout {experiment}: {place} (notify[{receiver}]) {problem}; it is tried for an hour, and the rollout goes on"
    return Event("Warning", "NotificationFailed", "Notify", note, f"{experiment}/{receiver}")


def revision_failed(revision: int, reason: str, message: str, failures: int) -> Event:
    """A revision could not be started."""
    return Event("Warning", reason, "StartRevision", f"revision {revision}: {message}", f"{revision}/{failures}")


def command_handled(verb: str, ident: str, result: str, message: str) -> Event:
    """A command was accepted or rejected."""
    kind: Literal["Normal", "Warning"] = "Normal" if result == "Accepted" else "Warning"
    note = f"{verb} {ident}: {result}" + (f": {message}" if message else "")
    return Event(kind, f"Command{result}", "Command", note, ident)


def spec_refused(reason: str, message: str, generation: int) -> Event:
    """The spec cannot be acted on."""
    return Event("Warning", reason, "AcceptSpec", message, str(generation))


def make_event(event: Event, regarding: dict[str, Any], instance: str, at: str) -> dict[str, Any]:
    """The events.k8s.io object. Its name follows from what it says, so that telling it twice is a conflict and no second event."""
    meta = regarding["metadata"]
    digest = hashlib.sha256("\0".join((meta["uid"], event.reason, event.dedupe)).encode()).hexdigest()[:16]
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
