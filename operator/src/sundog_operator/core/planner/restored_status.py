"""A status that contradicts the traffic, because something else wrote it: what serves keeps its traffic."""

from dataclasses import replace

from sundog_operator.api.reasons import Cause, EndReason
from sundog_operator.core import events
from sundog_operator.core.edge import split_document
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.drain import start_draining
from sundog_operator.core.planner.experiment import cleanup
from sundog_operator.core.planner.recovery import find_stable_arm, make_serving_status
from sundog_operator.core.planner.rollout import rollback_window
from sundog_operator.core.planner.rollout.candidate import start_rollback
from sundog_operator.core.planner.rollout.outcome import RolloutEnd, drop_candidate, make_revision_status
from sundog_operator.core.trial import phases


def keep_serving_revisions(context: PlanContext) -> PlanContext:
    """Keep the traffic of the revisions that serve when the status contradicts the stored split.

    Something else wrote such a status, such as a restore of an earlier backup: it gives traffic to a revision whose replicas are not
    checked, or not there. The revision with the traffic becomes stable. The restored one takes over at once when its replicas are healthy,
    if it is the spec's as well. An Experiment that the status names is stopped, because its counters are of a time that is over.
    """
    named = context.stable_number
    is_unknown = context.before.stable is None and named is not None and context.revision(named) is None
    if is_unknown and context.status.candidate is None and context.spec_revision is not None:
        # The content of stable went with its ModelDeployment, so the spec's revision is a first one: nothing holds it.
        context = _take_over(context, context.spec_revision.number)
    if context.status.stable is None or not desired_state.contradicts_traffic(
        context.desired_split(), context.observed.split
    ):
        return context
    weights = split_document.find_weights(context.observed.split)
    serving = max(weights, key=lambda number: (weights[number], number))
    cause = Cause(EndReason.SUPERSEDED, f"the status was replaced by an earlier one, and revision {serving} serves")
    context = drop_candidate(cleanup.stop_experiment(context, cause), RolloutEnd.of("Superseded", cause.message))
    context = _follow_attempt_in_force(context)
    stable = find_stable_arm(context) if context.rollout is not None else serving
    if stable is None or stable == named:
        return context
    others = [
        number for number, weight in weights.items() if weight and number not in (stable, _candidate_number(context))
    ]
    before = rollback_window.record_promotion(context.status.stable_before, named, stable)
    context = context.set(
        stable=make_serving_status(context, stable, context.replicas),
        stable_before=rollback_window.forget_revision(before, stable),
        retiring=tuple(each for each in context.status.retiring if each.revision != stable),
    )
    for number in others:
        context = start_draining(context, make_serving_status(context, number, context.replicas))
    context = context.report(events.traffic_kept(stable, named))
    if named is not None and context.spec_revision is not None and context.spec_revision.number == named:
        return _take_over(context, named)
    return context


def _candidate_number(context: PlanContext) -> int | None:
    return context.status.candidate.revision if context.status.candidate is not None else None


def _take_over(context: PlanContext, number: int) -> PlanContext:
    """Make a revision the candidate for all traffic at once, unless a rollout has traffic already."""
    if context.status.candidate is not None or number == context.stable_number:
        return context
    return start_rollback(context, number)


def _follow_attempt_in_force(context: PlanContext) -> PlanContext:
    """Resume the rollout that the stored split belongs to, if it is still running."""
    attempt_uid = str((context.observed.split or {}).get("attempt", ""))
    found = next((each for each in context.observed.rollouts if each.uid == attempt_uid), None)
    if found is None or context.rollout is not None or phases.is_over(found.status):
        return context
    context = replace(context, rollout=found)
    candidate = make_revision_status(context, found.revision, context.replicas)
    return context.set(experiment=found.name, candidate=candidate)
