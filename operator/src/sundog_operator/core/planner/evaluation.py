"""Weighs what the edges count for the rollout that is under way: what is stored, what they report, what follows."""

from collections.abc import Mapping
from typing import Any, Final

from sundog_operator.api import ExperimentStatus
from sundog_operator.core.analysis import counters, evaluate
from sundog_operator.core.analysis.counters import Tallies
from sundog_operator.core.edge import split as edge_split
from sundog_operator.core.planner.context import Draft
from sundog_operator.core.rollout import machine
from sundog_operator.core.rollout.resolve import Traffic, lacks_threshold

DEFAULT_TIMEOUT_S: Final = 30.0


def weigh(draft: Draft) -> Tallies | None:
    """Judge the active attempt. Gives what was counted; None where no evidence is weighed."""
    progress, attempt = draft.progress, draft.rollout
    if progress is None or attempt is None or not machine.is_weighed(progress) or machine.is_over(progress):
        return None
    stable, candidate = machine.revisions(progress)
    edges, waits_s = draft.seen.edges, timeout_s(draft.seen.split)
    now_s = counters.counted_until(edges, draft.now.timestamp())
    epochs = [epoch.number for epoch in progress.evidence_epochs]
    look = counters.Look(epochs, progress.epoch.number, now_s, waits_s)
    blocks = counters.blocks_of(attempt.uid, edges)
    counted = counters.take(Tallies.unpack(progress.tallies, attempt.uid), edges, blocks, look)
    healthy = [edge_split.healthy_replicas(draft.service, number, edges) for number in (stable, candidate)]
    seen = evaluate.Seen(
        tallies=counted,
        reports=edges,
        blocks=blocks,
        traffic=_traffic(draft, progress, stable, attempt.uid),
        replicas=(healthy[0], healthy[1]),
        now_s=now_s,
        timeout_s=waits_s,
    )
    draft.judgement = evaluate.judge(progress, seen)
    return counted


def _traffic(draft: Draft, progress: ExperimentStatus, stable: int, attempt: str) -> Traffic:
    """Stable's, as long as a latency is not known that the candidate's is to be compared with."""
    if not lacks_threshold(progress.plan.guardrails):
        return Traffic()
    return draft.traffic_of(stable, attempt, progress.epoch.number)


def timeout_s(split: Mapping[str, Any] | None) -> float:
    """For how long the edges let a request wait and run, as they were told: whatever became of the spec since."""
    told = split or {}
    waits = (told.get("queue") or {}).get("timeoutSeconds", 0.0)
    return float(told.get("requestTimeoutSeconds", DEFAULT_TIMEOUT_S)) + float(waits)
