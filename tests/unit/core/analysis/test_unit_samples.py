"""Samples of units that edges report: what is read of them, and when a rollout or an experiment is decided by them."""

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from edge_counts import ATTEMPT, GROUP_COLUMNS, by_unit, evenly, row, sticky
from experiment_statuses import begin_experiment
from sundog_operator.api import Epoch, EvidenceEpoch, MetricStatus, Rollout, StepStatus
from sundog_operator.core.analysis import counters, evaluate, unit_samples
from sundog_operator.core.analysis.arm_pair import ROLLOUT_PAIR, CollectedCounts
from sundog_operator.core.analysis.counters import Counters, CountScope
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.stats.guardrail_comparison import SampledUnits
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.experiment import evaluate as experiment
from sundog_operator.core.trial.experiment import state
from sundog_operator.core.trial.rollout import freeze

T0 = 1_764_034_200
BLOCKS = 60
NOW = T0 + 10 * BLOCKS + 10
KINDS = ["errors"]
COLUMNS = ("requests", "errors", "slow", "rejections", "firstAttemptFailed", "slow2", "slow3")
Rows = Mapping[tuple[int, str], Mapping[int, Sequence[int]]]
"""By epoch and arm: the counts of each unit, the first of the columns."""


def sample(rows: Rows, *, attempt: str = ATTEMPT, tau: int = 1 << 64, **changes: Any) -> dict[str, Any]:
    packed = [[epoch, arm, pack(own)] for (epoch, arm), own in rows.items()]
    counts = {"tau": f"{tau:x}", "columns": COLUMNS, "rows": packed}
    return {"service": "digits", "attempt": attempt, "tau": "1", "units": [], "counts": counts, **changes}


def pack(units: Mapping[int, Sequence[int]]) -> str:
    rows = (struct.pack("<Q7I", number, *own, *[0] * (7 - len(own))) for number, own in units.items())
    return base64.b64encode(zlib.compress(b"".join(rows))).decode()


def edge(*samples: Any, pod: str = "edge-0", rows: Sequence[dict[str, Any]] = ()) -> EdgeReport:
    made = by_unit(*rows, pod=pod)
    return replace(made, evidence={**(made.evidence or {}), "units": [*samples]})


def read(*reports: EdgeReport, epoch: int = 2) -> SampledUnits | None:
    found = unit_samples.read_unit_samples(ATTEMPT, reports)
    return found and found.of(epoch, ROLLOUT_PAIR.both, 0.5, KINDS)


def test_units_of_several_edges_are_added_with_their_arm_and_their_behavior_before() -> None:
    one = edge(
        sample({(2, "canary"): {7: [5, 1]}, (2, "stable"): {9: [4, 0]}, (1, "stable"): {9: [100, 50]}}),
        sample({(0, "stable"): {7: [40, 2], 1234: [9, 9]}}, attempt="before"),
    )
    other = edge(
        sample({(2, "canary"): {7: [1, 1]}, (2, "stable"): {2**64 - 1: [3, 3]}}),
        sample({(0, "stable"): {7: [2, 0], 9: [8, 1]}}, attempt="before"),
        pod="edge-1",
    )
    for found in (read(one, other), read(other, one)):
        assert found is not None
        assert found.requests.tolist() == [6, 4, 3]
        assert found.is_treatment.tolist() == [True, False, False]
        assert [own.tolist() for own in found.events] == [[2, 0, 3]]
        assert found.requests_before.tolist() == [42, 8, 0]
        assert [own.tolist() for own in found.events_before] == [[2, 1, 0]]


def test_only_units_in_the_range_of_every_sample_count() -> None:
    whole, part = sample({(2, "stable"): {7: [5], 200: [6]}}), sample({(2, "stable"): {8: [1]}}, tau=100)
    found = read(edge(whole), edge(part, pod="edge-1"))
    assert found is not None
    assert found.requests.tolist() == [5, 1]


def test_behavior_beside_another_arm_or_of_another_service_is_none_from_before() -> None:
    own = sample({(2, "stable"): {7: [5]}})
    others = (
        sample({(0, "stable"): {7: [3]}, (0, "canary"): {8: [3]}}, attempt="failed"),
        sample({(0, "stable"): {7: [3]}}, attempt="before", service="other"),
        sample({}, attempt="damaged", counts=7),
    )
    found = read(edge(own, *others))
    assert found is not None
    assert found.requests_before.tolist() == [0]


def test_a_unit_in_both_arms_counts_in_none() -> None:
    found = read(edge(sample({(2, "stable"): {7: [5, 5], 8: [1]}, (2, "canary"): {7: [1, 1]}})))
    assert found is not None
    assert found.requests.tolist() == [0, 1]
    assert found.events[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": None},
        {"counts": {}},
        {"counts": {"tau": "x", "columns": COLUMNS, "rows": []}},
        {"counts": {"tau": "0", "columns": COLUMNS, "rows": []}},
        {"counts": {"tau": "ff", "columns": ["requests"], "rows": []}},
        {"counts": {"tau": "ff", "columns": [*COLUMNS, "slow"], "rows": [[2, "stable", pack({1: [1]})]]}},
        {"counts": {"tau": "ff", "columns": COLUMNS, "rows": [[2, "stable", "%%"]]}},
        {"counts": {"tau": "ff", "columns": COLUMNS, "rows": [[2, "stable", base64.b64encode(b"x").decode()]]}},
        {"counts": {"tau": "ff", "columns": COLUMNS, "rows": [[-1, "stable", pack({1: [1]})]]}},
        {
            "counts": {
                "tau": "ff",
                "columns": COLUMNS,
                "rows": [[2, "stable", base64.b64encode(zlib.compress(b"short")).decode()]],
            }
        },
    ],
)
def test_with_an_edge_of_an_older_release_or_an_invalid_sample_units_are_not_tested(changes: dict[str, Any]) -> None:
    good = edge(sample({(2, "stable"): {7: [5]}}))
    assert read(good) is not None
    assert read(good, edge(sample({}, **changes), pod="edge-1")) is None


def test_without_units_there_is_no_sample() -> None:
    assert read(edge(), edge(7, "x"), edge(sample({(2, "stable"): {}}))) is None


def uneven(
    ratio: float, *, lost: int = 0, arms: tuple[str, str] = ROLLOUT_PAIR.both
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Return rows and samples of 1000 units of which each has its own rate, a quarter of them with the treatment."""
    draw = np.random.default_rng(2)
    often, rate, treated = draw.lognormal(0, 1.5, 1000), draw.beta(0.2, 6.0, 1000), draw.random(1000) < 0.25
    often *= 144 / often.mean()
    requests, before = draw.poisson(often), draw.poisson(often)
    errors = draw.binomial(requests, np.minimum(rate * np.where(treated, ratio, 1.0), 1.0))
    failed_before = draw.binomial(before, rate)
    own: dict[tuple[int, str], dict[int, list[int]]] = {
        (2, arm): {int(unit): [int(requests[unit]), int(errors[unit])] for unit in np.flatnonzero(mine)}
        for arm, mine in zip(arms, (~treated, treated), strict=True)
    }
    earlier = {(0, "stable"): {unit: [int(before[unit]), int(failed_before[unit])] for unit in range(1000)}}
    rows = []
    for (epoch, arm), counts in own.items():
        asked, failed = (sum(column) // BLOCKS for column in zip(*counts.values(), strict=True))
        made = sticky(evenly(arm, epoch, T0, BLOCKS, ok=asked - failed, server5xx=failed))
        made["groups"] = [by_group(counts, group) for group in range(100)]
        rows.append({**made, "lost": lost, "assigned": made["assigned"] + lost} if arm == arms[1] else made)
    return rows, [sample(own), sample(earlier, attempt="before")]


def by_group(counts: Mapping[int, Sequence[int]], group: int) -> list[int]:
    """Return the row of the units whose number ends with the group's."""
    own = [counts[unit] for unit in counts if unit % 100 == group]
    asked, failed = (sum(each[column] for each in own) for column in (0, 1))
    found = {"group": group, "ok": asked - failed, "server5xx": failed}
    return [found.get(name, 0) for name in GROUP_COLUMNS]


def error_rate(rows: Sequence[dict[str, Any]], samples: Sequence[Any]) -> MetricStatus:
    traffic = StableTraffic(10, [100, 0], (500_000, 10_000_000))
    spec = {"unit": {"header": "x-user-id"}, "guardrails": [{"metric": "errorRate"}]}
    status = freeze.freeze(Rollout.from_json(spec), 7, 8, datetime.fromtimestamp(T0, UTC), traffic)
    status = status.model_copy(
        update={
            "phase": "Running",
            "step": StepStatus(index=1, of=2, gate=status.plan.steps[0].gate, warm=True),
            "epoch": Epoch(number=2, confirmed=True),
            "arms": freeze.arms_at_weight(25, 7, 8),
            "evidence_epochs": (EvidenceEpoch(number=2, weight=25),),
        }
    )
    reports = [edge(*samples, rows=rows)]
    blocks = counters.collect_blocks(ATTEMPT, reports)
    tallies = counters.update_counters(Counters(ATTEMPT), reports, blocks, CountScope([2], 2, NOW, 30))
    found = evaluate.evaluate_rollout(status, CollectedCounts(tallies, reports, blocks, traffic, NOW, 30), (3, 1))
    return next(each for each in found.metrics if each.name == "errorRate")


@pytest.mark.parametrize(("ratio", "verdict"), [(1.0, "Passed"), (3.0, "Harm")])
def test_units_decide_what_groups_leave_open(ratio: float, verdict: str) -> None:
    rows, samples = uneven(ratio)
    assert error_rate(rows, []).verdict == "Undecided"
    found = error_rate(rows, samples)
    assert found.verdict == verdict
    lower, upper = found.interval
    assert lower < (found.ratio or 0) < upper
    assert (upper <= 1.5) if ratio == 1.0 else (lower >= 1.25)


def test_few_units_and_many_requests_without_one_are_decided_by_groups() -> None:
    rows, samples = uneven(3.0)
    few = [sample({(2, arm): {unit: [100, 50]} for unit, arm in enumerate(("stable", "canary"))}), samples[1]]
    assert error_rate(rows, few).verdict == "Undecided"
    anonymous = [row(arm, 2, ok=rows[0]["assigned"]) for arm in ("stable", "canary")]
    assert error_rate([*rows, *anonymous], samples).verdict == "Undecided"


def test_lost_requests_of_the_canary_keep_units_from_passing() -> None:
    rows, samples = uneven(1.0, lost=2000)
    assert error_rate(rows, samples).verdict == "Undecided"


def of_arm(ratio: float, **plan: Any) -> MetricStatus:
    """Return the errorRate of an experiment's arm that has a quarter of the units; changes of its comparison in the plan."""
    rows, samples = uneven(ratio, arms=("control", "a"))
    guardrails = {"guardrails": [{"metric": "errorRate", "margin": "40%"}]}
    status = begin_experiment(
        ("a",), exposure="100%", weights={"control": 75, "a": 25}, unit={"header": "x-user-id"}, metrics=guardrails
    )
    shares = state.target_buckets(status)
    comparison = status.plan.comparison and status.plan.comparison.model_copy(update=plan)
    status = status.model_copy(
        update={
            "plan": status.plan.model_copy(update={"comparison": comparison}),
            "epoch": Epoch(number=2, confirmed=True),
            "evidence_epochs": (EvidenceEpoch(number=2, buckets=tuple(shares[arm.name] for arm in status.arms)),),
        }
    )
    reports = [edge(*samples, rows=rows)]
    blocks = counters.collect_blocks(ATTEMPT, reports)
    scope = CountScope([2], 2, NOW, 30, "control", ("a",))
    tallies = counters.update_counters(Counters(ATTEMPT), reports, blocks, scope)
    collected = CollectedCounts(tallies, reports, blocks, StableTraffic(), NOW, 30)
    found = experiment.evaluate_experiment(status, collected, {"control": 3, "a": 1})
    return next(each for each in found.metrics if each.name == "errorRate")


@pytest.mark.parametrize(("ratio", "verdict"), [(1.0, "Passed"), (3.0, "Harm")])
def test_units_decide_a_guardrail_of_an_experiment_whose_plan_says_so(ratio: float, verdict: str) -> None:
    """A plan of an earlier release keeps its test."""
    assert of_arm(ratio).verdict == verdict
    assert of_arm(ratio, guardrails_by_unit=None).verdict == "Undecided"


def test_the_units_of_other_arms_and_epochs_are_left_out_and_some_of_very_many() -> None:
    rows = {(1, "control"): {1: [1]}, (2, "control"): {5: [1], 9: [1]}, (3, "a"): {7: [1]}, (3, "b"): {8: [1]}}
    found = unit_samples.read_unit_samples(ATTEMPT, [edge(sample(rows))])
    assert found is not None

    def hashes(*epochs: int) -> list[int] | None:
        own = found.only(epochs, ("control", "a"))
        return own and own.hashes.tolist()

    assert hashes(2, 3) == [5, 7, 9]
    assert hashes(4) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_samples, "_MAX_COUNTS", 4)
        assert hashes(2, 3) == [5, 7]
