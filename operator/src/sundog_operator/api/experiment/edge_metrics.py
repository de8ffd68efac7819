"""Rules of metrics that may be of the edge instead of feedback."""

from sundog_operator.api.schema.rules import Rule, unique_rule

ONE_SOURCE_RULE = Rule(
    cel="has(self.metric) != has(self.feedback)",
    message="expected exactly one of metric and feedback",
)
EDGE_METRIC_RULES = (
    ONE_SOURCE_RULE,
    Rule(
        cel="has(self.name) == has(self.feedback)",
        message="name without feedback, or feedback without name; expected both or none, because a metric of the edge has its own name",
        field="name",
    ),
    Rule(
        cel="!has(self.metric) || self.goal == 'decrease'",
        message="increase, which is the default, of a metric of the edge; expected decrease, because it counts errors, rejections or slow"
        " answers",
        field="goal",
    ),
    Rule(
        cel="!has(self.metric) || self.type == 'rate' && !has(self.denominator) && !has(self.covariate) && !has(self.cap)"
        " && !has(self.window) && !has(self.after)",
        message="type, denominator, covariate, cap, window or after beside metric; expected them only with feedback, because the edge"
        " counts requests",
    ),
)

ONE_METRIC_RULES = (
    unique_rule("metric", "two entries of the same metric; expected one per metric"),
    unique_rule("name", "two entries with the same name; expected unique names"),
)
