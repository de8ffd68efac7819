"""Checks beside the edges' own metrics: Prometheus queries and webhooks."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.defaults import PositiveDuration
from sundog_operator.api.scalars import (
    Duration,
    HttpUrl,
    Integer,
    Name,
)
from sundog_operator.api.schema.rules import ExpectedNoun, Rule

_PLACE = r"\{\{ ?(namespace|service|revision|stableRevision|arm) ?\}\}"
_CHECKS_PACE = Rule(
    cel="!self.contains('d') && duration(self) >= duration('10s') && duration(self) <= duration('1h')",
    holds=lambda interval: timedelta(seconds=10) <= interval <= timedelta(hours=1),
    message="must be 10s to 1h",
)


class PrometheusQuery(ApiBase):
    """A number that is read from the administrator's Prometheus again and again."""

    query: Annotated[
        str,
        Field(min_length=1, max_length=4096, pattern=rf"^([^{{]|\{{[^{{]|{_PLACE})*\{{?$"),
        ExpectedNoun(
            "PromQL in which {{namespace}}, {{service}}, {{revision}}, {{stableRevision}} and {{arm}} alone stand in double braces"
        ),
    ] = Field(
        description="PromQL that gives one number. In it {{namespace}}, {{service}}, {{revision}}, {{stableRevision}} and {{arm}}"
        " stand for those of the candidate.",
    )
    interval: Annotated[Duration, _CHECKS_PACE] = Field(
        timedelta(minutes=1), description="Between two checks, 10s to 1h."
    )
    failure_limit: Annotated[Integer, Field(ge=1, le=100)] = Field(
        3, description="So many checks in a row outside of the threshold roll back."
    )
    inconclusive_limit: Annotated[Integer, Field(ge=1, le=100)] = Field(
        5, description="So many checks in a row without a number are Inconclusive, and onInconclusive follows."
    )


class Threshold(ApiBase):
    """Limits of a number, inclusive."""

    min: float | None = Field(None, description="The least good value.")
    max: float | None = Field(None, description="The greatest good value.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.min) || has(self.max)",
            holds=lambda limits: limits.min is not None or limits.max is not None,
            message="min or max has to be given",
        ),
        Rule(
            cel="!has(self.min) || !has(self.max) || self.min <= self.max",
            holds=lambda limits: limits.min is None or limits.max is None or limits.min <= limits.max,
            message="min is greater than max",
        ),
    )


class Analysis(ApiBase):
    """A number that has to be good before the next step."""

    name: Name = Field(description="Names it in status.")
    prometheus: PrometheusQuery = Field(description="A number read from Prometheus.")
    threshold: Threshold = Field(description="What that number may be.")
    count: Annotated[Integer, Field(ge=1, le=100)] = Field(
        1, description="The step ends after so many checks within the threshold."
    )


AT_MOST_AN_HOUR_RULE = Rule(
    cel="self.contains('d') ? !self.matches('[1-9]') : duration(self) <= duration('1h')",
    holds=lambda timeout: timeout <= timedelta(hours=1),
    message="must be at most an hour",
)


class WebhookStep(ApiBase):
    """A service that has to confirm before the next step."""

    url: HttpUrl = Field(
        description="Where to ask, by POST. What is told of it elsewhere is without user, password and query."
    )
    type: Literal["confirm"] = Field(
        "confirm",
        description="confirm: the step ends once the answer is 200, 201 or 202; after any other it is asked again.",
    )
    timeout: Annotated[PositiveDuration, AT_MOST_AN_HOUR_RULE] = Field(
        timedelta(seconds=10), description="How long one call may take, at most an hour. Nothing else waits for it."
    )
