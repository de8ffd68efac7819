"""Guardrails: metrics that a canary must not make worse."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.checks import PrometheusQuery, Threshold
from sundog_operator.api.rollout.guardrail_defaults import (
    FLOOR_TEXT,
    LATENCY_MARGIN_TEXT,
    LEAST_MARGIN_TEXT,
    OUTCOME_MARGIN_TEXT,
    MetricName,
)
from sundog_operator.api.rollout.outcomes import (
    CAP_TEXT,
    RESERVED_METRIC_NAMES_CEL,
    TYPE_TEXT,
    Cap,
    FeedbackName,
    OutcomeGoal,
    OutcomeType,
)
from sundog_operator.api.rollout.shadow import LatencyMargin
from sundog_operator.api.scalars import (
    Name,
    PercentUpTo100Text,
)
from sundog_operator.api.schema.rules import ExpectedNoun, Rule, nonzero_rule, unique_rule

GuardrailMaximum = Annotated[
    str,
    Field(max_length=16, pattern=r"^([0-9]{1,2}(\.[0-9]{1,4})?%|100%|[0-9]{1,6}(us|ms|s|m))$"),
    ExpectedNoun("a percentage such as 2% or a duration such as 500ms"),
    nonzero_rule("0 lets no canary pass; expected more than 0"),
]


MAX_FITS_METRIC_RULE = Rule(
    cel="!has(self.metric) || !has(self.max) || self.max.endsWith('%') == (self.metric == 'errorRate')",
    message="unit does not fit the metric; expected a percentage for errorRate, a duration for a latency",
    field="max",
)


class MetricGuardrail(ApiBase):
    """How much worse than stable a metric may be."""

    metric: MetricName | None = Field(None, description="A metric that the edge measures.")
    margin: LatencyMargin | None = Field(
        None,
        description=f"How much worse than stable the canary may be, in percent of stable. {LATENCY_MARGIN_TEXT}."
        f" {LEAST_MARGIN_TEXT}",
    )
    floor: PercentUpTo100Text | None = Field(
        None,
        description="A gate also passes if at most this share of requests more than stable's fail or are slow."
        f" {FLOOR_TEXT} It never excuses harm.",
    )
    max: GuardrailMaximum | None = Field(
        None,
        description="An absolute limit: 2% for errorRate, 500ms for a latency. A gate passes only if the metric is known to be"
        " below it.",
    )


class OutcomeGuardrail(MetricGuardrail):
    """A guardrail that may be an outcome from feedback."""

    name: Name | None = Field(None, description="Name of an outcome in status.")
    feedback: FeedbackName | None = Field(None, description="Name of an outcome's metric in the feedback API.")
    type: OutcomeType | None = Field(None, description="Type of an outcome.")
    goal: OutcomeGoal | None = Field(None, description="Of an outcome: which direction is better; default increase.")
    cap: Cap | None = Field(None, description=CAP_TEXT)


def _leaves_something(guardrail: OutcomeGuardrail) -> bool:
    if guardrail.feedback is None or guardrail.margin is None or guardrail.goal == "decrease":
        return True
    return float(guardrail.margin.removesuffix("%")) < 100


OUTCOME_GUARDRAIL_RULES = (
    Rule(
        cel="!has(self.feedback) || has(self.name)",
        message="feedback without name; expected both",
    ),
    Rule(
        cel="!has(self.feedback) || !has(self.margin) || has(self.goal) && self.goal == 'decrease'"
        " || double(self.margin.split('%')[0]) < 100.0",
        python=_leaves_something,
        message="100% or more below the baseline excludes nothing; expected less than 100%",
        field="margin",
    ),
    Rule(
        cel="!has(self.cap) || has(self.type) && self.type == 'mean'",
        message="cap without a mean; expected it only with type: mean",
        field="cap",
    ),
)


class RolloutGuardrail(OutcomeGuardrail):
    """A metric of the edge, an outcome from feedback, or a Prometheus query with a threshold."""

    enabled: bool = Field(
        True,
        description="Set false to ignore a latency, also where it would be checked for harm by default. Errors are always"
        " checked.",
    )
    name: Name | None = Field(None, description="Name of an outcome or of a Prometheus guardrail.")
    type: Literal["rate", "mean"] | None = Field(None, description=f"Of an outcome. {TYPE_TEXT} Default rate.")
    prometheus: PrometheusQuery | None = Field(None, description="The Prometheus query.")
    threshold: Threshold | None = Field(None, description="Good values of the query's number.")
    margin: LatencyMargin | None = Field(
        None,
        description=f"How much worse than stable the canary may be, in percent of stable. {OUTCOME_MARGIN_TEXT}",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.metric), has(self.feedback), has(self.prometheus)].exists_one(given, given)",
            message="expected exactly one of metric, feedback and prometheus",
        ),
        Rule(
            cel="!has(self.prometheus) || has(self.name) && has(self.threshold)",
            message="prometheus without name or threshold; expected both",
        ),
        Rule(
            cel="has(self.prometheus) || has(self.feedback) || !has(self.name)",
            message="name without feedback or prometheus; expected it only with one of them",
        ),
        Rule(
            cel="has(self.prometheus) || !has(self.threshold)",
            message="threshold without prometheus; expected it only with prometheus",
        ),
        Rule(
            cel="has(self.feedback) || !has(self.type) && !has(self.goal)",
            message="type or goal without feedback; expected them only with feedback",
        ),
        Rule(
            cel="!has(self.prometheus) || !has(self.margin)",
            message="margin with prometheus; expected it only with metric or feedback, because threshold is absolute",
        ),
        Rule(
            cel="has(self.metric) || !has(self.floor) && !has(self.max)",
            message="floor or max without metric; expected them only with metric",
        ),
        Rule(
            cel="!has(self.enabled) || self.enabled || has(self.metric) && self.metric.startsWith('latency')"
            " && !has(self.margin) && !has(self.floor) && !has(self.max)",
            message="enabled: false on another guardrail; expected only on a latency without margin, floor and max",
        ),
        Rule(
            cel=f"!has(self.feedback) || !has(self.name) || !(self.name in {RESERVED_METRIC_NAMES_CEL})",
            message="{name} is the name of an edge metric; expected another name, because reports show both",
            field="name",
        ),
        *OUTCOME_GUARDRAIL_RULES,
        MAX_FITS_METRIC_RULE,
    )


ONE_GUARDRAIL_PER_METRIC_RULE = unique_rule("metric", "two guardrails with the same metric; expected one per metric")
MAX_LATENCY_GUARDRAILS: Final = 3
"""Latency guardrails of one spec. Edges count slow answers for this many thresholds."""


MAX_LATENCY_GUARDRAILS_RULE = Rule(
    cel=f"self.filter(g, has(g.metric) && g.metric.startsWith('latency')).size() <= {MAX_LATENCY_GUARDRAILS}",
    message=f"more than {MAX_LATENCY_GUARDRAILS} latencies; expected at most {MAX_LATENCY_GUARDRAILS}, because edges count"
    " slow answers for no more",
)


UNIQUE_GUARDRAIL_NAMES_RULE = unique_rule("name", "two guardrails with the same name; expected unique names")
