"""Notices of what happened in a rollout, their receivers, and the posted payloads.

A notice is written together with the transition that it reports. The dispatcher writes how far each receiver is. Neither writes the
other's part.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sundog_operator.api import (
    ExperimentStatus,
    NotificationDelivery,
    NotificationEvent,
    RolloutNotice,
    format_timestamp,
)
from sundog_operator.api.reasons import Cause, EndReason, PauseReason
from sundog_operator.core.observed import WebhookResult
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.rollout import explanations, state

GIVE_UP_AFTER: Final = timedelta(hours=1)
"""How long a post to a receiver is retried after the event; later it is tried once."""

MAX_PAUSE_NOTICES: Final = 24
"""Limit per attempt, so that all of its notices fit into its status."""

REASON_LIMIT: Final = 1024
"""Limit of a reason in characters: an error of a model may be far longer."""

DELIVERIES: Final = "deliveries"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PendingNotice:
    """The next notice for a receiver: `receiver` is its index in the plan, `number` that of the notice, from 1."""

    receiver: int
    number: int
    url: str
    notice: RolloutNotice


def add_notices(before: ExperimentStatus, after: ExperimentStatus, now: datetime) -> ExperimentStatus:
    """Add the notices of a transition to the status after it. Without receivers there are none."""
    if not after.plan.notify or not state.is_frozen(after):
        return after
    known = before.notices
    new = [each for each in _new_notices(before, after, now) if not _is_known(each, known)]
    return after.model_copy(update={"notices": (*known, *new)})


def _new_notices(before: ExperimentStatus, after: ExperimentStatus, now: datetime) -> Iterator[RolloutNotice]:
    if not state.is_frozen(before):
        started = Cause("Started", f"revision {state.arm_revisions(after)[1]} is starting")
        yield _notice(after, "started", started, now)
    if phases.is_over(after):
        event = _end_event(after) if not phases.is_over(before) else None
        if event is not None:
            yield _notice(after, event, Cause(after.verdict.code or "", after.verdict.message), now)
    elif (cause := _pause_cause(after)) is not None and cause != _pause_cause(before):
        yield _notice(after, "paused", cause, now)


def _notice(status: ExperimentStatus, event: NotificationEvent, cause: Cause, now: datetime) -> RolloutNotice:
    return RolloutNotice(
        event=event,
        step=state.step_index(status),
        weight=state.canary_weight(status),
        reason=str(cause)[:REASON_LIMIT],
        code=cause.reason,
        verdict=status.verdict.decision,
        time=now,
    )


def _end_event(status: ExperimentStatus) -> NotificationEvent | None:
    if status.phase == phases.CONCLUDED:
        return "promoted"
    match status.verdict.code:
        case EndReason.SUPERSEDED:
            return None
        case EndReason.ROLLED_BACK:
            return "rolledBack"
        case _:
            return "aborted"


def _pause_cause(status: ExperimentStatus) -> Cause | None:
    """Return why the rollout is paused; None if it is not, or if only its spec holds it."""
    step = status.step
    if status.paused is not None:
        return Cause(status.paused.reason, explanations.describe_pause(status))
    if step is not None and step.since is not None and step.gate == "manual":
        return Cause(PauseReason.WAITS_FOR_PROMOTE, f"step {step.index} {state.WAITS_FOR_PROMOTE}")
    return None


def _is_known(new: RolloutNotice, known: Sequence[RolloutNotice]) -> bool:
    """Whether to skip a notice: each event is posted once, and a pause once for each step and reason."""
    known_keys = [_key(each) for each in known]
    full = new.event == "paused" and sum(each.event == "paused" for each in known) >= MAX_PAUSE_NOTICES
    return full or _key(new) in known_keys


def _key(notice: RolloutNotice) -> tuple[object, ...]:
    return (notice.event, notice.step, notice.code) if notice.event == "paused" else (notice.event,)


def pending_notices(status: ExperimentStatus) -> list[PendingNotice]:
    """Return the next notice of each receiver that has not got all notices of its events."""
    found: list[PendingNotice] = []
    if not state.is_frozen(status):
        return found
    for receiver, wanted in enumerate(status.plan.notify):
        delivered = _delivery(status, receiver).told
        left = ((number, each) for number, each in enumerate(status.notices, start=1) if number > delivered)
        following = next(((number, each) for number, each in left if each.event in wanted.events), None)
        if following is not None:
            found.append(PendingNotice(receiver, following[0], wanted.webhook, following[1]))
    return found


def record_delivery(
    status: ExperimentStatus, pending: PendingNotice, answer: WebhookResult | None, now: datetime
) -> ExperimentStatus:
    """Record a receiver's answer. The status keeps the first problem of a notice until it is delivered or given up."""
    if answer is None:
        return status
    known = _delivery(status, pending.receiver)
    if answer.accepts:
        changed = known.model_copy(update={"told": pending.number, "problem": ""})
    elif now - pending.notice.time >= GIVE_UP_AFTER:
        update = {"told": pending.number, "lost": known.lost + 1, "problem": answer.description}
        changed = known.model_copy(update=update)
    else:
        changed = known.model_copy(update={"problem": known.problem or answer.description})
    others = [each for each in status.deliveries if each.receiver != pending.receiver]
    deliveries = sorted([*others, changed], key=lambda each: each.receiver)
    return status.model_copy(update={DELIVERIES: tuple(deliveries)})


def _delivery(status: ExperimentStatus, receiver: int) -> NotificationDelivery:
    return next(
        (each for each in status.deliveries if each.receiver == receiver), NotificationDelivery(receiver=receiver)
    )


def make_payload(experiment: Mapping[str, Any], status: ExperimentStatus, pending: PendingNotice) -> Json:
    """Return the JSON body that is posted for a notice."""
    meta, notice = experiment["metadata"], pending.notice
    stable, candidate = state.arm_revisions(status)
    return {
        "id": f"{meta['uid']}/{pending.number}",
        "event": notice.event,
        "name": experiment["spec"]["modelDeployment"],
        "namespace": meta["namespace"],
        "experiment": meta["name"],
        "revision": candidate,
        "stable": stable,
        "step": notice.step,
        "weight": notice.weight,
        "reason": notice.reason,
        "verdict": notice.verdict,
        "time": format_timestamp(notice.time),
    }


def preserve_deliveries(status: Json, stored: Mapping[str, Any] | None) -> Json:
    """Keep the stored deliveries in a status that the controller is about to write."""
    kept = {key: value for key, value in status.items() if key != DELIVERIES}
    deliveries = (stored or {}).get(DELIVERIES)
    return {**kept, DELIVERIES: deliveries} if deliveries else kept
