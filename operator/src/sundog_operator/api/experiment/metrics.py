"""Success metrics and guardrails of an Experiment."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.common import MetricName
from sundog_operator.api.rollout.guardrails import (
    MAX_FITS_METRIC_RULE,
    MAX_LATENCY_GUARDRAILS,
    MAX_LATENCY_GUARDRAILS_RULE,
    ONE_GUARDRAIL_PER_METRIC_RULE,
    MetricGuardrail,
)
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


class FeedbackMetric(ApiBase):
    """A metric of outcomes: a success metric, by which an arm can win, or a secondary metric."""

    name: Annotated[Name, NOT_RESERVED_METRIC_NAME_RULE] = Field(
        description="Name in status; the names of edge metrics are reserved."
    )
    feedback: Annotated[
        str,
        Field(min_length=1, max_length=63, pattern=r"^[A-Za-z][-A-Za-z0-9_.]*$"),
        ExpectedNoun("a feedback metric such as converted"),
    ] = Field(description="Name of the metric in the feedback API.")
    type: Literal["rate", "mean"] = Field(
        "rate",
        description="rate: share of exposed units whose first value was above 0. mean: average over exposed units of the sum of"
        " each unit's values, which is 0 if it has none. Default rate.",
    )
    goal: Literal["increase", "decrease"] = Field(
        "increase", description="Which direction is better; default increase."
    )
    minimum_effect: MinimumEffect | None = Field(
        None,
        description="The smallest relative effect worth detecting; default about 5 %. The test decides fastest if the"
        " effect is this large or a few times larger. A smaller effect counts as no effect.",
    )


class ExperimentGuardrail(MetricGuardrail):
    """A metric of the edge that must not get worse."""

    metric: MetricName = Field(description="A metric that the edge measures.")

    rules: ClassVar[tuple[Rule, ...]] = (MAX_FITS_METRIC_RULE,)


class ExperimentMetrics(ApiBase):
    """Metrics of the comparison."""

    success: Annotated[Items[FeedbackMetric], Field(max_length=5), ListType("map", "name")] = Field(
        (), description="Metrics by which an arm can win."
    )
    guardrails: Annotated[
        Items[ExperimentGuardrail], Field(max_length=10), ONE_GUARDRAIL_PER_METRIC_RULE, MAX_LATENCY_GUARDRAILS_RULE
    ] = Field(
        (), description=f"Metrics that must not get worse. At most {MAX_LATENCY_GUARDRAILS} of them are latencies."
    )
    secondary: Annotated[Items[FeedbackMetric], Field(max_length=20), ListType("map", "name")] = Field(
        (), description="Metrics that are reported but decide nothing."
    )
