"""Calls of the operator's functions in one reconcile pass in the middle of a rollout that evidence decides."""

import asyncio
import functools
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from doubles.cluster import NAME, Cluster
from doubles.traffic import Answers, Traffic
from sundog_operator.app.observe import observe
from sundog_operator.core.planner.facts import ObservedState
from sundog_operator.core.planner.plan import make_plan

_PACKAGE: Final = "/sundog_operator/"


@dataclass(frozen=True)
class Calls:
    """Calls by (file below the package, function)."""

    by_function: Counter[tuple[str, str]]

    @property
    def total(self) -> int:
        """The number of calls, comprehensions apart."""
        return self.by_function.total()

    @property
    def files(self) -> int:
        """The number of files that any of them are in."""
        return len({file for file, _ in self.by_function})

    def of(self, function: str) -> int:
        """Return the calls of all functions of that name."""
        return sum(count for (_, name), count in self.by_function.items() if name == function)


def count_calls(run: Callable[[], Any]) -> Calls:
    """Return the calls of the operator's functions while `run` runs in this thread."""
    found: Counter[tuple[str, str]] = Counter()

    def record(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and _PACKAGE in code.co_filename and code.co_name[0] != "<":
            found[code.co_filename.rpartition(_PACKAGE)[2], code.co_qualname] += 1

    before = sys.getprofile()
    sys.setprofile(record)
    try:
        run()
    finally:
        sys.setprofile(before)
    return Calls(found)


async def observe_rollout() -> tuple[ObservedState, Any]:
    """Return the state and time of a pass in the middle of a rollout with evidence from edges."""
    cluster = Cluster()
    cluster.edges.traffic = Traffic(1)
    cluster.edges.traffic.rps = {NAME: 20}
    cluster.edges.traffic.answers = {f"{NAME}-r{number}": Answers(errors=0.01) for number in (1, 2)}
    rollout = {"steps": [{"weight": 25, "maxDuration": "10m"}]}
    await cluster.apply(rollout=rollout)
    await cluster.until(functools.partial(cluster.serves, 1))
    await cluster.settle(6, seconds=10)
    await cluster.apply("file:///models/v2", rollout=rollout)
    assert await cluster.go_on(3, lambda: cluster.at_weight(2, 25))
    await cluster.settle(6, seconds=10)
    return await observe(cluster.world, await cluster.get()), cluster.clock.now()


async def main() -> None:
    """Print the calls and the time of one pass."""
    observed, now = await observe_rollout()
    make_plan(observed, now)
    calls = count_calls(lambda: make_plan(observed, now))
    lines = [f"{calls.total} calls of {len(calls.by_function)} functions in {calls.files} files"]
    lines += [f"{count:6}  {name}  {file}" for (file, name), count in calls.by_function.most_common()]
    spent = []
    for _ in range(100):
        started = time.process_time_ns()
        make_plan(observed, now)
        spent.append((time.process_time_ns() - started) / 1e6)
    lines.append(f"{statistics.median(spent):.2f} ms per pass, median of {len(spent)}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
