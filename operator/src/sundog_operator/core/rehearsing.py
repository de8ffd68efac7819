"""What a dry run tells: how what the spec stands for would take over, decided as if it were to begin now."""

from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.core import names, returning
from sundog_operator.core.draft import Draft
from sundog_operator.core.rollout import freeze, stable_traffic, telling


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
    if spec.rollout.strategy != "canary":
        return f"revision {wanted} gets all traffic from revision {stable} at once"
    if draft.returns:
        return f"{returning.reason(wanted)}, without steps"
    attempts = [names.application(draft.service, stable)]
    traffic = stable_traffic.of_attempts(draft.service, attempts, draft.seen.edges, draft.now.timestamp())
    plan = freeze.resolved(spec.rollout, traffic, draft.replicas)
    judged = telling.judged_by(plan)
    return f"canary of revision {wanted} beside revision {stable}: {telling.arrows(plan.steps)}" + (
        f", by {judged}" if judged else ""
    )
