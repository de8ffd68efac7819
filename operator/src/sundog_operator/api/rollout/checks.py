"""Prometheus queries and webhooks, which complement the edges' own metrics."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.common import PositiveDuration
from sundog_operator.api.scalars import (
    Duration,
    HttpUrl,
    Integer,
    Name,
)
from sundog_operator.api.schema.rules import ExpectedNoun, Rule

_PLACEHOLDER = r"\{\{ ?(namespace|service|revision|stableRevision|arm) ?\}\}"
_CHECK_INTERVAL_RULE = Rule(
    cel="!self.contains('d') && duration(self) >= duration('10s') && duration(self) <= duration('1h')",
    python=lambda interval: timedelta(seconds=10) <= interval <= timedelta(hours=1),
    message="not in range; expected 10s to 1h",
)


class PrometheusQuery(ApiBase):
    """A number that the operator reads regularly from the installation's Prometheus."""

    query: Annotated[
        str,
        Field(min_length=1, max_length=4096, pattern=rf"^([^{{]|\{{[^{{]|{_PLACEHOLDER})*\{{?$"),
        ExpectedNoun(
            "PromQL whose double braces contain only {{namespace}}, {{service}}, {{revision}}, {{stableRevision}} or"
            " {{arm}}"
        ),
    ] = Field(
        description="PromQL that returns one number. The operator replaces {{namespace}}, {{service}}, {{revision}},"
        " {{stableRevision}} and {{arm}} by those of the canary.",
    )
    interval: Annotated[Duration, _CHECK_INTERVAL_RULE] = Field(
        timedelta(minutes=1), description="Time between two checks, 10s to 1h; default 1m."
    )
    failure_limit: Annotated[Integer, Field(ge=1, le=100)] = Field(
        3, description="Consecutive checks outside of the threshold that cause a rollback; default 3."
    )
    inconclusive_limit: Annotated[Integer, Field(ge=1, le=100)] = Field(
        5,
        description="Consecutive checks without a number after which the step is Inconclusive and onInconclusive applies; default"
        " 5.",
    )


class Threshold(ApiBase):
    """Limits of a number, inclusive."""

    min: float | None = Field(None, description="The least good value.")
    max: float | None = Field(None, description="The greatest good value.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.min) || has(self.max)",
            message="expected min, max or both",
        ),
        Rule(
            cel="!has(self.min) || !has(self.max) || self.min <= self.max",
            message="min is greater than max; expected min to be at most max",
        ),
    )


class Analysis(ApiBase):
    """A number that must be good before the next step."""

    name: Name = Field(description="Name of the check in status.")
    prometheus: PrometheusQuery = Field(description="The Prometheus query.")
    threshold: Threshold = Field(description="Good values of the number.")
    count: Annotated[Integer, Field(ge=1, le=100)] = Field(
        1, description="Checks within the threshold that the step needs; default 1."
    )


AT_MOST_AN_HOUR_RULE = Rule(
    cel="self.contains('d') ? !self.matches('[1-9]') : duration(self) <= duration('1h')",
    python=lambda timeout: timeout <= timedelta(hours=1),
    message="too long; expected at most 1h",
)


class WebhookStep(ApiBase):
    """A service that must confirm before the next step."""

    url: HttpUrl = Field(description="Address of the POST request. Reports omit its user, password and query.")
    type: Literal["confirm"] = Field(
        "confirm",
        description="confirm: the step ends when the answer is 200, 201 or 202. After any other answer the operator asks again.",
    )
    timeout: Annotated[PositiveDuration, AT_MOST_AN_HOUR_RULE] = Field(
        timedelta(seconds=10), description="Timeout of one call, at most 1h; default 10s. Nothing else waits for it."
    )
