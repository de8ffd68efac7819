"""Weighs what the edges count for the rollout that is under way: what is stored, what they report, what follows."""

from datetime import timedelta
from typing import Final

from sundog_operator.core import names, traffic
from sundog_operator.core.draft import Draft
from sundog_operator.core.rollout import judging, machine, stable_traffic, tallies
from sundog_operator.core.rollout.tallies import Tallies

DEFAULT_TIMEOUT: Final = timedelta(seconds=30)


def weigh(draft: Draft) -> str:
    """Judge the active attempt. Gives what was counted, for its status; as it is there where no evidence is weighed."""
    progress, attempt = draft.progress, draft.rollout
    if progress is None or attempt is None:
        return ""
    if not progress.plan.guardrails or machine.is_over(progress):
        return progress.tallies
    stable, candidate = machine.revisions(progress)
    edges, now_s, timeout_s = draft.seen.edges, draft.now.timestamp(), _timeout(draft).total_seconds()
    epochs = [epoch.number for epoch in progress.evidence_epochs]
    look = tallies.Look(epochs, progress.epoch.number, now_s, timeout_s)
    counted = tallies.take(Tallies.unpack(progress.tallies, attempt.uid), edges, look)
    attempts = [names.application(draft.service, stable), attempt.uid]
    traffic_seen = stable_traffic.of_attempts(attempts, edges, now_s, progress.epoch.number)
    healthy = [traffic.healthy_replicas(draft.service, number, edges) for number in (stable, candidate)]
    draft.judgement = judging.judge(
        progress, judging.Seen(counted, edges, traffic_seen, (healthy[0], healthy[1]), now_s, timeout_s)
    )
    return counted.pack()


def _timeout(draft: Draft) -> timedelta:
    return draft.spec.endpoint.request_timeout if draft.spec is not None else DEFAULT_TIMEOUT
