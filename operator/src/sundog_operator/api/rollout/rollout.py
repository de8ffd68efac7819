"""`spec.rollout` of a ModelDeployment: how a new revision replaces the stable one."""

from datetime import timedelta
from itertools import pairwise
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.common import LONGEST_DEADLINE_RULE, PositiveDuration
from sundog_operator.api.rollout.guardrail_defaults import DEFAULT_GUARDRAILS_TEXT
from sundog_operator.api.rollout.guardrails import (
    MAX_LATENCY_GUARDRAILS,
    MAX_LATENCY_GUARDRAILS_RULE,
    ONE_GUARDRAIL_PER_METRIC_RULE,
    UNIQUE_GUARDRAIL_NAMES_RULE,
    RolloutGuardrail,
)
from sundog_operator.api.rollout.lifecycle import (
    Bake,
    KeepPrevious,
    NotificationReceiver,
    RollbackWindow,
    RolloutWarmup,
    RolloutWindow,
)
from sundog_operator.api.rollout.steps import Step
from sundog_operator.api.rollout.units import Unit
from sundog_operator.api.scalars import (
    Alpha,
    Items,
)
from sundog_operator.api.schema.rules import ExpectedNoun, MessageValue, Rule

Strategy = Literal["canary", "blueGreen", "shadow", "recreate"]
DEFAULT_ALPHA = 0.05
_MAX_STEPS = 20
_INDEXES = f"[{', '.join(map(str, range(_MAX_STEPS)))}]"
"""Indexes of the steps, because not every API server's CEL can enumerate a list."""


def _weights_rise(steps: tuple[Step, ...]) -> bool:
    weights = [step.weight for step in steps if step.weight is not None]
    return all(before < after for before, after in pairwise(weights))


def _describe_falling_weights(steps: tuple[Step, ...]) -> str:
    """Describe the first step whose weight is not above an earlier one, and that earlier step."""
    weights = [(number, step.weight) for number, step in enumerate(steps, start=1) if step.weight is not None]
    pairs = ((late, early) for index, late in enumerate(weights) for early in weights[:index] if early[1] >= late[1])
    return next(f"step {late[0]} has {late[1]}, but step {early[0]} has {early[1]}" for late, early in pairs)


RISING_WEIGHTS_RULE = Rule(
    cel=(
        "self.filter(s, has(s.weight)).map(s, s.weight).isSorted()"
        " && self.all(s, !has(s.weight) || self.filter(t, has(t.weight)).exists_one(t, t.weight == s.weight))"
    ),
    python=_weights_rise,
    message="weights do not rise: {found}; expected each weight above those before it",
    found=(
        MessageValue(
            "found",
            cel=(
                f"{_INDEXES}.filter(l, l < self.size() && has(self[l].weight)).map(l,"
                f" {_INDEXES}.filter(e, e < l && has(self[e].weight) && self[e].weight >= self[l].weight)"
                ".map(e, 'step %d has %d, but step %d has %d'.format([l + 1, self[l].weight, e + 1, self[e].weight]))"
                ").filter(f, f.size() > 0)[0][0]"
            ),
            of=_describe_falling_weights,
        ),
    ),
)


def _weights_are_below_the_bake(rollout: "Rollout") -> bool:
    return rollout.bake is None or all((step.weight or 0) < rollout.bake.weight for step in rollout.steps)


_HOLDBACK_PERCENTS = ", ".join(f"'{share}%': {share}" for share in range(1, 50))
"""Percents by text, because not every API server's CEL can remove the % sign."""
STEPS_BELOW_BAKE_RULE = Rule(
    cel=(
        "!has(self.bake) || !has(self.steps)"
        f" || self.steps.all(s, !has(s.weight) || s.weight + {{{_HOLDBACK_PERCENTS}}}[self.bake.holdback] < 100)"
    ),
    python=_weights_are_below_the_bake,
    message="weight leaves stable no more than bake.holdback; expected less. Remove that step, because the bake follows"
    " the last one",
    field="steps",
)


def _describe_full_weight(rollout: "Rollout") -> str:
    """Name the step with weight 100, in a list without a step that stops short."""
    numbers = [number for number, step in enumerate(rollout.steps, start=1) if step.weight is not None]
    return f"step {numbers[0]} has weight 100" if numbers else "no step has a weight"


_FULL_WEIGHT_CEL = (
    "self.steps.exists(s, has(s.weight)) ?"
    f" 'step %d has weight 100'.format([{_INDEXES}.filter(i, i < self.steps.size() && has(self.steps[i].weight))[0] + 1])"
    " : 'no step has a weight'"
)
_PARTIAL_OR_WAITING_STEP_CEL = (
    "self.steps.exists(s, has(s.weight) && s.weight < 100 || has(s.gate) && s.gate == 'manual'"
    " || has(s.pause) && !has(s.pause.duration))"
)
_CANARY_WITH_STEPS_CEL = "self.strategy == 'canary' && has(self.steps) && self.steps.size() > 0"
_SHADOW_STEP_CEL = "self.steps.exists(s, has(s.shadow))"
CAPACITY_IN_PLACE: Final = "inPlace"


def _make_in_place_rule(cel: str, message: str, field: str) -> Rule:
    """Make a rule for rollouts in which the canary's replicas replace stable's one by one."""
    return Rule(
        cel=f"self.capacity != '{CAPACITY_IN_PLACE}' || {cel}",
        message=message,
        field=field,
    )


IN_PLACE_RULES = (
    _make_in_place_rule(
        "self.strategy == 'canary'",
        "inPlace moves traffic in parts; expected strategy: canary. Otherwise use capacity: auto",
        "capacity",
    ),
    _make_in_place_rule(
        "!has(self.steps) || self.steps.all(s, !has(s.scale) && !has(s.shadow))",
        "scale or shadow step with capacity: inPlace; expected none, because replicas follow the weights",
        "steps",
    ),
    _make_in_place_rule(
        "!has(self.bake)",
        "bake with capacity: inPlace; expected none, because one replica of stable is too few for a rollback. Remove"
        " it",
        "bake",
    ),
    _make_in_place_rule(
        "!has(self.keepPrevious)",
        "keepPrevious with capacity: inPlace; expected none, because the new revision needs those accelerators."
        " Remove it",
        "keepPrevious",
    ),
    _make_in_place_rule(
        "!has(self.windows) || self.windows.size() == 0",
        "windows with capacity: inPlace; expected none, because stable would lack a replica until a window opens."
        " Remove them",
        "windows",
    ),
)


class Rollout(ApiBase):
    """How a new revision replaces the stable one. `{}` is a canary with default steps and margins, decided by evidence."""

    strategy: Strategy = Field(
        "canary",
        description="How a new revision takes over. canary (default): traffic moves in steps. shadow: the new revision gets copies of"
        " requests, and waits for promote; all traffic or the bake follows. recreate: it replaces the old one without"
        " a comparison.",
    )
    paused: bool = Field(False, description="Set true to hold this rollout where it is.")
    unit: Unit = Field(Unit(), description="What is assigned to a revision, and stays there while weights rise.")
    steps: Annotated[
        Items[Annotated[Step, ExpectedNoun("a step such as {weight: 5}")]],
        Field(max_length=_MAX_STEPS),
        RISING_WEIGHTS_RULE,
    ] = Field(
        (),
        description="Steps of the rollout; a last step at 100 % is implied. One must have a weight below 100 or wait for promote."
        " Default: evidence gates at 25 and 50 %, from 50 requests a second at 5, 25 and 50 %, from 1000 also at 1 %."
        " With strategy: shadow, steps that copy requests until promote; default one shadow.",
    )
    guardrails: Annotated[
        Items[RolloutGuardrail],
        Field(max_length=10),
        ONE_GUARDRAIL_PER_METRIC_RULE,
        MAX_LATENCY_GUARDRAILS_RULE,
        UNIQUE_GUARDRAIL_NAMES_RULE,
    ] = Field(
        (),
        description=f"Metrics that must not get worse. {DEFAULT_GUARDRAILS_TEXT}"
        " Metrics that you list replace these at gates. The default latency is still checked for harm,"
        " unless you list it with enabled: false. Outcomes and Prometheus guardrails are additional."
        f" At most {MAX_LATENCY_GUARDRAILS} latencies. With strategy: shadow only together with bake.",
    )
    warmup: RolloutWarmup = Field(
        RolloutWarmup(),
        description="The start of each weight, whose requests are no evidence; it ends when the first limit is reached.",
    )
    capacity: Literal["auto", "surge", "inPlace"] = Field(
        "auto",
        description="surge: the canary's replicas are added to stable's, which keeps its own until the end. The rollout starts"
        " only if accelerators and quotas suffice for them. inPlace: they replace stable's one by one, and are returned"
        " so. auto (default): inPlace if these are too few for surge and inPlace can work, else surge. Chosen once per"
        " rollout.",
    )
    on_harm: Literal["rollback"] = Field(
        "rollback", description="What happens when the canary does harm, also while paused: stable gets all traffic."
    )
    on_inconclusive: Literal["pause", "rollback", "promote"] = Field(
        "pause",
        description="What happens when evidence has not decided within maxDuration, or Prometheus gives no number; default pause. promote"
        " continues without evidence, and voids the guarantees of evidence.",
    )
    on_no_data: Literal["hold", "pause", "promote"] = Field(
        "hold",
        description="What happens when an arm has no requests. hold (default) waits until maxDuration, then pauses. pause does so after"
        " minDuration. promote passes the step then, without evidence, and voids the guarantees of evidence.",
    )
    on_new_revision: Literal["replaceCanary", "queue", "restart"] = Field(
        "replaceCanary",
        description="What happens when the spec makes another revision during a rollout. replaceCanary (default) ends the rollout and"
        " starts the new revision in its place. restart ends it and waits until the canary's replicas are gone. queue"
        " lets it end, then starts the newest revision. Each begins at the first step with its own plan. A rollback"
        " never waits.",
    )
    during_experiment: Literal["wait", "stop"] = Field(
        "wait", description="Whether a rollout waits for a user's running Experiment, or stops it; default wait."
    )
    progress_deadline: Annotated[PositiveDuration, LONGEST_DEADLINE_RULE] = Field(
        timedelta(minutes=15),
        description="Time for a revision to become ready, and for a later step to get its replicas; default 15m, at most 7d.",
    )
    progress_deadline_action: Literal["rollback", "pause"] = Field(
        "rollback",
        description="What happens when a revision is not ready in time. rollback (default) ends the rollout. pause retries, and traffic"
        " waits for resume, which restarts the deadline. A first revision is retried, likewise one by recreate"
        " without notify, which then proceeds; an Experiment ends if one of its arms fails so.",
    )
    bake: Bake | None = Field(
        None,
        description="A period after the last step, or after promote with strategy: shadow. The canary has all traffic except a"
        " share that stable keeps. If no harm is found, it is promoted and the old revision is removed. Default: no"
        " bake.",
    )
    keep_previous: KeepPrevious | None = Field(
        None,
        description="Former stable revisions to keep warm. Default: they are removed once drained. They also give way if a canary"
        " finds no accelerators.",
    )
    rollback_window: RollbackWindow | None = Field(
        None,
        description="Former stable revisions that may return without steps: at 100 % as soon as their replicas are ready."
        " Default: none.",
    )
    alpha: Alpha = Field(
        DEFAULT_ALPHA,
        description="Maximum probability of an error, per rollout and direction; default 0.05. The errors: gates promote a"
        " revision that is worse than its margin and floor, or harm is found in one within its margins. Shadow steps"
        " and traffic share the latter equally.",
    )
    dry_run: bool = Field(
        False,
        description="Set true to decide and report, but change nothing. The condition Progressing shows what would start, no"
        " replica starts, and a running rollout holds. Harm, abort and rollback still act.",
    )
    windows: Annotated[Items[RolloutWindow], Field(max_length=16)] = Field(
        (),
        description="Periods in which traffic may advance; default always. Outside of them a rollout holds, and maxDuration and"
        " progressDeadline do not count. Harm, abort, rollback and a return by rollbackWindow act at any time.",
    )
    notify: Annotated[Items[NotificationReceiver], Field(max_length=8)] = Field(
        (), description="Webhooks that are notified of the rollout's events, each once and in order."
    )

    @property
    def has_outcomes(self) -> bool:
        """Whether any guardrail is an outcome from feedback."""
        return any(guardrail.feedback is not None for guardrail in self.guardrails)

    rules: ClassVar[tuple[Rule, ...]] = (
        STEPS_BELOW_BAKE_RULE,
        *IN_PLACE_RULES,
        Rule(
            cel="self.strategy != 'shadow' || self.steps.all(s, !has(s.weight) && !has(s.headers))",
            message="step with weight or headers; expected none with strategy: shadow, because the new revision gets no traffic",
            field="steps",
        ),
        Rule(
            cel="self.strategy != 'shadow' || self.steps.size() == 0 || self.steps.exists(s, has(s.shadow))",
            message="no shadow step; expected one with strategy: shadow. Without steps every request is copied",
            field="steps",
        ),
        Rule(
            cel=f"!({_CANARY_WITH_STEPS_CEL}) || {_SHADOW_STEP_CEL} || {_PARTIAL_OR_WAITING_STEP_CEL}",
            message="all traffic would follow at once, because {found}; expected a step with a weight below 100, or one that"
            " waits for promote: gate: manual or a pause without duration",
            field="steps",
            found=(MessageValue("found", _FULL_WEIGHT_CEL, _describe_full_weight),),
        ),
        Rule(
            cel=f"!({_CANARY_WITH_STEPS_CEL}) || !{_SHADOW_STEP_CEL} || {_PARTIAL_OR_WAITING_STEP_CEL}",
            message="all traffic would follow the copies at once; expected a later step with a weight below 100 or a pause"
            " without duration. Or use strategy: shadow, which waits for promote",
            field="steps",
        ),
        Rule(
            cel="self.strategy != 'shadow' || self.guardrails.size() == 0 || has(self.bake)",
            message="guardrails with strategy: shadow and no bake; expected none, because the new revision has no traffic. Use"
            " compare of the shadow step",
            field="guardrails",
        ),
        Rule(
            cel="self.guardrails.all(g, !has(g.feedback)) || self.strategy == 'canary' && (!has(self.steps) || self.steps.size() == 0"
            " || self.steps.exists(s, has(s.weight) && s.weight < 100 && (!has(s.gate) || s.gate == 'evidence')))",
            message="feedback without a step that waits for it; expected strategy: canary with a weight below 100 and gate:"
            " evidence, which is the default",
            field="guardrails",
        ),
        Rule(
            cel="self.strategy != 'recreate' || !has(self.bake)",
            message="bake with strategy: recreate; expected none, because all traffic moves at once and stable keeps no share."
            " Remove it, or use strategy: canary",
            field="bake",
        ),
    )
