"""Steps of a rollout."""

from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from sundog_operator.api.base import ApiBase
from sundog_operator.api.quantities import format_duration
from sundog_operator.api.rollout.checks import Analysis, WebhookStep
from sundog_operator.api.rollout.defaults import (
    DEFAULT_GATE,
    DEFAULT_MAX_DURATION,
    DEFAULT_MIN_DURATION,
    Gate,
    PositiveDuration,
    Weight,
    set_fields,
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
            ExpectedNoun("printable ASCII without blanks around it"),
        ],
    ],
    Field(min_length=1, max_length=8),
]
"""Headers by name, and the value that each has to have."""


class PauseStep(ApiBase):
    """A stop between steps: until `resume` or `promote`, or for a duration."""

    duration: Duration | None = Field(None, description="How long to wait; without it, until a command.")


class ScaleStep(ApiBase):
    """Candidate replicas from this step on, whatever its weight needs beyond."""

    replicas: Annotated[Integer, Field(ge=1, le=1000)] | None = Field(None, description="So many.")
    percent: Annotated[Integer, Field(ge=1, le=100)] | None = Field(
        None, description="This percent of what the service needs, rounded up."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.replicas) != has(self.percent)",
            holds=lambda scale: (scale.replicas is None) != (scale.percent is None),
            message="exactly one of replicas and percent has to be given",
        ),
    )


_SECOND = timedelta(seconds=1)


def _seconds_of(field: str, default: timedelta) -> str:
    """CEL for the whole seconds of an optional duration of a step. CEL knows no days, which stand alone."""
    text = f"(has(self.{field}) ? self.{field} : '{format_duration(default)}')"
    return f"({text}.contains('d') ? int({text}.split('d')[0]) * 86400 : duration({text}).getSeconds())"


def _has_time_to_end(step: "Step") -> bool:
    least, most = step.min_duration, step.max_duration
    if step.weight is None or step.gate != "evidence" or least is None or not most:
        return True
    return least // _SECOND <= most // _SECOND


SHADOW_TIME_RULE = Rule(
    cel=(
        "!has(self.weight) || has(self.gate) && self.gate != 'evidence'"
        " || has(self.maxDuration) && !self.maxDuration.matches('[1-9]')"
        f" || {_seconds_of('minDuration', DEFAULT_MIN_DURATION)} <= {_seconds_of('maxDuration', DEFAULT_MAX_DURATION)}"
    ),
    holds=_has_time_to_end,
    message="{minDuration} is greater than maxDuration, {maxDuration}",
    field="minDuration",
    absent=(
        ("minDuration", format_duration(DEFAULT_MIN_DURATION)),
        ("maxDuration", format_duration(DEFAULT_MAX_DURATION)),
    ),
)
"""A gate of evidence stays shut for as long as minDuration, and is given up after maxDuration."""
STEP_KINDS = ("weight", "pause", "headers", "scale", "analysis", "webhook", "shadow")


class Step(ApiBase):
    """One step of a rollout: exactly one of weight, pause, headers, scale, analysis, webhook and shadow.

    A weight step that names no gate, minDuration or maxDuration has the defaults (evidence, 5m, 24h) once it is read.
    """

    weight: Weight | None = Field(None, description="The candidate's share of traffic in percent.")
    gate: Gate | None = Field(
        None,
        description="What lets a weight step end: evidence (default; at weight 100 none), time (minDuration) or manual (promote).",
    )
    min_duration: Duration | None = Field(
        None, description="How long a weight step lasts with gate time, and at least with evidence; default 5m."
    )
    max_duration: PositiveDuration | None = Field(
        None,
        description="With gate evidence: how long a weight step may take before onInconclusive follows; default 24h.",
    )
    pause: PauseStep | None = Field(None, description="Wait for a command or for a duration.")
    headers: StepHeaders | None = Field(
        None,
        description="Requests with all of these headers, names in lower case and values exactly so, go to the candidate, until the next"
        " step with headers or a weight begins. They are no evidence. The step ends once every edge does so.",
    )
    scale: ScaleStep | None = Field(
        None,
        description="From here on the candidate has at least these replicas, and never more than the service needs; the step ends once"
        " they are ready.",
    )
    analysis: Analysis | None = Field(
        None, description="Read a number from Prometheus, at the weight before it, until it was good often enough."
    )
    webhook: WebhookStep | None = Field(
        None, description="Ask a service, at the weight before it, until it confirms or a command passes the step."
    )
    shadow: Shadow | None = Field(None, description="Copy requests to the candidate and compare.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"[{', '.join(f'has(self.{kind})' for kind in STEP_KINDS)}].filter(x, x).size() == 1",
            holds=lambda step: len(set_fields(step, STEP_KINDS)) == 1,
            message="exactly one of weight, pause, headers, scale, analysis, webhook and shadow has to be given",
        ),
        Rule(
            cel="has(self.weight) || !(has(self.gate) || has(self.minDuration) || has(self.maxDuration))",
            holds=lambda step: (
                step.weight is not None or not set_fields(step, ("gate", "min_duration", "max_duration"))
            ),
            message="gate, minDuration and maxDuration go with weight only",
        ),
        SHADOW_TIME_RULE,
    )

    @model_validator(mode="before")
    @classmethod
    def _default_gate(cls, value: Any) -> Any:
        # The schema cannot say this: a default of `gate` there would reach pause steps too.
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
