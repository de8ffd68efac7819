"""Reads numbers from the administrator's Prometheus, over aiohttp."""

import math
from typing import Any, Final

import aiohttp
import orjson

from sundog_operator.adapters.http_body import read_body
from sundog_operator.adapters.webhooks import describe_error
from sundog_operator.core.observed import PrometheusResult

MAX_RESPONSE_BYTES: Final = 2**20
"""Of an answer: a number takes some hundred, and what gives thousands of series is no number."""

_SHOWN: Final = 200
_ASKED: Final = {"User-Agent": "sundog-operator"}


class HttpPrometheus:
    """`ports.Prometheus`. No redirect is followed: where it leads is the administrator's to say."""

    def __init__(self, session: aiohttp.ClientSession, url: str, timeout_s: float) -> None:
        """`url` is without `/api/v1`; `timeout_s` bounds one query, its answer included."""
        self._session = session
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._timeout_s = timeout_s

    async def query(self, expression: str) -> PrometheusResult:
        """See the port."""
        try:
            status, body = await self._post(expression)
        except TimeoutError:
            return PrometheusResult(problem=f"had no answer from Prometheus within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as err:
            return PrometheusResult(problem=f"cannot reach Prometheus: it {describe_error(err, self._timeout_s)}")
        return PrometheusResult(problem="had more than 1 MiB for an answer") if body is None else _read(status, body)

    async def _post(self, expression: str) -> tuple[int, bytes | None]:
        """The status and the body, None for one that is too long."""
        form = {"query": expression, "timeout": f"{math.ceil(self._timeout_s)}s"}
        limits = aiohttp.ClientTimeout(self._timeout_s)
        async with self._session.post(
            self._url, data=form, headers=_ASKED, allow_redirects=False, timeout=limits
        ) as response:
            body = await read_body(response, MAX_RESPONSE_BYTES)
            return response.status, body if len(body) <= MAX_RESPONSE_BYTES else None


def _read(status: int, body: bytes) -> PrometheusResult:
    try:
        document = orjson.loads(body)
        if document["status"] == "error":
            return PrometheusResult(problem=f"is refused by Prometheus: {_line(document['error'])}")
        return _number(document["data"]["resultType"], document["data"]["result"])
    except (KeyError, TypeError, ValueError, IndexError):
        return PrometheusResult(problem=f"was answered {status} by what does not speak as Prometheus does")


def _number(kind: str, result: Any) -> PrometheusResult:
    """The number of a scalar, or of a vector's only sample. Raises KeyError, TypeError, ValueError and IndexError."""
    if kind not in ("scalar", "vector"):
        return PrometheusResult(problem=f"gives a {_line(kind)} instead of one number")
    if kind == "vector" and not result:
        return PrometheusResult(problem="gives no data")
    if kind == "vector" and len(result) > 1:
        return PrometheusResult(problem=f"gives {len(result)} series instead of one number")
    text = str(result[1] if kind == "scalar" else result[0]["value"][1])
    value = float(text)
    return (
        PrometheusResult(value)
        if math.isfinite(value)
        else PrometheusResult(problem=f"gives {_line(text)}, which is no number")
    )


def _line(text: Any) -> str:
    words = " ".join(str(text).split())
    return words if len(words) <= _SHOWN else f"{words[: _SHOWN - 1]}…"
