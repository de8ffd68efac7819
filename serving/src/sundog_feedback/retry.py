"""Retries of requests: while the edge is away or busy, after the pause that it requests, and for a limited time."""

from typing import Any

import httpx
from tenacity import RetryCallState, retry_if_exception_type, stop_after_delay, wait_random_exponential

REQUEST_TIMEOUT_S = 30.0
DEFAULT_GIVE_UP_S = 60.0
_MAX_WAIT_S = 10.0
_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
_BACK_OFF = wait_random_exponential(multiplier=0.1, max=_MAX_WAIT_S)


class DeliveryFailed(Exception):
    """A request was not accepted, and a retry would not help."""


class RetryableDeliveryError(DeliveryFailed):
    """A request was not accepted; a retry after `retry_after_s` seconds may be."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def parse_response(response: httpx.Response) -> Any:
    """Return the document of an answer. Raises DeliveryFailed if the answer shows that the request was not accepted."""
    if response.status_code in {200, 207}:
        try:
            return response.json()
        except ValueError:
            raise DeliveryFailed("the answer is not JSON") from None
    reason = f"answered {response.status_code} {response.reason_phrase}"
    if response.status_code in _RETRYABLE:
        raise RetryableDeliveryError(reason, _seconds(response.headers.get("retry-after", "")))
    raise DeliveryFailed(reason)


def retry_options(give_up_s: float) -> dict[str, Any]:
    """Return arguments of tenacity's `Retrying` and `AsyncRetrying`."""
    return {
        "retry": retry_if_exception_type((httpx.TransportError, RetryableDeliveryError)),
        "stop": stop_after_delay(give_up_s),
        "wait": _pause,
        "reraise": True,
    }


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    return max(_BACK_OFF(state), error.retry_after_s if isinstance(error, RetryableDeliveryError) else 0.0)


def _seconds(text: str) -> float:
    """Return the seconds of `Retry-After`; 0 for a date, which no edge sends."""
    return min(float(text), _MAX_WAIT_S) if text.isdigit() else 0.0
