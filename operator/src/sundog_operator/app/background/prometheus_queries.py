"""Asks Prometheus for what rollouts are held to, beside the passes that wait for its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.queue.keys import Key
from sundog_operator.core.observed import PrometheusResult
from sundog_operator.core.rollout.prometheus_checks import CheckQuery

NOT_CONFIGURED: Final = "has no Prometheus to ask; an administrator names one in installation.prometheus.url"


def read_metrics(world: Dependencies, key: Key, queries: Sequence[CheckQuery]) -> Mapping[str, PrometheusResult]:
    """What was answered last to each query of a ModelDeployment, by slot; without those that were not answered yet. Never waits."""
    prefix, now = f"query {key}/", world.clock.monotonic()
    world.queries.forget_except(prefix, [f"{prefix}{query.slot}" for query in queries])
    answers = {
        query.slot: world.queries.ask(
            f"{prefix}{query.slot}",
            query.about,
            lambda query=query: _ask(world, query.expression),  # type: ignore[misc]
            enough=lambda _: False,
            again_s=lambda _, query=query: query.interval_s,  # type: ignore[misc]
            now=now,
        )
        for query in queries
    }
    return {slot: answer for slot, answer in answers.items() if answer is not None}


async def _ask(world: Dependencies, expression: str) -> PrometheusResult:
    asked = world.clock.now().replace(microsecond=0)
    reading = (
        PrometheusResult(problem=NOT_CONFIGURED)
        if world.prometheus is None
        else await world.prometheus.query(expression)
    )
    return replace(reading, at=asked)
