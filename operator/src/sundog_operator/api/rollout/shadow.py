"""Steps that compare answers to copies of requests."""

from typing import Annotated, ClassVar

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.common import (
    DEFAULT_MAX_DURATION,
    JSON_PATH,
    JSON_PATH_NOUN,
    Comparator,
    PartComparator,
    PositiveDuration,
)
from sundog_operator.api.rollout.guardrail_defaults import DEFAULT_MARGIN
from sundog_operator.api.scalars import (
    Integer,
    Items,
    PercentText,
)
from sundog_operator.api.schema.rules import ExpectedNoun, Rule, nonzero_rule

ToleranceValue = Annotated[float, Field(ge=0)]
AnswerPath = Annotated[str, Field(max_length=200, pattern=JSON_PATH), ExpectedNoun(JSON_PATH_NOUN)]
TOLERANCE_RULE = Rule(
    cel="self.by == 'tolerance' || self.atol == 0.0 && self.rtol == 0.0",
    message="atol or rtol without by: tolerance; expected them only with it",
)


class ComparedPart(ApiBase):
    """A part of the answer, and when it agrees."""

    path: AnswerPath = Field(description="Its JSON path in the answer, such as $.outputs[0].data.")
    by: PartComparator = Field("exact", description="exact, tolerance or argmax, as in agreement.by; default exact.")
    atol: ToleranceValue = Field(0.0, description="With tolerance: how far numbers may differ; default 0.")
    rtol: ToleranceValue = Field(0.0, description="With tolerance: the same as a share of stable's number; default 0.")

    rules: ClassVar[tuple[Rule, ...]] = (TOLERANCE_RULE,)


class Agreement(ApiBase):
    """How often the answers of both revisions must agree."""

    min: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="Least share of answers that must agree, between 0 and 1, such as 0.995."
    )
    by: Comparator = Field(
        "exact",
        description="exact: equal JSON, in any order of members. tolerance: numbers within atol + rtol of stable's, all else"
        " equal. argmax: in each row of numbers, the largest is in the same place. custom: every item of parts agrees"
        " by its own rule. Default exact.",
    )
    atol: ToleranceValue = Field(0.0, description="With tolerance: how far numbers may differ; default 0.")
    rtol: ToleranceValue = Field(0.0, description="With tolerance: the same as a share of stable's number; default 0.")
    path: AnswerPath | None = Field(
        None,
        description="JSON path of the part to compare, such as $.outputs[0].data; default the whole answer.",
    )
    parts: (
        Annotated[
            Items[Annotated[ComparedPart, ExpectedNoun("a part such as {path: $.outputs[0].data, by: argmax}")]],
            Field(min_length=1, max_length=8),
        ]
        | None
    ) = Field(None, description="With custom: the parts to compare. All other parts may differ.")

    rules: ClassVar[tuple[Rule, ...]] = (
        TOLERANCE_RULE,
        Rule(
            cel="(self.by == 'custom') == has(self.parts)",
            message="expected parts with by: custom, and only with it",
        ),
        Rule(
            cel="self.by != 'custom' || !has(self.path)",
            message="path with by: custom; expected none, because each of parts has its own path",
        ),
    )


LatencyMargin = Annotated[
    PercentText,
    nonzero_rule("0% lets no canary pass that equals stable; expected more than 0%"),
]


class LatencyComparison(ApiBase):
    """How much longer the slowest answers to copies may take."""

    margin: LatencyMargin = Field(DEFAULT_MARGIN, description=f"In percent of stable; default {DEFAULT_MARGIN}.")


class ShadowComparisonSpec(ApiBase):
    """Comparisons of a shadow step."""

    agreement: Agreement | None = Field(None, description="How often the answers must agree.")
    latency_p99: LatencyComparison | None = Field(
        None,
        description="How much longer the canary's p99 may be than stable's for the same requests. The mirror's own time is part"
        " of it. The step waits until this is known; it never causes a rollback.",
    )


class Shadow(ApiBase):
    """The canary gets copies of requests; its answers are compared and discarded."""

    percent: Annotated[Integer, Field(ge=1, le=100)] = Field(
        100, description="Percent of requests to copy; default 100."
    )
    compare: ShadowComparisonSpec = Field(ShadowComparisonSpec(), description="What to compare.")
    min_samples: Annotated[Integer, Field(ge=1, le=10_000_000)] = Field(
        2000, description="Least number of answer pairs; default 2000."
    )
    max_duration: PositiveDuration = Field(
        DEFAULT_MAX_DURATION,
        description="Time after which onInconclusive applies; default 24h. With strategy: shadow the last step always lasts this"
        " long, unless the canary is rolled back.",
    )
