"""The planner of a ModelDeployment: what is observed goes in, what to write comes out.

`plan` is pure, total and deterministic. It decides in a fixed order, each step reading what the earlier ones settled:
accept the spec → know its revision → settle what ended → obey a command → choose a candidate → walk the rollout → let go of drained
revisions → say what is true. Whatever moves traffic is committed in a status first; the Serve document and the split document follow from
statuses alone (`core.live`), so the operator can die at any line.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.core import choose, keeping, live, names, returning, revisions, say, traffic, weigh
from sundog_operator.core.draft import Draft, Json, Observed
from sundog_operator.core.events import Event
from sundog_operator.core.late_edges import replace_late
from sundog_operator.core.obey import obey
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.rollout import history, machine
from sundog_operator.core.spec import accept

LEAVING_PERIOD: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write, in this order: creates, the rollout's status, the status; then what is surplus goes. Nothing is written twice.

    Attributes:
        rollout: (Experiment name, status) to commit, or None.
        surplus_revisions: names of ControllerRevisions beyond the history limit.
        surplus_experiments: names of rollout Experiments beyond it.
        requeue_after_s: when to look again without being woken, in seconds.
        late_edges: edges whose pods to delete.
    """

    creates: tuple[Json, ...]
    rollout: tuple[str, ExperimentStatus] | None
    status: ModelDeploymentStatus
    surplus_revisions: tuple[str, ...]
    surplus_experiments: tuple[str, ...]
    events: tuple[Event, ...]
    requeue_after_s: float
    late_edges: tuple[EdgeReport, ...] = ()


STEPS = (
    choose.recover,
    choose.know_revision,
    choose.assign_cluster,
    choose.settle,
    obey,
    choose.choose,
    choose.find_rollout,
    choose.retry_failed,
    choose.retry_stable,
    choose.switch_plainly,
)


def plan(seen: Observed, now: datetime) -> Plan:
    """Decide one pass."""
    draft = _draft(seen, now)
    for step in STEPS:
        step(draft)
    _walk(draft)
    choose.let_go(draft)
    keeping.trim(draft)
    say.measure(draft)
    say.conclude(draft)
    say.conclude_rollout(draft)
    late = replace_late(draft)
    return Plan(
        creates=tuple(draft.creates),
        rollout=draft.commit,
        status=draft.status,
        surplus_revisions=_surplus_revisions(draft),
        surplus_experiments=_surplus_experiments(draft),
        events=tuple(draft.events),
        requeue_after_s=say.requeue_after_s(draft),
        late_edges=late,
    )


def _draft(seen: Observed, now: datetime) -> Draft:
    stored = ModelDeploymentStatus.parse(seen.deployment.get("status"))
    acceptance = accept(seen.deployment, seen.installation)
    return Draft(
        seen=seen,
        now=now.replace(microsecond=0),
        service=seen.deployment["metadata"]["name"],
        before=stored,
        status=stored,
        acceptance=acceptance,
        spec=acceptance.spec,
    )


def _walk(draft: Draft) -> None:
    """Let the rollout's state machine take one step, unless this plan commits something of it already."""
    progress, candidate = draft.progress, draft.status.candidate
    if progress is None or candidate is None or draft.commit is not None:
        return
    attempt = draft.rollout
    counted = weigh.weigh(draft)
    split = live.split_of(draft.service, draft.status, attempt.uid if attempt else "", progress)
    seen = machine.Inputs(
        now=draft.now,
        replicas=draft.replicas,
        available=draft.available(candidate.revision),
        confirmed=split is not None and traffic.confirm(draft.service, split, draft.seen.edges).confirmed,
        held=draft.held,
        opens_at=draft.opens_at,
        failure=choose.failure_of(draft, candidate),
        evidence=draft.judgement,
        answer=draft.seen.answer,
    )
    after = say.count(draft, machine.tick(say.tell(draft, progress), seen), progress, moved=False)
    if after != progress or _leave(draft, progress):
        # What was counted is written with what follows from it.
        told = say.count(draft, after, progress, moved=True)
        if counted is not None:
            told = told.model_copy(update={"tallies": counted.pack()})
        if told != progress:
            judged = draft.judgement.metrics if draft.judgement else told.metrics
            draft.commit_rollout(history.remember(told, judged, draft.now))
            draft.events.extend(say.shift_events(draft, progress, after))


def _leave(draft: Draft, progress: ExperimentStatus) -> bool:
    """Whether an edge leaves: what it has counted will not be there to be read again, so it is written more often."""
    due = progress.counted_at is None or draft.now - progress.counted_at >= LEAVING_PERIOD
    return draft.judgement is not None and due and any(edge.terminating for edge in draft.seen.edges)


def _surplus_revisions(draft: Draft) -> tuple[str, ...]:
    kept = set(live.live_revisions(draft.status)) | ({draft.wanted.number} if draft.wanted else set())
    if draft.status.candidate is not None:
        kept.add(draft.status.candidate.revision)
    if draft.spec is not None:
        kept.update(returning.window(draft.spec.rollout, draft.status.stable_before))
    return tuple(
        names.application(draft.service, revision.number) for revision in revisions.surplus(draft.seen.revisions, kept)
    )


def _surplus_experiments(draft: Draft) -> tuple[str, ...]:
    ended = [
        rollout
        for rollout in draft.seen.rollouts
        if machine.is_over(rollout.status) and rollout.name != draft.before.experiment
    ]
    ended.sort(key=lambda rollout: (rollout.status.plan.frozen_at or draft.now, rollout.name))
    return tuple(rollout.name for rollout in ended[: max(0, len(ended) - revisions.HISTORY_LIMIT)])
