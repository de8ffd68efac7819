"""Cost to evaluate evidence, in turns with the incomplete beta functions of scipy that the largest question needs."""

import functools
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from scipy.special import betainc

from edge_counts import ATTEMPT, evenly, report
from measuring.record import Record
from sundog_operator.api import Epoch, EvidenceEpoch, ExperimentStatus, Rollout, StepStatus
from sundog_operator.core.analysis import arm_pair, counters, evaluate
from sundog_operator.core.forecast.rollout_simulation import BLOCK_LENGTHS_TICKS
from sundog_operator.core.stats import verdicts
from sundog_operator.core.stats.dispersion import BlockMoments
from sundog_operator.core.stats.event_counts import EventCounts, MetricLimits
from sundog_operator.core.stats.findings import MetricVerdict
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.rollout import freeze

pytestmark = pytest.mark.bench

ROUNDS = 200
METRICS, ARMS, EPOCHS, BLOCKS = 5, 4, 10, 60
FEW = 13
"""Blocks of an epoch after which nothing is decided yet: that takes longest to tell."""

T0 = 1_764_034_200


def counted() -> EventCounts:
    """Return epochs of ten minutes with bursts of events, in which a canary as good as stable has 10 to 50 % of the traffic."""
    draw = np.random.default_rng(1)
    shape = (METRICS, ARMS, EPOCHS, BLOCKS)
    weight = np.linspace(0.1, 0.5, EPOCHS) * np.linspace(0.7, 1.0, ARMS)[:, None]
    rate = draw.uniform(0.1, 3, (METRICS, 1, 1, 1)) * draw.gamma(5, 0.2, shape)
    x, c = (draw.poisson(rate * share[..., None]) for share in (weight, 1 - weight))
    units = np.full(shape[:-1], 60_000.0)
    blocks = [summed(x, x + c, length) for length in BLOCK_LENGTHS_TICKS]
    return EventCounts(c.sum(-1), x.sum(-1), units * (1 - weight), units * weight, weight, blocks)


def summed(x: Any, s: Any, length: int) -> BlockMoments:
    """Return the moments of a series of blocks, each joined from so many of the shortest blocks."""
    x, s = (series.reshape(*series.shape[:-1], -1, length).sum(-1).astype(float) for series in (x, s))
    closed = np.full(x.shape[:-1], float(x.shape[-1]))
    return BlockMoments(closed, *(part.sum(-1) for part in (x, s, x * x, x * s, s * s)))


def attempt() -> tuple[ExperimentStatus, arm_pair.CollectedCounts]:
    """Return an attempt with three metrics at the sixth of six steps, as the operator evaluates it at each pass."""
    weights = (1, 5, 10, 20, 35, 50)
    spec = {"steps": [{"weight": weight} for weight in weights]}
    stable = StableTraffic(50, [100, 0], (500_000, 10_000_000))
    status = freeze.freeze(Rollout.from_json(spec), 7, 8, datetime.fromtimestamp(T0, UTC), stable)
    numbers = [2 * (index + 1) for index in range(len(weights))]
    epochs = tuple(EvidenceEpoch(number=n, weight=weight) for n, weight in zip(numbers, weights, strict=True))
    step = StepStatus(index=len(weights), of=len(weights), gate=status.plan.steps[-1].gate, warm=True)
    changes = {"step": step, "epoch": Epoch(number=numbers[-1], confirmed=True), "evidence_epochs": epochs}
    status = status.model_copy(
        update={"phase": "Running", "arms": freeze.arms_at_weight(weights[-1], 7, 8), **changes}, deep=True
    )
    rows = [
        evenly(arm, number, T0 + 600 * index, FEW, ok=19 * share, server5xx=share, slow=share)
        for index, (number, weight) in enumerate(zip(numbers, weights, strict=True))
        for arm, share in (("stable", 100 - weight), ("canary", weight))
    ]
    reports, now_s = [report(*rows)], T0 + 600.0 * len(weights) + 60
    blocks = counters.collect_blocks(ATTEMPT, reports)
    known = counters.update_counters(
        counters.Counters(ATTEMPT), reports, blocks, counters.CountScope(numbers, numbers[-1], now_s, 30.0)
    )
    return status, arm_pair.CollectedCounts(known, reports, blocks, stable, now_s, 30.0)


def spent(work: Callable[[], Any]) -> float:
    """Return CPU in milliseconds."""
    started = time.process_time_ns()
    work()
    return (time.process_time_ns() - started) / 1e6


def test_weighing() -> None:
    counts, limits = (
        counted(),
        MetricLimits(0.25, np.array([[0.005], [0.0], [0.01], [0.0], [0.0001]]), 0.5, 0.05, METRICS * ARMS),
    )
    status, seen = attempt()
    asked = {
        f"{METRICS} metrics × {ARMS} arms × {EPOCHS} epochs: `verdicts.evaluate_verdicts`": functools.partial(
            verdicts.evaluate_verdicts, counts, limits, newest_alone=False
        ),
        "the same, of the newest epoch alone": functools.partial(
            verdicts.evaluate_verdicts, counts, limits, newest_alone=True
        ),
        f"{len(status.plan.guardrails)} metrics × {len(status.evidence_epochs)} epochs of what edges report: `evaluate.evaluate_rollout`": (
            functools.partial(evaluate.evaluate_rollout, status, seen, (3, 3))
        ),
    }
    # Two parts of the mixture, each before and after the counts, for each of the two tests.
    a, b, null = np.random.default_rng(2).uniform(
        [[1.0], [1.0], [0.1]], [[50.0], [200.0], [0.6]], (3, 8 * METRICS * ARMS * EPOCHS)
    )
    beta = functools.partial(betainc, a, b, null)
    record = Record(
        "evidence",
        f"Weighing evidence, {ROUNDS} rounds each",
        ("asked", "CPU, median", "90 %", f"× {a.size} incomplete beta functions"),
    )
    for name, work in asked.items():
        sides: dict[str, list[float]] = {"ours": [], "beta": []}
        for number in range(ROUNDS):
            both = (("ours", work), ("beta", beta))
            for side, each in both if number % 2 else reversed(both):
                sides[side].append(spent(each))
        record.raw[name] = sides
        ratio = statistics.median(ours / other for ours, other in zip(*sides.values(), strict=True))
        middle, most = statistics.median(sides["ours"]), statistics.quantiles(sides["ours"], n=10)[-1]
        record.add(name, f"{middle:.2f} ms", f"{most:.2f} ms", f"{ratio:.1f}")
    record.finish()
    assert {*verdicts.evaluate_verdicts(counts, limits, newest_alone=False).verdict.flat} == {
        MetricVerdict.PASSED,
        MetricVerdict.UNDECIDED,
    }
    assert {each.verdict for each in evaluate.evaluate_rollout(status, seen, (3, 3)).metrics} == {
        MetricVerdict.UNDECIDED
    }
