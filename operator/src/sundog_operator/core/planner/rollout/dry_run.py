"""The message of a dry run: how the wanted revision would roll out if it started now."""

from sundog_operator.api import ModelDeploymentSpec, PlanInPlace
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.rollout import rollback_window
from sundog_operator.core.trial.rollout import freeze, plan_text


def describe_rollout(
    context: PlanContext,
    spec: ModelDeploymentSpec,
    stable: int,
    revision: int,
    shared: PlanInPlace | None,
    *,
    waits: bool,
) -> str:
    """Return it as one sentence, which changes only with stable's traffic. `waits`: for the end of the active rollout."""
    return f"without dryRun: {_describe_active(context, waits=waits)}{_describe_steps(context, spec, stable, revision, shared)}"


def _describe_active(context: PlanContext, *, waits: bool) -> str:
    candidate = context.status.candidate
    if candidate is None:
        return ""
    rollout = f"the rollout of revision {candidate.revision}"
    return f"once {rollout} has ended, " if waits else f"ends {rollout}; "


def _describe_steps(
    context: PlanContext, spec: ModelDeploymentSpec, stable: int, revision: int, shared: PlanInPlace | None
) -> str:
    if revision == stable:
        return f"revision {stable} keeps all traffic"
    if spec.rollout.strategy not in freeze.STEPPED_STRATEGIES:
        return f"revision {revision} gets all traffic from revision {stable} at once"
    if context.is_fast_rollback:
        return f"{rollback_window.fast_rollback_reason(revision)}, without steps"
    plan = freeze.resolve_plan(spec.rollout, context.traffic_of(stable), context.replicas, shared)
    guardrails = plan_text.describe_guardrails(plan)
    where = "beside" if shared is None else "in the place of"
    return f"{plan.strategy} of revision {revision} {where} revision {stable}: {plan_text.format_steps(plan.steps)}" + (
        f", by {guardrails}" if guardrails else ""
    )
