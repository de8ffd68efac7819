"""An outage that affects both arms: detected by stable alone, described with numbers, and ended when it is over."""

from datetime import timedelta
from typing import Any

import pytest

from edge_counts import ATTEMPT, block, report, row
from sundog_operator.api import FrozenPlan, PlanComparison, PlanGuardrail
from sundog_operator.api.reasons import PauseReason
from sundog_operator.core.analysis import baseline_health, blocks, counters
from sundog_operator.core.trial.evaluation import HEALTHY, BaselineHealth

END = 1_764_034_200
NOW = END + blocks.GRACE_S + 1
CAPPED = FrozenPlan(guardrails=(PlanGuardrail(metric="errorRate", margin=0.25, max=0.02),))


def watch(plan: FrozenPlan, stable: dict[str, int], canary: dict[str, int], ago_s: int = 0) -> BaselineHealth:
    """Evaluate after a minute with so many requests of each arm in every ten seconds; then the arms are healthy."""
    rows = []
    for arm, counts in (("stable", stable), ("canary", canary)):
        troubled = [block(END - ago_s - 10 * number, **counts) for number in range(1, 7)]
        fine = [block(END - 10 * number, ok=100) for number in range(1, ago_s // 10 + 1)]
        rows.append(row(arm, blocks=[*troubled, *fine]))
    return baseline_health.evaluate_baseline(plan, counters.collect_blocks(ATTEMPT, [report(*rows)]), NOW)


BAD: dict[str, int] = {"ok": 50, "server5xx": 50}
FINE: dict[str, int] = {"ok": 100}


def test_both_arms_above_their_ceiling_are_unhealthy() -> None:
    found = watch(CAPPED, BAD, {"ok": 90, "timeout": 10})
    assert (found.outage and found.outage.reason, found.settled) == (PauseReason.CONTROL_UNHEALTHY, False)
    assert found.outage is not None
    assert found.outage.message == (
        "50.0% of stable's requests failed in a minute and 10.0% of the canary's; max is 2 %"
    )


@pytest.mark.parametrize(
    ("plan", "stable", "canary"),
    [
        pytest.param(CAPPED, FINE, BAD, id="the candidate alone"),
        pytest.param(CAPPED, BAD, FINE, id="stable alone, before unknown"),
        pytest.param(CAPPED, {"ok": 1, "server5xx": 3}, BAD, id="18 failures"),
        pytest.param(FrozenPlan(), BAD, BAD, id="no ceiling, before unknown"),
        pytest.param(FrozenPlan(error_rate=0.1), {"ok": 51, "server5xx": 49}, FINE, id="less than five times as many"),
        pytest.param(FrozenPlan(error_rate=0.001), {"ok": 95, "server5xx": 5}, FINE, id="less than 5 % more"),
        pytest.param(FrozenPlan(error_rate=0.0), {"ok": 50, "client4xx": 50}, FINE, id="rejections are no failures"),
    ],
)
def test_cases_without_an_outage(plan: FrozenPlan, stable: dict[str, int], canary: dict[str, int]) -> None:
    assert not watch(plan, stable, canary).outage


@pytest.mark.parametrize(("before", "failed"), [(0.1, 51), (0.001, 6), (0.0, 6)])
def test_much_worse_than_before_the_rollout_is_degraded(before: float, failed: int) -> None:
    found = watch(FrozenPlan(error_rate=before), {"ok": 100 - failed, "server5xx": failed}, FINE)
    assert (found.outage and found.outage.reason, found.settled) == (PauseReason.CONTROL_DEGRADED, False)
    assert found.outage is not None
    assert (
        found.outage.message
        == f"{failed:.1f}% of stable's requests failed in a minute, and {before:.2%} before the rollout"
    )


def test_an_experiment_is_not_called_a_rollout() -> None:
    comparison = PlanComparison(arms=(), max_duration=timedelta(days=1), max_units=1)
    bad = {"ok": 40, "server5xx": 60}
    found = watch(FrozenPlan(error_rate=0.01, comparison=comparison), bad, FINE)
    assert found.outage is not None
    assert found.outage.message.endswith("in a minute, and 1.00% before the experiment")
    capped = CAPPED.model_copy(update={"comparison": comparison})
    assert " of arm canary's; max is " in watch(capped, bad, bad).outage.message  # type: ignore[union-attr]


@pytest.mark.parametrize(("ago_s", "settled"), [(60, False), (340, False), (350, True)])
def test_an_outage_is_over_after_five_healthy_minutes(ago_s: int, settled: bool) -> None:
    """Each of the last five minutes covers a minute of blocks: one with a sixth of the outage counts like a full one."""
    found: Any = watch(FrozenPlan(error_rate=0.0), {"server5xx": 100}, {"server5xx": 100}, ago_s)
    assert (found.outage and found.outage.reason, found.settled) == (None, settled)


def test_no_counts_are_no_outage() -> None:
    assert baseline_health.evaluate_baseline(CAPPED, {}, NOW) == HEALTHY
