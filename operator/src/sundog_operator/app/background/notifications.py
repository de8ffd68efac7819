"""Deliver notifications of a rollout in the background: in order for each receiver, with retries for an hour."""

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
from sundog_operator.core.trial.rollout import notifications, webhook_urls
from sundog_operator.core.trial.rollout.notifications import PendingNotice
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, Object, Ref

TIMEOUT_S: Final = 10.0
BLOCKED_RETRY_S: Final = 1.0
"""Seconds between checks of a notice that waits for a notice of an earlier rollout."""


async def deliver_notifications(deps: Dependencies, experiment: Object) -> float | None:
    """Record the receivers' answers, and send their next notices.

    Return the seconds until the next pass; None when all are delivered. Raises DependencyError.
    """
    status = ExperimentStatus.parse(experiment.get("status"))
    waiting = notifications.pending_notices(status)
    prefix = _slot_prefix(experiment["metadata"]["namespace"], experiment["metadata"]["name"])
    deps.webhook_requests.forget_except(prefix, {_slot(prefix, each) for each in waiting})
    if not waiting:
        return None
    blocked = await _find_blocked_urls(deps, experiment)
    after, delays_s = status, []
    for each in waiting:
        if each.url in blocked:
            delays_s.append(BLOCKED_RETRY_S)
            continue
        answer, delay_s = _deliver(deps, experiment, status, each)
        after = notifications.record_delivery(after, each, answer, deps.clock.now().replace(microsecond=0))
        delays_s.append(delay_s)
    if after == status:
        return min(delays_s)
    await _record_failures(deps, experiment, status, after)
    await write_status(deps, experiment, after.to_json())
    return 0.0


def forget_notifications(deps: Dependencies, namespace: str, experiment: str) -> None:
    """Cancel the pending notices of a deleted Experiment."""
    deps.webhook_requests.forget_except(_slot_prefix(namespace, experiment), ())


def _slot_prefix(namespace: str, experiment: str) -> str:
    return f"notify {namespace}/{experiment}/"


def _slot(prefix: str, notice: PendingNotice) -> str:
    return f"{prefix}{notice.receiver}"


def _deliver(
    deps: Dependencies, experiment: Object, status: ExperimentStatus, notice: PendingNotice
) -> tuple[WebhookResult | None, float]:
    """Return the last answer to a notice, and the seconds until there may be another."""
    meta, now = experiment["metadata"], deps.clock.monotonic()
    slot = _slot(_slot_prefix(meta["namespace"], meta["name"]), notice)
    document = notifications.make_payload(experiment, status, notice)
    answer = deps.webhook_requests.poll(
        slot,
        document["id"],
        lambda: deps.webhooks.post(notice.url, document, TIMEOUT_S),
        enough=lambda given: given.accepts,
        again_s=lambda times: backoff_s(times, 0.0),
        now=now,
    )
    return answer, deps.webhook_requests.next_check_s(slot, now)


class _Attempt(NamedTuple):
    """The pending notices of a rollout, which a later rollout's notices wait for."""

    uid: str
    began: datetime | None
    urls: frozenset[str]


def _read_attempt(experiment: Object) -> _Attempt:
    status = ExperimentStatus.parse(experiment.get("status"))
    urls = frozenset(each.url for each in notifications.pending_notices(status))
    return _Attempt(experiment["metadata"]["uid"], status.plan.frozen_at, urls)


async def _find_blocked_urls(deps: Dependencies, experiment: Object) -> set[str]:
    """Return the receivers that still wait for notices of an earlier rollout of the same ModelDeployment."""
    meta, own = experiment["metadata"], _read_attempt(experiment)
    labels = {names.LABEL_MODEL_DEPLOYMENT: experiment["spec"]["modelDeployment"], names.LABEL_ROLLOUT: "true"}
    others = await deps.kube.views(EXPERIMENT, meta["namespace"], _read_attempt, labels)
    return {
        url
        for each in others
        if each.uid != own.uid and each.began and own.began and (each.began, each.uid) < (own.began, own.uid)
        for url in each.urls
    }


async def _record_failures(
    deps: Dependencies, experiment: Object, before: ExperimentStatus, after: ExperimentStatus
) -> None:
    """Record an event of the ModelDeployment for each failing receiver, once per attempt."""
    meta = experiment["metadata"]
    known = {each.receiver for each in before.deliveries if each.problem}
    failing = [each for each in after.deliveries if each.problem and each.receiver not in known]
    ref = Ref(MODEL_DEPLOYMENT, meta["namespace"], experiment["spec"]["modelDeployment"])
    deployment = await deps.kube.get(ref) if failing else None
    if deployment is not None:
        failures = [
            events.notification_failed(
                meta["name"],
                each.receiver,
                webhook_urls.url_origin(after.plan.notify[each.receiver].webhook),
                each.problem,
            )
            for each in failing
        ]
        await record_events(deps, deployment, failures)
