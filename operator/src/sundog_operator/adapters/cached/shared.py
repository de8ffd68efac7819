"""Sends one request to Serve or an edge for all callers that ask at about the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from sundog_operator.core.observed import EdgeReport, ServeState
from sundog_operator.ports import Clock, Edges, Object, Serve

MAX_AGE_S: Final = 0.5
_RETENTION_S: Final = 60.0

T = TypeVar("T")


@dataclass(slots=True)
class _Answer(Generic[T]):
    """An answer, or a request that is not answered yet. `at` is the time of the request."""

    at: float
    future: "asyncio.Future[T]"


class RequestCoalescer(Generic[T]):
    """Shares answers by key. Callers within `fresh_s` after a request get the same answer, or the same error."""

    def __init__(self, clock: Clock, fresh_s: float = MAX_AGE_S) -> None:
        self._clock = clock
        self._fresh_s = fresh_s
        self._answers: dict[str, _Answer[T]] = {}

    async def get(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the shared answer; the first caller sends the request. Raises the errors of `ask`."""
        now = self._clock.monotonic()
        answer = self._answers.get(key)
        if answer is None or now - answer.at >= self._fresh_s:
            self._answers = {each: old for each, old in self._answers.items() if now - old.at < _RETENTION_S}
            # A task of its own, so that a cancelled caller does not cancel the request of the others.
            answer = self._answers[key] = _Answer(now, asyncio.ensure_future(ask()))
            answer.future.add_done_callback(_consume_error)
        return await asyncio.shield(answer.future)

    def forget(self, key: str) -> None:
        """Send a new request next time."""
        self._answers.pop(key, None)


def _consume_error(future: "asyncio.Future[Any]") -> None:
    """Read the error, because asyncio logs an unread one when every caller was cancelled."""
    if not future.cancelled():
        future.exception()


class SharedServe:
    """`ports.Serve` over another one. After a PUT it returns no older answer."""

    def __init__(self, serve: Serve, clock: Clock) -> None:
        self._serve = serve
        self._states: RequestCoalescer[ServeState] = RequestCoalescer(clock)

    async def read(self, dashboard: str, namespace: str) -> ServeState:
        """See the port."""
        return await self._states.get(dashboard, lambda: self._serve.read(dashboard, namespace))

    async def put(self, dashboard: str, namespace: str, document: Mapping[str, Any]) -> None:
        """See the port."""
        try:
            await self._serve.put(dashboard, namespace, document)
        finally:
            self._states.forget(dashboard)


class SharedEdges:
    """`ports.Edges` over another one, with one request per pod instead of one per service and pod."""

    def __init__(self, edges: Edges, clock: Clock) -> None:
        self._edges = edges
        self._reports: RequestCoalescer[EdgeReport] = RequestCoalescer(clock)

    async def read(self, pods: Sequence[Object]) -> list[EdgeReport]:
        """See the port. Callers with the same uid and resourceVersion of a pod share its report."""
        return list(await asyncio.gather(*(self._report(pod) for pod in pods)))

    async def count(self, pods: Sequence[Object], service: str, *, by_unit: bool = False) -> list[EdgeReport]:
        """See the port. Not shared: there is only one caller per service."""
        return await self._edges.count(pods, service, by_unit=by_unit)

    async def _report(self, pod: Object) -> EdgeReport:
        meta = pod["metadata"]

        async def ask() -> EdgeReport:
            (report,) = await self._edges.read([pod])
            return report

        return await self._reports.get(f"{meta['uid']}/{meta['resourceVersion']}", ask)
