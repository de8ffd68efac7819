"""Query Prometheus for the checks of rollouts in the background."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.queue.keys import Key
from sundog_operator.core.observed import PrometheusResult
from sundog_operator.core.trial.rollout.prometheus_checks import CheckQuery

NOT_CONFIGURED: Final = "has no Prometheus to ask; an administrator names one in installation.prometheus.url"


def read_metrics(deps: Dependencies, key: Key, queries: Sequence[CheckQuery]) -> Mapping[str, PrometheusResult]:
    """Return the last answer to each query of a ModelDeployment by slot, without unanswered ones. Never waits."""
    prefix, now = f"query {key}/", deps.clock.monotonic()
    deps.prometheus_requests.forget_except(prefix, [f"{prefix}{query.slot}" for query in queries])
    answers = {
        query.slot: deps.prometheus_requests.poll(
            f"{prefix}{query.slot}",
            query.about,
            lambda query=query: _query(deps, query.expression),  # type: ignore[misc]
            enough=lambda _: False,
            again_s=lambda _, query=query: query.interval_s,  # type: ignore[misc]
            now=now,
        )
        for query in queries
    }
    return {slot: answer for slot, answer in answers.items() if answer is not None}


async def _query(deps: Dependencies, expression: str) -> PrometheusResult:
    at = deps.clock.now().replace(microsecond=0)
    result = (
        PrometheusResult(problem=NOT_CONFIGURED) if deps.prometheus is None else await deps.prometheus.query(expression)
    )
    return replace(result, at=at)
