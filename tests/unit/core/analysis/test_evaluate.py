"""Evaluation of counts: passing, harm, indecision, and the status that describes them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_counts import ATTEMPT, GROUP_COLUMNS, block, by_unit, evenly, report, row, silent, sticky
from profiles import examples
from sundog_operator.api import Epoch, EvidenceEpoch, ExperimentStatus, MetricStatus, Rollout, StepStatus
from sundog_operator.core.analysis import arm_pair, counters, evaluate
from sundog_operator.core.analysis.counters import Counters, CountScope
from sundog_operator.core.forecast import rollout_forecast
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.stats import count_ratio, early_harm
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.evaluation import RolloutEvaluation
from sundog_operator.core.trial.rollout import freeze

T0 = 1_764_034_200
NOW = T0 + 610
KNOWN = StableTraffic(10, [100, 0], (500_000, 10_000_000))
THREE = {"steps": [{"weight": 10}, {"weight": 25}, {"weight": 50}]}
ERRORS = [{"metric": "errorRate"}]
ONE_PERCENT = {"ok": 285, "server5xx": 3, "slow": 12}
"""Outcomes of 300 requests; about 5 % of them are slow."""


def at_step(
    index: int, spec: dict[str, Any] | None = None, traffic: StableTraffic = KNOWN, *, warm: bool = True
) -> ExperimentStatus:
    """Return an attempt that collects at a step. Each earlier step had an epoch with twice the step's number."""
    status = freeze.freeze(Rollout.from_json(spec or {}), 7, 8, datetime.fromtimestamp(T0, UTC), traffic)
    steps = status.plan.steps
    epochs = [
        EvidenceEpoch(number=2 * each, weight=steps[each - 1].weight)
        for each in range(1, min(index + warm, len(steps)))
    ]
    return status.model_copy(
        update={
            "phase": "Running",
            "step": StepStatus(index=index, of=len(steps), gate=steps[index - 1].gate, warm=warm),
            "epoch": Epoch(number=2 * index - (not warm), confirmed=True),
            "arms": freeze.arms_at_weight(steps[index - 1].weight, 7, 8),
            "evidence_epochs": tuple(epochs),
        }
    )


def judge(
    status: ExperimentStatus, *reports: EdgeReport, replicas: tuple[int, int] = (3, 1), traffic: StableTraffic = KNOWN
) -> RolloutEvaluation:
    look = CountScope([each.number for each in status.evidence_epochs], status.epoch.number, NOW, 30)
    return evaluate.evaluate_rollout(status, collected(take(reports, look), reports, traffic), replicas)


def take(reports: Sequence[EdgeReport], look: CountScope) -> Counters:
    return counters.update_counters(Counters(ATTEMPT), reports, counters.collect_blocks(ATTEMPT, reports), look)


def collected(
    counted: Counters, reports: Sequence[EdgeReport], traffic: StableTraffic = KNOWN
) -> arm_pair.CollectedCounts:
    return arm_pair.CollectedCounts(counted, reports, counters.collect_blocks(ATTEMPT, reports), traffic, NOW, 30)


def arms(epoch: int, stable: dict[str, int], canary: dict[str, int], blocks: int = 60) -> list[dict[str, Any]]:
    return [evenly("stable", epoch, T0, blocks, **stable), evenly("canary", epoch, T0, blocks, **canary)]


def metric(result: RolloutEvaluation, name: str = "errorRate") -> MetricStatus:
    return next(each for each in result.metrics if each.name == name)


FINE = {"ok": 100, "slow": 1}
GOOD = arms(2, {"ok": 300, "slow": 15}, FINE)


def test_a_candidate_that_is_like_stable_passes() -> None:
    result = judge(at_step(1), report(*GOOD))
    assert [each.verdict for each in result.metrics] == ["Passed", "Passed", "Undecided", "Undecided"]
    assert (result.passed, result.harm, result.silent, result.mismatch, result.requests) == (True, "", False, "", 6000)
    assert [each.role for each in result.metrics] == ["guardrail", "guardrail", "harm", "harm"]
    assert metric(result).message == "errorRate happened in neither arm: within its floor above stable's rate"


def test_nothing_passes_before_twelve_blocks_of_the_newest_epoch() -> None:
    for blocks, passes in ((11, False), (12, True)):
        start = NOW - 10 - 10 * blocks
        result = judge(
            at_step(1),
            report(
                evenly("stable", 2, start, blocks, ok=3000, slow=150),
                evenly("canary", 2, start, blocks, ok=1000, slow=10),
            ),
        )
        assert result.passed is passes
    young = [evenly(arm, 4, NOW - 110, 10, ok=3000, slow=slow) for arm, slow in (("stable", 150), ("canary", 30))]
    assert not judge(at_step(2), report(*GOOD, *young), replicas=(3, 3)).passed


CAPPED = {**THREE, "guardrails": [{"metric": "errorRate", "max": "2%"}]}


@pytest.mark.parametrize(
    ("canary", "result"),
    [
        ({"ok": 99, "server5xx": 1}, "Passed"),
        ({"ok": 97, "server5xx": 3}, "Undecided"),
    ],
)
def test_a_gate_passes_only_what_is_known_to_be_below_its_maximum(canary: dict[str, int], result: str) -> None:
    rows = arms(2, {"ok": 873, "server5xx": 27}, canary)
    errors = metric(judge(at_step(1, CAPPED), report(*rows)))
    assert errors.verdict == result
    if result == "Undecided":
        assert errors.message == ("errorRate of the canary is not known to be below max 2 % yet: 180 of 6000 requests")
        assert metric(judge(at_step(1, THREE), report(*rows))).verdict == "Passed"


LONGEST = {"guardrails": [{"metric": "latencyP95", "max": "900ms"}]}


def timed(rows: list[dict[str, Any]], fast: int, slower: int) -> EdgeReport:
    """Return edges with so many answers of the canary up to 500 ms, and so many up to a second."""
    stable, canary = rows
    result = report(stable, {**canary, "total": {"ok": [fast, slower, 0]}})
    return replace(result, evidence={**(result.evidence or {}), "histogram": {"edgesUs": [500_000, 1_000_000]}})


@pytest.mark.parametrize(("slower", "verdict"), [(60, "Passed"), (300, "Undecided"), (600, "Undecided")])
def test_a_gate_passes_only_a_candidate_that_is_known_to_answer_in_time(slower: int, verdict: str) -> None:
    rows = arms(2, {"ok": 300, "slow": 15}, FINE)
    result = metric(judge(at_step(1, LONGEST), timed(rows, 6000 - slower, slower)), "latencyP95")
    assert result.verdict == verdict
    if verdict == "Undecided":
        assert result.message == (
            f"latencyP95 of the canary is not known to be below max 900 ms yet: {slower} of 6000 requests;"
            " at most 5 % may take longer"
        )
    assert metric(judge(at_step(1), timed(rows, 0, 6000)), "latencyP95").verdict == "Passed", "without a longest time"


@pytest.mark.parametrize(
    ("answers", "verdict"), [(True, "Passed"), (False, "Undecided")], ids=["ended worker", "silent edge"]
)
def test_requests_of_ended_workers_are_forgotten_with_their_times(answers: bool, verdict: str) -> None:
    before, now = timed(GOOD, 6000, 0), timed([{**each, "boot": "b2"} for each in GOOD], 6000, 0)
    status, reports = at_step(1, LONGEST), (now,) if answers else (silent(), replace(now, pod="edge-1"))
    look = CountScope([each.number for each in status.evidence_epochs], status.epoch.number, NOW, 30)
    known = take((before, reports[-1]), look)
    counted = counters.update_counters(known, reports, counters.collect_blocks(ATTEMPT, reports), look)
    result = metric(evaluate.evaluate_rollout(status, collected(counted, reports), (3, 1)), "latencyP95")
    assert (result.verdict, "6000 of 12000 requests" in result.message) == (verdict, not answers)


def test_requests_of_unknown_latency_count_as_slow_and_rejections_do_not() -> None:
    rows = arms(2, {"ok": 270, "client4xx": 30, "slow": 15}, {"ok": 90, "client4xx": 10, "slow": 1})
    assert metric(judge(at_step(1, LONGEST), timed(rows, 5400, 0)), "latencyP95").verdict == "Passed"
    result = metric(judge(at_step(1, LONGEST), report(*rows)), "latencyP95")
    assert (result.verdict, "5400 of 6000" in result.message) == ("Undecided", True)
    other_epoch = timed([rows[0], {**rows[1], "epoch": 2}], 5000, 0)
    assert "400 of 6000" in metric(judge(at_step(1, LONGEST), other_epoch), "latencyP95").message


def test_a_floor_of_a_latency_is_the_share_that_may_take_long_beside_stables() -> None:
    rows = arms(2, {"ok": 300, "slow": 14}, {"ok": 100, "slow": 5})
    floored = {"guardrails": [{"metric": "latencyP95", "floor": "4%"}]}
    assert metric(judge(at_step(1, floored), report(*rows)), "latencyP95").verdict == "Passed"
    bare = {"guardrails": [{"metric": "latencyP95"}]}
    assert metric(judge(at_step(1, bare), report(*rows)), "latencyP95").verdict != "Passed"


def test_gates_exclude_an_epoch_with_an_outage_of_stable_and_harm_does_not() -> None:
    status = at_step(2, THREE)
    first, second = status.evidence_epochs
    outage = arms(first.number, {"ok": 135, "server5xx": 135}, {"ok": 15, "server5xx": 15})
    after = arms(second.number, {"ok": 300}, {"ok": 100})
    troubled = status.model_copy(update={"evidence_epochs": (first.model_copy(update={"troubled": True}), second)})
    for each in (status, troubled):
        assert metric(judge(each, report(*outage, *after))).events == (0, 0)
    newest = status.model_copy(update={"evidence_epochs": (first, second.model_copy(update={"troubled": True}))})
    outage_now = arms(second.number, {"ok": 135, "server5xx": 135}, {"ok": 45, "server5xx": 45})
    before = arms(first.number, {"ok": 270}, {"ok": 30})
    assert metric(judge(newest, report(*before, *outage_now))).events == (0, 0)
    worse = arms(first.number, {"ok": 300}, {"ok": 50, "server5xx": 50})
    assert judge(troubled, report(*worse, *after)).harm


BAKED = {"steps": [{"weight": 50}], "bake": {"holdback": "5%"}, "guardrails": ERRORS}
ALIKE = arms(2, {"ok": 990, "server5xx": 10}, {"ok": 990, "server5xx": 10})


def baking(stable: dict[str, int], canary: dict[str, int]) -> RolloutEvaluation:
    """Return a bake after a gate at which both arms were equal."""
    return judge(at_step(2, BAKED), report(*ALIKE, *arms(4, stable, canary)), replicas=(3, 3))


def test_a_problem_in_a_bake_alone_is_harm() -> None:
    result = baking({"ok": 99, "server5xx": 1}, {"ok": 1840, "server5xx": 60})
    assert result.harm.startswith("errorRate is ")
    assert metric(result).verdict == "Harm"
    assert not baking({"ok": 99, "server5xx": 1}, {"ok": 1881, "server5xx": 19}).harm


def test_the_decision_of_the_gate_stays_in_a_bake() -> None:
    at_gate = metric(judge(at_step(1, BAKED), report(*ALIKE), replicas=(3, 3)))
    result = metric(baking({"ok": 99, "server5xx": 2}, {"ok": 1900, "server5xx": 20}))
    assert (at_gate.verdict, result.verdict) == ("Passed", "Passed")
    assert (at_gate.events, result.events) == ((600, 600), (590, 590)), (
        "without the last block, in which the bake began"
    )
    assert at_gate.allowed == 1.25, "as before 100 %"


def test_a_bake_with_the_first_traffic_uses_its_own_counts() -> None:
    status = at_step(3, {"strategy": "shadow", "steps": [{"shadow": {}}], "bake": {"holdback": "5%"}})
    *_, epoch = status.evidence_epochs
    result = metric(
        judge(status, report(*arms(epoch.number, {"ok": 99, "server5xx": 1}, {"ok": 1881, "server5xx": 19})))
    )
    assert (result.role, result.ratio, result.events) == ("harm", 1.0, (60, 1140))


CAPPED_BAKE = {**BAKED, "guardrails": [{"metric": "latencyP95", "max": "900ms"}]}


def test_a_maximum_latency_uses_the_epoch_of_the_gate_in_a_bake() -> None:
    gate = arms(2, {"ok": 1000, "slow": 20}, {"ok": 1000, "slow": 20})
    bake = arms(4, {"ok": 100, "slow": 2}, {"ok": 1900, "slow": 38})
    rows = [
        gate[0],
        {**gate[1], "total": {"ok": [59_000, 1000, 0]}},
        bake[0],
        {**bake[1], "total": {"ok": [0, 0, 114_000]}},
    ]
    result = report(*rows)
    result = replace(result, evidence={**(result.evidence or {}), "histogram": {"edgesUs": [500_000, 900_000]}})
    assert metric(judge(at_step(2, CAPPED_BAKE), result, replicas=(3, 3)), "latencyP95").verdict == "Passed"


def test_nothing_passes_in_an_epoch_with_an_outage_of_stable() -> None:
    status = at_step(1)
    (only,) = status.evidence_epochs
    troubled = status.model_copy(update={"evidence_epochs": (only.model_copy(update={"troubled": True}),)})
    result = judge(troubled, report(*GOOD))
    assert (result.passed, metric(result).verdict) == (False, "NoData")


def test_nothing_passes_while_the_step_warms_up() -> None:
    warming = at_step(2, THREE, warm=False)
    result = judge(warming, report(*GOOD, row("canary", 3, ok=7), row("stable", 3, ok=7)))
    assert metric(result).verdict == "Passed"
    assert (result.passed, result.requests, result.silent) == (False, 7, False)


@pytest.mark.parametrize("warm", [True, False])
def test_an_arm_without_requests_in_the_epoch_in_force_is_silence(warm: bool) -> None:
    status = at_step(2, THREE, warm=warm)
    assert judge(status, report(*GOOD)).silent
    assert judge(status, report(*GOOD, row("stable", status.epoch.number, ok=9))).silent
    both = [row(arm, status.epoch.number, ok=9) for arm in ("stable", "canary")]
    assert not judge(status, report(*GOOD, *both)).silent


BETTER = arms(2, {"ok": 870, "server5xx": 30}, {"ok": 98, "server5xx": 2})
FEW = arms(4, {"ok": 87, "server5xx": 3}, {"ok": 29, "server5xx": 1})


def test_every_gate_uses_the_newest_epoch_alone() -> None:
    last = {"steps": [{"weight": 10}, {"weight": 25}], "guardrails": ERRORS}
    for spec in (THREE, last):
        found = metric(judge(at_step(2, spec), report(*BETTER, *FEW)))
        assert (found.verdict, found.basis) == ("Undecided", "ThisStep")


def test_a_pause_before_all_traffic_makes_the_gate_before_it_no_lesser_one() -> None:
    paused = {"steps": [{"weight": 10}, {"weight": 25}, {"pause": {"duration": "1m"}}], "guardrails": ERRORS}
    result = metric(judge(at_step(2, paused), report(*BETTER, *FEW)))
    assert (result.verdict, result.allowed) == ("Undecided", 1.25)
    paused_between = {"steps": [{"weight": 10}, {"pause": {}}, {"weight": 50}]}
    assert metric(judge(at_step(1, paused_between), report(*BETTER))).allowed == 1.5


def test_harm_is_tested_in_all_epochs() -> None:
    harmful = arms(2, {"ok": 900}, {"ok": 90, "server5xx": 10})
    result = judge(at_step(3, THREE), report(*harmful, *arms(4, {"ok": 3}, {"ok": 1}), *arms(6, {"ok": 5}, {"ok": 5})))
    assert metric(result).verdict == "Harm"
    assert result.harm == metric(result).message
    assert not result.passed


def test_rejections_do_harm_and_let_pass_else() -> None:
    result = judge(at_step(1), report(*arms(2, {"ok": 300, "slow": 15}, {"ok": 80, "client4xx": 20, "slow": 1})))
    assert metric(result, "rejections").verdict == "Harm"
    assert result.harm.startswith("rejections never happened in stable (more than ")


def test_traffic_and_shadows_share_the_error_of_harm_and_an_older_plan_keeps_its_own() -> None:
    spec = {"steps": [{"weight": 25}], "guardrails": ERRORS}
    worse = report(*arms(2, {"ok": 299, "server5xx": 1}, {"ok": 99, "server5xx": 1}, blocks=35))
    alone = judge(at_step(1, spec), worse)
    assert metric(alone).verdict == "Harm"
    shadows = {**spec, "steps": [{"shadow": {}}, {"shadow": {}}, {"weight": 25}]}
    in_force = {"evidence_epochs": (EvidenceEpoch(number=2, weight=25),), "epoch": Epoch(number=2, confirmed=True)}
    after = at_step(3, shadows).model_copy(update=in_force)
    shared = judge(after, worse)
    assert metric(shared).verdict == "Undecided"
    plan = after.plan.model_copy(update={"harm_shares": None})
    assert judge(after.model_copy(update={"plan": plan}), worse).harm == alone.harm
    better = report(*arms(2, {"ok": 299, "server5xx": 1}, {"ok": 1000}))
    assert metric(judge(after, better)).verdict == metric(judge(at_step(1, spec), better)).verdict == "Passed"


RETRIED = {"ok": 100, "slow": 1, "firstAttemptFailed": 2}
"""Each request was answered in time, 2 % of them by the second replica."""


def test_retries_are_harm_although_every_answer_is_good() -> None:
    result = judge(at_step(1), report(*arms(2, {"ok": 300, "slow": 15}, RETRIED)))
    assert (metric(result).verdict, metric(result, "retries").verdict) == ("Passed", "Harm")
    assert (metric(result, "retries").events, result.passed) == ((0, 120), False)
    assert result.harm.startswith("retries never happened in stable (more than ")


def test_retries_of_both_arms_and_those_of_one_instant_are_no_harm() -> None:
    alike = arms(2, {"ok": 300, "slow": 15, "firstAttemptFailed": 6}, RETRIED)
    assert judge(at_step(1), report(*alike)).harm == ""
    calm = evenly("canary", 2, T0, 60, **FINE)
    burst = [block(T0 + 300, **FINE, firstAttemptFailed=20) if own[0] == T0 + 300 else own for own in calm["blocks"]]
    at_once = {**calm, "blocks": burst, "retries": {"firstAttemptFailed": 20}}
    result = judge(at_step(1), report(evenly("stable", 2, T0, 60, ok=300, slow=15), at_once))
    assert (metric(result, "retries").events, result.harm, result.passed) == ((0, 20), "", True)


@pytest.mark.parametrize(("groups", "harm"), [(100, True), (1, False)])
def test_retries_of_many_users_are_harm_and_those_of_one_are_not(groups: int, harm: bool) -> None:
    status = at_step(1, {"unit": {"header": "x-user-id"}})
    stable, canary = arms(2, {"ok": 300, "slow": 15}, RETRIED)
    others = {**canary, "retries": {"firstAttemptFailed": 0}}
    one = row("canary", 2, "b2", firstAttemptFailed=canary["retries"]["firstAttemptFailed"])
    result = judge(status, by_unit(sticky(stable), sticky(others), sticky(one, groups)))
    assert metric(result, "retries").events == (0, 120)
    assert (metric(result, "retries").verdict == "Harm") is harm


def test_slowness_is_no_harm_while_requests_by_header_add_load_and_errors_are() -> None:
    spec = {"steps": [{"weight": 10}, {"headers": {"x-canary": "true"}}, {"pause": {}}, {"weight": 25}]}
    slow = report(*arms(2, {"ok": 300, "slow": 15}, {"ok": 100, "slow": 50}))
    failing = report(*arms(2, {"ok": 300, "slow": 15}, {"ok": 100, "server5xx": 50}))

    def paused_at(index: int) -> ExperimentStatus:
        status = at_step(index, spec)
        only = (EvidenceEpoch(number=2, weight=10),)
        return status.model_copy(update={"evidence_epochs": only, "epoch": Epoch(number=2, confirmed=True)})

    assert judge(paused_at(1), slow).harm.startswith("latencyP95")
    for index in (2, 3):
        result = judge(paused_at(index), slow)
        assert (result.harm, metric(result, "latencyP95").verdict) == ("", "Undecided")
        assert metric(result, "latencyP95").message.endswith("; but requests by header are additional to its share")
        assert judge(paused_at(index), failing).harm.startswith("errorRate")


@pytest.mark.parametrize(
    ("replicas", "canary", "verdict"),
    [
        ((3, 1), FINE, "Passed"),
        ((3, 2), FINE, "Suspended"),
        ((1, 1), FINE, "Suspended"),
        ((9, 1), FINE, "Passed"),
        ((3, 1), {"ok": 100, "slow": 50}, "Harm"),
        ((1, 1), {"ok": 100, "slow": 50}, "Harm"),
        ((9, 1), {"ok": 100, "slow": 50}, "Undecided"),
        ((3, 0), FINE, "Undecided"),
        ((0, 1), {"ok": 100, "slow": 50}, "Undecided"),
    ],
)
def test_latencies_are_evaluated_unless_unequal_loads_explain_them(
    replicas: tuple[int, int], canary: dict[str, int], verdict: str
) -> None:
    result = judge(at_step(1), report(*arms(2, {"ok": 300, "slow": 15}, canary)), replicas=replicas)
    assert metric(result, "latencyP95").verdict == verdict
    assert result.passed is (verdict in ("Passed", "Suspended"))
    assert bool(result.harm) is (verdict == "Harm")


def test_a_suspended_latency_allows_the_next_weight_but_not_all_traffic() -> None:
    rows = [*GOOD, *arms(4, {"ok": 300, "slow": 15}, {"ok": 300, "slow": 3})]
    assert judge(at_step(2), report(*rows), replicas=(3, 3)).passed
    assert not judge(at_step(2), report(*rows), replicas=(1, 3)).passed
    more = {"steps": [{"weight": 25}, {"weight": 50}, {"weight": 60}]}
    assert judge(at_step(2, more), report(*rows), replicas=(1, 3)).passed


def test_requests_that_were_lost_are_failures_of_the_candidate_at_gates_and_no_harm() -> None:
    lost = [GOOD[0], {**GOOD[1], "lost": 500, "assigned": GOOD[1]["assigned"] + 500}]
    result = judge(at_step(1), report(*lost))
    assert (result.passed, result.harm) == (False, "")
    assert metric(result).events == (0, 500)
    assert metric(result).lost == (0, 500)
    assert metric(result).verdict == "Undecided"
    assert metric(result).message.endswith(
        "worse than its margin if all lost requests failed; the canary has 500 lost requests of unknown outcome"
    )
    assert result.lost == (0, 500)


def test_what_stable_lost_is_charged_to_it_for_harm_and_said_to_be_lost() -> None:
    stable, canary = arms(2, {"ok": 300}, {"ok": 100})
    only_harm = {"guardrails": [{"metric": "latencyP95"}]}
    found = metric(
        judge(at_step(1, only_harm), report({**stable, "lost": 5, "assigned": stable["assigned"] + 5}, canary))
    )
    assert (found.role, found.basis, found.events, found.lost) == ("harm", "Harm", (5, 0), (5, 0))
    assert found.message.endswith("; 5 lost requests of unknown outcome count as failures of stable")


def test_failures_of_one_burst_are_shown_as_few_independent_events() -> None:
    stable, canary = arms(2, {"ok": 300}, {"ok": 100})
    blocks = [*canary["blocks"][:30], block(canary["blocks"][30][0], server5xx=100), *canary["blocks"][31:]]
    burst = row("canary", 2, blocks=blocks, ok=5900, server5xx=100)
    found = metric(judge(at_step(1), report(stable, burst)))
    assert found.events == (0, 100)
    assert found.independent_events is not None
    assert found.independent_events < 10
    assert f"100 failures count as about {found.independent_events:.3g} independent events" in found.message
    steady = metric(judge(at_step(1), report(*arms(2, {"ok": 297, "server5xx": 3}, {"ok": 99, "server5xx": 1}))))
    assert "independent" not in steady.message
    assert steady.values is not None
    assert [each.value for each in steady.values] == [0.01, 0.01]
    assert all(each.interval[0] < 0.01 < each.interval[1] for each in steady.values)


def test_lost_requests_are_shown_beside_harm_and_do_not_count_for_it() -> None:
    stable, canary = arms(2, {"ok": 300}, {"ok": 98, "server5xx": 2})
    lost = {**canary, "lost": 7, "assigned": canary["assigned"] + 7}
    both = judge(at_step(1), report({**stable, "lost": 3, "assigned": stable["assigned"] + 3}, lost))
    assert both.lost == (3, 7)
    assert both.harm.endswith(": worse than its margin; besides, the canary has 7 lost requests of unknown outcome")


def test_requests_that_stable_lost_may_have_failed_as_those_of_the_candidate_did() -> None:
    stable, canary = arms(2, {"ok": 300}, {"ok": 98, "server5xx": 2})
    assert judge(at_step(1), report(stable, canary)).harm
    lost = {**stable, "lost": 360, "assigned": stable["assigned"] + 360}
    result = judge(at_step(1), report(lost, canary))
    assert (result.harm, result.passed) == ("", False)


def test_requests_at_an_edge_that_is_gone_are_lost() -> None:
    running = report(GOOD[0], {**GOOD[1], "inFlight": 300, "assigned": GOOD[1]["assigned"] + 300})
    assert judge(at_step(1), running).passed
    status = at_step(1)
    counted = take([running], CountScope([2], 2, NOW, 30))
    result = evaluate.evaluate_rollout(status, collected(counted, []), (3, 1))
    assert metric(result).events == (0, 300)
    assert "; the canary has 300 lost requests of unknown outcome" in metric(result).message
    assert "lost" not in metric(judge(status, running)).message


def test_requests_that_run_longer_than_they_may_have_failed_for_gates_and_do_no_harm_yet() -> None:
    hanging = {**GOOD[1], "inFlight": 300, "assigned": GOOD[1]["assigned"] + 300, "inFlightSince": [[NOW - 60, 300]]}
    result = judge(at_step(1), report(GOOD[0], hanging))
    assert (result.passed, result.harm, metric(result).verdict) == (False, "", "Undecided")
    assert metric(result).events == (0, 300)
    assert metric(result).message.endswith("; the canary has 300 requests that still run after their timeout")
    in_time = {**hanging, "inFlightSince": [[NOW - 40, 300]]}
    assert judge(at_step(1), report(GOOD[0], in_time)).passed


def test_a_sample_ratio_mismatch_is_described() -> None:
    result = judge(at_step(1), report(*arms(2, {"ok": 300}, {"ok": 90})))
    assert result.mismatch == "the canary got 5400 of 23400 requests, expected 5850: sample-ratio mismatch"
    assert judge(at_step(1), report(*arms(2, {"ok": 300}, {"ok": 99}))).mismatch == ""


def recent_blocks(arm: str, *blocks: dict[str, int], epoch: int = 1) -> Any:
    """Return the last complete blocks, the newest last."""
    first = NOW - 10 - 10 * len(blocks)
    return row(arm, epoch, blocks=[block(first + 10 * at, **own) for at, own in enumerate(blocks)])


DYING = {"server5xx": 20, "ok": 19}
HEALTHY = {"ok": 91, "server5xx": 9}


DEAD = early_harm.DEAD_BLOCKS


def without_early_harm() -> ExperimentStatus:
    """Return an attempt in its first warm-up, by a plan that leaves the first blocks to the rule for dead candidates."""
    status = at_step(1, warm=False)
    return status.model_copy(update={"plan": status.plan.model_copy(update={"early_harm": None})})


BACK = {"ok": 30, "server5xx": 3}


def death(
    canary: list[dict[str, int]], *, replicas: tuple[int, int] = (3, 1), now: dict[str, int] | None = None
) -> str:
    """Return why a canary with such last blocks is rolled back; `now` is the block of the present."""
    rows = [recent_blocks("canary", *canary), recent_blocks("stable", *[HEALTHY] * len(canary))]
    if now is not None:
        rows.append(row("canary", 1, blocks=[block(NOW - 10, **now)]))
    return judge(without_early_harm(), report(*rows), replicas=replicas).harm


def test_a_candidate_that_fails_most_of_ten_blocks_is_dead_even_while_it_warms_up() -> None:
    assert death([DYING] * DEAD) == "the canary failed 200 of 390 requests in 100 s, while stable did not"
    assert death([{"ok": 39}] * 5 + [DYING] * DEAD)


def test_a_stall_of_a_minute_kills_no_candidate() -> None:
    dying = {"server5xx": 300}
    assert death([{"ok": 300}] * 3 + [dying] * early_harm.BLOCKS_LEFT_OUT) == ""
    assert death([{"ok": 300}] * 15 + [dying] * early_harm.BLOCKS_LEFT_OUT + [{"ok": 300}] * 3) == ""


def test_a_candidate_whose_replica_restarts_has_longer_and_is_fine_once_it_answers() -> None:
    dying = {"server5xx": 40}
    assert death([dying] * DEAD, replicas=(3, 0)) == ""
    assert death([dying] * (DEAD + 4), replicas=(3, 0)) != ""
    assert death([dying] * DEAD, replicas=(3, 1)) != ""
    assert death([dying] * DEAD, replicas=(3, 1), now=BACK) == ""


def test_a_candidate_that_hangs_is_dead_once_its_requests_time_out() -> None:
    hangs = {"timeout": 40}
    running = [{"inFlight": 40}] * 3
    assert death([hangs] * DEAD + running) != ""


@pytest.mark.parametrize(
    ("canary", "stable"),
    [
        ([DYING] * (DEAD - 1), [HEALTHY] * DEAD),
        ([DYING] * (DEAD - 1) + [{"ok": 39}], [HEALTHY] * DEAD),
        ([{"server5xx": 19}] * DEAD, [HEALTHY] * DEAD),
        ([{"server5xx": 20, "ok": 20}] * DEAD, [HEALTHY] * DEAD),
        ([DYING] * DEAD, [*[HEALTHY] * (DEAD - 1), {"ok": 90, "server5xx": 10}]),
        ([DYING] * DEAD, [{}] * DEAD),
        ([], []),
    ],
)
def test_a_candidate_that_fails_less_or_as_stable_does_is_not_dead(
    canary: list[dict[str, int]], stable: list[dict[str, int]]
) -> None:
    assert (
        judge(without_early_harm(), report(recent_blocks("canary", *canary), recent_blocks("stable", *stable))).harm
        == ""
    )


def test_failures_of_all_edges_and_epochs_are_one_death() -> None:
    half = {"server5xx": 10, "ok": 9}
    rows = [recent_blocks(arm, *[own] * DEAD) for arm, own in (("canary", half), ("stable", HEALTHY))]
    assert judge(without_early_harm(), report(*rows)).harm == ""
    assert judge(without_early_harm(), report(*rows), report(*rows, pod="edge-1")).harm
    before = recent_blocks("canary", *[half] * DEAD, epoch=2)
    assert judge(without_early_harm(), report(*rows, before)).harm


FAILING, NONE_FAILED = {"server5xx": 7, "ok": 43}, {"ok": 150}


def test_a_candidate_that_fails_some_requests_in_every_block_does_harm_before_its_warm_up_is_over() -> None:
    def of(
        blocks: int, canary: dict[str, int] = FAILING, stable: dict[str, int] = NONE_FAILED, **how: Any
    ) -> RolloutEvaluation:
        rows = recent_blocks("canary", *[canary] * blocks), recent_blocks("stable", *[stable] * blocks)
        return judge(at_step(1, warm=False, **how), report(*rows))

    result = of(8)
    assert (result.harm, result.is_dead) == (metric(result).message, False)
    assert result.harm == (
        "errorRate: 56 of 400 requests of the canary failed in its first 80 s, 0 of 1200 of stable; worse than its margin, even without"
        " its 7 worst blocks of 10 s"
    )
    assert (metric(result).verdict, metric(result).basis, metric(result).events) == ("Harm", "Harm", (0, 56))
    assert of(7).harm == ""
    assert of(20, {"server5xx": 1, "ok": 49}, {"server5xx": 3, "ok": 147}).harm == ""
    assert of(12, spec={"unit": {"header": "x-user-id"}}).harm == ""


def test_a_minute_of_failures_is_no_early_harm_however_many_there_are() -> None:
    worse = [{"ok": 50}] * 3 + [{"server5xx": 20, "ok": 30}] * 7 + [{"ok": 50}] * 6
    rows = recent_blocks("canary", *worse), recent_blocks("stable", *[NONE_FAILED] * 16)
    assert judge(at_step(1, warm=False), report(*rows)).harm == ""


def test_early_harm_counts_the_blocks_of_the_warm_up_and_of_evidence_alike() -> None:
    rows = [
        recent_blocks(arm, *[own] * 4 + [{}] * 4, epoch=1)
        for arm, own in (("canary", FAILING), ("stable", NONE_FAILED))
    ] + [recent_blocks(arm, *[own] * 4, epoch=2) for arm, own in (("canary", FAILING), ("stable", NONE_FAILED))]
    assert judge(at_step(1), report(*rows)).harm.startswith("errorRate: 56 of 400 requests of")
    assert judge(at_step(1), report(*rows), silent("edge-1")).harm == ""


def test_early_harm_is_not_tested_once_the_usual_test_can_decide_nor_by_an_older_plan() -> None:
    status = at_step(1, warm=False)
    rows = [recent_blocks(arm, *[own] * 10) for arm, own in (("canary", FAILING), ("stable", NONE_FAILED))]
    before = status.model_copy(update={"plan": status.plan.model_copy(update={"early_harm": None})})
    assert (judge(status, report(*rows)).harm != "", judge(before, report(*rows)).harm) == (True, "")
    first = [recent_blocks(arm, *[own] * 9 + [{}] * 14) for arm, own in (("canary", FAILING), ("stable", NONE_FAILED))]
    fine = [
        recent_blocks(arm, *[{}] * 2, *[own] * 13, epoch=2)
        for arm, own in (("canary", {"ok": 50}), ("stable", NONE_FAILED))
    ]
    assert judge(at_step(1), report(*first, *fine)).harm == ""


def test_early_harm_leaves_the_usual_test_the_rest_of_its_error() -> None:
    plan = at_step(1).plan
    whole = plan.model_copy(update={"early_harm": None})
    assert freeze.early_alpha(plan) == pytest.approx(0.05 * 0.2)
    assert freeze.early_alpha(whole) == 0
    assert freeze.early_alpha(plan.model_copy(update={"harm_shares": 2})) == pytest.approx(0.025 * 0.2)
    assert (arm_pair.error_levels(plan).harm_error_share, arm_pair.error_levels(whole).harm_error_share) == (0.8, 1.0)
    assert rollout_forecast.harm_test_count(plan) == pytest.approx(len(plan.guardrails) / 0.8)


def test_without_any_counts_nothing_follows() -> None:
    for status in (at_step(1), at_step(1, warm=False), at_step(3)):
        result = judge(status)
        assert (result.passed, result.harm, result.silent, result.mismatch, result.requests) == (False, "", True, "", 0)
        assert {each.verdict for each in result.metrics} <= {"NoData", "Suspended"}


def test_unknown_thresholds_are_set_from_present_traffic() -> None:
    unknown = at_step(1, traffic=StableTraffic())
    assert [each.threshold_microseconds for each in judge(unknown, traffic=KNOWN).guardrails] == [
        None,
        500_000,
        None,
        None,
    ]
    assert judge(unknown, traffic=StableTraffic()).guardrails == unknown.plan.guardrails
    later = StableTraffic(10, [0, 100], (500_000, 10_000_000))
    assert judge(at_step(1), traffic=later).guardrails == at_step(1).plan.guardrails


def test_the_message_has_the_latency_thresholds() -> None:
    result = metric(judge(at_step(1), report(*GOOD)), "latencyP95")
    assert result.message.startswith("latencyP95 (answers above 500 ms, the canary's above 625 ms) is 0.2")
    slow = at_step(1, traffic=StableTraffic(10, [0, 100], (500_000, 10_000_000)))
    assert "above 10 s, the canary's above 12.5 s" in metric(judge(slow, report(*GOOD)), "latencyP95").message


SEVERAL = {"guardrails": [{"metric": "latencyP50"}, {"metric": "errorRate"}, {"metric": "latencyP95", "margin": "25%"}]}
QUICK = {"ok": 300, "slow": 150, "slow2": 15}


@pytest.mark.parametrize(
    ("canary", "verdicts"),
    [
        ({"ok": 100, "slow": 20, "slow2": 1}, ("Passed", "Passed")),
        ({"ok": 100, "slow": 20, "slow2": 30}, ("Passed", "Harm")),
        ({"ok": 100, "slow": 90, "slow2": 1}, ("Harm", "Passed")),
    ],
)
def test_each_latency_uses_the_counts_of_its_own_threshold(canary: dict[str, int], verdicts: tuple[str, str]) -> None:
    result = judge(at_step(1, SEVERAL), report(*arms(2, QUICK, canary)))
    assert tuple(metric(result, name).verdict for name in ("latencyP50", "latencyP95")) == verdicts
    assert metric(result, "latencyP95").events == (15 * 60, canary["slow2"] * 60)
    harmed = next((name for name in ("latencyP50", "latencyP95") if metric(result, name).verdict == "Harm"), "")
    assert result.harm.startswith(f"{harmed} (answers above ") if harmed else result.harm == ""


def test_each_latency_uses_its_own_group_counts() -> None:
    """One user of a hundred has all that is slow by the second threshold: one event. The first is spread evenly."""
    spec = {**SEVERAL, **BY_USER}
    canary = {"ok": 100, "slow": 90, "slow2": 30}
    stable, own = arms(2, QUICK, canary)
    alone = sticky(own)
    column = GROUP_COLUMNS.index("slow2")
    of_one = [[*each[:column], own["slow2"] if each[0] == 7 else 0, *each[column + 1 :]] for each in alone["groups"]]
    result = judge(at_step(1, spec), by_unit(sticky(stable), {**alone, "groups": of_one}))
    assert (metric(result, "latencyP50").verdict, metric(result, "latencyP95").verdict) == ("Harm", "Undecided")
    spread = judge(at_step(1, spec), by_unit(sticky(stable), alone))
    assert metric(spread, "latencyP95").verdict == "Harm"


def test_more_latencies_share_the_error_of_harm() -> None:
    """Counts that are just harm beside errors alone are no harm beside two latencies, because each test may err."""
    rows = arms(2, {"ok": 300, "server5xx": 3}, {"ok": 100, "server5xx": 2}, blocks=47)
    beside = [*ERRORS, {"metric": "latencyP50"}, {"metric": "latencyP95"}]
    alone = [*ERRORS, {"metric": "latencyP95", "enabled": False}]
    result = [judge(at_step(1, {"guardrails": own}), report(*rows)) for own in (alone, beside)]
    assert [metric(each).verdict for each in result] == ["Harm", "Undecided"]


def test_a_further_latency_is_undecided_while_an_edge_counts_only_one() -> None:
    rows = arms(2, QUICK, {"ok": 100, "slow": 20, "slow2": 1})
    before = [
        {name: result for name, result in each.items() if name not in ("slow2", "slow3")} | {"boot": "b9"}
        for each in rows
    ]
    status = at_step(1, SEVERAL)
    result = judge(status, report(*rows), report(*before, pod="edge-1"))
    assert (metric(result, "latencyP50").verdict, metric(result, "latencyP95").verdict) == ("Passed", "Undecided")
    assert metric(result, "latencyP95").message == "latencyP95: edge-1 does not count answers by several latencies yet"
    assert not result.passed
    one = judge(at_step(1), report(*arms(2, {"ok": 300, "slow": 15}, FINE), *before))
    assert metric(one, "latencyP95").verdict == "Passed", "of one latency nothing is missing"


few = st.sampled_from([0, 1, 7, 1000, 10**12])
sides = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("ok", "timeout", "throttled", "slow", "slow2", "lost", "inFlight"), few)
)
some = st.lists(
    st.tuples(st.sampled_from(["stable", "canary"]), st.integers(1, 6), sides, st.integers(0, 40)), max_size=5
)


@settings(max_examples=examples(60))
@given(some, st.integers(1, 4), st.booleans(), st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_any_counts_give_a_valid_status(
    counted: list[tuple[str, int, dict[str, int], int]], index: int, warm: bool, replicas: tuple[int, int]
) -> None:
    rows = [
        row(arm, epoch, blocks=[block(T0 + 10 * at, ok=at, timeout=7 * at) for at in range(blocks)], **result)
        for arm, epoch, result, blocks in counted
    ]
    status = at_step(index, {**THREE, **SEVERAL}, warm=warm)
    result = judge(status, report(*rows), replicas=replicas)
    written = status.model_copy(update={"metrics": result.metrics}).to_json()
    assert ExperimentStatus.parse(written).metrics == result.metrics
    assert "nan" not in str(written)
    assert not (result.passed and result.harm and result.harm in [each.message for each in result.metrics])


def test_without_a_request_of_the_canary_no_metric_passes() -> None:
    latency = {"steps": [{"weight": 5}, {"weight": 50}], "guardrails": [{"metric": "latencyP99"}]}
    result = judge(at_step(1, latency), report(evenly("stable", 2, T0, 60, ok=300)), replicas=(4, 1))
    assert (result.passed, result.silent) == (False, True)
    assert {each.verdict for each in result.metrics} == {"NoData"}


def test_more_errors_within_their_margin_are_no_long_answers() -> None:
    rows = arms(2, {"ok": 270, "server5xx": 15, "slow": 15}, {"ok": 90, "server5xx": 6, "slow": 4})
    result = judge(at_step(1), report(*rows))
    assert (result.harm, metric(result, "latencyP95").verdict) == ("", "Passed")


def test_an_edge_that_stopped_reporting_opens_no_gate_and_hides_no_harm() -> None:
    both = [report(*GOOD), report(*GOOD, pod="edge-1")]
    known = take(both, CountScope([2], 2, NOW, 30))
    reports = [both[0], silent("edge-1")]
    result = evaluate.evaluate_rollout(at_step(1), collected(known, reports), (3, 1))
    assert (result.passed, result.unreachable_edges) == (False, ("edge-1",))
    assert evaluate.evaluate_rollout(at_step(1), collected(known, both), (3, 1)).passed


def test_an_epoch_with_one_arm_says_nothing_of_two() -> None:
    status = at_step(1)
    alone = [EvidenceEpoch(number=1, weight=0), *status.evidence_epochs, EvidenceEpoch(number=9, weight=100)]
    rows = [*GOOD, evenly("stable", 1, T0, 60, ok=300)]
    result = judge(status.model_copy(update={"evidence_epochs": tuple(alone)}), report(*rows))
    assert [each.verdict for each in result.metrics] == ["Passed", "Passed", "Undecided", "Undecided"]


def test_a_latency_without_threshold_holds_the_gate_and_errors_do_harm() -> None:
    unknown = at_step(1, traffic=StableTraffic())
    result = judge(unknown, report(*GOOD), traffic=StableTraffic())
    assert (result.passed, metric(result, "latencyP95").verdict) == (False, "Undecided")
    assert metric(result, "latencyP95").message.endswith("waits for enough answers of stable to set the threshold")
    bad = judge(unknown, report(*arms(2, {"ok": 300}, {"ok": 70, "server5xx": 30})), traffic=StableTraffic())
    assert bad.harm.startswith("errorRate never happened in stable")


BY_USER = {"unit": {"header": "x-user-id"}}


def sticky_rows(rows: list[dict[str, Any]], **how: int) -> list[dict[str, Any]]:
    """Return rows of sticky units."""
    return [sticky(each, **how) for each in rows]


BAD = arms(2, {"ok": 290, "server5xx": 3}, {"ok": 90, "server5xx": 8})
BOTH_FAIL = arms(2, {"ok": 285, "server5xx": 30}, {"ok": 103, "server5xx": 2})


def test_events_of_many_users_are_tested_like_requests() -> None:
    assert judge(at_step(1, BY_USER), by_unit(*sticky_rows(BOTH_FAIL))).passed
    assert "times stable's" in judge(at_step(1, BY_USER), by_unit(*sticky_rows(BAD))).harm


def test_events_of_one_user_of_each_arm_neither_harm_nor_pass() -> None:
    for rows in (BAD, BOTH_FAIL, GOOD):
        few = [sticky(each, groups=1) for each in rows]
        assert metric(judge(at_step(1, BY_USER), by_unit(*few))).verdict == "Undecided"


def test_groups_that_are_not_known_count_as_one_user() -> None:
    for rows in (BAD, BOTH_FAIL, GOOD):
        unknown = [{**each, "groups": each["groups"][:20]} for each in sticky_rows(rows)]
        result = judge(at_step(1, BY_USER), by_unit(*unknown))
        assert (result.harm, result.passed, metric(result).verdict) == ("", False, "Undecided")


def test_edges_that_do_not_count_groups_decide_nothing() -> None:
    for rows in (BAD, GOOD):
        result = judge(at_step(1, BY_USER), report(*sticky_rows(rows)))
        assert (result.harm, result.passed) == ("", False)
        assert metric(result).message == "errorRate: its edges do not count groups of units yet"
    assert not judge(at_step(1, BY_USER), by_unit(*sticky_rows(GOOD)), report(*sticky_rows(GOOD), pod="edge-1")).passed
    assert judge(at_step(1), report(*GOOD)).passed


def test_groups_that_a_status_lost_are_waited_for() -> None:
    reports = [by_unit(*sticky_rows(GOOD))]
    known = take(reports, CountScope([2], 2, NOW, 30))
    assert evaluate.evaluate_rollout(at_step(1, BY_USER), collected(known, reports), (3, 1)).passed
    assert not evaluate.evaluate_rollout(
        at_step(1, BY_USER), collected(replace(known, groups={}), reports), (3, 1)
    ).passed


def test_requests_that_were_lost_may_have_been_one_users() -> None:
    lost = [{**each, "lost": 300, "assigned": each["assigned"] + 300} for each in sticky_rows(BAD)]
    assert judge(at_step(1, BY_USER), by_unit(lost[0], *sticky_rows(BAD)[1:])).harm == ""


def test_users_with_many_requests_cause_no_sample_ratio_mismatch() -> None:
    """The canary's users make a third fewer requests than its weight."""
    few = sticky_rows(arms(2, {"ok": 300}, {"ok": 66}))
    assert judge(at_step(1), report(*arms(2, {"ok": 300}, {"ok": 66}))).mismatch
    assert judge(at_step(1, BY_USER), by_unit(*few)).mismatch == ""


def test_rates_of_users_are_compared_by_the_requests_that_came() -> None:
    rows = arms(2, {"ok": 294, "server5xx": 6}, {"ok": 49, "server5xx": 1})
    assert metric(judge(at_step(1, BY_USER), by_unit(*sticky_rows(rows)))).ratio == pytest.approx(1.0, rel=0.01)
    assert metric(judge(at_step(1), report(*rows))).ratio == pytest.approx(0.5, rel=0.01)


def users(
    stable: int, canary: int, epoch: int = 2, at_s: float = T0, begin: int = 0
) -> list[tuple[int, float, int, str]]:
    return [
        (begin + number, at_s, epoch, "stable" if number < stable else "canary") for number in range(stable + canary)
    ]


def test_users_split_by_other_weights_are_a_sample_ratio_mismatch() -> None:
    rows = sticky_rows(GOOD)
    assert judge(at_step(1, BY_USER), by_unit(*rows, units=users(750, 250))).mismatch == ""
    result = judge(at_step(1, BY_USER), by_unit(*rows, units=users(850, 150)))
    assert result.mismatch.startswith("the canary got 150 of 1000 units and requests without one, expected 250")
    late = users(850, 150, at_s=NOW - 30)
    assert judge(at_step(1, BY_USER), by_unit(*rows, units=late)).mismatch == ""


def test_users_count_by_the_weight_of_the_epoch_in_which_they_came_first() -> None:
    three = {**THREE, **BY_USER}
    rows = sticky_rows([*GOOD, *arms(4, {"ok": 300}, FINE)])
    by_step = [*users(450, 50, 1), *users(375, 125, 3, begin=500)]
    assert judge(at_step(2, three), by_unit(*rows, units=by_step)).mismatch == ""
    assert judge(at_step(2, three), by_unit(*rows, units=users(825, 175, 1))).mismatch
    assert judge(at_step(2, three), by_unit(*rows, units=users(825, 175, 3))).mismatch


def test_requests_without_a_unit_fall_to_the_arms_by_the_weights() -> None:
    rows = [*sticky_rows(GOOD), *arms(2, {"ok": 300}, {"ok": 66})]
    result = judge(at_step(1, BY_USER), by_unit(*rows))
    assert result.mismatch.startswith("the canary got 3960 of 21960 units and requests without one, expected 5490")


def test_a_candidate_that_fails_for_one_user_alone_is_not_dead() -> None:
    rows = [recent_blocks("canary", *[DYING] * DEAD), recent_blocks("stable", *[HEALTHY] * DEAD)]
    whole = row("canary", 1, ok=57, server5xx=60)
    one = {
        **whole,
        "unit": "sticky",
        "groups": [[0, 0, 0, 0, 60, *[0] * 10], *([group, 19, *[0] * 13] for group in (1, 2, 3))],
    }
    assert judge(at_step(1, BY_USER, warm=False), by_unit(one, *rows)).harm == ""
    assert judge(at_step(1, BY_USER, warm=False), by_unit(sticky(whole), *rows)).harm.startswith("the canary failed ")


def test_a_maximum_holds_for_users_and_not_for_requests() -> None:
    capped = {**BY_USER, "guardrails": [{"metric": "errorRate", "max": "10%"}]}
    assert judge(at_step(1, capped), by_unit(*sticky_rows(BOTH_FAIL))).passed
    few = metric(judge(at_step(1, capped), by_unit(*sticky_rows(BOTH_FAIL, groups=5))))
    assert few.message.startswith("errorRate of the canary is not known to be below max 10 % yet")


def updated(status: ExperimentStatus, reports: Sequence[EdgeReport], now_s: float, before: Counters) -> Counters:
    look = CountScope([each.number for each in status.evidence_epochs], status.epoch.number, now_s, 30)
    return counters.update_counters(before, reports, counters.collect_blocks(ATTEMPT, reports), look)


def verdicts_over_time(
    status: ExperimentStatus, stable: dict[str, int], canary: dict[str, int], burst: dict[str, dict[str, int]]
) -> list[RolloutEvaluation]:
    """Return the verdict of every second of the half minute in which a burst is added to one block, after ten calm minutes."""
    calm = {"stable": stable, "canary": canary}
    rows = []
    for arm, usual in calm.items():
        own = evenly(arm, 2, T0, 60, **usual)
        more = dict(usual)
        for name, count in burst.get(arm, {}).items():
            more[name] = more.get(name, 0) + count
        whole = {name: 60 * usual.get(name, 0) + more.get(name, 0) for name in {*usual, *more}}
        rows.append(row(arm, 2, blocks=[*own["blocks"], block(T0 + 600, **more)], **whole))
    reports, counted, found = [report(*rows)], Counters(ATTEMPT), []
    for now_s in range(T0 + 601, T0 + 631):
        counted = updated(status, reports, now_s, counted)
        result = arm_pair.CollectedCounts(counted, reports, counters.collect_blocks(ATTEMPT, reports), KNOWN, now_s, 30)
        found.append(evaluate.evaluate_rollout(status, result, (3, 3)))
    return found


def test_failures_that_come_together_are_no_harm_before_their_block_is_over() -> None:
    result = verdicts_over_time(at_step(1), {"ok": 300}, {"ok": 100}, {"canary": {"server5xx": 8}})
    assert {each.harm for each in result} == {""}
    assert metric(result[0]).events == (0, 0)
    assert metric(result[-1]).events == (0, 8)


def test_slow_answers_that_come_together_are_no_harm_before_their_block_is_over() -> None:
    result = verdicts_over_time(at_step(1), {"ok": 300, "slow": 15}, {"ok": 100, "slow": 5}, {"canary": {"slow": 100}})
    assert {each.harm for each in result} == {""}


def test_failures_of_stable_that_come_together_open_no_gate_before_their_block_is_over() -> None:
    last = at_step(
        2, {"steps": [{"weight": 10}, {"weight": 50}], "guardrails": [{"metric": "errorRate", "floor": "0%"}]}
    )
    status = last.model_copy(update={"evidence_epochs": (EvidenceEpoch(number=2, weight=50),)})
    status = status.model_copy(update={"epoch": Epoch(number=2, confirmed=True)})
    worse = {"ok": 397, "server5xx": 3}
    result = verdicts_over_time(status, {"ok": 398, "server5xx": 2}, worse, {"stable": {"server5xx": 150}})
    assert not any(each.passed for each in result)
    assert {metric(each).verdict for each in result} == {"Undecided"}


def test_an_edge_that_does_not_report_stops_the_horizon_for_harm_and_gates() -> None:
    status, (stable, canary) = at_step(1), arms(2, {"ok": 300}, {"ok": 100})
    fine = report(*arms(2, {"ok": 3}, {"ok": 1}), pod="edge-1")
    before = take([report(stable, canary), fine], CountScope([2], 2, NOW, 30))
    failing = [block(T0 + 600 + 10 * number, ok=97, server5xx=3) for number in range(60)]
    worse = row("canary", 2, blocks=[*canary["blocks"], *failing], ok=11_820, server5xx=180)
    for second, harms in ((silent("edge-1"), False), (fine, True)):
        reports = [report(stable, worse), second]
        counted = updated(status, reports, NOW + 605, before)
        result = arm_pair.CollectedCounts(counted, reports, {}, KNOWN, NOW + 605, 30)
        assert (evaluate.evaluate_rollout(status, result, (3, 1)).harm != "") is harms


def test_harm_waits_for_no_request_that_runs_on_and_a_gate_does() -> None:
    status, (stable, canary) = at_step(1), arms(2, {"ok": 300}, {"ok": 97, "server5xx": 3})
    begin, *others = canary["blocks"]
    hanging = {**canary, "blocks": [begin, *([*each[:-1], 1] for each in others)]}
    reports = [report(stable, hanging)]
    look = CountScope([2], 2, T0 + 200, 3600)
    counted = counters.update_counters(Counters(ATTEMPT), reports, counters.collect_blocks(ATTEMPT, reports), look)
    result = evaluate.evaluate_rollout(
        status, arm_pair.CollectedCounts(counted, reports, {}, KNOWN, T0 + 200, 3600), (3, 1)
    )
    assert result.harm.startswith("errorRate never happened in stable")
    assert not result.passed


@pytest.mark.parametrize("replicas", [(3, 1), (1, 1)])
def test_a_candidate_that_is_ten_times_slower_is_harm_although_errors_alone_are_a_guardrail(
    replicas: tuple[int, int],
) -> None:
    status = at_step(1, {"guardrails": ERRORS})
    slow = judge(status, report(*arms(2, {"ok": 300, "slow": 15}, {"ok": 100, "slow": 95})), replicas=replicas)
    assert slow.harm.startswith("latencyP95 (answers above 500 ms")
    fine = judge(status, report(*arms(2, {"ok": 300, "slow": 15}, {"ok": 100, "slow": 5})), replicas=replicas)
    assert (fine.passed, metric(fine, "latencyP95").role, metric(fine, "latencyP95").verdict) == (
        True,
        "harm",
        "Undecided",
    )
    off = {"guardrails": [*ERRORS, {"metric": "latencyP95", "enabled": False}]}
    result = judge(at_step(1, off), report(*arms(2, {"ok": 300, "slow": 15}, {"ok": 100, "slow": 95})))
    assert (result.harm, result.passed) == ("", True)


def test_a_restarted_last_gate_uses_the_rest_of_the_error() -> None:
    last = at_step(
        2, {"steps": [{"weight": 10}, {"weight": 25}], "guardrails": [{"metric": "errorRate", "floor": "0%"}]}
    )
    first, newest = last.evidence_epochs
    rows = arms(newest.number, {"ok": 294, "server5xx": 6}, {"ok": 99, "server5xx": 1}, blocks=38)

    def upper(restarts: int) -> float:
        again = newest.model_copy(update={"restarts": restarts})
        result = judge(last.model_copy(update={"evidence_epochs": (first, again)}), report(*rows))
        return metric(result).interval[1]

    assert upper(0) < upper(1) < upper(2)


def test_the_mixture_is_that_of_the_plan() -> None:
    assert freeze.MIXTURE == count_ratio.CONCENTRATIONS
    status = at_step(1)
    assert status.plan.mixture == freeze.MIXTURE
    rows = report(*arms(2, {"ok": 285, "server5xx": 15}, {"ok": 95, "server5xx": 5}))
    other = status.model_copy(update={"plan": status.plan.model_copy(update={"mixture": (500.0,)})})
    before = status.model_copy(update={"plan": status.plan.model_copy(update={"mixture": None})})
    assert metric(judge(status, rows)).interval == metric(judge(before, rows)).interval
    assert metric(judge(status, rows)).interval != metric(judge(other, rows)).interval
