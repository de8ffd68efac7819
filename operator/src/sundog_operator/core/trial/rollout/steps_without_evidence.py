"""Steps without evidence: which steps a plan lets pass without it, and which have passed so. Pure."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from sundog_operator.api import ExperimentStatus, FrozenPlan, PassedStep, PlanStep
from sundog_operator.core.trial.rollout import plan_text
from sundog_operator.core.trial.rollout.freeze import BAKE
from sundog_operator.core.trial.rollout.shadow_comparison import SHADOW

EVIDENCE: Final = "evidence"
ON_INCONCLUSIVE: Final = "onInconclusive: promote"
ON_NO_DATA: Final = "onNoData: promote"
NO_EVIDENCE_PROMISE: Final = "a promotion has no statistical guarantee"

NumberedSteps = Sequence[tuple[int, PlanStep]]
"""Steps with their numbers, from 1."""


def find_exceptions(plan: FrozenPlan) -> tuple[str, ...]:
    """Return what may lead to all traffic without evidence, a sentence each; empty if only evidence does."""
    return () if plan.reason else (*_policy_exceptions(plan), *_gate_exceptions(plan))


def describe_exceptions(plan: FrozenPlan) -> str:
    """Return the same in one sentence, also if only harm is tested; empty if evidence decides, or none is evaluated."""
    harm_alone = plan.guardrails and plan.strategy != SHADOW and not _has_gate(plan, EVIDENCE)
    exceptions = "; ".join((*find_exceptions(plan), *(("no step is gated by evidence",) if harm_alone else ())))
    return f"{NO_EVIDENCE_PROMISE}: {exceptions}" if exceptions else ""


def weights_without_evidence(plan: FrozenPlan) -> Iterator[str]:
    """Yield which weights pass without evidence of their own, a sentence each. `find_exceptions` has the last one before all traffic."""
    groups = _by_weight(plan)
    if _has_gate(plan, EVIDENCE):
        for group in groups[:-1]:
            if not _has_evidence_gate(group):
                yield f"{_describe_group(group)} passes without evidence, and a later step decides"
        return
    for group in groups:
        if all(step.gate == "time" for _, step in group):
            yield f"{_describe_group(group)} passes by time alone"


def record_passed(status: ExperimentStatus, numbers: Iterable[int], by: str) -> ExperimentStatus:
    """Record steps, by their numbers, as passed without evidence; each step once."""
    known, steps = status.without_evidence or (), status.plan.steps
    before = {each.step for each in known}
    new = [PassedStep(step=each, weight=steps[each - 1].weight, by=by) for each in numbers if each not in before]
    return status.model_copy(update={"without_evidence": (*known, *new)}) if new else status


def record_skipped(status: ExperimentStatus, numbers: Iterable[int], command: str) -> ExperimentStatus:
    """Record steps that a command skips. Manual gates are left out, because only commands open them, and so are bakes after evidence."""
    steps = status.plan.steps
    if not _has_gate(status.plan, EVIDENCE, SHADOW):
        return status
    given = [each for each in numbers if _needs_evidence(steps[each - 1])]
    return record_passed(status, given, f"command {command}")


def _needs_evidence(step: PlanStep) -> bool:
    return step.gate in (EVIDENCE, SHADOW) or (0 < step.weight < 100 and step.gate not in ("manual", "none", BAKE))


def describe_passed(status: ExperimentStatus) -> str:
    """Describe which steps of a promoted rollout passed without evidence, and why; empty if none did."""
    known, by = status.without_evidence or (), dict[str, list[str]]()
    for each in known:
        by.setdefault(each.by, []).append(f"step {each.step} at {each.weight} %")
    last, numbers = _last_group_without_evidence(status.plan), {each.step for each in known}
    if last and not any(number in numbers for number, _ in last):
        by.setdefault("its gate", []).append(_describe_group(last))
    parts = [f"{', '.join(steps)} by {why}" for why, steps in by.items()]
    return f"without evidence: {'; '.join(parts)}" if parts else ""


def _policy_exceptions(plan: FrozenPlan) -> Iterator[str]:
    if plan.on_inconclusive == "promote":
        if _has_gate(plan, EVIDENCE, SHADOW):
            yield f"{ON_INCONCLUSIVE} passes a step that evidence does not decide"
        elif plan.checks or _has_gate(plan, "analysis"):
            yield f"{ON_INCONCLUSIVE} passes a check that has no number"
    if plan.on_no_data == "promote" and _has_gate(plan, EVIDENCE, BAKE):
        yield f"{ON_NO_DATA} passes a step that has no traffic"


def _gate_exceptions(plan: FrozenPlan) -> Iterator[str]:
    if last := _last_group_without_evidence(plan):
        yield f"{_describe_group(last)} asks for no evidence, and is the last before all traffic"


def _last_group_without_evidence(plan: FrozenPlan) -> NumberedSteps:
    """Return the steps at the last weight before all traffic or a bake, if other steps have evidence gates and none of these has."""
    groups = _by_weight(plan)
    return groups[-1] if groups and _has_gate(plan, EVIDENCE) and not _has_evidence_gate(groups[-1]) else ()


def _by_weight(plan: FrozenPlan) -> list[NumberedSteps]:
    """Group the steps that share traffic with stable by weight: a pause keeps the evidence of its weight."""
    sharing = [each for each in enumerate(plan.steps, start=1) if 0 < each[1].weight < 100 and each[1].gate != BAKE]
    return [list(group) for _, group in itertools.groupby(sharing, key=lambda each: each[1].weight)]


def _has_evidence_gate(group: NumberedSteps) -> bool:
    return any(step.gate == EVIDENCE for _, step in group)


def _has_gate(plan: FrozenPlan, *gates: str) -> bool:
    return any(step.gate in gates for step in plan.steps)


def _describe_group(group: NumberedSteps) -> str:
    number, first = group[0]
    return f"step {number} at {first.weight} % ({', '.join(plan_text.describe_gate(step) for _, step in group)})"
