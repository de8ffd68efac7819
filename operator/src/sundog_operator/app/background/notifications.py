"""Tells receivers outside what happened in a rollout: each in order, beside the passes, until it has heard it or for an hour."""

from datetime import datetime
from typing import Final, NamedTuple

from sundog_operator.api import ExperimentStatus
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.event_recorder import record_events
from sundog_operator.app.queue.work_queue import backoff_s
from sundog_operator.app.status_writer import write_status
from sundog_operator.core import events
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import WebhookResult
from sundog_operator.core.rollout import notifications, webhook_urls
from sundog_operator.core.rollout.notifications import PendingNotice
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, Object, Ref

TIMEOUT_S: Final = 10.0
BLOCKED_RETRY_S: Final = 1.0
"""How long a notice waits that an earlier rollout's has to be told before, until it is looked at again."""


async def deliver_notifications(world: Dependencies, experiment: Object) -> float | None:
    """Take what receivers have answered, and tell them the next. Gives after how many seconds to look again; None when all was told.

    Raises DependencyError.
    """
    status = ExperimentStatus.parse(experiment.get("status"))
    waiting = notifications.pending_notices(status)
    prefix = _slots(experiment["metadata"]["namespace"], experiment["metadata"]["name"])
    world.posts.forget_except(prefix, {_slot(prefix, each) for each in waiting})
    if not waiting:
        return None
    busy = await _busy(world, experiment)
    after, looks = status, []
    for each in waiting:
        if each.url in busy:
            looks.append(BLOCKED_RETRY_S)
            continue
        answer, look_s = _tell(world, experiment, status, each)
        after = notifications.record_delivery(after, each, answer, world.clock.now().replace(microsecond=0))
        looks.append(look_s)
    if after == status:
        return min(looks)
    await _complain(world, experiment, status, after)
    await write_status(world, experiment, after.to_json())
    return 0.0


def forget_notifications(world: Dependencies, namespace: str, experiment: str) -> None:
    """An Experiment is gone, and with it what its receivers did not hear."""
    world.posts.forget_except(_slots(namespace, experiment), ())


def _slots(namespace: str, experiment: str) -> str:
    return f"notify {namespace}/{experiment}/"


def _slot(prefix: str, what: PendingNotice) -> str:
    return f"{prefix}{what.receiver}"


def _tell(
    world: Dependencies, experiment: Object, status: ExperimentStatus, what: PendingNotice
) -> tuple[WebhookResult | None, float]:
    """The last answer to a notice, and after how many seconds there may be another."""
    meta, now = experiment["metadata"], world.clock.monotonic()
    slot = _slot(_slots(meta["namespace"], meta["name"]), what)
    document = notifications.make_payload(experiment, status, what)
    answer = world.posts.ask(
        slot,
        document["id"],
        lambda: world.webhooks.post(what.url, document, TIMEOUT_S),
        enough=lambda given: given.accepts,
        again_s=lambda times: backoff_s(times, 0.0),
        now=now,
    )
    return answer, world.posts.next_check_s(slot, now)


class _Attempt(NamedTuple):
    """A rollout as far as the receivers of a later one are concerned."""

    uid: str
    began: datetime | None
    urls: frozenset[str]


def _read(experiment: Object) -> _Attempt:
    status = ExperimentStatus.parse(experiment.get("status"))
    urls = frozenset(each.url for each in notifications.pending_notices(status))
    return _Attempt(experiment["metadata"]["uid"], status.plan.frozen_at, urls)


async def _busy(world: Dependencies, experiment: Object) -> set[str]:
    """Receivers that have to hear of an earlier rollout of the same ModelDeployment first."""
    meta, mine = experiment["metadata"], _read(experiment)
    labels = {names.LABEL_MODEL_DEPLOYMENT: experiment["spec"]["modelDeployment"], names.LABEL_ROLLOUT: "true"}
    others = await world.kube.views(EXPERIMENT, meta["namespace"], _read, labels)
    return {
        url
        for each in others
        if each.uid != mine.uid and each.began and mine.began and (each.began, each.uid) < (mine.began, mine.uid)
        for url in each.urls
    }


async def _complain(world: Dependencies, experiment: Object, before: ExperimentStatus, after: ExperimentStatus) -> None:
    """Tell the ModelDeployment of receivers that a notice cannot be told: of each once for an attempt."""
    meta = experiment["metadata"]
    known = {each.receiver for each in before.deliveries if each.problem}
    failing = [each for each in after.deliveries if each.problem and each.receiver not in known]
    ref = Ref(MODEL_DEPLOYMENT, meta["namespace"], experiment["spec"]["modelDeployment"])
    deployment = await world.kube.get(ref) if failing else None
    if deployment is not None:
        told = [
            events.notification_failed(
                meta["name"],
                each.receiver,
                webhook_urls.url_origin(after.plan.notify[each.receiver].webhook),
                each.problem,
            )
            for each in failing
        ]
        await record_events(world, deployment, told)
