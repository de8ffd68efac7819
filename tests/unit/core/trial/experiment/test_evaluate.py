"""Evaluation of arms, with given counts and with simulated ones."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from experiment_statuses import T0, begin_experiment
from sundog_operator.api import EvidenceEpoch, ExperimentStatus, MetricStatus
from sundog_operator.api.reasons import Cause
from sundog_operator.core.analysis import blocks, edge_reports, unit_groups
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.arm_pair import CollectedCounts
from sundog_operator.core.analysis.blocks import Block, BlockCounts
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.dispersion_sums import EpochBlocks
from sundog_operator.core.analysis.feedback import FeedbackSums
from sundog_operator.core.edge.reported_counts import SLOW
from sundog_operator.core.stats import early_harm
from sundog_operator.core.trial.default_plan import StableTraffic, resolve_thresholds
from sundog_operator.core.trial.evaluation import ExperimentEvaluation
from sundog_operator.core.trial.experiment import evaluate, state

NOW_S = T0.timestamp()
FIRST = int(NOW_S) // blocks.BLOCK_S


def running(*names: str, exposure: str = "100%", **spec: Any) -> ExperimentStatus:
    begun = begin_experiment(names, exposure=exposure, **spec)
    shares = state.target_buckets(begun)
    epoch = EvidenceEpoch(number=1, buckets=tuple(shares[arm.name] for arm in begun.arms))
    return begun.model_copy(update={"evidence_epochs": (epoch,)})


class Counts:
    """Counts of one edge, block by block."""

    def __init__(self, status: ExperimentStatus) -> None:
        self.status = status
        self.rows = {(1, arm.name): ArmCounts() for arm in status.arms}
        self.blocks: dict[int, Block] = {}
        self.compared = [arm.name for arm in state.treatment_arms(status)]
        self.folded = EpochBlocks.empty(FIRST, len(self.compared))
        self.replicas = dict.fromkeys(("control", *self.compared), 1)

    def block(
        self,
        requests: Mapping[str, int],
        errors: Mapping[str, int],
        slow: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    ) -> None:
        """Add ten seconds; `slow` has the slow answers of each latency."""
        own = Block()
        for name, assigned in requests.items():
            failed, late = errors.get(name, 0), dict(zip(SLOW, slow.get(name, ()), strict=False))
            self.rows[1, name] = self.rows[1, name].plus(ArmCounts(assigned=assigned, errors=failed, **late))
            own.add(name, BlockCounts(errors=failed, ended=assigned, **late))
        self.folded = self.folded.take(own, "control", self.compared)
        following = self.folded.following
        self.blocks = {**{n: b for n, b in self.blocks.items() if n > following - 60}, following - 1: own}

    def evaluate(self, feedback: Cause | None = None) -> ExperimentEvaluation:
        collected = CollectedCounts(
            tallies=Counters("uid", {"edge-0/b": self.rows}, {1: self.folded}, {1: self.folded}),
            reports=[],
            blocks={1: self.blocks},
            traffic=StableTraffic(),
            now_s=self.folded.following * blocks.BLOCK_S + blocks.GRACE_S,
            timeout_s=1.0,
        )
        return evaluate.evaluate_experiment(self.status, collected, self.replicas, feedback)


def simulate(
    status: ExperimentStatus, rates: Mapping[str, float], seed: int, minutes: int = 60, rps: float = 100
) -> tuple[Counts, dict[str, int]]:
    """Simulate Poisson requests with an evaluation twice a minute; return the counts, and the minute in which each arm did harm."""
    draw, counts, harmed = np.random.default_rng(seed), Counts(status), {}
    shares = {arm.name: arm.weight / 100 for arm in status.arms if arm.weight}
    for minute in range(minutes):
        for half in range(2):
            for _ in range(3):
                requests = {name: int(draw.poisson(rps * 10 * share)) for name, share in shares.items()}
                failed = {name: int(draw.binomial(n, rates.get(name, 0.01))) for name, n in requests.items()}
                counts.block(requests, failed)
            del half
            for arm in {**counts.evaluate().harm, **counts.evaluate().dead_arms}:
                harmed.setdefault(arm, minute)
    return counts, harmed


@pytest.mark.extended
def test_equal_arms_rarely_do_harm() -> None:
    """Three arms and two metrics share α: in twenty experiments of a quarter of an hour, hardly one arm is found."""
    status = running("a", "b", "c")
    found = [bool(simulate(status, {}, seed, minutes=15)[1]) for seed in range(20)]
    assert sum(found) <= 3


@pytest.mark.extended
def test_an_arm_that_is_three_times_worse_is_found_and_the_others_are_not() -> None:
    status = running("a", "b", "c")
    for seed in range(5):
        _, harmed = simulate(status, {"b": 0.03}, seed, minutes=15)
        assert set(harmed) == {"b"}


def test_an_arm_that_fails_everything_is_dead_before_statistics_can_tell() -> None:
    counts = Counts(running("a", "b"))
    for _ in range(early_harm.DEAD_BLOCKS + 1):
        counts.block({"control": 100, "a": 100, "b": 100}, {"control": 1, "a": 95, "b": 2})
    assert list(counts.evaluate().dead_arms) == ["a"]
    assert counts.evaluate().dead_arms["a"] == "arm a failed 1045 of 1100 requests in 110 s, while control did not"


def failing(status: ExperimentStatus, failures: int, blocks: int) -> ExperimentEvaluation:
    """Return the evaluation after so many blocks of 60 requests of each arm, of which wide fails some and the others none."""
    counts = Counts(status)
    for _ in range(blocks):
        counts.block(dict.fromkeys((arm.name for arm in status.arms if arm.weight), 60), {"wide": failures})
    return counts.evaluate()


@pytest.mark.parametrize(("blocks", "is_harm"), [(7, False), (8, False), (10, True), (11, True)])
def test_an_arm_that_fails_an_eighth_of_its_requests_is_found_before_the_usual_test_has_its_blocks(
    blocks: int, is_harm: bool
) -> None:
    """A stall of a minute, which touches seven blocks, is no harm."""
    found = failing(running("wide", "deep"), 8, blocks)
    assert set(found.harm) == ({"wide"} if is_harm else set())
    if is_harm:
        assert "requests of arm wide failed in its first" in found.harm["wide"]


def test_arms_share_the_error_of_their_first_blocks() -> None:
    """Three failures in each of three blocks suffice for one arm, and not for each of four."""
    assert failing(running("wide"), 4, 10).harm
    assert not failing(running("wide", "deep", "far", "near"), 4, 10).harm


def test_a_plan_of_an_earlier_release_tests_no_first_blocks() -> None:
    status = running("wide")
    assert status.plan.early_harm == 0.2
    assert not failing(
        status.model_copy(update={"plan": status.plan.model_copy(update={"early_harm": None})}), 8, 11
    ).harm


@pytest.mark.parametrize(("groups", "is_harm"), [(3, False), (40, True)])
def test_first_blocks_of_users_do_harm_if_many_of_them_fail(
    groups: int, is_harm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some users may make most requests, and fail at any arm."""
    columns = len(unit_groups.COLUMNS)
    failed = tuple(int(place < groups) for place in range(unit_groups.GROUPS + 1))
    rows = {(1, "control"): unit_groups.ZERO_GROUPS, (1, "wide"): ((9,) * len(failed), *[failed] * (columns - 1))}
    monkeypatch.setattr(edge_reports, "collect_groups", lambda *_: {"edge-0/b": rows})
    status = running("wide", unit={"header": "x-user-id"})
    assert bool(failing(status, 8, 11).harm) is is_harm


def test_the_error_is_shared_among_all_arms_of_the_plan() -> None:
    """Events that are harm for a single arm are not yet harm for one of nine."""

    def blocks_until_harm(*names: str, alpha: float = 0.05) -> int:
        counts = Counts(running(*names, alpha=alpha))
        for block in range(1, 61):
            requests = {"control": 100, **dict.fromkeys(names, 100)}
            counts.block(requests, {"control": 2, **dict.fromkeys(names, 2), "a": 5})
            if block % 3 == 0 and (harm := counts.evaluate().harm):
                assert list(harm) == ["a"]
                assert harm["a"].startswith("arm a: errorRate is 2.5 times control's")
                return block
        raise AssertionError("no harm was found")

    assert 12 <= blocks_until_harm("a") < blocks_until_harm(*"abcdefghi")
    assert blocks_until_harm("a") < blocks_until_harm("a", alpha=0.001)


def test_each_arm_is_compared_with_control_by_its_own_blocks() -> None:
    """An arm that fails in bursts has its own dispersion; an arm that fails evenly is found by as many failures."""
    counts = Counts(running("bursts", "evenly"))
    for number in range(40):
        burst = 60 if number % 10 == 0 else 0
        counts.block(dict.fromkeys(("control", "bursts", "evenly"), 200), {"control": 2, "bursts": burst, "evenly": 6})
    assert list(counts.evaluate().harm) == ["evenly"]


def test_a_sample_ratio_mismatch_is_reported_with_every_arm() -> None:
    counts = Counts(running("a", exposure="40%"))
    for _ in range(40):
        counts.block({"stable": 600, "control": 260, "a": 140}, {})
    found = counts.evaluate().mismatch
    assert found is not None
    assert found.reason == "SampleRatioMismatch"
    assert found.message.startswith(
        "of 40000 requests, stable got 24000 (24000 expected), control got 10400 (8000 expected), a got 5600 (8000 expected)"
    )


def test_an_arm_that_gets_no_request_is_named_and_stops_the_verdict() -> None:
    """Long before so few requests are a mismatch of the whole split."""
    metrics = {"success": [{"name": "conversion", "feedback": "converted"}]}
    counts = Counts(running("a", "b", metrics=metrics))
    counts.block({"control": 17, "a": 17, "b": 0}, {})
    assert counts.evaluate().mismatch is None
    counts.block({"control": 1, "a": 0, "b": 0}, {})
    evaluation, message = (
        counts.evaluate(),
        "b got none of 35 requests, expected 12: its share of the traffic does not reach it",
    )
    assert evaluation.mismatch == ("ArmWithoutRequests", message)
    assert evaluation.outcome_decision is not None
    assert evaluation.outcome_decision.reason == f"nothing is decided: {message}"
    counts.block({"b": 1}, {})
    assert counts.evaluate().mismatch is None


def test_a_dropped_arm_may_have_no_request() -> None:
    status = running("a", "b")
    marked = tuple(
        arm.model_copy(update={"dropped": "ArmUnavailable: x"}) if arm.name == "b" else arm for arm in status.arms
    )
    counts = Counts(status.model_copy(update={"arms": marked}))
    counts.block({"control": 30, "a": 30}, {})
    assert counts.evaluate().mismatch is None


@pytest.mark.parametrize(("dropped", "evaluated_arms"), [(None, {"a", "b"}), ("Harm: worse", {"b"})])
def test_a_dropped_arm_is_not_evaluated(dropped: str | None, evaluated_arms: set[str]) -> None:
    status = running("a", "b")
    marked = tuple(arm.model_copy(update={"dropped": dropped}) if arm.name == "a" else arm for arm in status.arms)
    counts = Counts(status.model_copy(update={"arms": marked}))
    for _ in range(20):
        counts.block({"control": 100, "a": 100, "b": 100}, {"control": 2, "a": 20, "b": 2})
    evaluation = counts.evaluate()
    assert {each.arm for each in evaluation.metrics} == evaluated_arms
    assert set(evaluation.harm) == {"a"} & evaluated_arms


def test_outcomes_without_counts_have_no_data() -> None:
    metrics = {
        "success": [{"name": "conversion", "feedback": "converted"}],
        "secondary": [{"name": "s", "feedback": "s"}],
    }
    told = Counts(running("a", metrics=metrics)).evaluate().metrics
    assert {(each.name, each.role, each.verdict) for each in told if each.role not in ("harm", "guardrail")} == {
        ("conversion", "success", "NoData"),
        ("s", "secondary", "NoData"),
    }


def test_nothing_is_decided_while_outcomes_are_unavailable() -> None:
    counts = Counts(running("a", metrics={"success": [{"name": "conversion", "feedback": "converted"}]}))
    problem = Cause("FeedbackUnavailable", "no edge has any")
    evaluation = counts.evaluate(problem)
    assert evaluation.feedback_problem == problem
    assert evaluation.outcome_decision is not None
    assert (evaluation.outcome_decision.decision, evaluation.outcome_decision.reason) == (
        "Undecided",
        "nothing is decided: no edge has any",
    )


def test_nothing_is_decided_while_too_much_data_is_lost() -> None:
    counts = Counts(running("a", metrics={"success": [{"name": "conversion", "feedback": "converted"}]}))
    counts.block({"control": 3000, "a": 3000}, {})
    assert counts.evaluate().data_loss is None
    counts.rows[1, "a"] = counts.rows[1, "a"]._replace(lost=900)
    evaluation = counts.evaluate()
    assert evaluation.data_loss is not None
    assert (evaluation.mismatch, evaluation.harm) == (None, {})
    assert evaluation.outcome_decision is not None
    assert (evaluation.outcome_decision.decision, evaluation.outcome_decision.reason) == (
        "Undecided",
        f"nothing is decided: {evaluation.data_loss[1]}",
    )


def test_only_the_epoch_before_the_first_one_of_evidence_is_a_warm_up() -> None:
    status = running("wide")
    shares = dict.fromkeys((2, 3, 9), (0.8, 0.1, 0.1))
    assert evaluate.include_warmup(status, shares) == {1: (0.8, 0.1, 0.1), **shares}
    # A long experiment has lost its first epochs, and the epoch before the others may have had other shares.
    long = status.model_copy(update={"evidence_epochs": status.evidence_epochs * state.MAX_EPOCHS})
    assert evaluate.include_warmup(long, shares) == shares


P95 = {"metric": "latencyP95", "goal": "decrease", "minimumEffect": "5%"}
TIMED = StableTraffic(latencies=(940, 10, 50), edges_us=(80_000, 120_000, 500_000))


def timed(*names: str, **spec: Any) -> Counts:
    """Return counts of an experiment whose latency thresholds are known."""
    status = running(*names, **spec)
    plan = status.plan.model_copy(update={"guardrails": resolve_thresholds(status.plan.guardrails, TIMED)})
    return Counts(status.model_copy(update={"plan": plan}))


def fill(counts: Counts, slow: Mapping[str, tuple[int, ...]], blocks: int = 60, **errors: int) -> ExperimentEvaluation:
    for _ in range(blocks):
        counts.block(dict.fromkeys(("control", *counts.compared), 500), {"control": 5, **errors}, slow)
    return counts.evaluate()


def test_an_arm_wins_by_a_lower_p95_without_feedback() -> None:
    counts = timed("fast", metrics={"success": [P95]})
    found = fill(counts, {"control": (25,), "fast": (12,)}, fast=4)
    decision = found.outcome_decision
    assert decision is not None
    assert (decision.decision, decision.winner, decision.leader) == ("Winner", "fast", "fast")
    label = "latencyP95 (share of answers above 119 ms, of control above 120 ms)"
    assert decision.reason.startswith(f"{label} of fast is 52 % below control's (-")
    own = next(each for each in found.metrics if each.role == "success")
    assert (own.name, own.verdict, own.events, own.ratio) == ("latencyP95", "Better", (1475, 708), pytest.approx(0.48))
    assert len(own.interval) == 2


@pytest.mark.parametrize("errors", [10, 15])
def test_a_faster_arm_does_not_win_while_its_errors_have_not_passed(errors: int) -> None:
    """An error is no slow answer, so an arm that fails what takes long looks fast. errorRate is a guardrail without being listed."""
    few = fill(timed("fast", metrics={"success": [P95]}), {"control": (25,), "fast": (12,)}, 16, fast=errors)
    assert few.outcome_decision is not None
    assert few.outcome_decision.decision == ("Undecided" if errors == 10 else "NoWinner")
    assert "errorRate" in few.outcome_decision.reason


@pytest.mark.parametrize(
    ("replicas", "slow", "verdict"),
    [(1, 12, "Better"), (2, 12, "Undecided"), (2, 50, "Undecided"), (1, 50, "NoEffect")],
)
def test_less_load_per_replica_does_not_make_an_arm_better(replicas: int, slow: int, verdict: str) -> None:
    counts = timed("fast", metrics={"success": [P95]})
    counts.replicas["fast"] = replicas
    found = fill(counts, {"control": (25,), "fast": (slow,)}, fast=4)
    own = next(each for each in found.metrics if each.role == "success")
    assert own.verdict == verdict
    if verdict == "Undecided":
        assert found.loads == (0.5,)
        assert own.message.endswith(
            ": not evaluated: replicas of fast have 0.5 times the load of control's in this epoch; expected 0.83 to 1.2 times."
            " Use exposure: 100% and equal weights, or wait for all replicas"
        )
        assert found.outcome_decision is not None
        assert (found.outcome_decision.decision, found.outcome_decision.leader) == ("Undecided", "")


@pytest.mark.parametrize("metric", ["latencyP95", "errorRate", "rejections"])
def test_evidence_of_unequal_load_does_not_make_an_arm_better_later(metric: str) -> None:
    counts = timed("fast", metrics={"success": [P95 | {"metric": metric}], "guardrails": [{"metric": "errorRate"}]})
    for _ in range(60):
        counts.block(
            dict.fromkeys(("control", "fast"), 500), {"control": 20, "fast": 5}, {"control": (25,), "fast": (12,)}
        )
    (epoch,) = counts.status.evidence_epochs
    marked = epoch.model_copy(update={"unequal_load": True})
    if metric != "rejections":
        assert success(counts.evaluate()).verdict == "Better"
    counts.status = counts.status.model_copy(update={"evidence_epochs": (marked,)})
    own = success(counts.evaluate())
    assert own.verdict == "Undecided"
    assert "not evaluated: replicas had unequal load in this epoch; a new one begins" in own.message
    # The next epoch has no counts yet.
    following = epoch.model_copy(update={"number": 2})
    counts.status = counts.status.model_copy(update={"evidence_epochs": (marked, following)})
    assert success(counts.evaluate()).verdict == "NoData"


UNEQUAL = {"unequal_load": True}
UNDERLOADED, OVERLOADED = UNEQUAL | {"underloaded": ("fast",)}, UNEQUAL | {"overloaded": ("fast",)}


@pytest.mark.parametrize(
    ("slow", "mark", "verdict"),
    [
        (12, {}, "Passed"),
        (12, UNDERLOADED, "Suspended"),
        # Another arm had other load, or this one was as fast with more.
        (12, UNEQUAL, "Passed"),
        (12, OVERLOADED, "Passed"),
        (60, {}, "Harm"),
        # An arm that is slower with less load does harm.
        (60, UNDERLOADED, "Harm"),
        (60, OVERLOADED, "Undecided"),
    ],
)
def test_a_latency_guardrail_is_not_decided_by_counts_of_unequal_load(
    slow: int, mark: dict[str, Any], verdict: str
) -> None:
    """Loads are equal again at present, as at dawn after a night with few requests for the arm. Failures count as ever."""
    metrics = {"success": [{"name": "conversion", "feedback": "converted"}], "guardrails": [{"metric": "latencyP95"}]}
    counts = timed("fast", metrics=metrics)
    (epoch,) = counts.status.evidence_epochs
    counts.status = counts.status.model_copy(update={"evidence_epochs": (epoch.model_copy(update=mark),)})
    found = fill(counts, {"control": (25,), "fast": (slow,)}, fast=5)
    own = next(each for each in found.metrics if each.name == "latencyP95")
    assert (found.loads, own.verdict) == ((1.0,), verdict)
    assert set(found.harm) == ({"fast"} if verdict == "Harm" else set())
    if verdict == "Undecided":
        assert own.message.endswith(" while arm fast had more load")
    if verdict == "Suspended":
        assert own.message.endswith("unequal load in this epoch; a new one begins once all loads are equal")
    assert fill(counts, {"control": (25,), "fast": (25,)}, fast=50).harm["fast"].startswith("arm fast: ")


@pytest.mark.parametrize(
    ("removed", "pays"),
    [
        ({"unequal_load": True}, ()),
        ({"unequal_load": True, "tested": True}, ("success",)),
        ({"unequal_load": True, "tested": True, "underloaded": ("fast",)}, ("success", "guardrail")),
        ({"troubled": True}, ("success", "guardrail")),
        ({}, ("success", "guardrail", "harm")),
    ],
)
def test_each_test_pays_for_evidence_that_it_left_out(removed: dict[str, Any], pays: tuple[str, ...]) -> None:
    """Intervals show the levels. The last case is an epoch that the status does not list any more."""
    success = {"metric": "errorRate", "goal": "decrease"}
    counts = timed("fast", metrics={"success": [success], "guardrails": [{"metric": "latencyP95"}]})
    fill(counts, {"control": (25,), "fast": (25,)}, control=25, fast=22)
    (epoch,) = counts.status.evidence_epochs
    earlier = epoch.model_copy(update={"number": 0, **removed})

    def evaluate_roles(*epochs: EvidenceEpoch) -> dict[str, MetricStatus]:
        counts.status = counts.status.model_copy(update={"evidence_epochs": epochs})
        return {each.role: each for each in counts.evaluate().metrics if len(each.interval) == 2}

    before = evaluate_roles(epoch)
    after = evaluate_roles(earlier, epoch) if removed else evaluate_roles(epoch.model_copy(update={"restarts": 1}))
    assert before["success"].verdict == "Better"
    assert after["success"].verdict == ("Undecided" if "success" in pays else "Better")
    assert {role for role, own in after.items() if own.interval != before[role].interval} == set(pays)


def success(evaluation: ExperimentEvaluation) -> MetricStatus:
    return next(each for each in evaluation.metrics if each.role == "success")


def test_more_errors_under_unequal_load_still_keep_an_arm_from_winning() -> None:
    counts = timed("fast", metrics={"success": [{"metric": "errorRate", "goal": "decrease"}]})
    counts.replicas["fast"] = 2
    assert success(fill(counts, {}, fast=20)).verdict == "Worse"


@pytest.mark.parametrize(("errors", "verdict"), [(10, "Better"), (12, "Undecided"), (13, "Undecided")])
def test_an_arm_does_not_win_by_failing_what_is_slow(errors: int, verdict: str) -> None:
    """Errors rise from 2 % to 2.4 or 2.6 %, within the margin, and slow answers fall from 1 % to 0.6 %."""
    counts = timed("fast", metrics={"success": [P95 | {"metric": "latencyP99"}]})
    own = success(fill(counts, {"control": (5,), "fast": (3,)}, 240, control=10, fast=errors))
    assert own.verdict == verdict
    if verdict == "Undecided":
        rise = (errors - 10) / 5
        assert f"errors and rejections rose by {rise:g} % of all requests, slow answers fell by 0.4 %" in own.message


def test_no_arm_wins_by_a_latency_of_which_a_millisecond_is_much() -> None:
    counts = timed("fast", metrics={"success": [P95]})
    plan = counts.status.plan
    short = StableTraffic(latencies=(940, 10, 50), edges_us=(3_000, 4_900, 9_000))
    unknown = [
        each.model_copy(update={"threshold_microseconds": None}) if each.role == "measured" else each
        for each in plan.guardrails
    ]
    guardrails = resolve_thresholds(unknown, short)
    counts.status = counts.status.model_copy(update={"plan": plan.model_copy(update={"guardrails": guardrails})})
    own = success(fill(counts, {"control": (25,), "fast": (12,)}, fast=4))
    assert own.verdict == "Undecided"
    assert "latencyP95 of control is 4.9 ms; expected at least 5 ms" in own.message


def test_a_latency_without_threshold_has_no_data() -> None:
    found = fill(Counts(running("fast", metrics={"success": [P95]})), {}, 13)
    own = next(each for each in found.metrics if each.role == "success")
    assert own.verdict == "NoData"
    assert own.message.endswith("waits for enough answers of stable to set the threshold")


def test_success_metrics_of_the_edge_share_the_error_and_leave_guardrails_theirs() -> None:
    """Nine tests find later than one. The harm of guardrails has its whole level, and each latency its own slow answers."""

    def blocks_until_better(*names: str, **metrics: Any) -> int:
        given = {"success": [P95], "guardrails": [{"metric": "latencyP95"}], **metrics}
        counts = timed(*names, metrics=given)
        slow = {"control": (30, 30), **dict.fromkeys(names, (30, 26))}
        for block in range(1, 100):
            counts.block(dict.fromkeys(("control", *names), 500), {}, slow)
            if block < 13 or block % 4:
                continue
            found = {each.role: each.verdict for each in counts.evaluate().metrics if each.name == "latencyP95"}
            if found["success"] == "Better":
                assert set(found) == {"guardrail", "success"}
                return block
        raise AssertionError("none was found")

    alone = blocks_until_better("a")
    assert 16 < alone < blocks_until_better("a", "b", "c")
    rejections = {"metric": "rejections", "goal": "decrease"}
    assert alone < blocks_until_better("a", success=[P95, rejections])
    assert alone == blocks_until_better("a", secondary=[rejections])


def test_units_are_the_exposed_ones_where_feedback_exists() -> None:
    """The sample of the edges estimates them, over the warm-up as well."""
    status = running("wide", unit={"header": "x-user-id"}, metrics={"success": [{"name": "paid", "feedback": "paid"}]})
    stored = status.model_copy(
        update={"arms": tuple(arm.model_copy(update={"units": 5000}) for arm in status.arms), "since": T0}
    )
    exposed = {(0, "wide"): 99, (1, "stable"): 7, (1, "control"): 290, (1, "wide"): 310}
    tallies = Counters("uid", feedback=FeedbackSums("s1", 9, exposed))
    seen = CollectedCounts(
        tallies=tallies, reports=[], blocks={}, traffic=StableTraffic(), now_s=NOW_S + 60, timeout_s=1.0
    )
    found = evaluate.evaluate_experiment(stored, seen, {})
    assert found.units == {"stable": 7, "control": 290, "wide": 310}
    assert state.units_taken(stored, found) == 600
    counted = tuple(arm.model_copy(update={"units_from": "exposures"}) for arm in stored.arms)
    assert state.units_taken(stored.model_copy(update={"arms": counted}), found) == 10_000, (
        "an exact number never falls"
    )
