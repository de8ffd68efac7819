"""History in a status: metrics over time, and notifications."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from sundog_operator.api.base import ApiBase
from sundog_operator.api.model_deployment.status import NonNegativeInt, WholePercent
from sundog_operator.api.older_releases import add_stored_code
from sundog_operator.api.rollout.lifecycle import NotificationEvent
from sundog_operator.api.scalars import (
    Items,
    PercentNumber,
    Text,
    Timestamp,
)


class HistoryMetric(ApiBase):
    """State of one metric at one evaluation."""

    name: Text = Field(description="As in the plan's guardrails or outcomes.")
    role: Text | None = Field(None, description="As in status.metrics; absent in a rollout.")
    arm: Text | None = Field(None, description="The evaluated arm; absent in a rollout.")
    ratio: float | None = Field(
        None, description="The canary's rate of events divided by stable's; absent if stable had no events."
    )
    lower: float | None = Field(
        None, description="Lower end of the ratio's interval; absent if no single ratio fits all epochs."
    )
    upper: float | None = Field(None, description="Upper end; absent while unknown.")
    basis: Text | None = Field(
        None,
        description="The decision that ratio and interval belong to, as in status.metrics: ThisStep or Harm. Absent for AllSteps,"
        " for outcomes, and in older points.",
    )
    verdict: Text | None = Field(None, description="As in status.metrics; absent for Undecided.")
    units: Annotated[Items[NonNegativeInt], Field(max_length=2)] | None = Field(
        None, description="For a success metric of outcomes: units of control and of the arm until then."
    )
    values: Annotated[Items[float], Field(max_length=2)] | None = Field(
        None, description="For a success metric of outcomes: rate or mean of control and of the arm until then."
    )
    deviations: Annotated[Items[float], Field(max_length=2)] | None = Field(
        None, description="For a success metric that is a mean: standard deviation of a unit of each until then."
    )


class HistoryPoint(ApiBase):
    """State at one evaluation."""

    at: Timestamp = Field(description="Time of the evaluation.")
    epoch: NonNegativeInt = Field(description="As in status.epoch.")
    weight: WholePercent = Field(
        description="The canary's percent of the traffic. In a user's Experiment: that of all arms beside control together,"
        " rounded."
    )
    weights: Annotated[Items[PercentNumber], Field(max_length=11)] | None = Field(
        None, description="Percent of the traffic of each of status.arms; absent in a rollout."
    )
    requests: Annotated[Items[NonNegativeInt], Field(max_length=11)] = Field(
        (),
        description="Requests of stable and of the canary since the rollout began; in a user's Experiment of each of status.arms.",
    )
    errors: Annotated[Items[NonNegativeInt], Field(max_length=11)] = Field((), description="How many of those failed.")
    units: Annotated[Items[NonNegativeInt], Field(max_length=11)] | None = Field(
        None,
        description="In a user's Experiment whose units are counted exactly: those of each of status.arms until then.",
    )
    metrics: Annotated[Items[HistoryMetric], Field(max_length=24)] | None = Field(
        None, description="Metrics with any events; absent if there are none."
    )


class RolloutNotice(ApiBase):
    """An event that the receivers in the plan's notify get."""

    event: NotificationEvent = Field(description="The event, as spec.rollout.notify[].events names it.")
    step: NonNegativeInt = Field(0, description="The step; 0 before the first.")
    weight: WholePercent = Field(0, description="The canary's percent of the traffic at that time.")
    reason: Text = Field("", description="Why: a word, a colon and a sentence.")
    code: Text | None = Field(None, description="The word that reason begins with, for programs.")
    verdict: Text = Field("", description="The decision at that time, as in status.verdict.decision.")
    time: Timestamp = Field(description="Time of the event.")

    @model_validator(mode="before")
    @classmethod
    def _read_code(cls, data: Any) -> Any:
        return add_stored_code(data, "reason", "code")


class NotificationDelivery(ApiBase):
    """Progress of one receiver. Absent until it got a notice, or a delivery failed."""

    receiver: NonNegativeInt = Field(description="Its index in the plan's notify, from 0.")
    told: NonNegativeInt = Field(0, description="The last notice that is delivered or given up, counted from 1.")
    lost: NonNegativeInt = Field(0, description="Notices given up after an hour.")
    problem: Text = Field(
        "", description="Why the next notice was not delivered, or why the last lost one was given up."
    )
