"""Success metrics and guardrails of an Experiment."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.defaults import MetricName
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
    nonzero_rule("0% is never told from no effect; leave it out for one of about 5 %"),
]
RESERVED_METRIC_NAMES = ("rejections", "retries")
"""Metrics that edges measure by names that an outcome could have too: others have capitals. They are judged of every arm."""
NOT_RESERVED_METRIC_NAME_RULE = Rule(
    cel="!(self in [" + ", ".join(f"'{name}'" for name in RESERVED_METRIC_NAMES) + "])",
    holds=lambda name: name not in RESERVED_METRIC_NAMES,
    message="{} is a metric of the edge that is always judged, and reports would mix both; expected another name",
)


class SuccessMetric(ApiBase):
    """An outcome that an arm may win by."""

    name: Annotated[Name, NOT_RESERVED_METRIC_NAME_RULE] = Field(
        description="Names it in status. No metric of the edge may be called so."
    )
    feedback: Annotated[
        str,
        Field(min_length=1, max_length=63, pattern=r"^[A-Za-z][-A-Za-z0-9_.]*$"),
        ExpectedNoun("a feedback metric such as converted"),
    ] = Field(description="The metric of the feedback API.")
    type: Literal["rate", "mean"] = Field(
        "rate",
        description="rate is the share of exposed units whose first value was above 0; mean is the sum of a unit's values, 0 without any,"
        " by exposed unit.",
    )
    goal: Literal["increase", "decrease"] = Field("increase", description="Which way is better.")
    minimum_effect: MinimumEffect | None = Field(
        None,
        description="The smallest relative effect worth detecting. Evidence is the quickest about effects of that size and a few times it,"
        " without one about 5 %; and an arm whose effect is known to be smaller has none.",
    )


class ExperimentGuardrail(MetricGuardrail):
    """A metric of the edge that may not get worse."""

    metric: MetricName = Field(description="A metric that the edge measures.")

    rules: ClassVar[tuple[Rule, ...]] = (MAX_FITS_METRIC_RULE,)


class ExperimentMetrics(ApiBase):
    """What is compared."""

    success: Annotated[Items[SuccessMetric], Field(max_length=5), ListType("map", "name")] = Field(
        (), description="What an arm may win by."
    )
    guardrails: Annotated[
        Items[ExperimentGuardrail], Field(max_length=10), ONE_GUARDRAIL_PER_METRIC_RULE, MAX_LATENCY_GUARDRAILS_RULE
    ] = Field((), description=f"What may not get worse. At most {MAX_LATENCY_GUARDRAILS} latencies.")
    secondary: Annotated[Items[SuccessMetric], Field(max_length=20), ListType("map", "name")] = Field(
        (), description="What is reported beside."
    )
