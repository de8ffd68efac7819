"""Render the page of condition reasons: one anchor for each reason, with its meaning and its fix."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from reference.markdown import GENERATED, cell, paragraph, table
from reference.reasons import (
    ADVICE,
    EVENTS,
    EXPERIMENT_CONDITIONS,
    MODEL_DEPLOYMENT_CONDITIONS,
    PAUSE_REASONS,
    START_FAILURE_REASONS,
    Advice,
    ConditionText,
    ReasonText,
)
from reference.reasons.advice import DESCRIBE, EXPERIMENT

_TOP: Final = f"""# Condition reasons

{GENERATED.format("the tables in tools/reference/reasons")}

`sundog describe NAME` shows the conditions, their messages and the events of a ModelDeployment.
`sundog describe mexp NAME` shows those of an Experiment. Each reason has an entry below:
its anchor is the reason in lower case. In the commands, replace the words in capitals: NAME is the
ModelDeployment, or the Experiment after `mexp` and `experiment`.

"""
_MODEL_DEPLOYMENT: Final = "## Conditions of a ModelDeployment\n\n"
_EXPERIMENT: Final = """
## Conditions of an Experiment

The operator creates an Experiment for each rollout with steps. You create your own to compare
arms.

"""
_START_FAILURES: Final = """
## Why a revision did not start

The model server reports the reason. The operator retries after 10 s, 20 s, 40 s, … and at most
5 minutes. It does not retry a final failure: fix the cause, then edit the manifest or run
`sundog retry NAME`. If a candidate fails for good, or is not ready within
`spec.rollout.progressDeadline`, its rollout ends and stable keeps serving.

"""
_PAUSES: Final = """
## Why a rollout is paused

`status.paused.reason` of the Experiment has the reason, and the message of `Progressing` describes
it. A paused rollout keeps its weight, and is still tested for harm.
[What to do then](../guides/rollouts.md#a-rollout-that-evidence-does-not-decide) depends
on the reason.

"""
_EVENTS: Final = """
## Events of a ModelDeployment

An Experiment has no events of its own. Its ModelDeployment has them.
A [start failure](#why-a-revision-did-not-start) is a Warning with its reason.

"""


def render_page() -> str:
    """Return the page, as Markdown."""
    return "".join(
        (
            *(_TOP, _MODEL_DEPLOYMENT, _conditions(MODEL_DEPLOYMENT_CONDITIONS)),
            *(_EXPERIMENT, _conditions(EXPERIMENT_CONDITIONS)),
            *(_START_FAILURES, _index(("failure", "reasons"), START_FAILURE_REASONS)),
            *(_PAUSES, _index(("paused", "reasons"), PAUSE_REASONS)),
            *(_EVENTS, _index(("type", "reasons"), EVENTS)),
            "\n## Reasons\n",
            *_entries(),
        )
    )


def _conditions(conditions: Sequence[ConditionText]) -> str:
    rows = []
    for condition in conditions:
        links = [f"{truth}: {reasons}" for truth, reasons in _links(condition.reasons)]
        rows.append(
            (f"`{condition.type}`", cell(condition.meaning), "<br>".join([*links, *filter(None, [condition.borrows])]))
        )
    return table(("condition", "meaning", "reasons"), rows)


def _index(head: Sequence[str], reasons: Sequence[ReasonText]) -> str:
    return table(head, _links(reasons))


def _links(reasons: Sequence[ReasonText]) -> Iterator[tuple[str, str]]:
    """Yield each status with links to its reasons."""
    for truth in dict.fromkeys(each.truth for each in reasons):
        found = (each.reason for each in reasons if each.truth == truth)
        yield truth, ", ".join(f"[`{reason}`](#{reason.lower()})" for reason in found)


def _entries() -> Iterator[str]:
    occurrences = sorted(_occurrences(), key=lambda each: each.reason.lower())
    for reason, group in groupby(occurrences, key=lambda each: each.reason):
        found = list(group)
        yield f"\n### {reason}\n\n"
        for meaning in dict.fromkeys(each.meaning for each in found):
            places = _places([each for each in found if each.meaning == meaning])
            yield paragraph(f"- {places}: {meaning}", "  ") + "\n"
        is_experiment = all(each.kind == "Experiment" for each in found)
        advice = ADVICE.get(reason, Advice(EXPERIMENT if is_experiment else DESCRIBE, ""))
        fix = f"Fix: {advice.fix}" if advice.fix else "There is nothing to fix."
        yield f"\nLook closer: `{advice.look}`\n\n{paragraph(fix)}\n"


class _Occurrence(NamedTuple):
    reason: str
    meaning: str
    kind: str
    state: str


def _places(occurrences: Sequence[_Occurrence]) -> str:
    """Return the kinds and states with one meaning, such as ``ModelDeployment `Ready=False`, `Stalled=True` ``."""
    kinds = dict.fromkeys(each.kind for each in occurrences)
    return ", ".join(
        f"{kind} {', '.join(f'`{each.state}`' for each in occurrences if each.kind == kind)}" for kind in kinds
    )


def _occurrences() -> Iterator[_Occurrence]:
    for kind, conditions in (("ModelDeployment", MODEL_DEPLOYMENT_CONDITIONS), ("Experiment", EXPERIMENT_CONDITIONS)):
        for condition in conditions:
            for each in condition.reasons:
                yield _Occurrence(each.reason, each.meaning, kind, f"{condition.type}={each.truth}")
    for each in START_FAILURE_REASONS:
        yield _Occurrence(each.reason, each.meaning, "[Start failure](#why-a-revision-did-not-start)", each.truth)
    for each in PAUSE_REASONS:
        yield _Occurrence(each.reason, each.meaning, "[Paused](#why-a-rollout-is-paused)", each.truth)
    for each in EVENTS:
        yield _Occurrence(each.reason, each.meaning, "Event", each.truth)
