"""Requests that end the replicas that they reach."""

from sundog_operator.core import events, traffic
from sundog_operator.core.draft import Draft


def report_poison(draft: Draft) -> None:
    """Add an event for each revision in traffic that edges have seen such requests of."""
    split = draft.split()
    if split is None:
        return
    for arm in split.arms:
        count = traffic.poison_of(split.attempt, arm.name, draft.seen.edges)
        if count:
            draft.events.append(events.poison_request(arm.revision, count, split.attempt))
