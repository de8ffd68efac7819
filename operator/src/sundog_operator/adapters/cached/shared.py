"""Sends one request to Serve or an edge for all callers that ask at about the same time."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

from sundog_operator.core.observed import EdgeReport, ServeState
from sundog_operator.ports import Clock, Edges, Object, Serve

MAX_AGE_S: Final = 0.5
FAILURE_FACTOR: Final = 3.0
"""How many times as long as a failed request its error counts, so that a host that drops packets takes little of the time."""
MAX_FAILURE_S: Final = 5.0
"""Longest time for which an error counts. A recovery is seen no later than that."""

T = TypeVar("T")


@dataclass(slots=True)
class _Answer(Generic[T]):
    """An answer, or a request that is not answered yet. `began` is the time of the request, `until` that at which another one is sent."""

    began: float
    future: "asyncio.Future[T]"
    until: float = math.inf


class RequestCoalescer(Generic[T]):
    """Shares answers by key. Callers within `MAX_AGE_S` after an answer get the same one, or the same error.

    An error that took long counts longer (`FAILURE_FACTOR`, `MAX_FAILURE_S`).
    """

    def __init__(self, clock: Clock, is_answer: Callable[[T], bool] = lambda _: True) -> None:
        """`is_answer` returns False for a result that stands for an error."""
        self._clock = clock
        self._is_answer = is_answer
        self._answers: dict[str, _Answer[T]] = {}

    async def get(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the shared answer; the first caller sends the request. Raises the errors of `ask`."""
        now = self._clock.monotonic()
        answer = self._answers.get(key)
        if answer is None or now >= answer.until:
            self._answers = {each: old for each, old in self._answers.items() if now < old.until}
            # A task of its own, so that a cancelled caller does not cancel the request of the others.
            answer = self._answers[key] = _Answer(now, asyncio.ensure_future(ask()))
            answer.future.add_done_callback(partial(self._finish, answer))
        return await asyncio.shield(answer.future)

    def _finish(self, answer: _Answer[T], future: "asyncio.Future[T]") -> None:
        now = self._clock.monotonic()
        # Reading the error here keeps asyncio from logging it when every caller was cancelled.
        has_failed = future.cancelled() or future.exception() is not None or not self._is_answer(future.result())
        kept_s = FAILURE_FACTOR * (now - answer.began) if has_failed else 0.0
        answer.until = now + min(max(MAX_AGE_S, kept_s), MAX_FAILURE_S)

    def forget(self, key: str) -> None:
        """Send a new request next time."""
        self._answers.pop(key, None)


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
        self._reports: RequestCoalescer[EdgeReport] = RequestCoalescer(
            clock, lambda report: report.evidence is not None
        )

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
