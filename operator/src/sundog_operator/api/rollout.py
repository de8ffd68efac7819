"""How a new revision takes over: `spec.rollout` of a ModelDeployment."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from sundog_operator.api.part import Part
from sundog_operator.api.rules import ListType, Noun, Rule
from sundog_operator.api.scalars import (
    POSITIVE,
    Alpha,
    Duration,
    HttpUrl,
    Integer,
    Items,
    Name,
    Percent,
    Share,
    Text,
)

Strategy = Literal["canary", "blueGreen", "shadow", "recreate"]
Gate = Literal["evidence", "time", "manual"]
MetricName = Literal["errorRate", "latencyP50", "latencyP90", "latencyP95", "latencyP99"]
Weight = Annotated[Integer, Field(ge=1, le=100)]
PositiveDuration = Annotated[Duration, POSITIVE]

DEFAULT_GATE: Gate = "evidence"
DEFAULT_MIN_DURATION = timedelta(minutes=5)
DEFAULT_MAX_DURATION = timedelta(hours=24)
DEFAULT_ALPHA = 0.05


def given(part: Part, names: Sequence[str]) -> list[str]:
    """Which of these optional fields are set."""
    return [name for name in names if getattr(part, name) is not None]


def is_latency(metric: str) -> bool:
    """Whether a metric of the edge is how long answers take."""
    return metric.startswith("latency")


class PerRequest(Part):
    """Each request is assigned on its own."""


class Unit(Part):
    """What is assigned to an arm and stays there: at most one source; none means the request."""

    header: (
        Annotated[
            str, Field(max_length=63, pattern=r"^[A-Za-z0-9][-A-Za-z0-9_]*$"), Noun("a header name such as x-user-id")
        ]
        | None
    ) = Field(None, description="The request header that names the unit, such as x-user-id.")
    cookie: (
        Annotated[
            str,
            Field(max_length=63, pattern=r"^[A-Za-z0-9_-]+$"),
            Noun("a cookie name of letters, digits, dashes and underscores"),
        ]
        | None
    ) = Field(None, description="The cookie that names the unit; the edge gives one to who has none.")
    json_path: (
        Annotated[
            str,
            Field(max_length=200, pattern=r"^\$(\.[A-Za-z0-9_-]{1,63}|\[[0-9]{1,4}\]){1,8}$"),
            Noun("a JSON path such as $.user.id or $.rows[0].id, of at most 8 parts"),
        ]
        | None
    ) = Field(None, description="Where the unit is in the request's JSON body, such as $.user.id.")
    jwt_claim: (
        Annotated[str, Field(max_length=128, pattern=r"^[^ ]+$"), Noun("the name of a claim such as sub")] | None
    ) = Field(None, description="The claim of a verified JWT that names the unit.")
    request: PerRequest | None = Field(None, description="Each request is a unit of its own; the default.")
    salt: Annotated[
        str, Field(max_length=63, pattern=r"^[A-Za-z0-9._-]*$"), Noun("letters, digits, dots, dashes and underscores")
    ] = Field("", description="Fixes the assignment over several attempts; empty means a new one for each.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=(
                "[has(self.header), has(self.cookie), has(self.jsonPath), has(self.jwtClaim), has(self.request)]"
                ".filter(x, x).size() <= 1"
            ),
            holds=lambda unit: len(given(unit, ("header", "cookie", "json_path", "jwt_claim", "request"))) <= 1,
            message="at most one of header, cookie, jsonPath, jwtClaim and request can be given",
        ),
    )

    @property
    def kind(self) -> Literal["header", "cookie", "jsonPath", "jwtClaim", "request"]:
        """Which source is in force."""
        if self.header is not None:
            return "header"
        if self.cookie is not None:
            return "cookie"
        if self.json_path is not None:
            return "jsonPath"
        return "jwtClaim" if self.jwt_claim is not None else "request"


class Pause(Part):
    """A stop between steps: until `resume` or `promote`, or for a duration."""

    duration: Duration | None = Field(None, description="How long to wait; without it, until a command.")


class Scale(Part):
    """A fixed number of candidate replicas from this step on."""

    replicas: Annotated[Integer, Field(ge=1, le=1000)] = Field(description="Candidate replicas from here on.")


class Analysis(Part):
    """A check that has to pass before the next step."""

    template: Name = Field(description="The name of the check.")
    success_condition: Text = Field("", description="What a good result is.")
    failure_condition: Text = Field("", description="What a bad result is.")
    count: Annotated[Integer, Field(ge=1, le=1000)] = Field(1, description="How many measurements.")
    interval: PositiveDuration = Field(timedelta(minutes=1), description="Between two measurements.")
    failure_limit: Annotated[Integer, Field(ge=0, le=1000)] = Field(0, description="How many may fail.")
    inconclusive_limit: Annotated[Integer, Field(ge=0, le=1000)] = Field(0, description="How many may be neither.")


AT_MOST_AN_HOUR = Rule(
    cel="self.contains('d') ? !self.matches('[1-9]') : duration(self) <= duration('1h')",
    holds=lambda timeout: timeout <= timedelta(hours=1),
    message="must be at most an hour",
)


class WebhookStep(Part):
    """A service that has to confirm before the next step."""

    url: HttpUrl = Field(
        description="Where to ask, by POST. What is told of it elsewhere is without user, password and query."
    )
    type: Literal["confirm"] = Field(
        "confirm",
        description="confirm: the step ends once the answer is 200, 201 or 202; after any other it is asked again.",
    )
    timeout: Annotated[PositiveDuration, AT_MOST_AN_HOUR] = Field(
        timedelta(seconds=10), description="How long one call may take, at most an hour. Nothing else waits for it."
    )


class Agreement(Part):
    """How often the answers of both revisions have to agree."""

    min: Annotated[float, Field(ge=0, le=1)] = Field(description="The least share of equal answers, 0 to 1.")


class LatencyComparison(Part):
    """How much slower the candidate may be."""

    margin: Percent = Field("10%", description="In percent of stable.")


class Comparison(Part):
    """What a shadow is compared by."""

    agreement: Agreement | None = Field(None, description="How often the answers have to agree.")
    latency_p99: LatencyComparison | None = Field(None, description="How much slower the candidate may be.")


class Shadow(Part):
    """The candidate gets copies of requests; its answers are compared and thrown away."""

    percent: Annotated[Integer, Field(ge=1, le=100)] = Field(100, description="The share of requests that is copied.")
    compare: Comparison = Field(Comparison(), description="What is compared.")
    min_samples: Annotated[Integer, Field(ge=1, le=10_000_000)] = Field(2000, description="How many pairs it takes.")


STEP_KINDS = ("weight", "pause", "headers", "scale", "analysis", "webhook", "shadow")


class Step(Part):
    """One step of a rollout: exactly one of weight, pause, headers, scale, analysis, webhook and shadow.

    A weight step that names no gate, minDuration or maxDuration has the defaults (evidence, 5m, 24h) once it is read.
    """

    weight: Weight | None = Field(None, description="The candidate's share of traffic in percent.")
    gate: Gate | None = Field(
        None,
        description="What lets a weight step end: evidence (default; at weight 100 none), time (minDuration) or manual (promote).",
    )
    min_duration: Duration | None = Field(
        None, description="How long a weight step lasts with gate time, and at least with evidence; default 5m."
    )
    max_duration: PositiveDuration | None = Field(
        None,
        description="With gate evidence: how long a weight step may take before onInconclusive follows; default 24h.",
    )
    pause: Pause | None = Field(None, description="Wait for a command or for a duration.")
    headers: (
        Annotated[
            dict[
                Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][-A-Za-z0-9_]*$"), Noun("a header name")],
                Annotated[str, Field(max_length=256)],
            ],
            Field(min_length=1, max_length=8),
        ]
        | None
    ) = Field(None, description="Requests with all of these headers go to the candidate.")
    scale: Scale | None = Field(None, description="Fix the candidate's replicas.")
    analysis: Analysis | None = Field(None, description="Run a check.")
    webhook: WebhookStep | None = Field(
        None, description="Ask a service, at the weight before it, until it confirms or a command passes the step."
    )
    shadow: Shadow | None = Field(None, description="Copy requests to the candidate and compare.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"[{', '.join(f'has(self.{kind})' for kind in STEP_KINDS)}].filter(x, x).size() == 1",
            holds=lambda step: len(given(step, STEP_KINDS)) == 1,
            message="exactly one of weight, pause, headers, scale, analysis, webhook and shadow has to be given",
        ),
        Rule(
            cel="has(self.weight) || !(has(self.gate) || has(self.minDuration) || has(self.maxDuration))",
            holds=lambda step: step.weight is not None or not given(step, ("gate", "min_duration", "max_duration")),
            message="gate, minDuration and maxDuration go with weight only",
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _default_gate(cls, value: Any) -> Any:
        # The schema cannot say this: a default of `gate` there would reach pause steps too.
        if not isinstance(value, dict) or value.get("weight") is None:
            return value
        filled = dict(value)
        for alias, name, default in (
            ("gate", "gate", DEFAULT_GATE),
            ("minDuration", "min_duration", DEFAULT_MIN_DURATION),
            ("maxDuration", "max_duration", DEFAULT_MAX_DURATION),
        ):
            if filled.get(alias) is None and filled.get(name) is None:
                filled[alias] = default
        return filled


class PrometheusQuery(Part):
    """A number read from Prometheus."""

    query: Annotated[str, Field(min_length=1, max_length=4096)] = Field(description="PromQL that gives one number.")


class Threshold(Part):
    """Limits of a number, inclusive."""

    min: float | None = Field(None, description="The least good value.")
    max: float | None = Field(None, description="The greatest good value.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.min) || has(self.max)",
            holds=lambda limits: limits.min is not None or limits.max is not None,
            message="min or max has to be given",
        ),
        Rule(
            cel="!has(self.min) || !has(self.max) || self.min <= self.max",
            holds=lambda limits: limits.min is None or limits.max is None or limits.min <= limits.max,
            message="min is greater than max",
        ),
    )


Ceiling = Annotated[
    str,
    Field(max_length=16, pattern=r"^([0-9]{1,2}(\.[0-9]{1,4})?%|100%|[0-9]{1,6}(us|ms|s|m))$"),
    Noun("a percentage such as 2% or a duration such as 500ms"),
    Rule(
        cel="self.matches('[1-9]')",
        holds=lambda ceiling: any(digit in ceiling for digit in "123456789"),
        message="0 would let no candidate pass",
    ),
]


def _ceiling_fits(guardrail: "MetricGuardrail") -> bool:
    if guardrail.max is None or guardrail.metric is None:
        return True
    return guardrail.max.endswith("%") == (guardrail.metric == "errorRate")


CEILING_FITS = Rule(
    cel="!has(self.metric) || !has(self.max) || self.max.endsWith('%') == (self.metric == 'errorRate')",
    holds=_ceiling_fits,
    message="errorRate has a percentage for max, a latency has a duration",
    field="max",
)


Margin = Annotated[
    Percent,
    Rule(
        cel="self.matches('[1-9]')",
        holds=lambda margin: any(digit in margin for digit in "123456789"),
        message="0% would let no candidate pass that is just as good as stable",
    ),
]


class MetricGuardrail(Part):
    """How much worse than stable a metric may be."""

    metric: MetricName | None = Field(None, description="A metric that the edge measures.")
    margin: Margin | None = Field(
        None,
        description="How much worse than stable the candidate may be, in percent of stable; default 25% for errorRate, 10% for"
        " latencies.",
    )
    floor: Share | None = Field(
        None,
        description="Of errorRate: a gate also passes if the candidate fails no more than this share of requests above stable's;"
        " default 0.5%, below 50 requests a second 1%. It never excuses harm.",
    )
    max: Ceiling | None = Field(
        None,
        description="An absolute ceiling: 2% for errorRate, 500ms for a latency. No gate passes what is not known to be below it.",
    )


class RolloutGuardrail(MetricGuardrail):
    """A metric of the edge, or a Prometheus query with a threshold."""

    name: Name | None = Field(None, description="Names a Prometheus guardrail.")
    prometheus: PrometheusQuery | None = Field(None, description="A number read from Prometheus.")
    threshold: Threshold | None = Field(None, description="What that number may be.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.metric) != has(self.prometheus)",
            holds=lambda guardrail: (guardrail.metric is None) != (guardrail.prometheus is None),
            message="exactly one of metric and prometheus has to be given",
        ),
        Rule(
            cel="!has(self.prometheus) || has(self.name) && has(self.threshold)",
            holds=lambda guardrail: guardrail.prometheus is None or len(given(guardrail, ("name", "threshold"))) == 2,
            message="prometheus needs a name and a threshold",
        ),
        Rule(
            cel="has(self.prometheus) || !has(self.name) && !has(self.threshold)",
            holds=lambda guardrail: guardrail.prometheus is not None or not given(guardrail, ("name", "threshold")),
            message="name and threshold go with prometheus only",
        ),
        Rule(
            cel="has(self.metric) || !has(self.margin) && !has(self.floor) && !has(self.max)",
            holds=lambda guardrail: guardrail.metric is not None or not given(guardrail, ("margin", "floor", "max")),
            message="margin, floor and max go with metric only",
        ),
        CEILING_FITS,
    )


class RolloutWarmup(Part):
    """The first part of each weight, which is no evidence: it ends with whichever comes first. 0 of either means no warm-up."""

    requests: Annotated[Integer, Field(ge=0, le=1_000_000)] = Field(
        200, description="It ends after so many requests of the candidate."
    )
    duration: Duration = Field(timedelta(seconds=60), description="It ends after so long.")


class Bake(Part):
    """What follows the last step: the old revision keeps a share and is compared still."""

    duration: Duration = Field(timedelta(minutes=30), description="How long.")
    holdback: Share = Field("1%", description="The share that the old revision keeps.")


class KeepPrevious(Part):
    """Revisions that were stable and stay warm after a promotion, to go back to at once."""

    revisions: Annotated[Integer, Field(ge=0, le=5)] = Field(
        1, description="How many of status.stableBefore, the newest first."
    )
    replicas: Annotated[Integer, Field(ge=0, le=1000)] = Field(1, description="Replicas of each; 0 keeps none.")
    for_: Duration = Field(timedelta(hours=1), alias="for", description="How long after it lost its traffic.")


class RollbackWindow(Part):
    """Revisions that were stable and may return without steps."""

    revisions: Annotated[Integer, Field(ge=0, le=20)] = Field(
        3, description="How many of status.stableBefore, the newest first."
    )


class Window(Part):
    """When traffic may move forward."""

    cron: Annotated[
        str,
        Field(max_length=128, pattern=r"^[-0-9A-Za-z*/,]+( [-0-9A-Za-z*/,]+){4}$"),
        Noun("a cron line of five fields such as 0 9 * * 1-5"),
    ] = Field(description="When it opens: minute, hour, day of the month, month and weekday.")
    duration: PositiveDuration = Field(description="How long it stays open, in hours that pass; 1m or more.")
    tz: Annotated[
        str,
        Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$"),
        Noun("a time zone such as UTC or Europe/Prague"),
    ] = Field("UTC", description="The time zone of cron.")


NoticeEvent = Literal["started", "paused", "promoted", "aborted", "rolledBack"]


class Notification(Part):
    """An address that is told what happened."""

    webhook: HttpUrl = Field(description="Where to post. What is told of it elsewhere is its scheme and host.")
    events: Annotated[Items[NoticeEvent], Field(min_length=1, max_length=5), ListType("set")] = Field(
        ("paused", "promoted", "rolledBack"),
        description="What is told. paused: it stands still as `status.paused` of the Experiment says, or at a step that waits for promote.",
    )


def _weights_rise(steps: tuple[Step, ...]) -> bool:
    weights = [step.weight for step in steps if step.weight is not None]
    return all(before < after for before, after in pairwise(weights))


RISING_WEIGHTS = Rule(
    cel=(
        "self.filter(s, has(s.weight)).map(s, s.weight).isSorted()"
        " && self.all(s, !has(s.weight) || self.filter(t, has(t.weight)).exists_one(t, t.weight == s.weight))"
    ),
    holds=_weights_rise,
    message="the weights do not rise from step to step",
)


def _metrics_differ(guardrails: Sequence[MetricGuardrail]) -> bool:
    metrics = [guardrail.metric for guardrail in guardrails if guardrail.metric is not None]
    return len(metrics) == len(set(metrics))


ONE_GUARDRAIL_PER_METRIC = Rule(
    cel="self.all(g, !has(g.metric) || self.filter(h, has(h.metric)).exists_one(h, h.metric == g.metric))",
    holds=_metrics_differ,
    message="a metric has more than one guardrail",
)


class Rollout(Part):
    """`{}` is a canary whose steps, margins and verdict come from evidence."""

    strategy: Strategy = Field(
        "canary", description="How a new revision takes over; recreate replaces the old one without a comparison."
    )
    paused: bool = Field(False, description="Holds this rollout where it is.")
    unit: Unit = Field(Unit(), description="What is assigned to a revision and stays there while weights rise.")
    steps: Annotated[
        Items[Annotated[Step, Noun("a step such as {weight: 5}")]], Field(max_length=20), RISING_WEIGHTS
    ] = Field(
        (),
        description="Steps up to 100 %, which is implied; none means gates of evidence at 25 and 50 %, from 50 requests a second on"
        " at 5, 25 and 50 %, from 1000 on at 1 % before them.",
    )
    guardrails: Annotated[Items[RolloutGuardrail], Field(max_length=10), ONE_GUARDRAIL_PER_METRIC] = Field(
        (),
        description="What may not get worse; none means errorRate by 25% and latencyP95 by 25%, from 50 requests a second on"
        " latencyP99 by 10%. Those that are given replace these. At most one latency.",
    )
    warmup: RolloutWarmup = Field(
        RolloutWarmup(), description="The first part of each weight, which is no evidence; the shorter of both."
    )
    capacity: Literal["auto", "surge", "inPlace"] = Field(
        "auto",
        description="surge adds the candidate's replicas, inPlace takes them from stable, auto looks at free GPUs.",
    )
    on_harm: Literal["rollback"] = Field(
        "rollback", description="What follows when the candidate does harm, also while paused: stable gets all traffic."
    )
    on_inconclusive: Literal["pause", "rollback", "promote"] = Field(
        "pause",
        description="What follows when evidence has not decided within maxDuration; promote passes the step without it, and voids"
        " what evidence promises.",
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
        timedelta(minutes=15), description="How long a revision may take to become ready."
    )
    progress_deadline_action: Literal["rollback"] = Field(
        "rollback", description="What follows when a revision is not ready in time."
    )
    bake: Bake | None = Field(None, description="Compare on after the last step; left out means no bake.")
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
        " revision worse than a margin, and that harm is seen in one within its margins.",
    )
    dry_run: bool = Field(
        False,
        description="Decide and report, move nothing: what would begin is told in the condition Progressing, no replica is started, and"
        " a rollout that is under way stands still. Harm, abort and rollback act all the same.",
    )
    windows: Annotated[Items[Window], Field(max_length=16)] = Field(
        (),
        description="When traffic may move forward: within any of them; none means always. Outside, a rollout stands still, and that"
        " takes no time of maxDuration or progressDeadline; harm, abort, rollback and a return within rollbackWindow act at any time.",
    )
    notify: Annotated[Items[Notification], Field(max_length=8)] = Field(
        (), description="Who is told what happens in a rollout, each once and in order."
    )
