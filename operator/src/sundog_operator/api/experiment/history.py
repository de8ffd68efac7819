"""What a status remembers of the past: metrics over time, and notifications."""

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
    """What was known of one metric at one look."""

    name: Text = Field(description="As in the plan's guardrails, or outcomes.")
    role: Text | None = Field(None, description="As in status.metrics; absent of a rollout.")
    arm: Text | None = Field(None, description="The arm that was judged; absent of a rollout.")
    ratio: float | None = Field(
        None, description="Of the rates of events, the candidate's to stable's; absent where stable had none."
    )
    lower: float | None = Field(
        None, description="Lower end of the interval around it; absent where no one ratio fits all epochs."
    )
    upper: float | None = Field(None, description="Upper end; absent while it is not known.")
    basis: Text | None = Field(
        None,
        description="The decision that ratio and interval are of, as in status.metrics: ThisStep or Harm; absent for AllSteps, of"
        " outcomes, and of points of before it was kept.",
    )
    verdict: Text | None = Field(None, description="As in status.metrics; absent for Undecided.")


class HistoryPoint(ApiBase):
    """What was known at one look."""

    at: Timestamp = Field(description="When it was looked.")
    epoch: NonNegativeInt = Field(description="As in status.epoch.")
    weight: WholePercent = Field(
        description="The candidate's percent of the traffic; of an Experiment of a user's own that of its arms beside control together,"
        " to a whole number."
    )
    weights: Annotated[Items[PercentNumber], Field(max_length=11)] | None = Field(
        None, description="Percent of the traffic of each of status.arms; absent of a rollout."
    )
    requests: Annotated[Items[NonNegativeInt], Field(max_length=11)] = Field(
        (), description="Of stable and of the candidate, since the rollout began; else of each of status.arms."
    )
    errors: Annotated[Items[NonNegativeInt], Field(max_length=11)] = Field(
        (), description="Of those, the ones that failed."
    )
    metrics: Annotated[Items[HistoryMetric], Field(max_length=24)] | None = Field(
        None, description="Those of which there were any events; absent where there are none."
    )


class RolloutNotice(ApiBase):
    """Something that happened, of which those in the plan's notify are told."""

    event: NotificationEvent = Field(description="What: one that spec.rollout.notify[].events can name.")
    step: NonNegativeInt = Field(0, description="At which step; 0 before the first.")
    weight: WholePercent = Field(0, description="The candidate's percent of the traffic then.")
    reason: Text = Field("", description="Why: a word, a colon, and a sentence.")
    code: Text | None = Field(None, description="The word that reason begins with, for programs.")
    verdict: Text = Field("", description="What evidence had decided by then, as in status.verdict.decision.")
    time: Timestamp = Field(description="When.")

    @model_validator(mode="before")
    @classmethod
    def _read_code(cls, data: Any) -> Any:
        return add_stored_code(data, "reason", "code")


class NotificationDelivery(ApiBase):
    """How far one receiver is. Absent until it was told something, or could not be."""

    receiver: NonNegativeInt = Field(description="Its place in the plan's notify, from 0.")
    told: NonNegativeInt = Field(0, description="The last notice that it is done with, counted from 1.")
    lost: NonNegativeInt = Field(0, description="How many were given up after an hour.")
    problem: Text = Field("", description="Why it could not be told the next one, or the last one that was given up.")
