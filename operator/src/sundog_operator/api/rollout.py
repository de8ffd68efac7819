"""How a new revision takes over: `spec.rollout` of a ModelDeployment."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, model_validator

from sundog_operator.api.base import ApiBase
from sundog_operator.api.quantities import format_duration
from sundog_operator.api.scalars import (
    POSITIVE_DURATION_RULE,
    Alpha,
    Duration,
    HttpUrl,
    Integer,
    Items,
    Name,
    PercentText,
    PercentUpTo100Text,
)
from sundog_operator.api.schema.rules import ExpectedNoun, ListType, MessageValue, Rule, nonzero_rule

Strategy = Literal["canary", "blueGreen", "shadow", "recreate"]
Gate = Literal["evidence", "time", "manual"]
MetricName = Literal["errorRate", "latencyP50", "latencyP90", "latencyP95", "latencyP99"]
PartComparator = Literal["exact", "tolerance", "argmax"]
Comparator = Literal[PartComparator, "custom"]
Weight = Annotated[Integer, Field(ge=1, le=100)]
PositiveDuration = Annotated[Duration, POSITIVE_DURATION_RULE]

DEFAULT_GATE: Gate = "evidence"
DEFAULT_MIN_DURATION = timedelta(minutes=5)
DEFAULT_MAX_DURATION = timedelta(hours=24)
DEFAULT_ALPHA = 0.05

HeaderName = Annotated[
    str,
    Field(max_length=63, pattern=r"^[a-z0-9][-a-z0-9_]*$"),
    ExpectedNoun("a header name in lower case such as x-canary"),
]

StepHeaders = Annotated[
    dict[
        HeaderName,
        Annotated[
            str,
            Field(max_length=256, pattern=r"^[!-~]([ -~]*[!-~])?$"),
            ExpectedNoun("printable ASCII without blanks around it"),
        ],
    ],
    Field(min_length=1, max_length=8),
]
"""Headers by name, and the value that each has to have."""

JSON_PATH = r"^\$(\.[A-Za-z0-9_-]{1,63}|\[[0-9]{1,4}\]){1,8}$"
JSON_PATH_NOUN = "a JSON path such as $.user.id or $.rows[0].id, of at most 8 parts"


def set_fields(part: ApiBase, names: Sequence[str]) -> list[str]:
    """Which of these optional fields are set."""
    return [name for name in names if getattr(part, name) is not None]


def is_latency_metric(metric: str) -> bool:
    """Whether a metric of the edge is how long answers take."""
    return metric.startswith("latency")


class PerRequestUnit(ApiBase):
    """Each request is assigned on its own."""


class Unit(ApiBase):
    """What is assigned to an arm and stays there: at most one source; none means the request."""

    header: (
        Annotated[
            str,
            Field(max_length=63, pattern=r"^[A-Za-z0-9][-A-Za-z0-9_]*$"),
            ExpectedNoun("a header name such as x-user-id"),
        ]
        | None
    ) = Field(None, description="The request header that names the unit, such as x-user-id.")
    cookie: (
        Annotated[
            str,
            Field(max_length=63, pattern=r"^[A-Za-z0-9_-]+$"),
            ExpectedNoun("a cookie name of letters, digits, dashes and underscores"),
        ]
        | None
    ) = Field(None, description="The cookie that names the unit; the edge gives one to who has none.")
    json_path: (
        Annotated[
            str,
            Field(max_length=200, pattern=JSON_PATH),
            ExpectedNoun(JSON_PATH_NOUN),
        ]
        | None
    ) = Field(None, description="Where the unit is in the request's JSON body, such as $.user.id.")
    jwt_claim: (
        Annotated[
            str, Field(max_length=63, pattern=r"^[A-Za-z0-9_:-]+$"), ExpectedNoun("the name of a claim such as sub")
        ]
        | None
    ) = Field(
        None,
        description="The claim that names the unit, of a token that the edge has verified by endpoint.auth.jwt, which has to be set.",
    )
    request: PerRequestUnit | None = Field(None, description="Each request is a unit of its own; the default.")
    salt: Annotated[
        str,
        Field(max_length=63, pattern=r"^[A-Za-z0-9._-]*$"),
        ExpectedNoun("letters, digits, dots, dashes and underscores"),
    ] = Field(
        "",
        description="Fixes the assignment over several attempts; empty means a new one for each. That another Experiment or ModelDeployment"
        " of the namespace has the same one is told, as SaltReused of SpecAccepted.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=(
                "[has(self.header), has(self.cookie), has(self.jsonPath), has(self.jwtClaim), has(self.request)]"
                ".filter(x, x).size() <= 1"
            ),
            holds=lambda unit: len(set_fields(unit, ("header", "cookie", "json_path", "jwt_claim", "request"))) <= 1,
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


class PauseStep(ApiBase):
    """A stop between steps: until `resume` or `promote`, or for a duration."""

    duration: Duration | None = Field(None, description="How long to wait; without it, until a command.")


class ScaleStep(ApiBase):
    """Candidate replicas from this step on, whatever its weight needs beyond."""

    replicas: Annotated[Integer, Field(ge=1, le=1000)] | None = Field(None, description="So many.")
    percent: Annotated[Integer, Field(ge=1, le=100)] | None = Field(
        None, description="This percent of what the service needs, rounded up."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.replicas) != has(self.percent)",
            holds=lambda scale: (scale.replicas is None) != (scale.percent is None),
            message="exactly one of replicas and percent has to be given",
        ),
    )


_PLACE = r"\{\{ ?(namespace|service|revision|stableRevision|arm) ?\}\}"
_CHECKS_PACE = Rule(
    cel="!self.contains('d') && duration(self) >= duration('10s') && duration(self) <= duration('1h')",
    holds=lambda interval: timedelta(seconds=10) <= interval <= timedelta(hours=1),
    message="must be 10s to 1h",
)


class PrometheusQuery(ApiBase):
    """A number that is read from the administrator's Prometheus again and again."""

    query: Annotated[
        str,
        Field(min_length=1, max_length=4096, pattern=rf"^([^{{]|\{{[^{{]|{_PLACE})*\{{?$"),
        ExpectedNoun(
            "PromQL in which {{namespace}}, {{service}}, {{revision}}, {{stableRevision}} and {{arm}} alone stand in double braces"
        ),
    ] = Field(
        description="PromQL that gives one number. In it {{namespace}}, {{service}}, {{revision}}, {{stableRevision}} and {{arm}}"
        " stand for those of the candidate.",
    )
    interval: Annotated[Duration, _CHECKS_PACE] = Field(
        timedelta(minutes=1), description="Between two checks, 10s to 1h."
    )
    failure_limit: Annotated[Integer, Field(ge=1, le=100)] = Field(
        3, description="So many checks in a row outside of the threshold roll back."
    )
    inconclusive_limit: Annotated[Integer, Field(ge=1, le=100)] = Field(
        5, description="So many checks in a row without a number are Inconclusive, and onInconclusive follows."
    )


class Threshold(ApiBase):
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


class Analysis(ApiBase):
    """A number that has to be good before the next step."""

    name: Name = Field(description="Names it in status.")
    prometheus: PrometheusQuery = Field(description="A number read from Prometheus.")
    threshold: Threshold = Field(description="What that number may be.")
    count: Annotated[Integer, Field(ge=1, le=100)] = Field(
        1, description="The step ends after so many checks within the threshold."
    )


AT_MOST_AN_HOUR_RULE = Rule(
    cel="self.contains('d') ? !self.matches('[1-9]') : duration(self) <= duration('1h')",
    holds=lambda timeout: timeout <= timedelta(hours=1),
    message="must be at most an hour",
)


class WebhookStep(ApiBase):
    """A service that has to confirm before the next step."""

    url: HttpUrl = Field(
        description="Where to ask, by POST. What is told of it elsewhere is without user, password and query."
    )
    type: Literal["confirm"] = Field(
        "confirm",
        description="confirm: the step ends once the answer is 200, 201 or 202; after any other it is asked again.",
    )
    timeout: Annotated[PositiveDuration, AT_MOST_AN_HOUR_RULE] = Field(
        timedelta(seconds=10), description="How long one call may take, at most an hour. Nothing else waits for it."
    )


ToleranceValue = Annotated[float, Field(ge=0)]
AnswerPath = Annotated[str, Field(max_length=200, pattern=JSON_PATH), ExpectedNoun(JSON_PATH_NOUN)]

TOLERANCE_RULE = Rule(
    cel="self.by == 'tolerance' || self.atol == 0.0 && self.rtol == 0.0",
    holds=lambda compared: compared.by == "tolerance" or not (compared.atol or compared.rtol),
    message="atol and rtol go with by: tolerance only",
)


class ComparedPart(ApiBase):
    """A part of the answer, and when it agrees."""

    path: AnswerPath = Field(description="Where it is in the answer, such as $.outputs[0].data.")
    by: PartComparator = Field("exact", description="exact, tolerance or argmax, as agreement.by.")
    atol: ToleranceValue = Field(0.0, description="With tolerance, how far numbers may differ.")
    rtol: ToleranceValue = Field(0.0, description="With tolerance, the same as a share of stable's number.")

    rules: ClassVar[tuple[Rule, ...]] = (TOLERANCE_RULE,)


class Agreement(ApiBase):
    """How often the answers of both revisions have to agree."""

    min: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="The least share of answers that agree, between 0 and 1, such as 0.995."
    )
    by: Comparator = Field(
        "exact",
        description="exact: equal as JSON, whatever the order of members. tolerance: numbers within atol + rtol of stable's, all else"
        " equal."
        " argmax: in each row of numbers the largest is in the same place. custom: every one of parts agrees, each in its own way.",
    )
    atol: ToleranceValue = Field(0.0, description="With tolerance, how far numbers may differ.")
    rtol: ToleranceValue = Field(0.0, description="With tolerance, the same as a share of stable's number.")
    path: AnswerPath | None = Field(
        None,
        description="The part of the answer that is compared, such as $.outputs[0].data; all of it where it is left out.",
    )
    parts: (
        Annotated[
            Items[Annotated[ComparedPart, ExpectedNoun("a part such as {path: $.outputs[0].data, by: argmax}")]],
            Field(min_length=1, max_length=8),
        ]
        | None
    ) = Field(None, description="With custom, the parts that are compared. What is in none of them may differ.")

    rules: ClassVar[tuple[Rule, ...]] = (
        TOLERANCE_RULE,
        Rule(
            cel="(self.by == 'custom') == has(self.parts)",
            holds=lambda agreement: (agreement.by == "custom") == (agreement.parts is not None),
            message="by: custom needs parts, which go with it only",
        ),
        Rule(
            cel="self.by != 'custom' || !has(self.path)",
            holds=lambda agreement: agreement.by != "custom" or agreement.path is None,
            message="with by: custom each of parts has a path of its own",
        ),
    )


LatencyMargin = Annotated[
    PercentText,
    nonzero_rule("0% would let no candidate pass that is just as good as stable"),
]


class LatencyComparison(ApiBase):
    """How much longer the slowest answers to copies may take."""

    margin: LatencyMargin = Field("10%", description="In percent of stable.")


class ShadowComparisonSpec(ApiBase):
    """What a shadow is compared by."""

    agreement: Agreement | None = Field(None, description="How often the answers have to agree.")
    latency_p99: LatencyComparison | None = Field(
        None,
        description="How much longer the candidate's p99 may be than stable's to the same requests. The step waits until that is known,"
        " with the mirror's own time in it; nothing is rolled back for it.",
    )


class Shadow(ApiBase):
    """The candidate gets copies of requests; its answers are compared and thrown away."""

    percent: Annotated[Integer, Field(ge=1, le=100)] = Field(100, description="The share of requests that is copied.")
    compare: ShadowComparisonSpec = Field(ShadowComparisonSpec(), description="What is compared.")
    min_samples: Annotated[Integer, Field(ge=1, le=10_000_000)] = Field(
        2000, description="How many pairs it takes at least."
    )
    max_duration: PositiveDuration = Field(
        DEFAULT_MAX_DURATION,
        description="How long it may take before onInconclusive follows. With strategy: shadow the last one lasts as long, whatever is"
        " known before, unless the candidate is rolled back.",
    )


_SECOND = timedelta(seconds=1)


def _seconds_of(field: str, default: timedelta) -> str:
    """CEL for the whole seconds of an optional duration of a step. CEL knows no days, which stand alone."""
    text = f"(has(self.{field}) ? self.{field} : '{format_duration(default)}')"
    return f"({text}.contains('d') ? int({text}.split('d')[0]) * 86400 : duration({text}).getSeconds())"


def _has_time_to_end(step: "Step") -> bool:
    least, most = step.min_duration, step.max_duration
    if step.weight is None or step.gate != "evidence" or least is None or not most:
        return True
    return least // _SECOND <= most // _SECOND


SHADOW_TIME_RULE = Rule(
    cel=(
        "!has(self.weight) || has(self.gate) && self.gate != 'evidence'"
        " || has(self.maxDuration) && !self.maxDuration.matches('[1-9]')"
        f" || {_seconds_of('minDuration', DEFAULT_MIN_DURATION)} <= {_seconds_of('maxDuration', DEFAULT_MAX_DURATION)}"
    ),
    holds=_has_time_to_end,
    message="{minDuration} is greater than maxDuration, {maxDuration}",
    field="minDuration",
    absent=(
        ("minDuration", format_duration(DEFAULT_MIN_DURATION)),
        ("maxDuration", format_duration(DEFAULT_MAX_DURATION)),
    ),
)
"""A gate of evidence stays shut for as long as minDuration, and is given up after maxDuration."""


STEP_KINDS = ("weight", "pause", "headers", "scale", "analysis", "webhook", "shadow")


class Step(ApiBase):
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
    pause: PauseStep | None = Field(None, description="Wait for a command or for a duration.")
    headers: StepHeaders | None = Field(
        None,
        description="Requests with all of these headers, names in lower case and values exactly so, go to the candidate, until the next"
        " step with headers or a weight begins. They are no evidence. The step ends once every edge does so.",
    )
    scale: ScaleStep | None = Field(
        None,
        description="From here on the candidate has at least these replicas, and never more than the service needs; the step ends once"
        " they are ready.",
    )
    analysis: Analysis | None = Field(
        None, description="Read a number from Prometheus, at the weight before it, until it was good often enough."
    )
    webhook: WebhookStep | None = Field(
        None, description="Ask a service, at the weight before it, until it confirms or a command passes the step."
    )
    shadow: Shadow | None = Field(None, description="Copy requests to the candidate and compare.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"[{', '.join(f'has(self.{kind})' for kind in STEP_KINDS)}].filter(x, x).size() == 1",
            holds=lambda step: len(set_fields(step, STEP_KINDS)) == 1,
            message="exactly one of weight, pause, headers, scale, analysis, webhook and shadow has to be given",
        ),
        Rule(
            cel="has(self.weight) || !(has(self.gate) || has(self.minDuration) || has(self.maxDuration))",
            holds=lambda step: (
                step.weight is not None or not set_fields(step, ("gate", "min_duration", "max_duration"))
            ),
            message="gate, minDuration and maxDuration go with weight only",
        ),
        SHADOW_TIME_RULE,
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


GuardrailMaximum = Annotated[
    str,
    Field(max_length=16, pattern=r"^([0-9]{1,2}(\.[0-9]{1,4})?%|100%|[0-9]{1,6}(us|ms|s|m))$"),
    ExpectedNoun("a percentage such as 2% or a duration such as 500ms"),
    nonzero_rule("0 would let no candidate pass"),
]


def _ceiling_fits(guardrail: "MetricGuardrail") -> bool:
    if guardrail.max is None or guardrail.metric is None:
        return True
    return guardrail.max.endswith("%") == (guardrail.metric == "errorRate")


MAX_FITS_METRIC_RULE = Rule(
    cel="!has(self.metric) || !has(self.max) || self.max.endsWith('%') == (self.metric == 'errorRate')",
    holds=_ceiling_fits,
    message="errorRate has a percentage for max, a latency has a duration",
    field="max",
)


class MetricGuardrail(ApiBase):
    """How much worse than stable a metric may be."""

    metric: MetricName | None = Field(None, description="A metric that the edge measures.")
    margin: LatencyMargin | None = Field(
        None,
        description="How much worse than stable the candidate may be, in percent of stable; default 25% for errorRate, 10% for"
        " latencies, of which a margin is a millisecond at least.",
    )
    floor: PercentUpTo100Text | None = Field(
        None,
        description="A gate also passes if no more than this share of requests fail, or take long, above stable's; default for errorRate"
        " 0.5%, below 50 requests a second 1%, for a latency a tenth of what is long by its name. It never excuses harm.",
    )
    max: GuardrailMaximum | None = Field(
        None,
        description="An absolute ceiling: 2% for errorRate, 500ms for a latency. No gate passes what is not known to be below it.",
    )


class RolloutGuardrail(MetricGuardrail):
    """A metric of the edge, or a Prometheus query with a threshold."""

    enabled: bool = Field(
        True,
        description="false leaves a latency out, also where it would be looked at for harm by default. Errors are always looked at.",
    )
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
            holds=lambda guardrail: (
                guardrail.prometheus is None or len(set_fields(guardrail, ("name", "threshold"))) == 2
            ),
            message="prometheus needs a name and a threshold",
        ),
        Rule(
            cel="has(self.prometheus) || !has(self.name) && !has(self.threshold)",
            holds=lambda guardrail: (
                guardrail.prometheus is not None or not set_fields(guardrail, ("name", "threshold"))
            ),
            message="name and threshold go with prometheus only",
        ),
        Rule(
            cel="has(self.metric) || !has(self.margin) && !has(self.floor) && !has(self.max)",
            holds=lambda guardrail: (
                guardrail.metric is not None or not set_fields(guardrail, ("margin", "floor", "max"))
            ),
            message="margin, floor and max go with metric only",
        ),
        Rule(
            cel="!has(self.enabled) || self.enabled || has(self.metric) && self.metric.startsWith('latency')"
            " && !has(self.margin) && !has(self.floor) && !has(self.max)",
            holds=lambda guardrail: guardrail.enabled or _is_only_a_latency(guardrail),
            message="enabled: false goes with a latency alone, without margin, floor and max",
        ),
        MAX_FITS_METRIC_RULE,
    )


def _is_only_a_latency(guardrail: RolloutGuardrail) -> bool:
    return is_latency_metric(guardrail.metric or "") and not set_fields(guardrail, ("margin", "floor", "max"))


class RolloutWarmup(ApiBase):
    """The first part of each weight, which is no evidence: it ends with whichever comes first. 0 of either means no warm-up."""

    requests: Annotated[Integer, Field(ge=0, le=1_000_000)] = Field(
        200, description="It ends after so many requests of the candidate."
    )
    duration: Duration = Field(timedelta(seconds=60), description="It ends after so long.")


class Bake(ApiBase):
    """What follows the last step: the old revision keeps a share and is compared still."""

    duration: PositiveDuration = Field(
        timedelta(minutes=30), description="How long, from when all edges have that split in force; pauses left aside."
    )
    holdback: Annotated[
        str, Field(max_length=12, pattern=r"^([1-9]|[1-4][0-9])%$"), ExpectedNoun("a whole percentage from 1% to 49%")
    ] = Field("1%", description="The share that the old revision keeps; the weight of each step is below the rest.")

    @property
    def weight(self) -> int:
        """The percent of the traffic that the candidate has."""
        return 100 - int(self.holdback.removesuffix("%"))


class KeepPrevious(ApiBase):
    """Revisions that were stable and stay warm after a promotion, to go back to at once."""

    revisions: Annotated[Integer, Field(ge=0, le=5)] = Field(
        1, description="How many of status.stableBefore, the newest first."
    )
    replicas: Annotated[Integer, Field(ge=0, le=1000)] = Field(1, description="Replicas of each; 0 keeps none.")
    for_: Duration = Field(timedelta(hours=1), alias="for", description="How long after it lost its traffic.")


class RollbackWindow(ApiBase):
    """Revisions that were stable and may return without steps."""

    revisions: Annotated[Integer, Field(ge=0, le=20)] = Field(
        3, description="How many of status.stableBefore, the newest first."
    )


class RolloutWindow(ApiBase):
    """When traffic may move forward."""

    cron: Annotated[
        str,
        Field(max_length=128, pattern=r"^[-0-9A-Za-z*/,]+( [-0-9A-Za-z*/,]+){4}$"),
        ExpectedNoun("a cron line of five fields such as 0 9 * * 1-5"),
    ] = Field(description="When it opens: minute, hour, day of the month, month and weekday.")
    duration: PositiveDuration = Field(description="How long it stays open, in hours that pass; 1m or more.")
    tz: Annotated[
        str,
        Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$"),
        ExpectedNoun("a time zone such as UTC or Europe/Prague"),
    ] = Field("UTC", description="The time zone of cron.")


NotificationEvent = Literal["started", "paused", "promoted", "aborted", "rolledBack"]


class NotificationReceiver(ApiBase):
    """An address that is told what happened."""

    webhook: HttpUrl = Field(description="Where to post. What is told of it elsewhere is its scheme and host.")
    events: Annotated[Items[NotificationEvent], Field(min_length=1, max_length=5), ListType("set")] = Field(
        ("paused", "promoted", "rolledBack"),
        description="What is told. paused: it stands still as `status.paused` of the Experiment says, or at a step that waits for promote.",
    )


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


def _metrics_differ(guardrails: Sequence[MetricGuardrail]) -> bool:
    metrics = [guardrail.metric for guardrail in guardrails if guardrail.metric is not None]
    return len(metrics) == len(set(metrics))


ONE_GUARDRAIL_PER_METRIC_RULE = Rule(
    cel="self.all(g, !has(g.metric) || self.filter(h, has(h.metric)).exists_one(h, h.metric == g.metric))",
    holds=_metrics_differ,
    message="a metric has more than one guardrail",
)


MAX_LATENCY_GUARDRAILS: Final = 3
"""Among the guardrails of one spec: edges count what takes long by so many times, each for itself."""


def _latencies_fit(guardrails: Sequence[MetricGuardrail]) -> bool:
    return sum(is_latency_metric(guardrail.metric or "") for guardrail in guardrails) <= MAX_LATENCY_GUARDRAILS


MAX_LATENCY_GUARDRAILS_RULE = Rule(
    cel=f"self.filter(g, has(g.metric) && g.metric.startsWith('latency')).size() <= {MAX_LATENCY_GUARDRAILS}",
    holds=_latencies_fit,
    message=f"more than {MAX_LATENCY_GUARDRAILS} latencies; edges count what takes long by so many at most",
)


def _names_differ(guardrails: Sequence[RolloutGuardrail]) -> bool:
    names = [guardrail.name for guardrail in guardrails if guardrail.name is not None]
    return len(names) == len(set(names))


UNIQUE_GUARDRAIL_NAMES_RULE = Rule(
    cel="self.all(g, !has(g.name) || self.filter(h, has(h.name)).exists_one(h, h.name == g.name))",
    holds=_names_differ,
    message="two guardrails have the same name",
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
