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


def requeue_after_s(draft: PlanContext) -> float:
    """Poll while something is on its way, look after a step that waits, else look in from time to time."""
    truths = {condition.type: condition.status for condition in draft.status.conditions}
    # A ControllerRevision that was made is there; what a rollout or an arm needs next is decided by the next pass.
    if draft.commit is not None or draft.made or any(each["kind"] == "Experiment" for each in draft.objects_to_create):
        return 0.0
    if (asked_s := conditions_of_experiment.requeue_after_s(draft)) is not None:
        return asked_s
    if (
        draft.status.candidate is None
        and draft.status.queued is None
        and not draft.status.retiring
        and truths["Ready"] == truths["TrafficSynced"] == "True"
    ):
        # No watch tells of replicas that come or go.
        return RESYNC_S if draft.status.ready_replicas == draft.status.replicas else WAITING_POLL_S
    if _waits_for_a_window(draft) and truths["TrafficSynced"] == "True":
        return WAITING_POLL_S
    if truths.get("Stalled") == "True" and draft.status.stable is None:
        return RESYNC_S
    candidate = draft.status.candidate
    if candidate is not None and candidate.retry_at is not None and not draft.status.retiring:
        return min(max((candidate.retry_at - draft.now).total_seconds(), POLL_S), RESYNC_S)
    if secret_problem(draft) is not None and draft.status.candidate is None and not draft.status.retiring:
        return WAITING_POLL_S
    progress = draft.progress
    collecting = (
        progress is not None
        and progress.step is not None
        and progress.step.since is not None
        and progress.epoch.confirmed
        and not draft.is_giving_back
    )
    if collecting and (draft.evaluation or draft.copies) is not None and truths["TrafficSynced"] == "True":
        return EVIDENCE_POLL_S
    return WAITING_POLL_S if collecting and truths["TrafficSynced"] == "True" else POLL_S


def _waits_for_a_window(draft: PlanContext) -> bool:
    """Whether a candidate is ready and has no traffic yet, outside of windows."""
    candidate = draft.status.candidate
    if candidate is None or candidate.weight or draft.status.stable is None or draft.opens_at is None:
        return False
    return draft.available(candidate.revision) >= candidate.replicas
