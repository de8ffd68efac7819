"""Reads numbers from the administrator's Prometheus, over aiohttp."""

import math
from typing import Any, Final

import aiohttp
import orjson

from sundog_operator.adapters.http_body import read_body
from sundog_operator.adapters.webhooks import describe_error
from sundog_operator.core.observed import PrometheusResult

MAX_RESPONSE_BYTES: Final = 2**20
"""Limit of an answer. One number takes some hundred bytes; a larger answer holds many series."""

_MAX_ERROR_CHARS: Final = 200
_HEADERS: Final = {"User-Agent": "sundog-operator"}


class HttpPrometheus:
    """`ports.Prometheus`. It follows no redirect: only the administrator names the address."""

    def __init__(self, session: aiohttp.ClientSession, url: str, timeout_s: float) -> None:
        """`url` is without `/api/v1`; `timeout_s` limits one query with its answer."""
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
        return PrometheusResult(problem="got an answer of more than 1 MiB") if body is None else _read(status, body)

    async def _post(self, expression: str) -> tuple[int, bytes | None]:
        """Return the status and the body, None for a body over the limit."""
        form = {"query": expression, "timeout": f"{math.ceil(self._timeout_s)}s"}
        limits = aiohttp.ClientTimeout(self._timeout_s)
        async with self._session.post(
            self._url, data=form, headers=_HEADERS, allow_redirects=False, timeout=limits
        ) as response:
            body = await read_body(response, MAX_RESPONSE_BYTES)
            return response.status, body if len(body) <= MAX_RESPONSE_BYTES else None


def _read(status: int, body: bytes) -> PrometheusResult:
    try:
        document = orjson.loads(body)
        if document["status"] == "error":
            return PrometheusResult(problem=f"is refused by Prometheus: {_shorten(document['error'])}")
        return _number(document["data"]["resultType"], document["data"]["result"])
    except (KeyError, TypeError, ValueError, IndexError):
        return PrometheusResult(problem=f"got an answer with status {status} that is not from Prometheus' API")


def _number(kind: str, result: Any) -> PrometheusResult:
    """Return the number of a scalar, or of a vector's only sample. Raises KeyError, TypeError, ValueError, IndexError."""
    if kind not in ("scalar", "vector"):
        return PrometheusResult(problem=f"gives a {_shorten(kind)} instead of one number")
    if kind == "vector" and not result:
        return PrometheusResult(problem="gives no data")
    if kind == "vector" and len(result) > 1:
        return PrometheusResult(problem=f"gives {len(result)} series instead of one number")
    text = str(result[1] if kind == "scalar" else result[0]["value"][1])
    value = float(text)
    return (
        PrometheusResult(value)
        if math.isfinite(value)
        else PrometheusResult(problem=f"gives {_shorten(text)}, which is not a finite number")
    )


def _shorten(text: Any) -> str:
    words = " ".join(str(text).split())
    return words if len(words) <= _MAX_ERROR_CHARS else f"{words[: _MAX_ERROR_CHARS - 1]}…"
