"""What a dry run tells: how what the spec stands for would take over, decided as if it were to begin now."""

from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.core.planner import rollback_window
from sundog_operator.core.planner.context import Draft
from sundog_operator.core.rollout import freeze, plan_text


def tell(draft: Draft, spec: ModelDeploymentSpec, stable: int, wanted: int, *, waits: bool) -> str:
    """The whole of it in one sentence, which changes with stable's traffic alone. `waits`: for what is under way to end."""
    return f"without dryRun: {_before(draft, waits=waits)}{_way(draft, spec, stable, wanted)}"


def _before(draft: Draft, *, waits: bool) -> str:
    candidate = draft.status.candidate
    if candidate is None:
        return ""
    rollout = f"the rollout of revision {candidate.revision}"
    return f"once {rollout} has ended, " if waits else f"ends {rollout}; "


def _way(draft: Draft, spec: ModelDeploymentSpec, stable: int, wanted: int) -> str:
    if wanted == stable:
        return f"revision {stable} keeps all traffic"
    if spec.rollout.strategy not in freeze.STEPPED:
        return f"revision {wanted} gets all traffic from revision {stable} at once"
    if draft.returns:
        return f"{rollback_window.reason(wanted)}, without steps"
    plan = freeze.resolved(spec.rollout, draft.traffic_of(stable), draft.replicas, draft.shared)
    judged = plan_text.judged_by(plan)
    where = "beside" if draft.shared is None else "in the place of"
    return f"{plan.strategy} of revision {wanted} {where} revision {stable}: {plan_text.arrows(plan.steps)}" + (
        f", by {judged}" if judged else ""
    )
