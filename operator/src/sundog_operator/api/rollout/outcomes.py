"""Types of outcomes that metrics of Experiments and guardrails of rollouts share."""

from typing import Annotated, Final, Literal

from pydantic import Field

from sundog_operator.api.rollout.guardrail_defaults import REJECTIONS, RETRIES
from sundog_operator.api.scalars import Name
from sundog_operator.api.schema.rules import ExpectedNoun, Rule

RESERVED_METRIC_NAMES: Final = (REJECTIONS, RETRIES)
"""Metrics of the edge that are evaluated for every arm. Their names are lower-case, so an outcome could have the same."""
RESERVED_METRIC_NAMES_CEL: Final = "[" + ", ".join(f"'{name}'" for name in RESERVED_METRIC_NAMES) + "]"
NOT_RESERVED_METRIC_NAME_RULE = Rule(
    cel=f"!(self in {RESERVED_METRIC_NAMES_CEL})",
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
TYPE_TEXT: Final = (
    "rate: share of exposed units whose first value was above 0. mean: average over exposed units of the sum of"
    " each unit's values, which is 0 if it has none."
)
Cap = Annotated[float, Field(gt=0, le=1_000_000_000_000)]
CAP_TEXT: Final = (
    "Of a mean: a unit's total above this counts as this, in the unit of the values. Then few units with very large totals"
    " do not decide."
)
