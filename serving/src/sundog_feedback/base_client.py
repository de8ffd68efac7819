"""The part that both clients share: their options, outcomes, and the outbox."""

from collections.abc import Mapping
from typing import Any, Required, TypedDict

import httpx

from sundog_feedback.outbox import DEFAULT_CAPACITY, FEEDBACK_PATH, Outbox
from sundog_feedback.retry import DEFAULT_GIVE_UP_S, REQUEST_TIMEOUT_S, retry_options

DEFAULT_LINGER_S = 0.2


class Options(TypedDict, total=False):
    """How a client sends.

    Each request has `headers`, such as an API key. An event waits up to `linger_s` seconds for others, to share one request.
    At most `capacity` events wait. Events that the edge does not accept within `give_up_s` seconds are dropped.
    """

    headers: Mapping[str, str] | None
    capacity: int
    linger_s: float
    give_up_s: float


class Outcome(TypedDict, total=False):
    """An outcome of an exposure (the answer's header `x-sundog-exposure`) or of a unit.

    An outcome that is sent twice counts once, unless `event_id` or `time` (RFC 3339) differ. `value` is 1 by default.
    `properties` are kept beside the outcome and exported with it.
    """

    metric: Required[str]
    exposure: str | None
    unit: str | int | None
    value: float
    event_id: str | None
    time: str | None
    properties: Mapping[str, str | float | bool] | None


class BaseClient:
    """Base of both clients. Raises httpx.InvalidURL for an invalid URL."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        capacity: int = DEFAULT_CAPACITY,
        linger_s: float = DEFAULT_LINGER_S,
        give_up_s: float = DEFAULT_GIVE_UP_S,
    ) -> None:
        self._url = httpx.URL(url.rstrip("/") + FEEDBACK_PATH)
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._timeout_s = REQUEST_TIMEOUT_S
        self._outbox = Outbox(capacity)
        self._linger_s = linger_s
        self._policy = retry_options(give_up_s)


def make_event(
    *,
    metric: str,
    exposure: str | None = None,
    unit: str | int | None = None,
    value: float = 1,
    event_id: str | None = None,
    time: str | None = None,
    properties: Mapping[str, str | float | bool] | None = None,
) -> dict[str, Any]:
    """Return an outcome in the edge's format."""
    members = {
        "exposure": exposure,
        "unit": unit,
        "metric": metric,
        "value": value,
        "id": event_id,
        "time": time,
        "properties": properties or None,
    }
    return {name: member for name, member in members.items() if member is not None}
