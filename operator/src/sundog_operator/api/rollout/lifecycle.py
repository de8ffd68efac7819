"""Warm-up, bake, kept revisions, windows and notifications."""

from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import Field

from sundog_operator.api.base import ApiBase
from sundog_operator.api.rollout.common import PositiveDuration
from sundog_operator.api.scalars import (
    Duration,
    HttpUrl,
    Integer,
    Items,
)
from sundog_operator.api.schema.rules import ExpectedNoun, ListType, Rule

_RARE_MINUTES: Final = "^([0-9]+(,[0-9]+){0,3}|([*]|[0-9]+(-[0-9]+)?)/(1[5-9]|[2-5][0-9])) "
RARE_OPENINGS_RULE: Final = Rule(
    cel=f"self.matches('{_RARE_MINUTES}')",
    message="{} may open more than four times an hour; expected at most four minutes in the first field, such as 0 or 0,30 or"
    " */15, and a longer duration",
    spares_stored=True,
)


class RolloutWarmup(ApiBase):
    """The start of each weight, whose requests are no evidence. It ends when the first limit is reached; 0 for either means no warm-up."""

    requests: Annotated[Integer, Field(ge=0, le=1_000_000)] = Field(
        200, description="Requests of the canary after which the warm-up ends; default 200."
    )
    duration: Duration = Field(timedelta(seconds=60), description="Time after which the warm-up ends; default 60s.")


class Bake(ApiBase):
    """The time after the last step: stable keeps a small share and is still compared."""

    duration: PositiveDuration = Field(
        timedelta(minutes=30), description="Duration, from when all edges apply the split, without pauses; default 30m."
    )
    holdback: Annotated[
        str, Field(max_length=12, pattern=r"^([1-9]|[1-4][0-9])%$"), ExpectedNoun("a whole percentage from 1% to 49%")
    ] = Field("1%", description="Share that stable keeps; default 1%. Every step's weight must be below the rest.")

    @property
    def weight(self) -> int:
        """The canary's percent of the traffic."""
        return 100 - int(self.holdback.removesuffix("%"))


class KeepPrevious(ApiBase):
    """Former stable revisions that stay warm after a promotion, for an immediate rollback."""

    revisions: Annotated[Integer, Field(ge=0, le=5)] = Field(
        1, description="How many of status.stableBefore, newest first; default 1."
    )
    replicas: Annotated[Integer, Field(ge=0, le=1000)] = Field(
        1, description="Replicas of each; default 1. 0 keeps none."
    )
    for_: Duration = Field(
        timedelta(hours=1), alias="for", description="How long after the revision lost its traffic; default 1h."
    )


class RollbackWindow(ApiBase):
    """Former stable revisions that may return without steps."""

    revisions: Annotated[Integer, Field(ge=0, le=20)] = Field(
        3, description="How many of status.stableBefore, newest first; default 3."
    )


class RolloutWindow(ApiBase):
    """A period in which traffic may advance."""

    cron: Annotated[
        str,
        Field(max_length=128, pattern=r"^[-0-9A-Za-z*/,]+( [-0-9A-Za-z*/,]+){4}$"),
        ExpectedNoun("a cron line of five fields such as 0 9 * * 1-5"),
        RARE_OPENINGS_RULE,
    ] = Field(
        description="When it opens, at most four times an hour: minute, hour, day of the month, month and weekday."
    )
    duration: PositiveDuration = Field(description="How long it stays open, in elapsed time; at least 1m.")
    tz: Annotated[
        str,
        Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$"),
        ExpectedNoun("a time zone such as UTC or Europe/Prague"),
    ] = Field("UTC", description="Time zone of cron; default UTC.")


NotificationEvent = Literal["started", "paused", "promoted", "aborted", "rolledBack"]


class NotificationReceiver(ApiBase):
    """A webhook that is notified of a rollout's events."""

    webhook: HttpUrl = Field(description="Address of the POST request. Reports show only its scheme and host.")
    events: Annotated[Items[NotificationEvent], Field(min_length=1, max_length=5), ListType("set")] = Field(
        ("paused", "promoted", "rolledBack"),
        description="Events to send; default paused, promoted and rolledBack. paused: the Experiment has `status.paused`, or a"
        " step waits for promote.",
    )
