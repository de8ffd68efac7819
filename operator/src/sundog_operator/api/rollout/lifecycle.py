"""Warm-up, bake, what is kept afterwards, windows and notifications."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.defaults import PositiveDuration
from sundog_operator.api.scalars import (
    Duration,
    HttpUrl,
    Integer,
    Items,
)
from sundog_operator.api.schema.rules import ExpectedNoun, ListType


class RolloutWarmup(ApiBase):
    """The first part of each weight, which is no evidence: it ends with whichever comes first. 0 of either means no warm-up."""

    requests: Annotated[Integer, Field(ge=0, le=1_000_000)] = Field(
        200, description="It ends after so many requests of the candidate."
    )
    duration: Duration = Field(timedelta(seconds=60), description="It ends after so long.")


class Bake(ApiBase):
    """What follows the last step: the old revision keeps a share and is compared still."""

    duration: PositiveDuration = Field(
        timedelta(minutes=30), description="How long, from when all edges have that split in force; pauses left aside."
    )
    holdback: Annotated[
        str, Field(max_length=12, pattern=r"^([1-9]|[1-4][0-9])%$"), ExpectedNoun("a whole percentage from 1% to 49%")
    ] = Field("1%", description="The share that the old revision keeps; the weight of each step is below the rest.")

    @property
    def weight(self) -> int:
        """The percent of the traffic that the candidate has."""
        return 100 - int(self.holdback.removesuffix("%"))


class KeepPrevious(ApiBase):
    """Revisions that were stable and stay warm after a promotion, to go back to at once."""

    revisions: Annotated[Integer, Field(ge=0, le=5)] = Field(
        1, description="How many of status.stableBefore, the newest first."
    )
    replicas: Annotated[Integer, Field(ge=0, le=1000)] = Field(1, description="Replicas of each; 0 keeps none.")
    for_: Duration = Field(timedelta(hours=1), alias="for", description="How long after it lost its traffic.")


class RollbackWindow(ApiBase):
    """Revisions that were stable and may return without steps."""

    revisions: Annotated[Integer, Field(ge=0, le=20)] = Field(
        3, description="How many of status.stableBefore, the newest first."
    )


class RolloutWindow(ApiBase):
    """When traffic may move forward."""

    cron: Annotated[
        str,
        Field(max_length=128, pattern=r"^[-0-9A-Za-z*/,]+( [-0-9A-Za-z*/,]+){4}$"),
        ExpectedNoun("a cron line of five fields such as 0 9 * * 1-5"),
    ] = Field(description="When it opens: minute, hour, day of the month, month and weekday.")
    duration: PositiveDuration = Field(description="How long it stays open, in hours that pass; 1m or more.")
    tz: Annotated[
        str,
        Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$"),
        ExpectedNoun("a time zone such as UTC or Europe/Prague"),
    ] = Field("UTC", description="The time zone of cron.")


NotificationEvent = Literal["started", "paused", "promoted", "aborted", "rolledBack"]


class NotificationReceiver(ApiBase):
    """An address that is told what happened."""

    webhook: HttpUrl = Field(description="Where to post. What is told of it elsewhere is its scheme and host.")
    events: Annotated[Items[NotificationEvent], Field(min_length=1, max_length=5), ListType("set")] = Field(
        ("paused", "promoted", "rolledBack"),
        description="What is told. paused: it stands still as `status.paused` of the Experiment says, or at a step that waits for promote.",
    )
