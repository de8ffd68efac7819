"""Success metrics and guardrails of an Experiment."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.common import MetricName, set_fields
from sundog_operator.api.rollout.guardrails import (
    MAX_FITS_METRIC_RULE,
    MAX_LATENCY_GUARDRAILS,
    MAX_LATENCY_GUARDRAILS_RULE,
    ONE_GUARDRAIL_PER_METRIC_RULE,
    UNIQUE_GUARDRAIL_NAMES_RULE,
    MetricGuardrail,
)
from sundog_operator.api.rollout.shadow import LatencyMargin
from sundog_operator.api.scalars import (
    Items,
    Name,
    PercentText,
)
from sundog_operator.api.schema.rules import ExpectedNoun, ListType, Rule, nonzero_rule

MinimumEffect = Annotated[
    PercentText,
    nonzero_rule(
        "0% cannot be distinguished from no effect; expected a larger effect. Remove the field for the default of about 5 %"
    ),
]
RESERVED_METRIC_NAMES = ("rejections", "retries")
"""Metrics of the edge that are evaluated for every arm. Their names are lower-case, so an outcome could have the same."""
NOT_RESERVED_METRIC_NAME_RULE = Rule(
    cel="!(self in [" + ", ".join(f"'{name}'" for name in RESERVED_METRIC_NAMES) + "])",
    holds=lambda name: name not in RESERVED_METRIC_NAMES,
    message="{} is the name of an edge metric; expected another name, because reports show both",
)
OutcomeName = Annotated[Name, NOT_RESERVED_METRIC_NAME_RULE]
FeedbackName = Annotated[
    str,
    Field(min_length=1, max_length=63, pattern=r"^[A-Za-z][-A-Za-z0-9_.]*$"),
    ExpectedNoun("a feedback metric such as converted"),
]
OutcomeType = Literal["rate", "mean", "ratio"]
OutcomeGoal = Literal["increase", "decrease"]
_TYPE_TEXT = (
    "rate: share of exposed units whose first value was above 0. mean: average over exposed units of the sum of"
    " each unit's values, which is 0 if it has none. ratio: the sum of all units' values, divided by the sum of their values of"
    " denominator. Default rate."
)
_DENOMINATOR_TEXT = (
    "Of a ratio: name of another metric in the feedback API. With feedback clicks and denominator views it is the clicks per"
    " view. Units stay the observations, so that units with many views do not make it seem more certain than it is."
)


_COVARIATE_TEXT = (
    "Of a mean: name of a metric in the feedback API, the same one or another. The mean is adjusted by each unit's total of it"
    " from the 30 days before its first exposure, which you report with the unit and a time. The better it predicts the"
    " unit's value, the fewer units are needed. A unit without any counts as 0. Needs a unit other than request."
)
Cap = Annotated[float, Field(gt=0, le=1_000_000_000_000)]
_CAP_TEXT = (
    "Of a mean: a unit's total above this counts as this, in the unit of the values. Then few units with very large totals"
    " do not decide. It cannot be changed once the experiment has begun."
)


_RATIO_WITHOUT_DENOMINATOR = "type: ratio without denominator; expected the feedback whose sum the ratio is divided by"
_DENOMINATOR_WITHOUT_RATIO = "denominator without a ratio; expected it only with type: ratio"
_OTHER_DENOMINATOR_RULE = Rule(
    cel="!has(self.denominator) || !has(self.feedback) || self.denominator != self.feedback",
    holds=lambda metric: metric.denominator is None or metric.denominator != metric.feedback,
    message="same as feedback; expected another one, because this ratio is always 1",
    field="denominator",
)


_COVARIATE_WITHOUT_MEAN = "covariate without a mean; expected it only with type: mean"
_NO_CAPPED_COVARIATE_RULE = Rule(
    cel="!has(self.covariate) || !has(self.cap)",
    holds=lambda metric: metric.covariate is None or metric.cap is None,
    message="covariate beside cap; expected one of the two, because edges keep no products of capped totals",
    field="covariate",
)


class FeedbackMetric(ApiBase):
    """A metric of outcomes: a success metric, by which an arm can win, or a secondary metric."""

    name: OutcomeName = Field(description="Name in status; the names of edge metrics are reserved.")
    feedback: FeedbackName = Field(description="Name of the metric in the feedback API.")
    type: OutcomeType = Field("rate", description=_TYPE_TEXT)
    denominator: FeedbackName | None = Field(None, description=_DENOMINATOR_TEXT)
    covariate: FeedbackName | None = Field(None, description=_COVARIATE_TEXT)
    goal: OutcomeGoal = Field("increase", description="Which direction is better; default increase.")
    cap: Cap | None = Field(None, description=_CAP_TEXT)
    minimum_effect: MinimumEffect | None = Field(
        None,
        description="The smallest relative effect worth detecting; default about 5 %. The test decides fastest if the"
        " effect is this large or a few times larger. A smaller effect counts as no effect.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.cap) || self.type == 'mean'",
            holds=lambda metric: metric.cap is None or metric.type == "mean",
            message="cap without a mean; expected it only with type: mean",
            field="cap",
        ),
        Rule(
            cel="self.type != 'ratio' || has(self.denominator)",
            holds=lambda metric: metric.type != "ratio" or metric.denominator is not None,
            message=_RATIO_WITHOUT_DENOMINATOR,
        ),
        Rule(
            cel="!has(self.denominator) || self.type == 'ratio'",
            holds=lambda metric: metric.denominator is None or metric.type == "ratio",
            message=_DENOMINATOR_WITHOUT_RATIO,
            field="denominator",
        ),
        _OTHER_DENOMINATOR_RULE,
        Rule(
            cel="!has(self.covariate) || self.type == 'mean'",
            holds=lambda metric: metric.covariate is None or metric.type == "mean",
            message=_COVARIATE_WITHOUT_MEAN,
            field="covariate",
        ),
        _NO_CAPPED_COVARIATE_RULE,
    )


def _leaves_something(guardrail: "ExperimentGuardrail") -> bool:
    if guardrail.feedback is None or guardrail.margin is None or guardrail.goal == "decrease":
        return True
    return float(guardrail.margin.removesuffix("%")) < 100


class ExperimentGuardrail(MetricGuardrail):
    """A metric of the edge, or an outcome, that must not get worse."""

    metric: MetricName | None = Field(None, description="A metric that the edge measures.")
    name: OutcomeName | None = Field(
        None, description="Name of an outcome in status; the names of edge metrics are reserved."
    )
    feedback: FeedbackName | None = Field(None, description="Name of an outcome's metric in the feedback API.")
    type: OutcomeType | None = Field(None, description=f"Of an outcome. {_TYPE_TEXT}")
    denominator: FeedbackName | None = Field(None, description=_DENOMINATOR_TEXT)
    covariate: FeedbackName | None = Field(None, description=_COVARIATE_TEXT)
    goal: OutcomeGoal | None = Field(None, description="Of an outcome: which direction is better; default increase.")
    cap: Cap | None = Field(None, description=_CAP_TEXT)
    margin: LatencyMargin | None = Field(
        None,
        description="How much worse than control an arm may be, in percent of control. Default: 25% for errorRate, 10% for"
        " latencies and outcomes. A latency margin is at least 1 ms. That of an outcome to increase is below 100%.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.metric) != has(self.feedback)",
            holds=lambda guardrail: (guardrail.metric is None) != (guardrail.feedback is None),
            message="expected exactly one of metric and feedback",
        ),
        Rule(
            cel="!has(self.feedback) || has(self.name)",
            holds=lambda guardrail: guardrail.feedback is None or guardrail.name is not None,
            message="feedback without name; expected both",
        ),
        Rule(
            cel="has(self.feedback) || !has(self.name) && !has(self.type) && !has(self.goal)",
            holds=lambda guardrail: (
                guardrail.feedback is not None or not set_fields(guardrail, ("name", "type", "goal"))
            ),
            message="name, type or goal without feedback; expected them only with feedback",
        ),
        Rule(
            cel="has(self.metric) || !has(self.floor) && !has(self.max)",
            holds=lambda guardrail: guardrail.metric is not None or not set_fields(guardrail, ("floor", "max")),
            message="floor or max without metric; expected them only with metric",
        ),
        Rule(
            cel="!has(self.feedback) || !has(self.margin) || has(self.goal) && self.goal == 'decrease'"
            " || double(self.margin.split('%')[0]) < 100.0",
            holds=_leaves_something,
            message="100% or more below control excludes nothing; expected less than 100%",
            field="margin",
        ),
        Rule(
            cel="!has(self.cap) || has(self.type) && self.type == 'mean'",
            holds=lambda guardrail: guardrail.cap is None or guardrail.type == "mean",
            message="cap without a mean; expected it only with type: mean",
            field="cap",
        ),
        Rule(
            cel="!has(self.type) || self.type != 'ratio' || has(self.denominator)",
            holds=lambda guardrail: guardrail.type != "ratio" or guardrail.denominator is not None,
            message=_RATIO_WITHOUT_DENOMINATOR,
        ),
        Rule(
            cel="!has(self.denominator) || has(self.type) && self.type == 'ratio'",
            holds=lambda guardrail: guardrail.denominator is None or guardrail.type == "ratio",
            message=_DENOMINATOR_WITHOUT_RATIO,
            field="denominator",
        ),
        _OTHER_DENOMINATOR_RULE,
        Rule(
            cel="!has(self.covariate) || has(self.type) && self.type == 'mean'",
            holds=lambda guardrail: guardrail.covariate is None or guardrail.type == "mean",
            message=_COVARIATE_WITHOUT_MEAN,
            field="covariate",
        ),
        _NO_CAPPED_COVARIATE_RULE,
        MAX_FITS_METRIC_RULE,
    )


class ExperimentMetrics(ApiBase):
    """Metrics of the comparison."""

    success: Annotated[Items[FeedbackMetric], Field(max_length=5), ListType("map", "name")] = Field(
        (), description="Metrics by which an arm can win."
    )
    guardrails: Annotated[
        Items[ExperimentGuardrail],
        Field(max_length=10),
        ONE_GUARDRAIL_PER_METRIC_RULE,
        MAX_LATENCY_GUARDRAILS_RULE,
        UNIQUE_GUARDRAIL_NAMES_RULE,
    ] = Field(
        (), description=f"Metrics that must not get worse. At most {MAX_LATENCY_GUARDRAILS} of them are latencies."
    )
    secondary: Annotated[Items[FeedbackMetric], Field(max_length=20), ListType("map", "name")] = Field(
        (), description="Metrics that are reported but decide nothing."
    )

    @property
    def edge_guardrails(self) -> Sequence[ExperimentGuardrail]:
        """Guardrails that the edge measures."""
        return [each for each in self.guardrails if each.metric is not None]

    @property
    def outcome_guardrails(self) -> Sequence[ExperimentGuardrail]:
        """Guardrails that are outcomes."""
        return [each for each in self.guardrails if each.feedback is not None]

    @property
    def has_covariates(self) -> bool:
        """Whether any outcome is adjusted by a covariate."""
        adjusted = [each.covariate for each in (*self.success, *self.secondary)]
        return any(name is not None for name in (*adjusted, *(each.covariate for each in self.guardrails)))

    @property
    def has_outcomes(self) -> bool:
        """Whether any metric is an outcome."""
        return bool(self.success or self.secondary or self.outcome_guardrails)
