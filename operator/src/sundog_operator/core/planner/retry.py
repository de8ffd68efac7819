"""Retries of failed candidates and stable revisions, with exponential backoff."""

from datetime import timedelta
from typing import Any, Final

from sundog_operator.core import events
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.rollout.deadline import AnyRevision, has_traffic

RETRY_BASE_S: Final = 10.0
RETRY_MAX_S: Final = 300.0


def retry_candidate(context: PlanContext) -> PlanContext:
    """Remove a candidate that failed to start from its cluster, and retry it later if that can help."""
    candidate = context.status.candidate
    if candidate is None:
        return context
    if not has_traffic(context):
        retried, failures = apply_retry_backoff(context, candidate)
        return context.set(candidate=retried).report(*failures)
    # A candidate with traffic is in the cluster, whatever the stored status has.
    return context.set(candidate=candidate.model_copy(update={"retry_at": None})) if candidate.retry_at else context


def apply_retry_backoff(context: PlanContext, starting: AnyRevision) -> tuple[AnyRevision, tuple[KubernetesEvent, ...]]:
    """Return a revision without traffic, and the event of a new failure.

    `retry_at` removes it from its cluster for a while after a retryable failure.
    """
    readiness = context.readiness(starting.revision)
    if starting.retry_at is not None:
        is_due = context.now >= starting.retry_at and readiness.known and not _is_deployed(context, starting.revision)
        return (starting.model_copy(update={"retry_at": None}) if is_due else starting), ()
    if not readiness.failed:
        return starting, ()
    failures = starting.failures + 1
    # A final failure is found again in each pass; the stored Stalled condition shows that it is not new.
    stalled = context.facts.conditions.get("Stalled")
    is_new = readiness.retryable or stalled is None or stalled.reason != readiness.reason
    failed = events.revision_failed(starting.revision, readiness.reason, readiness.message, failures)
    if readiness.retryable:
        update = {"failures": failures, "retry_at": context.now + _delay(failures - 1)}
        starting = starting.model_copy(update=update)
    return starting, ((failed,) if is_new else ())


def _is_deployed(context: PlanContext, number: int) -> bool:
    """Whether Serve still has a revision. Until Serve has removed it, a retry would change nothing."""
    return names.application(context.service, number) in context.serve_state_of(number).applications


def retry_stable(context: PlanContext) -> PlanContext:
    """Start a stable revision again that failed to come back, for example after a restart of its cluster.

    It stays in the cluster: a new attempt number makes Serve build it again.
    """
    stable = context.status.stable
    if stable is None:
        return context
    readiness = context.readiness(stable.revision)
    is_down = readiness.failed and not readiness.running
    if not is_down and stable.retry_at is not None and readiness.known:
        return context.set(stable=stable.model_copy(update={"retry_at": None}))
    if is_down and stable.retry_at is None:
        failed = events.revision_failed(stable.revision, readiness.reason, readiness.message, stable.failures + 1)
        update: dict[str, Any] = {"retry_at": context.now + _delay(stable.failures)}
        return context.set(stable=stable.model_copy(update=update)).report(failed)
    if is_down and stable.retry_at is not None and context.now >= stable.retry_at:
        return context.set(stable=stable.model_copy(update={"failures": stable.failures + 1, "retry_at": None}))
    return context


def _delay(failures: int) -> timedelta:
    return timedelta(seconds=min(RETRY_BASE_S * 2.0 ** min(failures, 10), RETRY_MAX_S))
