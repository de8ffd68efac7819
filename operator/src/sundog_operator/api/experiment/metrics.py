"""Success metrics and guardrails of an Experiment."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.experiment.edge_metrics import (
    EDGE_METRIC_RULES,
    ONE_METRIC_RULES,
    ONE_SOURCE_RULE,
)
from sundog_operator.api.rollout.common import PositiveDuration
from sundog_operator.api.rollout.guardrail_defaults import OUTCOME_MARGIN_TEXT, EdgeMetricName
from sundog_operator.api.rollout.guardrails import (
    MAX_FITS_METRIC_RULE,
    MAX_LATENCY_GUARDRAILS,
    MAX_LATENCY_GUARDRAILS_RULE,
    ONE_GUARDRAIL_PER_METRIC_RULE,
    OUTCOME_GUARDRAIL_RULES,
    UNIQUE_GUARDRAIL_NAMES_RULE,
    OutcomeGuardrail,
)
from sundog_operator.api.rollout.outcomes import (
    CAP_TEXT,
    TYPE_TEXT,
    Cap,
    FeedbackName,
    OutcomeGoal,
    OutcomeName,
    OutcomeType,
)
from sundog_operator.api.rollout.shadow import LatencyMargin
from sundog_operator.api.scalars import (
    Items,
    PercentText,
    PercentUpTo100Text,
)
from sundog_operator.api.schema.rules import Rule, nonzero_rule

MinimumEffect = Annotated[
    PercentText,
    nonzero_rule(
        "0% cannot be distinguished from no effect; expected a larger effect. Remove the field for the default of about 5 %"
    ),
]
_CAP_TEXT = f"{CAP_TEXT} It cannot be changed once the experiment has begun."


_WINDOW_TEXT = (
    "Conversion window: only outcomes until this long after a unit's first exposure count, and only units whose window has"
    " passed. From 1m to 30d, and shorter than stop.maxDuration; expected only where units come again, and without denominator"
    " and covariate. Default: all outcomes count at once. It cannot be changed once the experiment has begun."
)
_AFTER_TEXT = (
    "Retention: only outcomes at least this long after a unit's first exposure count, until window after it. A rate is then"
    " the share of units that came back. Report each return with an id or a time of its own, because equal reports count"
    " once. At least 1m, and shorter than window, which it needs. It cannot be changed once the experiment has begun."
)
_TYPE_TEXT = (
    f"{TYPE_TEXT} ratio: the sum of all units' values, divided by the sum of their values of denominator. Default rate."
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


_RATIO_WITHOUT_DENOMINATOR = "type: ratio without denominator; expected the feedback whose sum the ratio is divided by"
_DENOMINATOR_WITHOUT_RATIO = "denominator without a ratio; expected it only with type: ratio"
_OTHER_DENOMINATOR_RULE = Rule(
    cel="!has(self.denominator) || !has(self.feedback) || self.denominator != self.feedback",
    message="same as feedback; expected another one, because this ratio is always 1",
    field="denominator",
)


_COVARIATE_WITHOUT_MEAN = "covariate without a mean; expected it only with type: mean"
_NO_CAPPED_COVARIATE_RULE = Rule(
    cel="!has(self.covariate) || !has(self.cap)",
    message="covariate beside cap; expected one of the two, because edges keep no products of capped totals",
    field="covariate",
)
_NO_PRODUCT_IN_WINDOW_RULE = Rule(
    cel="!has(self.window) || !has(self.denominator) && !has(self.covariate)",
    message="window beside denominator or covariate; expected it without these, because edges keep no products of totals"
    " within a window",
    field="window",
)
_AFTER_IN_WINDOW_RULE = Rule(
    cel="!has(self.after) || has(self.window) || has(self.denominator) || has(self.covariate)",
    message="after without window; expected window too, such as 7d, because a unit counts once its time to come back has passed",
    field="after",
)
_NO_PRODUCT_AFTER_RULE = Rule(
    cel="!has(self.after) || !has(self.denominator) && !has(self.covariate)",
    message="after beside denominator or covariate; expected it with type: rate, or a mean without covariate, because edges"
    " keep no products of totals of a part of the time",
    field="after",
)
_WINDOW_RULES = (_NO_PRODUCT_IN_WINDOW_RULE, _AFTER_IN_WINDOW_RULE, _NO_PRODUCT_AFTER_RULE)


class FeedbackMetric(ApiBase):
    """A metric from feedback or of the edge: a success metric, by which an arm can win, or a secondary metric."""

    name: OutcomeName | None = Field(
        None, description="Of feedback: the name in status. The names of edge metrics are reserved."
    )
    feedback: FeedbackName | None = Field(None, description="Name of the metric in the feedback API.")
    metric: EdgeMetricName | None = Field(
        None,
        description="Instead of feedback, a metric that the edge measures. It needs goal decrease. A latency is better if fewer answers"
        " take longer than the time that control exceeded as often as the name says when the plan was frozen. rejections: 4xx answers,"
        " including 429, and requests that clients gave up.",
    )
    type: OutcomeType = Field("rate", description=_TYPE_TEXT)
    denominator: FeedbackName | None = Field(None, description=_DENOMINATOR_TEXT)
    covariate: FeedbackName | None = Field(None, description=_COVARIATE_TEXT)
    goal: OutcomeGoal = Field("increase", description="Which direction is better; default increase.")
    cap: Cap | None = Field(None, description=_CAP_TEXT)
    window: PositiveDuration | None = Field(None, description=_WINDOW_TEXT)
    after: PositiveDuration | None = Field(None, description=_AFTER_TEXT)
    minimum_effect: MinimumEffect | None = Field(
        None,
        description="The smallest relative effect worth detecting; default about 5 %. The test decides fastest if the"
        " effect is this large or a few times larger. A smaller effect counts as no effect. Of a latency: the effect on the share"
        " of slow answers.",
    )

    @property
    def status_name(self) -> str:
        """Name in status."""
        return self.name or self.metric or ""

    rules: ClassVar[tuple[Rule, ...]] = (
        *EDGE_METRIC_RULES,
        Rule(
            cel="!has(self.cap) || self.type == 'mean'",
            message="cap without a mean; expected it only with type: mean",
            field="cap",
        ),
        Rule(
            cel="self.type != 'ratio' || has(self.denominator)",
            message=_RATIO_WITHOUT_DENOMINATOR,
        ),
        Rule(
            cel="!has(self.denominator) || self.type == 'ratio'",
            message=_DENOMINATOR_WITHOUT_RATIO,
            field="denominator",
        ),
        _OTHER_DENOMINATOR_RULE,
        Rule(
            cel="!has(self.covariate) || self.type == 'mean'",
            message=_COVARIATE_WITHOUT_MEAN,
            field="covariate",
        ),
        _NO_CAPPED_COVARIATE_RULE,
        *_WINDOW_RULES,
    )


ExpectedRate = Annotated[
    PercentUpTo100Text,
    nonzero_rule("0% gives no number of units; expected more. Remove the field if the rate is unknown"),
]
_ExpectedNumber = Annotated[float, Field(gt=0, le=1_000_000_000_000)]


class ExpectedBaseline(ApiBase):
    """Control's value that a success metric is expected to have."""

    rate: ExpectedRate | None = Field(None, description="Of a rate: share of the units, such as 4%.")
    mean: _ExpectedNumber | None = Field(
        None, description="Of a mean: the average over units, with the cap if there is one."
    )
    deviation: _ExpectedNumber | None = Field(
        None,
        description="Of a mean: standard deviation of the units, with the cap if there is one; with a covariate, of what it leaves.",
    )


class SuccessMetric(FeedbackMetric):
    """A metric by which an arm can win."""

    expected: ExpectedBaseline | None = Field(
        None,
        description="Control's value that you expect. Before the start, SpecAccepted warns if `stop` leaves too little time. No test"
        " depends on it, and it can be changed at any time. Default: control's in the newest earlier Experiment.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        *FeedbackMetric.rules,
        Rule(
            cel="!has(self.metric) || !has(self.expected)",
            message="expected beside metric; expected it only with feedback, because the forecast before the start does not cover it",
            field="expected",
        ),
        Rule(
            cel="!has(self.expected)"
            " || self.type == 'rate' && has(self.expected.rate) && !has(self.expected.mean) && !has(self.expected.deviation)"
            " || self.type == 'mean' && !has(self.expected.rate) && has(self.expected.mean) && has(self.expected.deviation)",
            message="fields of another type; expected rate with type: rate, mean and deviation with type: mean, and none of a ratio",
            field="expected",
        ),
    )


class ExperimentGuardrail(OutcomeGuardrail):
    """A metric of the edge, or an outcome, that must not get worse."""

    name: OutcomeName | None = Field(
        None, description="Name of an outcome in status; the names of edge metrics are reserved."
    )
    type: OutcomeType | None = Field(None, description=f"Of an outcome. {_TYPE_TEXT}")
    denominator: FeedbackName | None = Field(None, description=_DENOMINATOR_TEXT)
    covariate: FeedbackName | None = Field(None, description=_COVARIATE_TEXT)
    cap: Cap | None = Field(None, description=_CAP_TEXT)
    window: PositiveDuration | None = Field(None, description=f"Of an outcome. {_WINDOW_TEXT}")
    after: PositiveDuration | None = Field(None, description=f"Of an outcome. {_AFTER_TEXT}")
    margin: LatencyMargin | None = Field(
        None,
        description=f"How much worse than control an arm may be, in percent of control. {OUTCOME_MARGIN_TEXT}",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        ONE_SOURCE_RULE,
        Rule(
            cel="has(self.feedback) || !has(self.name) && !has(self.type) && !has(self.goal)",
            message="name, type or goal without feedback; expected them only with feedback",
        ),
        Rule(
            cel="has(self.feedback) || !has(self.window)",
            message="window without feedback; expected it only with feedback",
            field="window",
        ),
        Rule(
            cel="has(self.metric) || !has(self.floor) && !has(self.max)",
            message="floor or max without metric; expected them only with metric",
        ),
        *OUTCOME_GUARDRAIL_RULES,
        Rule(
            cel="!has(self.type) || self.type != 'ratio' || has(self.denominator)",
            message=_RATIO_WITHOUT_DENOMINATOR,
        ),
        Rule(
            cel="!has(self.denominator) || has(self.type) && self.type == 'ratio'",
            message=_DENOMINATOR_WITHOUT_RATIO,
            field="denominator",
        ),
        _OTHER_DENOMINATOR_RULE,
        Rule(
            cel="!has(self.covariate) || has(self.type) && self.type == 'mean'",
            message=_COVARIATE_WITHOUT_MEAN,
            field="covariate",
        ),
        _NO_CAPPED_COVARIATE_RULE,
        *_WINDOW_RULES,
        MAX_FITS_METRIC_RULE,
    )


class ExperimentMetrics(ApiBase):
    """Metrics of the comparison."""

    success: Annotated[Items[SuccessMetric], Field(max_length=5), *ONE_METRIC_RULES] = Field(
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
    secondary: Annotated[Items[FeedbackMetric], Field(max_length=20), *ONE_METRIC_RULES] = Field(
        (), description="Metrics that are reported but decide nothing."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.success.all(m, !has(m.metric)) && self.secondary.all(m, !has(m.metric)) ||"
            " [self.success.filter(m, has(m.metric) && m.metric.startsWith('latency')).size(),"
            " self.guardrails.filter(m, has(m.metric) && m.metric.startsWith('latency')).size(),"
            f" self.secondary.filter(m, has(m.metric) && m.metric.startsWith('latency')).size()].sum() <= {MAX_LATENCY_GUARDRAILS}",
            message=f"more than {MAX_LATENCY_GUARDRAILS} latencies in success, guardrails and secondary; expected at most"
            f" {MAX_LATENCY_GUARDRAILS}, because edges count slow answers for no more",
        ),
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
    def has_outcomes(self) -> bool:
        """Whether any metric is an outcome, which needs the feedback store."""
        named = [each.feedback for each in (*self.success, *self.secondary)]
        return bool(self.outcome_guardrails) or any(each is not None for each in named)
