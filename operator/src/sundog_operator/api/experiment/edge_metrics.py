"""Rules of success and secondary metrics that are of the edge instead of feedback."""

from collections.abc import Iterable
from typing import Literal

from sundog_operator.api.rollout.common import MetricName, set_fields
from sundog_operator.api.schema.rules import Rule

EdgeMetricName = Literal[MetricName, "rejections"]
EDGE_METRIC_RULES = (
    Rule(
        cel="has(self.metric) != has(self.feedback)",
        holds=lambda metric: (metric.metric is None) != (metric.feedback is None),
        message="expected exactly one of metric and feedback",
    ),
    Rule(
        cel="has(self.name) == has(self.feedback)",
        holds=lambda metric: (metric.name is None) == (metric.feedback is None),
        message="name without feedback, or feedback without name; expected both or none, because a metric of the edge has its own name",
        field="name",
    ),
    Rule(
        cel="!has(self.metric) || self.goal == 'decrease'",
        holds=lambda metric: metric.metric is None or metric.goal == "decrease",
        message="increase, which is the default, of a metric of the edge; expected decrease, because it counts errors, rejections or slow"
        " answers",
        field="goal",
    ),
    Rule(
        cel="!has(self.metric) || self.type == 'rate' && !has(self.denominator) && !has(self.covariate) && !has(self.cap)"
        " && !has(self.window) && !has(self.after)",
        holds=lambda metric: (
            metric.metric is None
            or (
                metric.type == "rate" and not set_fields(metric, ("denominator", "covariate", "cap", "window", "after"))
            )
        ),
        message="type, denominator, covariate, cap, window or after beside metric; expected them only with feedback, because the edge"
        " counts requests",
    ),
)

ONE_METRIC_RULES = (
    Rule(
        cel="self.all(g, !has(g.metric) || self.filter(h, has(h.metric)).exists_one(h, h.metric == g.metric))",
        holds=lambda metrics: _are_unique(each.metric for each in metrics),
        message="two entries of the same metric; expected one per metric",
    ),
    Rule(
        cel="self.all(g, !has(g.name) || self.filter(h, has(h.name)).exists_one(h, h.name == g.name))",
        holds=lambda metrics: _are_unique(each.name for each in metrics),
        message="two entries with the same name; expected unique names",
    ),
)


def _are_unique(names: Iterable[str | None]) -> bool:
    given = [name for name in names if name is not None]
    return len(given) == len(set(given))
