"""Guardrails: metrics that a canary must not make worse."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.checks import PrometheusQuery, Threshold
from sundog_operator.api.rollout.defaults import MetricName, set_fields
from sundog_operator.api.rollout.shadow import LatencyMargin
from sundog_operator.api.scalars import (
    Name,
    PercentUpTo100Text,
)
from sundog_operator.api.schema.rules import ExpectedNoun, Rule, nonzero_rule


def is_latency_metric(metric: str) -> bool:
    """Whether a metric of the edge is how long answers take."""
    return metric.startswith("latency")


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
