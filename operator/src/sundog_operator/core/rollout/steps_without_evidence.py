"""What of a promotion evidence does not vouch for: what a plan lets pass without it, and which steps have passed so. Pure."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from sundog_operator.api import ExperimentStatus, FrozenPlan, PassedStep, PlanStep
from sundog_operator.core.rollout import plan_text
from sundog_operator.core.rollout.freeze import BAKE
from sundog_operator.core.rollout.shadow_comparison import SHADOW

EVIDENCE: Final = "evidence"
ON_INCONCLUSIVE: Final = "onInconclusive: promote"
ON_NO_DATA: Final = "onNoData: promote"
NO_EVIDENCE_PROMISE: Final = "evidence promises nothing of what is promoted"

NumberedSteps = Sequence[tuple[int, PlanStep]]
"""Steps with their numbers, from 1."""


def find_exceptions(plan: FrozenPlan) -> tuple[str, ...]:
    """What may lead to all traffic although evidence does not say so, a sentence each; none where nothing but evidence does."""
    return () if plan.reason else (*_policies(plan), *_gates(plan))


def describe_exceptions(plan: FrozenPlan) -> str:
    """The same in one sentence, also where nothing but harm is looked for; empty where evidence vouches, or none is weighed."""
    harm_alone = plan.guardrails and plan.strategy != SHADOW and not _asks_for(plan, EVIDENCE)
    told = "; ".join((*find_exceptions(plan), *(("no step is gated by evidence",) if harm_alone else ())))
    return f"{NO_EVIDENCE_PROMISE}: {told}" if told else ""


def weights_without_evidence(plan: FrozenPlan) -> Iterator[str]:
    """Which weights pass without evidence of their own, a sentence each. The last one before all traffic is in `allowed_by`."""
    groups = _by_weight(plan)
    if _asks_for(plan, EVIDENCE):
        for group in groups[:-1]:
            if not _is_weighed(group):
                yield f"{_spoken(group)} passes without evidence, and a later step decides"
        return
    for group in groups:
        if all(step.gate == "time" for _, step in group):
            yield f"{_spoken(group)} passes by time alone"


def record_passed(status: ExperimentStatus, numbers: Iterable[int], by: str) -> ExperimentStatus:
    """With steps, by their numbers, told as passed without evidence. Each is passed once."""
    known, steps = status.without_evidence or (), status.plan.steps
    before = {each.step for each in known}
    new = [PassedStep(step=each, weight=steps[each - 1].weight, by=by) for each in numbers if each not in before]
    return status.model_copy(update={"without_evidence": (*known, *new)}) if new else status


def record_skipped(status: ExperimentStatus, numbers: Iterable[int], command: str) -> ExperimentStatus:
    """The same of steps that a command does not wait for. A manual gate is opened by nothing else, and a bake comes after evidence."""
    steps = status.plan.steps
    if not _asks_for(status.plan, EVIDENCE, SHADOW):
        return status
    given = [each for each in numbers if _asks_for_more(steps[each - 1])]
    return record_passed(status, given, f"command {command}")


def _asks_for_more(step: PlanStep) -> bool:
    return step.gate in (EVIDENCE, SHADOW) or (0 < step.weight < 100 and step.gate not in ("manual", "none", BAKE))


def describe_passed(status: ExperimentStatus) -> str:
    """Which steps of a rollout that is promoted have passed without evidence, and by what; empty where none did."""
    known, by = status.without_evidence or (), dict[str, list[str]]()
    for each in known:
        by.setdefault(each.by, []).append(f"step {each.step} at {each.weight} %")
    last, numbers = _last_without(status.plan), {each.step for each in known}
    if last and not any(number in numbers for number, _ in last):
        by.setdefault("its gate", []).append(_spoken(last))
    parts = [f"{', '.join(steps)} by {why}" for why, steps in by.items()]
    return f"without evidence: {'; '.join(parts)}" if parts else ""


def _policies(plan: FrozenPlan) -> Iterator[str]:
    if plan.on_inconclusive == "promote":
        if _asks_for(plan, EVIDENCE, SHADOW):
            yield f"{ON_INCONCLUSIVE} passes a step that evidence does not decide"
        elif plan.checks or _asks_for(plan, "analysis"):
            yield f"{ON_INCONCLUSIVE} passes a check that has no number"
    if plan.on_no_data == "promote" and _asks_for(plan, EVIDENCE, BAKE):
        yield f"{ON_NO_DATA} passes a step that has no traffic"


def _gates(plan: FrozenPlan) -> Iterator[str]:
    if last := _last_without(plan):
        yield f"{_spoken(last)} asks for no evidence, and is the last before all traffic"


def _last_without(plan: FrozenPlan) -> NumberedSteps:
    """The steps at the last weight before all traffic, and before a bake, where others ask for evidence and none of these does."""
    groups = _by_weight(plan)
    return groups[-1] if groups and _asks_for(plan, EVIDENCE) and not _is_weighed(groups[-1]) else ()


def _by_weight(plan: FrozenPlan) -> list[NumberedSteps]:
    """The steps that share traffic with stable, those of one weight together: a pause goes on with the evidence of its weight."""
    sharing = [each for each in enumerate(plan.steps, start=1) if 0 < each[1].weight < 100 and each[1].gate != BAKE]
    return [list(group) for _, group in itertools.groupby(sharing, key=lambda each: each[1].weight)]


def _is_weighed(group: NumberedSteps) -> bool:
    return any(step.gate == EVIDENCE for _, step in group)


def _asks_for(plan: FrozenPlan, *gates: str) -> bool:
    return any(step.gate in gates for step in plan.steps)


def _spoken(group: NumberedSteps) -> str:
    number, first = group[0]
    return f"step {number} at {first.weight} % ({', '.join(plan_text.describe_gate(step) for _, step in group)})"
