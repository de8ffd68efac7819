"""Plan in threads with a time budget, so that one object cannot stop the operator for all others."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from datetime import datetime
from typing import Final

from sundog_operator.app.queue.keys import Key
from sundog_operator.core.planner.facts import ObservedState
from sundog_operator.core.planner.plan import ReconcilePlan, make_plan
from sundog_operator.errors import SundogError

PLAN_BUDGET_S: Final = 5.0

MakePlan = Callable[[Key, ObservedState, datetime], Awaitable[ReconcilePlan]]


class PlanTooSlow(SundogError):
    """A plan took too long, and nothing of it is done."""


async def plan_here(_key: Key, observed: ObservedState, now: datetime) -> ReconcilePlan:
    """Plan in the event loop, as local mode does."""
    return make_plan(observed, now)


class PlanThreads:
    """Plans each pass in a thread of its own, and abandons one after `PLAN_BUDGET_S`.

    Nothing can interrupt Python code in a thread, so it runs on beside the event loop, and its result is discarded. Until all such
    threads of a namespace end, it gets no plan: it has no more of them than passes that ran at the same time.
    """

    def __init__(
        self,
        make: Callable[[ObservedState, datetime], ReconcilePlan] = make_plan,
        budget_s: float = PLAN_BUDGET_S,
        on_abandoned: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_abandoned` is called for each plan that took too long."""
        self._make = make
        self._budget_s = budget_s
        self._on_abandoned = on_abandoned
        self._abandoned: dict[str, list[tuple[Key, Future[ReconcilePlan]]]] = {}

    async def __call__(self, key: Key, observed: ObservedState, now: datetime) -> ReconcilePlan:
        """Return the plan. Raises PlanTooSlow."""
        running = [each for each in self._abandoned.pop(key.namespace, ()) if not each[1].done()]
        if running:
            self._abandoned[key.namespace] = running
            raise self._too_slow(key, running[0][0])
        future: Future[ReconcilePlan] = Future()
        threading.Thread(target=self._run, args=(future, observed, now), name="plan", daemon=True).start()
        done, _ = await asyncio.wait([asyncio.wrap_future(future)], timeout=self._budget_s)
        if done:
            return done.pop().result()
        self._abandoned.setdefault(key.namespace, []).append((key, future))
        self._on_abandoned()
        raise self._too_slow(key, key)

    def _too_slow(self, key: Key, slow: Key) -> PlanTooSlow:
        whose = "its plan" if key == slow else f"the plan of {slow}"
        return PlanTooSlow(
            f"{whose} took more than {self._budget_s:g} s and was abandoned; still retrying. Simplify the spec"
        )

    def _run(self, future: Future[ReconcilePlan], observed: ObservedState, now: datetime) -> None:
        try:
            plan = self._make(observed, now)
        except BaseException as err:  # noqa: BLE001 - the pass gets it
            future.set_exception(err)
        else:
            future.set_result(plan)
