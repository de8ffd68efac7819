"""Serve and edges asked once for all who ask at about the same time: the members of a cluster, the services of a namespace."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from sundog_operator.core.observed import EdgeReport, ServeState
from sundog_operator.ports import Clock, Edges, Object, Serve

MAX_AGE_S: Final = 0.5
_KEPT_S: Final = 60.0

T = TypeVar("T")


@dataclass(slots=True)
class _Answer(Generic[T]):
    """An answer, or the question that is under way. `at` is when it was asked."""

    at: float
    future: "asyncio.Future[T]"


class RequestCoalescer(Generic[T]):
    """Answers by key. Who asks within `fresh_s` of another gets the same answer, and the same error."""

    def __init__(self, clock: Clock, fresh_s: float = MAX_AGE_S) -> None:
        self._clock = clock
        self._fresh_s = fresh_s
        self._answers: dict[str, _Answer[T]] = {}

    async def get(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        """The shared answer, asked for by the first who wants it. Raises what `ask` raises."""
        now = self._clock.monotonic()
        answer = self._answers.get(key)
        if answer is None or now - answer.at >= self._fresh_s:
            self._answers = {kept: old for kept, old in self._answers.items() if now - old.at < _KEPT_S}
            # A task of its own: one of those who wait may be cancelled without taking the answer from the others.
            answer = self._answers[key] = _Answer(now, asyncio.ensure_future(ask()))
            answer.future.add_done_callback(_retrieve)
        return await asyncio.shield(answer.future)

    def forget(self, key: str) -> None:
        """Ask anew next time."""
        self._answers.pop(key, None)


def _retrieve(future: "asyncio.Future[Any]") -> None:
    """Nobody may be waiting any more; then nobody reads the error."""
    if not future.cancelled():
        future.exception()


class SharedServe:
    """`ports.Serve` over another one. After a PUT no answer from before it is given."""

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
    """`ports.Edges` over another one: one question per pod, not per service and pod."""

    def __init__(self, edges: Edges, clock: Clock) -> None:
        self._edges = edges
        self._reports: RequestCoalescer[EdgeReport] = RequestCoalescer(clock)

    async def read(self, pods: Sequence[Object]) -> list[EdgeReport]:
        """See the port. What a pod says is shared among those who saw it in the same state."""
        return list(await asyncio.gather(*(self._report(pod) for pod in pods)))

    async def count(self, pods: Sequence[Object], service: str, *, by_unit: bool = False) -> list[EdgeReport]:
        """See the port. Nobody else asks for the same service."""
        return await self._edges.count(pods, service, by_unit=by_unit)

    async def _report(self, pod: Object) -> EdgeReport:
        meta = pod["metadata"]

        async def ask() -> EdgeReport:
            (report,) = await self._edges.read([pod])
            return report

        return await self._reports.get(f"{meta['uid']}/{meta['resourceVersion']}", ask)
