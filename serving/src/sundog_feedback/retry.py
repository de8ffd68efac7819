"""When a request is sent again: while the edge is away or busy, as long as it asks for, and not for ever."""

from typing import Any

import httpx
from tenacity import RetryCallState, retry_if_exception_type, stop_after_delay, wait_random_exponential

REQUEST_TIMEOUT_S = 30.0
DEFAULT_GIVE_UP_S = 60.0
_LONGEST_S = 10.0
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_BACK_OFF = wait_random_exponential(multiplier=0.1, max=_LONGEST_S)


class DeliveryFailed(Exception):
    """A request was not taken, and would not be another time."""


class RetryableDeliveryError(DeliveryFailed):
    """A request was not taken; one that comes `after` so many seconds may be."""

    def __init__(self, why: str, after: float) -> None:
        super().__init__(why)
        self.after = after


def parse_response(response: httpx.Response) -> Any:
    """The document of an answer. Raises NotTaken for one that tells that the request was not taken."""
    if response.status_code in {200, 207}:
        try:
            return response.json()
        except ValueError:
            raise DeliveryFailed("the answer is no JSON") from None
    why = f"answered {response.status_code} {response.reason_phrase}"
    if response.status_code in _AGAIN:
        raise RetryableDeliveryError(why, _seconds(response.headers.get("retry-after", "")))
    raise DeliveryFailed(why)


def retry_options(give_up_s: float) -> dict[str, Any]:
    """Arguments of tenacity's `Retrying` and `AsyncRetrying`."""
    return {
        "retry": retry_if_exception_type((httpx.TransportError, RetryableDeliveryError)),
        "stop": stop_after_delay(give_up_s),
        "wait": _pause,
        "reraise": True,
    }


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    return max(_BACK_OFF(state), error.after if isinstance(error, RetryableDeliveryError) else 0.0)


def _seconds(text: str) -> float:
    """What `Retry-After` asks for; a date, which no edge sends, counts as nothing."""
    return min(float(text), _LONGEST_S) if text.isdigit() else 0.0
