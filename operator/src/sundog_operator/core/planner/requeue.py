"""When a ModelDeployment is looked at again."""

from typing import Final

from sundog_operator.core.planner.conditions import secret_problem
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.experiment import conditions as conditions_of_experiment

POLL_S: Final = 0.2
WAITING_POLL_S: Final = 1.0
EVIDENCE_POLL_S: Final = 5.0
"""Between two looks at what the edges count: half of the shortest blocks."""
RESYNC_S: Final = 15.0


def requeue_after_s(context: PlanContext) -> float:
    """Poll while something is on its way, look after a step that waits, else look in from time to time."""
    truths = {condition.type: condition.status for condition in context.status.conditions}
    # A ControllerRevision that was made is there; what a rollout or an arm needs next is decided by the next pass.
    if (
        context.commit is not None
        or context.new_revisions
        or any(each["kind"] == "Experiment" for each in context.objects_to_create)
    ):
        return 0.0
    if (asked_s := conditions_of_experiment.requeue_after_s(context)) is not None:
        return asked_s
    if (
        context.status.candidate is None
        and context.status.queued is None
        and not context.status.retiring
        and truths["Ready"] == truths["TrafficSynced"] == "True"
    ):
        # No watch tells of replicas that come or go.
        return RESYNC_S if context.status.ready_replicas == context.status.replicas else WAITING_POLL_S
    if _waits_for_a_window(context) and truths["TrafficSynced"] == "True":
        return WAITING_POLL_S
    if truths.get("Stalled") == "True" and context.status.stable is None:
        return RESYNC_S
    candidate = context.status.candidate
    if candidate is not None and candidate.retry_at is not None and not context.status.retiring:
        return min(max((candidate.retry_at - context.now).total_seconds(), POLL_S), RESYNC_S)
    if secret_problem(context) is not None and context.status.candidate is None and not context.status.retiring:
        return WAITING_POLL_S
    progress = context.progress
    collecting = (
        progress is not None
        and progress.step is not None
        and progress.step.since is not None
        and progress.epoch.confirmed
        and not context.is_giving_back
    )
    if collecting and (context.evaluation or context.shadow) is not None and truths["TrafficSynced"] == "True":
        return EVIDENCE_POLL_S
    return WAITING_POLL_S if collecting and truths["TrafficSynced"] == "True" else POLL_S


def _waits_for_a_window(context: PlanContext) -> bool:
    """Whether a candidate is ready and has no traffic yet, outside of windows."""
    candidate = context.status.candidate
    if candidate is None or candidate.weight or context.status.stable is None or context.window_opens_at is None:
        return False
    return context.available(candidate.revision) >= candidate.replicas
