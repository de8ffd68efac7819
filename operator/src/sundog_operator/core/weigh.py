"""Weighs what the edges count for the rollout that is under way: what is stored, what they report, what follows."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import orjson

from sundog_operator.api import API_VERSION, ExperimentStatus
from sundog_operator.core import names, traffic
from sundog_operator.core.draft import Draft, Json, Rollout
from sundog_operator.core.revisions import owner_reference
from sundog_operator.core.rollout import judging, machine, stable_traffic, tallies
from sundog_operator.core.rollout.resolve import Traffic, lacks_threshold
from sundog_operator.core.rollout.tallies import Tallies

DEFAULT_TIMEOUT: Final = timedelta(seconds=30)


def read(config_map: Mapping[str, Any] | None) -> Json | None:
    """What was counted, as it is stored; None where nothing is, or it cannot be read."""
    try:
        found = orjson.loads(((config_map or {}).get("data") or {}).get(names.EVIDENCE_KEY, ""))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def weigh(draft: Draft) -> Json | None:
    """Judge the active attempt. Gives the ConfigMap to write before anything that follows; None where nothing was counted since."""
    progress, attempt = draft.progress, draft.rollout
    if progress is None or attempt is None or not progress.plan.guardrails or machine.is_over(progress):
        return None
    if f"ConfigMap {names.evidence(attempt.name)}" in draft.seen.foreign:
        return None
    stable, candidate = machine.revisions(progress)
    now_s, timeout_s = draft.now.timestamp(), _timeout(draft).total_seconds()
    before = Tallies.from_json(draft.seen.evidence, attempt.uid)
    epochs = [epoch.number for epoch in progress.evidence_epochs]
    counted = tallies.take(before, draft.seen.edges, epochs, now_s, timeout_s)
    seen = judging.Seen(
        tallies=counted,
        reports=draft.seen.edges,
        traffic=_traffic(draft, progress, stable, attempt.uid),
        replicas=(
            traffic.healthy_replicas(draft.service, stable, draft.seen.edges),
            traffic.healthy_replicas(draft.service, candidate, draft.seen.edges),
        ),
        now_s=now_s,
        timeout_s=timeout_s,
    )
    draft.judgement = judging.judge(progress, seen)
    return None if counted == before else make_config_map(draft, attempt, counted)


def _traffic(draft: Draft, progress: ExperimentStatus, stable: int, attempt: str) -> Traffic:
    """Stable's, as long as a latency is not known that the candidate's is to be compared with."""
    if not lacks_threshold(progress.plan.guardrails):
        return Traffic()
    attempts = [names.application(draft.service, stable), attempt]
    return stable_traffic.of_attempts(draft.service, attempts, draft.seen.edges, draft.now.timestamp())


def _timeout(draft: Draft) -> timedelta:
    return draft.spec.endpoint.request_timeout if draft.spec is not None else DEFAULT_TIMEOUT


def make_config_map(draft: Draft, attempt: Rollout, counted: Tallies) -> Json:
    """The ConfigMap with what was counted; it goes with the Experiment."""
    owner = {"apiVersion": API_VERSION, "kind": "Experiment", "metadata": {"name": attempt.name, "uid": attempt.uid}}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names.evidence(attempt.name),
            "namespace": draft.seen.deployment["metadata"]["namespace"],
            "labels": {**names.labels("sundog-evidence"), names.LABEL_EXPERIMENT: attempt.name},
            "ownerReferences": [owner_reference(owner, controller=False)],
        },
        "data": {names.EVIDENCE_KEY: orjson.dumps(counted.as_json()).decode()},
    }
