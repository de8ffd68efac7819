"""Candidates and stable revisions that failed are tried again, later each time."""

from datetime import timedelta
from typing import Final

from sundog_operator.core import events
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.deadline import AnyRevision, has_traffic

RETRY_BASE_S: Final = 10.0
RETRY_MAX_S: Final = 300.0


def retry_candidate(context: PlanContext) -> None:
    """Take a candidate that cannot start out of the cluster, and put it back later where that can help."""
    candidate = context.status.candidate
    if candidate is None:
        return
    if not has_traffic(context):
        context.set(candidate=apply_retry_backoff(context, candidate))
    elif candidate.retry_at is not None:
        # What serves is in the cluster, whatever a status from before says.
        context.set(candidate=candidate.model_copy(update={"retry_at": None}))


def apply_retry_backoff(context: PlanContext, starting: AnyRevision) -> AnyRevision:
    """A revision without traffic, out of the cluster for a while where it failed and another attempt can help."""
    readiness = context.readiness(starting.revision)
    if starting.retry_at is not None:
        back = context.now >= starting.retry_at and readiness.known and not _is_deployed(context, starting.revision)
        return starting.model_copy(update={"retry_at": None}) if back else starting
    if not readiness.failed:
        return starting
    failures = starting.failures + 1
    # What cannot be retried is found failed again at every pass; Stalled says since the first one.
    told = next((c for c in context.before.conditions if c.type == "Stalled"), None)
    if readiness.retryable or told is None or told.reason != readiness.reason:
        context.events.append(events.revision_failed(starting.revision, readiness.reason, readiness.message, failures))
    if not readiness.retryable:
        return starting
    return starting.model_copy(update={"failures": failures, "retry_at": context.now + _delay(failures - 1)})


def _is_deployed(context: PlanContext, number: int) -> bool:
    """Whether Serve has a revision still. Before it has forgotten it, another attempt would be the same one: also of what only hangs."""
    return names.application(context.service, number) in context.serve_state_of(number).applications


def retry_stable(context: PlanContext) -> None:
    """Start a stable revision anew that could not come back, after a restart of its cluster, say.

    It stays in the cluster: another attempt number makes Serve build it again.
    """
    stable = context.status.stable
    if stable is None:
        return
    readiness = context.readiness(stable.revision)
    dead = readiness.failed and not readiness.running
    if not dead and stable.retry_at is not None and readiness.known:
        context.set(stable=stable.model_copy(update={"retry_at": None}))
    elif dead and stable.retry_at is None:
        context.events.append(
            events.revision_failed(stable.revision, readiness.reason, readiness.message, stable.failures + 1)
        )
        context.set(stable=stable.model_copy(update={"retry_at": context.now + _delay(stable.failures)}))
    elif dead and stable.retry_at is not None and context.now >= stable.retry_at:
        context.set(stable=stable.model_copy(update={"failures": stable.failures + 1, "retry_at": None}))


def _delay(failures: int) -> timedelta:
    return timedelta(seconds=min(RETRY_BASE_S * 2.0 ** min(failures, 10), RETRY_MAX_S))
