"""Steps that compare copies of requests."""

from typing import Annotated, ClassVar

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.defaults import (
    DEFAULT_MAX_DURATION,
    JSON_PATH,
    JSON_PATH_NOUN,
    Comparator,
    PartComparator,
    PositiveDuration,
)
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
