"""How a new revision takes over: `spec.rollout` of a ModelDeployment."""

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.defaults import PositiveDuration
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
_MOST_STEPS = 20
_INDEXES = f"[{', '.join(map(str, range(_MOST_STEPS)))}]"
"""CEL as every API server knows it has no index of a list's items."""


def _weights_rise(steps: tuple[Step, ...]) -> bool:
    weights = [step.weight for step in steps if step.weight is not None]
    return all(before < after for before, after in pairwise(weights))


def _falling_weights(steps: tuple[Step, ...]) -> str:
    """The first step whose weight is not above that of one before it, and the first such one."""
    weights = [(number, step.weight) for number, step in enumerate(steps, start=1) if step.weight is not None]
    pairs = ((late, early) for index, late in enumerate(weights) for early in weights[:index] if early[1] >= late[1])
    return next(f"step {late[0]} has {late[1]}, and step {early[0]} has {early[1]}" for late, early in pairs)


RISING_WEIGHTS_RULE = Rule(
    cel=(
        "self.filter(s, has(s.weight)).map(s, s.weight).isSorted()"
        " && self.all(s, !has(s.weight) || self.filter(t, has(t.weight)).exists_one(t, t.weight == s.weight))"
    ),
    holds=_weights_rise,
    message="the weights do not rise from step to step: {found}",
    found=(
        MessageValue(
            "found",
            cel=(
                f"{_INDEXES}.filter(l, l < self.size() && has(self[l].weight)).map(l,"
                f" {_INDEXES}.filter(e, e < l && has(self[e].weight) && self[e].weight >= self[l].weight)"
                ".map(e, 'step %d has %d, and step %d has %d'.format([l + 1, self[l].weight, e + 1, self[e].weight]))"
                ").filter(f, f.size() > 0)[0][0]"
            ),
            of=_falling_weights,
        ),
    ),
)


def _weights_are_below_the_bake(rollout: "Rollout") -> bool:
    return rollout.bake is None or all((step.weight or 0) < rollout.bake.weight for step in rollout.steps)


_HELD_BACK = ", ".join(f"'{share}%': {share}" for share in range(1, 50))
"""CEL as every API server knows it cannot cut the % off."""
STEPS_BELOW_BAKE_RULE = Rule(
    cel=(
        "!has(self.bake) || !has(self.steps)"
        f" || self.steps.all(s, !has(s.weight) || s.weight + {{{_HELD_BACK}}}[self.bake.holdback] < 100)"
    ),
    holds=_weights_are_below_the_bake,
    message="a weight leaves stable no more than bake.holdback; leave that step out, for the bake follows the last one",
    field="steps",
)


def _gives_no_traffic(rollout: "Rollout") -> bool:
    return rollout.strategy != "shadow" or all(step.weight is None and step.headers is None for step in rollout.steps)


def _copies_something(rollout: "Rollout") -> bool:
    return rollout.strategy != "shadow" or not rollout.steps or any(step.shadow is not None for step in rollout.steps)


def _judges_by_copies(rollout: "Rollout") -> bool:
    return rollout.strategy != "shadow" or not rollout.guardrails or rollout.bake is not None


def _holds_back_what_moves_by_steps(rollout: "Rollout") -> bool:
    return rollout.strategy != "recreate" or rollout.bake is None


def _stops_short(step: Step) -> bool:
    """Whether a step gives the candidate a part of the traffic, or waits for a person."""
    waits = step.gate == "manual" or (step.pause is not None and step.pause.duration is None)
    return waits or (step.weight is not None and step.weight < 100)


def _decides_before_all_traffic(rollout: "Rollout") -> bool:
    """A list that only copies is told of by another rule."""
    if rollout.strategy != "canary" or not rollout.steps or any(step.shadow is not None for step in rollout.steps):
        return True
    return any(_stops_short(step) for step in rollout.steps)


def _copies_before_traffic(rollout: "Rollout") -> bool:
    if rollout.strategy != "canary" or all(step.shadow is None for step in rollout.steps):
        return True
    return any(_stops_short(step) for step in rollout.steps)


def _whole_weight(rollout: "Rollout") -> str:
    """Which of steps that do not stop short has a weight, which then is all traffic."""
    numbers = [number for number, step in enumerate(rollout.steps, start=1) if step.weight is not None]
    return f"step {numbers[0]} has weight 100" if numbers else "no step has a weight"


_WHOLE_WEIGHT = (
    "self.steps.exists(s, has(s.weight)) ?"
    f" 'step %d has weight 100'.format([{_INDEXES}.filter(i, i < self.steps.size() && has(self.steps[i].weight))[0] + 1])"
    " : 'no step has a weight'"
)
_STOPS_SHORT = (
    "self.steps.exists(s, has(s.weight) && s.weight < 100 || has(s.gate) && s.gate == 'manual'"
    " || has(s.pause) && !has(s.pause.duration))"
)
_CANARY_WITH_STEPS = "self.strategy == 'canary' && has(self.steps) && self.steps.size() > 0"
_COPIES = "self.steps.exists(s, has(s.shadow))"
CAPACITY_IN_PLACE: Final = "inPlace"


def _in_place(cel: str, holds: Callable[["Rollout"], bool], message: str, field: str) -> Rule:
    """A rule of rollouts in which the candidate's replicas take the place of stable's."""
    return Rule(
        cel=f"self.capacity != '{CAPACITY_IN_PLACE}' || {cel}",
        holds=lambda rollout: rollout.capacity != CAPACITY_IN_PLACE or holds(rollout),
        message=message,
        field=field,
    )


IN_PLACE_RULES = (
    _in_place(
        "self.strategy == 'canary'",
        lambda rollout: rollout.strategy == "canary",
        "inPlace goes with strategy: canary, which moves traffic bit by bit; leave it at auto",
        "capacity",
    ),
    _in_place(
        "!has(self.steps) || self.steps.all(s, !has(s.scale) && !has(s.shadow))",
        lambda rollout: all(step.scale is None and step.shadow is None for step in rollout.steps),
        "with capacity: inPlace replicas follow the weights: no step can be a scale or a shadow",
        "steps",
    ),
    _in_place(
        "!has(self.bake)",
        lambda rollout: rollout.bake is None,
        "with capacity: inPlace stable has one replica left at its end, too few to go back to; leave it out",
        "bake",
    ),
    _in_place(
        "!has(self.keepPrevious)",
        lambda rollout: rollout.keep_previous is None,
        "with capacity: inPlace the new revision needs what a revision that is kept would have; leave it out",
        "keepPrevious",
    ),
    _in_place(
        "!has(self.windows) || self.windows.size() == 0",
        lambda rollout: not rollout.windows,
        "with capacity: inPlace stable would lack a replica until a window opens; leave them out",
        "windows",
    ),
)


class Rollout(ApiBase):
    """`{}` is a canary whose steps, margins and verdict come from evidence."""

    strategy: Strategy = Field(
        "canary",
        description="How a new revision takes over: canary by steps; shadow gets copies of requests and no traffic, and waits for"
        " promote, which leads to all traffic or to the bake; recreate replaces the old one without a comparison.",
    )
    paused: bool = Field(False, description="Holds this rollout where it is.")
    unit: Unit = Field(Unit(), description="What is assigned to a revision and stays there while weights rise.")
    steps: Annotated[
        Items[Annotated[Step, ExpectedNoun("a step such as {weight: 5}")]],
        Field(max_length=_MOST_STEPS),
        RISING_WEIGHTS_RULE,
    ] = Field(
        (),
        description="Steps up to 100 %, which is implied; one of them has a weight below that or waits for promote; none means gates of"
        " evidence at 25 and 50 %, from 50 requests a second on at 5, 25 and 50 %, from 1000 on at 1 % before them."
        " With strategy: shadow, copies until promote; none means one shadow.",
    )
    guardrails: Annotated[
        Items[RolloutGuardrail],
        Field(max_length=10),
        ONE_GUARDRAIL_PER_METRIC_RULE,
        MAX_LATENCY_GUARDRAILS_RULE,
        UNIQUE_GUARDRAIL_NAMES_RULE,
    ] = Field(
        (),
        description="What may not get worse; none means errorRate by 25% and latencyP95 by 25%, from 50 requests a second on"
        " latencyP99 by 10%. Metrics that are given replace these at gates; this latency is tested for harm alone then, also where"
        " the list has another latency, unless it is given with enabled: false. Queries of Prometheus are beside them."
        f" At most {MAX_LATENCY_GUARDRAILS} latencies. With strategy: shadow beside bake only.",
    )
    warmup: RolloutWarmup = Field(
        RolloutWarmup(), description="The first part of each weight, which is no evidence; the shorter of both."
    )
    capacity: Literal["auto", "surge", "inPlace"] = Field(
        "auto",
        description="surge adds the candidate's replicas to stable's, which keeps all of its own until the end; what finds no accelerators"
        " is not begun. inPlace takes them from stable, one after the other, and gives them back so. auto is inPlace where accelerators are"
        " short for surge and inPlace can work, else surge. Chosen once for each rollout.",
    )
    on_harm: Literal["rollback"] = Field(
        "rollback", description="What follows when the candidate does harm, also while paused: stable gets all traffic."
    )
    on_inconclusive: Literal["pause", "rollback", "promote"] = Field(
        "pause",
        description="What follows when evidence has not decided within maxDuration, or Prometheus gives no number: promote goes on"
        " without it, and voids what evidence promises.",
    )
    on_no_data: Literal["hold", "pause", "promote"] = Field(
        "hold",
        description="What follows when an arm has no requests: hold waits until maxDuration and then pauses, pause does so after"
        " minDuration; promote passes the step then, without evidence, and voids what evidence promises.",
    )
    on_new_revision: Literal["replaceCanary", "queue", "restart"] = Field(
        "replaceCanary",
        description="What follows when the spec makes another revision during a rollout: replaceCanary ends it and starts the new one"
        " in the candidate's place; restart ends it and starts the new one once the candidate's replicas are gone; queue lets it end,"
        " and then starts the newest one. Each begins at the first step with a plan of its own. What goes back waits for nothing.",
    )
    during_experiment: Literal["wait", "stop"] = Field(
        "wait", description="What a rollout does while an Experiment of a user runs."
    )
    progress_deadline: PositiveDuration = Field(
        timedelta(minutes=15),
        description="How long a revision may take to become ready, and a later step to get the replicas that it asks for.",
    )
    progress_deadline_action: Literal["rollback", "pause"] = Field(
        "rollback",
        description="What follows when a revision is not ready in time: rollback ends its rollout; pause tries it on, and no traffic moves"
        " before resume, which gives it its time anew. A first revision is tried on, likewise one by recreate without notify, which goes"
        " on by itself; an arm of an Experiment ends that.",
    )
    bake: Bake | None = Field(
        None,
        description="After the last step, with strategy: shadow after promote, the candidate has all traffic but a share that stable keeps;"
        " harm is looked for on, and only then it is promoted and the old revision goes. Left out means no bake.",
    )
    keep_previous: KeepPrevious | None = Field(
        None,
        description="Keep revisions warm that were stable; left out means they go once drained. They give way where a candidate finds"
        " no accelerators.",
    )
    rollback_window: RollbackWindow | None = Field(
        None,
        description="Which revisions that were stable may return without steps, by one switch to 100 % as soon as their replicas are"
        " ready; left out means none.",
    )
    alpha: Alpha = Field(
        DEFAULT_ALPHA,
        description="The most that the probability of an error may be, per rollout and direction: that gates of evidence promote a"
        " revision that is worse than its margin and by more than its floor, and that harm is seen in one within its margins. Shadow"
        " steps and traffic share the latter in equal parts.",
    )
    dry_run: bool = Field(
        False,
        description="Decide and report, move nothing: what would begin is told in the condition Progressing, no replica is started, and"
        " a rollout that is under way stands still. Harm, abort and rollback act all the same.",
    )
    windows: Annotated[Items[RolloutWindow], Field(max_length=16)] = Field(
        (),
        description="When traffic may move forward: within any of them; none means always. Outside, a rollout stands still, and that"
        " takes no time of maxDuration or progressDeadline; harm, abort, rollback and a return within rollbackWindow act at any time.",
    )
    notify: Annotated[Items[NotificationReceiver], Field(max_length=8)] = Field(
        (), description="Who is told what happens in a rollout, each once and in order."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        STEPS_BELOW_BAKE_RULE,
        *IN_PLACE_RULES,
        Rule(
            cel="self.strategy != 'shadow' || self.steps.all(s, !has(s.weight) && !has(s.headers))",
            holds=_gives_no_traffic,
            message="with strategy: shadow the candidate gets no traffic: no step can have a weight or headers",
            field="steps",
        ),
        Rule(
            cel="self.strategy != 'shadow' || self.steps.size() == 0 || self.steps.exists(s, has(s.shadow))",
            holds=_copies_something,
            message="with strategy: shadow one of the steps has to be a shadow; without steps every request is copied",
            field="steps",
        ),
        Rule(
            cel=f"!({_CANARY_WITH_STEPS}) || {_COPIES} || {_STOPS_SHORT}",
            holds=_decides_before_all_traffic,
            message="nothing stops all traffic from following at once, for {found}: one of the steps has to have a weight below 100, or to"
            " wait for promote, as gate: manual and a pause without duration do",
            field="steps",
            found=(MessageValue("found", _WHOLE_WEIGHT, _whole_weight),),
        ),
        Rule(
            cel=f"!({_CANARY_WITH_STEPS}) || !{_COPIES} || {_STOPS_SHORT}",
            holds=_copies_before_traffic,
            message="all traffic would follow on the copies at once: give a later step a weight below 100 or a pause without duration;"
            " with strategy: shadow the candidate waits for promote",
            field="steps",
        ),
        Rule(
            cel="self.strategy != 'shadow' || self.guardrails.size() == 0 || has(self.bake)",
            holds=_judges_by_copies,
            message="with strategy: shadow the candidate has no traffic to be judged by, but in a bake; its copies are, as compare says",
            field="guardrails",
        ),
        Rule(
            cel="self.strategy != 'recreate' || !has(self.bake)",
            holds=_holds_back_what_moves_by_steps,
            message="with strategy: recreate all traffic moves by one switch, and stable keeps no share to be compared with; leave it out,"
            " or take strategy: canary, which bakes after its last step",
            field="bake",
        ),
    )
