"""A Prometheus with fixed answers."""

from sundog_operator.core.observed import PrometheusResult
from sundog_operator.ports import Clock

HANGS_S = 10.0


class FakePrometheus:
    """`ports.Prometheus`.

    Attributes:
        numbers: expression → what it gives. One without has no data.
        problem: what is wrong with every answer; empty for nothing.
        hangs: whether it answers nothing.
        asked: all expressions, in order.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.numbers: dict[str, float] = {}
        self.problem = ""
        self.hangs = False
        self.asked: list[str] = []

    async def query(self, expression: str) -> PrometheusResult:
        self.asked.append(expression)
        if self.hangs:
            await self._clock.sleep(HANGS_S)
            return PrometheusResult(problem=f"had no answer from Prometheus within {HANGS_S:g} s")
        if self.problem:
            return PrometheusResult(problem=self.problem)
        found = self.numbers.get(expression)
        return PrometheusResult(problem="gives no data") if found is None else PrometheusResult(found)
