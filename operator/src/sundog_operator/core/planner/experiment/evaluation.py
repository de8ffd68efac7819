"""Weighs what the edges count for the experiment that is under way, and projects it into its status."""

from dataclasses import replace

from sundog_operator.api import CONTROL, ExperimentStatus, MetricStatus
from sundog_operator.core.analysis import counters, feedback
from sundog_operator.core.analysis.counters import Tallies
from sundog_operator.core.analysis.evaluate import Counted
from sundog_operator.core.edge import split, units
from sundog_operator.core.experiments import decision, evaluate, machine, power
from sundog_operator.core.experiments.evaluation import Judgement, Rate
from sundog_operator.core.experiments.queue import OwnExperiment
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner.context import Draft
from sundog_operator.core.planner.evaluation import timeout_s
from sundog_operator.core.rollout.resolve import Traffic, lacks_threshold
from sundog_operator.core.stats.power.experiment_simulation import Base
from sundog_operator.core.stats.success_metrics import Found


def weigh(draft: Draft, own: OwnExperiment, progress: ExperimentStatus) -> Tallies | None:
    """Judge it. Gives what was counted; None before it has begun."""
    if not machine.has_begun(progress):
        return None
    edges, waits_s = draft.seen.edges, timeout_s(draft.seen.split)
    now_s = counters.counted_until(edges, draft.now.timestamp())
    look = counters.Look(
        epochs=[epoch.number for epoch in progress.evidence_epochs],
        in_force=progress.epoch.number,
        now_s=now_s,
        timeout_s=waits_s,
        control=CONTROL,
        arms=[arm.name for arm in machine.beside_control(progress)],
    )
    blocks = counters.blocks_of(own.uid, edges)
    counted = counters.take(Tallies.unpack(progress.tallies, own.uid), edges, blocks, look)
    counted, problem = _with_feedback(draft, own, progress, counted)
    seen = Counted(
        tallies=counted,
        reports=edges,
        blocks=blocks,
        traffic=_traffic(draft, own, progress),
        now_s=now_s,
        timeout_s=waits_s,
    )
    draft.own_judgement, draft.own_judged = evaluate.judge(progress, seen, _healthy(draft, progress), problem), own.name
    return counted


def _with_feedback(
    draft: Draft, own: OwnExperiment, progress: ExperimentStatus, counted: Tallies
) -> tuple[Tallies, tuple[str, str] | None]:
    """What edges tell of outcomes as well, and why nothing is to be built on that; nothing is asked for before there is evidence."""
    wanted = decision.wanted(draft.service, own.uid, progress)
    if wanted is None or not progress.evidence_epochs:
        return counted, None
    known, problem = feedback.take(counted.feedback, [each for each in draft.seen.edges if _serves(each)], wanted)
    return replace(counted, feedback=known), problem


def _serves(edge: EdgeReport) -> bool:
    return edge.ready or edge.terminating


def _healthy(draft: Draft, progress: ExperimentStatus) -> dict[str, int]:
    """Healthy replicas by arm."""
    edges = draft.seen.edges
    return {arm.name: split.healthy_replicas(draft.service, arm.revision or 0, edges) for arm in progress.arms}


def _traffic(draft: Draft, own: OwnExperiment, progress: ExperimentStatus) -> Traffic:
    """Stable's, as long as a latency is not known that the arms' are to be compared with."""
    if not lacks_threshold(progress.plan.guardrails):
        return Traffic()
    return draft.traffic_of(machine.control_revision(progress), own.uid, progress.epoch.number)


def tell(draft: Draft, status: ExperimentStatus) -> ExperimentStatus:
    """Project what the evidence says: once a minute, and where nothing was said yet."""
    judged = draft.own_judgement
    if judged is None or not (draft.is_due(status) or not status.metrics):
        return status
    told = tuple(_doubted(draft, each, status, judged) for each in judged.metrics)
    return status.model_copy(update={"metrics": machine.with_those_of_dropped(status, told)})


def _doubted(draft: Draft, told: MetricStatus, status: ExperimentStatus, judged: Judgement) -> MetricStatus:
    """What an arm may win by, or has to pass for it, with the warning that its time is hardly enough."""
    if told.verdict != Found.UNDECIDED or told.arm in machine.dropped(status) or status.since is None:
        return told
    if told.role == "guardrail":
        lasted_s = (draft.now - status.since).total_seconds()
        doubt = power.doubt_of_guardrail(told, lasted_s, machine.left_s(status, judged, draft.now))
    else:
        doubt = _doubt_of_success(draft, told, judged.rate)
    return told.model_copy(update={"message": f"{told.message}; {doubt}"[: machine.MOST_TOLD]}) if doubt else told


def _doubt_of_success(draft: Draft, told: MetricStatus, rate: Rate | None) -> str:
    spec = draft.own.acceptance.spec if draft.own is not None else None
    if spec is None or rate is None or told.role != decision.SUCCESS:
        return ""
    known = rate.values.get(told.name)
    bases = {} if known is None or not known[0] > 0 else {told.name: Base(*known)}
    return power.doubt(spec, rate.units_per_second, bases)


def count(
    draft: Draft,
    own: OwnExperiment,
    status: ExperimentStatus,
    before: ExperimentStatus,
    counted: Tallies | None,
    *,
    moved: bool,
) -> ExperimentStatus:
    """Project what was counted into the arms, edges that are gone included: at every transition, else once a minute."""
    if not machine.has_begun(status) or not (moved or draft.is_due(status)):
        return status
    known = draft.own_judgement.units if draft.own_judgement else {}
    keeps = units.keeps(status.plan)
    arms = []
    for arm in status.arms:
        told = split.counts_of(own.uid, arm.name, draft.seen.edges)
        requests, errors = counters.never_fewer(arm, told, counted)
        fell = known.get(arm.name, 0 if keeps else requests)
        update = {"requests": requests, "errors": errors, "units": max(arm.units, fell)}
        arms.append(arm.model_copy(update=update))
    if tuple(arms) == status.arms and status.metrics == before.metrics:
        return status
    return status.model_copy(update={"arms": tuple(arms), "counted_at": draft.now})
