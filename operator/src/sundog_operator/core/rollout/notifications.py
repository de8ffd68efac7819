"""What happened in a rollout that others want to hear of, who has heard it, and what they are told.

A notice is written with the transition that it tells of, in one write; how far each receiver is, by who tells it. Neither writes the
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
from sundog_operator.core.observed import WebhookResult
from sundog_operator.core.rollout import explanations, state

GIVE_UP_AFTER: Final = timedelta(hours=1)
"""For how long a receiver is tried again from when it happened; after that once."""

MAX_PAUSE_NOTICES: Final = 24
"""Of one attempt; so all of its notices find room in its status."""

REASON_LIMIT: Final = 1024
"""Characters of a reason: a failure of a model may say far more."""

DELIVERIES: Final = "deliveries"
WAITS_FOR_PROMOTE_REASON: Final = "WaitsForPromote"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PendingNotice:
    """What a receiver hears next: `receiver` is its place in the plan, `number` that of the notice, from 1."""

    receiver: int
    number: int
    url: str
    notice: RolloutNotice


def add_notices(before: ExperimentStatus, after: ExperimentStatus, now: datetime) -> ExperimentStatus:
    """The status after a transition, with what there is to tell of it. Without receivers there is nothing."""
    if not after.plan.notify or not state.is_frozen(after):
        return after
    known = before.notices
    new = [each for each in _happened(before, after, now) if not _is_known(each, known)]
    return after.model_copy(update={"notices": (*known, *new)})


def _happened(before: ExperimentStatus, after: ExperimentStatus, now: datetime) -> Iterator[RolloutNotice]:
    if not state.is_frozen(before):
        yield _notice(after, "started", f"Started: revision {state.arm_revisions(after)[1]} is brought up", now)
    if state.is_over(after):
        event = _end(after) if not state.is_over(before) else None
        if event is not None:
            yield _notice(after, event, after.verdict.reason, now)
    elif (waits := _standing(after)) and waits != _standing(before):
        yield _notice(after, "paused", waits, now)


def _notice(status: ExperimentStatus, event: NotificationEvent, reason: str, now: datetime) -> RolloutNotice:
    return RolloutNotice(
        event=event,
        step=status.step.index if status.step else 0,
        weight=state.canary_weight(status),
        reason=reason[:REASON_LIMIT],
        verdict=status.verdict.decision,
        time=now,
    )


def _end(status: ExperimentStatus) -> NotificationEvent | None:
    if status.phase == state.CONCLUDED:
        return "promoted"
    match status.verdict.reason.partition(":")[0]:
        case "Superseded":
            return None
        case state.ROLLED_BACK:
            return "rolledBack"
        case _:
            return "aborted"


def _standing(status: ExperimentStatus) -> str:
    """Why a rollout stands still, cause first; empty where it does not, or only its spec holds it."""
    step = status.step
    if status.paused is not None:
        return f"{status.paused.reason}: {explanations.describe_pause(status)}"
    if step is not None and step.since is not None and step.gate == "manual":
        return f"{WAITS_FOR_PROMOTE_REASON}: step {step.index} {state.WAITS_FOR_PROMOTE}"
    return ""


def _is_known(new: RolloutNotice, known: Sequence[RolloutNotice]) -> bool:
    """Each event is told once; a pause once for each step and cause, for what is paused again and again is not news."""
    told = [_key(each) for each in known]
    full = new.event == "paused" and sum(each.event == "paused" for each in known) >= MAX_PAUSE_NOTICES
    return full or _key(new) in told


def _key(notice: RolloutNotice) -> tuple[object, ...]:
    return (notice.event, notice.step, notice.reason.partition(":")[0]) if notice.event == "paused" else (notice.event,)


def pending_notices(status: ExperimentStatus) -> list[PendingNotice]:
    """The next notice of each receiver that has not heard all that it asked for."""
    found: list[PendingNotice] = []
    if not state.is_frozen(status):
        return found
    for receiver, wanted in enumerate(status.plan.notify):
        told = _delivery(status, receiver).told
        left = ((number, each) for number, each in enumerate(status.notices, start=1) if number > told)
        following = next(((number, each) for number, each in left if each.event in wanted.events), None)
        if following is not None:
            found.append(PendingNotice(receiver, following[0], wanted.webhook, following[1]))
    return found


def record_delivery(
    status: ExperimentStatus, what: PendingNotice, answer: WebhookResult | None, now: datetime
) -> ExperimentStatus:
    """The status once a receiver has answered so. The first problem of a notice stays told until it is over."""
    if answer is None:
        return status
    known = _delivery(status, what.receiver)
    if answer.accepts:
        changed = known.model_copy(update={"told": what.number, "problem": ""})
    elif now - what.notice.time >= GIVE_UP_AFTER:
        lost = {"told": what.number, "lost": known.lost + 1, "problem": answer.told}
        changed = known.model_copy(update=lost)
    else:
        changed = known.model_copy(update={"problem": known.problem or answer.told})
    others = [each for each in status.deliveries if each.receiver != what.receiver]
    sorted_ = sorted([*others, changed], key=lambda each: each.receiver)
    return status.model_copy(update={DELIVERIES: tuple(sorted_)})


def _delivery(status: ExperimentStatus, receiver: int) -> NotificationDelivery:
    return next(
        (each for each in status.deliveries if each.receiver == receiver), NotificationDelivery(receiver=receiver)
    )


def make_payload(experiment: Mapping[str, Any], status: ExperimentStatus, what: PendingNotice) -> Json:
    """What is posted of a notice."""
    meta, notice = experiment["metadata"], what.notice
    stable, candidate = state.arm_revisions(status)
    return {
        "id": f"{meta['uid']}/{what.number}",
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
    """A status about to be written by who writes everything else, with the deliveries that are stored."""
    kept = {key: value for key, value in status.items() if key != DELIVERIES}
    told = (stored or {}).get(DELIVERIES)
    return {**kept, DELIVERIES: told} if told else kept
