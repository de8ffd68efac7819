"""Autoscaling in simulated time, by the code of Ray Serve's controller: with what was sent before, and with the defaults.

A model computes one request at a time, in 100 ms, and a replica takes 20 s to start. `measuring.autoscaling` has the rest.
"""

import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest

from measuring.autoscaling import Load, Outcome, product_config, simulate
from measuring.record import Record

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

BOUNDS = {"minReplicas": 1, "maxReplicas": 12}
BEFORE = {"target_ongoing_requests": 2, "downscaling_factor": 1.0, "upscale_delay_s": 10.0}
SEEDS = (1, 2, 3)
HOURS = 4.0


def _constant(rps: float) -> tuple[Load, float]:
    return lambda _: rps, rps


def _step(at: float) -> float:
    return 10 if at % 7200 < 3600 else 60


def _spike(at: float) -> float:
    return 80 if at % 3600 < 60 else 10


def _diurnal(at: float) -> float:
    return 32 - 28 * math.cos(2 * math.pi * at / 14400)


LOADS: dict[str, tuple[Callable[[float], float], float]] = {
    **{f"constant, {rps} rps": _constant(rps) for rps in (5, 12, 20, 40, 75)},
    "steps between 10 and 60 rps, each hour": (_step, 60),
    "a spike of 80 rps for a minute, each hour": (_spike, 80),
    "a day of 4 to 60 rps in four hours": (_diurnal, 60),
}


def _run(changes: dict[str, Any], load: Load, peak: float) -> list[Outcome]:
    config = {**product_config(BOUNDS), **changes}
    return [simulate(config, load, peak, HOURS, seed=seed, warmup_s=1800) for seed in SEEDS]


def _cells(runs: list[Outcome]) -> tuple[str, str, str]:
    return (
        f"{statistics.mean(each.reversals_per_hour for each in runs):.1f}",
        f"{statistics.mean(each.replica_hours / each.hours for each in runs):.1f}",
        f"{statistics.median(each.wait_s(0.99) for each in runs):.2f} s",
    )


def test_autoscaling_under_constant_step_spike_and_diurnal_load() -> None:
    record = Record(
        "autoscaling",
        f"Reversals, replicas and waiting time, means of {len(SEEDS)} runs of {HOURS:.0f} h",
        (
            "load",
            "reversals an hour, before",
            "now",
            "mean replicas, before",
            "now",
            "p99 of the wait, before",
            "now",
        ),
    )
    constant = []
    for name, (load, peak) in LOADS.items():
        before, now = _run(BEFORE, load, peak), _run({}, load, peak)
        cells = zip(_cells(before), _cells(now), strict=True)
        record.add(name, *(cell for pair in cells for cell in pair))
        record.raw[name] = [[each.reversals, each.replica_hours, each.wait_s(0.99)] for each in (*before, *now)]
        if name.startswith("constant"):
            constant.append(statistics.mean(each.reversals_per_hour for each in now))
    record.finish()
    assert max(constant) <= 1
