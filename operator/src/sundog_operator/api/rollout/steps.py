"""Steps of a rollout."""

from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from sundog_operator.api.base import ApiBase
from sundog_operator.api.quantities import format_duration
from sundog_operator.api.rollout.checks import Analysis, WebhookStep
from sundog_operator.api.rollout.common import (
    DEFAULT_GATE,
    DEFAULT_MAX_DURATION,
    DEFAULT_MIN_DURATION,
    Gate,
    PositiveDuration,
    Weight,
)
from sundog_operator.api.rollout.shadow import Shadow
from sundog_operator.api.scalars import (
    Duration,
    Integer,
)
from sundog_operator.api.schema.rules import ExpectedNoun, Rule

HeaderName = Annotated[
    str,
    Field(max_length=63, pattern=r"^[a-z0-9][-a-z0-9_]*$"),
    ExpectedNoun("a header name in lower case such as x-canary"),
]
StepHeaders = Annotated[
    dict[
        HeaderName,
        Annotated[
            str,
            Field(max_length=256, pattern=r"^[!-~]([ -~]*[!-~])?$"),
            ExpectedNoun("printable ASCII without blanks at its ends"),
        ],
    ],
    Field(min_length=1, max_length=8),
]
"""Values that headers must have, by header name."""


class PauseStep(ApiBase):
    """A stop between steps: until `resume` or `promote`, or for a duration."""

    duration: Duration | None = Field(None, description="How long to wait; default until a command.")


class ScaleStep(ApiBase):
    """Least replicas of the canary from this step on; its weight may need more."""

    replicas: Annotated[Integer, Field(ge=1, le=1000)] | None = Field(None, description="Number of replicas.")
    percent: Annotated[Integer, Field(ge=1, le=100)] | None = Field(
        None, description="Percent of the replicas that the service needs, rounded up."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.replicas) != has(self.percent)",
            message="expected exactly one of replicas and percent",
        ),
    )


_SECOND = timedelta(seconds=1)


def _seconds_of(field: str, default: timedelta) -> str:
    """Return CEL for the whole seconds of an optional duration of a step. CEL knows no days, which stand alone."""
    text = f"(has(self.{field}) ? self.{field} : '{format_duration(default)}')"
    return f"({text}.contains('d') ? int({text}.split('d')[0]) * 86400 : duration({text}).getSeconds())"


def _min_is_within_max_duration(step: "Step") -> bool:
    least, most = step.min_duration, step.max_duration
    if step.weight is None or step.gate != "evidence" or least is None or not most:
        return True
    return least // _SECOND <= most // _SECOND


MIN_WITHIN_MAX_DURATION_RULE = Rule(
    cel=(
        "!has(self.weight) || has(self.gate) && self.gate != 'evidence'"
        " || has(self.maxDuration) && !self.maxDuration.matches('[1-9]')"
        f" || {_seconds_of('minDuration', DEFAULT_MIN_DURATION)} <= {_seconds_of('maxDuration', DEFAULT_MAX_DURATION)}"
    ),
    python=_min_is_within_max_duration,
    message="{minDuration} is greater than maxDuration; expected at most {maxDuration}",
    field="minDuration",
    absent=(
        ("minDuration", format_duration(DEFAULT_MIN_DURATION)),
        ("maxDuration", format_duration(DEFAULT_MAX_DURATION)),
    ),
)
"""An evidence gate stays closed for minDuration and gives up after maxDuration."""
STEP_KINDS = ("weight", "pause", "headers", "scale", "analysis", "webhook", "shadow")


class Step(ApiBase):
    """One step of a rollout: exactly one of weight, pause, headers, scale, analysis, webhook and shadow.

    After parsing, a weight step without gate, minDuration or maxDuration has the defaults: evidence, 5m and 24h.
    """

    weight: Weight | None = Field(None, description="The canary's percent of the traffic.")
    gate: Gate | None = Field(
        None,
        description="What ends a weight step: evidence (default; none at weight 100), time (after minDuration) or manual (by"
        " promote).",
    )
    min_duration: Duration | None = Field(
        None, description="Length of a weight step with gate time; least length with evidence. Default 5m."
    )
    max_duration: PositiveDuration | None = Field(
        None,
        description="With gate evidence: time after which onInconclusive applies; default 24h.",
    )
    pause: PauseStep | None = Field(None, description="Wait for a command or for a duration.")
    headers: StepHeaders | None = Field(
        None,
        description="Requests with all of these headers go to the canary, until the next weight or headers step. Names are lower"
        " case; values match exactly. These requests are no evidence. The step ends once every edge applies it.",
    )
    scale: ScaleStep | None = Field(
        None,
        description="Least replicas of the canary from here on, but never more than the service needs. The step ends once they"
        " are ready.",
    )
    analysis: Analysis | None = Field(
        None,
        description="Read a number from Prometheus, at the weight of the step before, until it was good often enough.",
    )
    webhook: WebhookStep | None = Field(
        None,
        description="Ask a service, at the weight of the step before, until it confirms or a command passes the step.",
    )
    shadow: Shadow | None = Field(None, description="Copy requests to the canary and compare the answers.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"[{', '.join(f'has(self.{kind})' for kind in STEP_KINDS)}].filter(x, x).size() == 1",
            message="expected exactly one of weight, pause, headers, scale, analysis, webhook and shadow",
        ),
        Rule(
            cel="has(self.weight) || !(has(self.gate) || has(self.minDuration) || has(self.maxDuration))",
            message="gate, minDuration or maxDuration without weight; expected them only with weight",
        ),
        MIN_WITHIN_MAX_DURATION_RULE,
    )

    @model_validator(mode="before")
    @classmethod
    def _default_gate(cls, value: Any) -> Any:
        # Not in the schema, because its default would also apply to steps without a weight.
        if not isinstance(value, dict) or value.get("weight") is None:
            return value
        filled = dict(value)
        for alias, name, default in (
            ("gate", "gate", DEFAULT_GATE),
            ("minDuration", "min_duration", DEFAULT_MIN_DURATION),
            ("maxDuration", "max_duration", DEFAULT_MAX_DURATION),
        ):
            if filled.get(alias) is None and filled.get(name) is None:
                filled[alias] = default
        return filled
