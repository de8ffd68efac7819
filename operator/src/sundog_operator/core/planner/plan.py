"""The planner of a ModelDeployment: what is observed goes in, what to write comes out.

`plan` is pure, total and deterministic. It decides in a fixed order, each step reading what the earlier ones settled:
accept the spec → know its revision → settle what ended → obey a command → choose a candidate → walk the rollout → let go of drained
revisions → say what is true. Whatever moves traffic is committed in a status first; the Serve document and the split document follow from
statuses alone (`core.live`), so the operator can die at any line.
"""

from dataclasses import dataclass
from datetime import datetime

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.core import revisions
from sundog_operator.core.analysis import shadow_agreement
from sundog_operator.core.events import Event
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner import (
    candidate as planner_candidate,
)
from sundog_operator.core.planner import (
    conditions as planner_conditions,
)
from sundog_operator.core.planner import (
    desired_state,
    evaluation,
    rollback_window,
    warm_revisions,
)
from sundog_operator.core.planner.admission import accept
from sundog_operator.core.planner.command_execution import obey
from sundog_operator.core.planner.context import Draft, Json, Observed
from sundog_operator.core.planner.experiment import conditions as experiment_conditions
from sundog_operator.core.planner.experiment import lifecycle
from sundog_operator.core.planner.problems.poison_requests import report_poison
from sundog_operator.core.planner.problems.stale_edges import replace_late
from sundog_operator.core.rollout import history, machine, metric_checks


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write, in this order: creates, the Experiments' statuses, the status; then what is surplus goes. Nothing is written twice.

    Attributes:
        rollout: (Experiment name, status) to commit, or None.
        own: the same of Experiments of users.
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
    own: tuple[tuple[str, ExperimentStatus], ...] = ()


STEPS = (
    planner_candidate.recover,
    planner_candidate.know_revision,
    planner_candidate.assign_cluster,
    lifecycle.settle,
    planner_candidate.settle,
    obey,
    planner_candidate.choose,
    planner_candidate.find_rollout,
    planner_candidate.watch_candidate,
    planner_candidate.retry_failed,
    planner_candidate.retry_stable,
    planner_candidate.switch_plainly,
    lifecycle.begin,
)


def plan(seen: Observed, now: datetime) -> Plan:
    """Decide one pass."""
    draft = _draft(seen, now)
    for step in STEPS:
        step(draft)
    _walk(draft)
    lifecycle.walk(draft)
    planner_candidate.let_go(draft)
    warm_revisions.trim(draft)
    planner_conditions.measure(draft)
    planner_conditions.conclude(draft)
    planner_conditions.conclude_rollout(draft)
    experiment_conditions.conclude(draft)
    lifecycle.doubt(draft)
    report_poison(draft)
    late = replace_late(draft)
    return Plan(
        creates=tuple(draft.creates),
        rollout=draft.commit,
        status=draft.status,
        surplus_revisions=_surplus_revisions(draft),
        surplus_experiments=_surplus_experiments(draft),
        events=tuple(draft.events),
        requeue_after_s=planner_conditions.requeue_after_s(draft),
        late_edges=late,
        own=tuple(draft.own_statuses.items()),
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
    counted = evaluation.weigh(draft)
    attempt = draft.rollout
    draft.copies = shadow_agreement.look(progress, attempt.uid if attempt else "", draft.seen.edges)
    seen = machine.Inputs(
        now=draft.now,
        replicas=draft.replicas,
        available=draft.available(candidate.revision),
        serving=draft.serving(candidate.revision),
        confirmed=draft.confirmed,
        held=draft.held,
        opens_at=draft.opens_at,
        failure=planner_candidate.failure_of(draft, candidate),
        late=planner_candidate.patience_lost(draft, candidate),
        evidence=draft.judgement,
        answer=draft.seen.answer,
        copies=draft.copies,
        stable=draft.serving(draft.stable_number or 0),
        dead=planner_candidate.is_dead(draft, candidate),
        patience=draft.spec.rollout.progress_deadline if draft.spec else machine.PATIENCE,
    )

    def ticked(*, moved: bool) -> ExperimentStatus:
        told = metric_checks.take(planner_conditions.tell(draft, progress, moved=moved), draft.seen.readings)
        return machine.tick(told, seen)

    after = ticked(moved=False)
    if after != progress:
        # Where anything moves more often than once a minute, what is known would never be told else.
        after = ticked(moved=True)
    after = planner_conditions.count(draft, after, progress, counted, moved=False)
    weighs = (draft.judgement or draft.copies) is not None
    if after != progress or (weighs and draft.edge_leaves(progress)):
        # What was counted is written with what follows from it.
        told = planner_conditions.count(draft, after, progress, counted, moved=True)
        if counted is not None:
            told = told.model_copy(update={"tallies": counted.pack()})
        if draft.copies is not None:
            told = told.model_copy(update={"shadow": draft.copies.status})
        if told != progress:
            draft.commit_rollout(history.remember(told, planner_conditions.judged_by(draft) or told.metrics, draft.now))
            draft.events.extend(planner_conditions.shift_events(draft, progress, after))


def _surplus_revisions(draft: Draft) -> tuple[str, ...]:
    """What is beyond the history. While the spec is refused nobody knows what may return, nor what was wanted and is held back."""
    if draft.spec is None:
        return ()
    kept = set(desired_state.live_revisions(draft.status)) | ({draft.wanted.number} if draft.wanted else set())
    if draft.status.candidate is not None:
        kept.add(draft.status.candidate.revision)
    kept.update(arm.revision for arm in draft.status.arms or ())
    kept.update(rollback_window.window(draft.spec.rollout, draft.status.stable_before))
    gone = revisions.surplus(draft.seen.revisions, kept, draft.status.stable_before)
    return tuple(names.application(draft.service, revision.number) for revision in gone)


def _surplus_experiments(draft: Draft) -> tuple[str, ...]:
    ended = [
        rollout
        for rollout in draft.seen.rollouts
        if machine.is_over(rollout.status) and rollout.name != draft.before.experiment
    ]
    ended.sort(key=lambda rollout: (rollout.status.plan.frozen_at or draft.now, rollout.name))
    return tuple(rollout.name for rollout in ended[: max(0, len(ended) - revisions.HISTORY_LIMIT)])
