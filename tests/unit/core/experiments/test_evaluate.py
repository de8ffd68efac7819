"""What the evidence says of arms, on counts that were made up and on counts that were drawn."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from sundog_operator.api import EvidenceEpoch, ExperimentSpec, ExperimentStatus, ModelDeploymentSpec, Rollout
from sundog_operator.core import revisions
from sundog_operator.core.analysis import blocks
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.arm_pair import CollectedCounts
from sundog_operator.core.analysis.blocks import Block, BlockCounts
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.dispersion_sums import EpochBlocks
from sundog_operator.core.experiments import arms, evaluate, freeze, state, state_machine
from sundog_operator.core.experiments.evaluation import ExperimentEvaluation
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout.resolve import StableTraffic

T0 = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
NOW_S = T0.timestamp()
FIRST = int(NOW_S) // blocks.BLOCK_S


def running(*names: str, exposure: str = "100%", **spec: Any) -> ExperimentStatus:
    content = revisions.content_of(ModelDeploymentSpec.from_json({"model": {"uri": "file:///models/v1"}}))
    stable = Revision(7, revisions.content_hash(content), content)
    told = ExperimentSpec.from_json(
        {"modelDeployment": "digits", "arms": [{"name": name} for name in names], "exposure": exposure, **spec}
    )
    planned = [(arm, 8 + place) for place, arm in enumerate(arms.plan_arms(stable, told))]
    frozen = freeze.freeze(told, Rollout(), (7, stable.hash), planned, StableTraffic(), T0)
    ready = {name: state.ArmState(available=1) for name in names}
    begun = state_machine.tick(frozen, state.ExperimentInputs(now=T0, confirmed=True, arms=ready))
    shares = state.target_buckets(begun)
    epoch = EvidenceEpoch(number=1, buckets=tuple(shares[arm.name] for arm in begun.arms))
    return begun.model_copy(update={"evidence_epochs": (epoch,)})


class Counts:
    """What one edge counts of an experiment, block by block."""

    def __init__(self, status: ExperimentStatus) -> None:
        self.status = status
        self.rows = {(1, arm.name): ArmCounts() for arm in status.arms}
        self.blocks: dict[int, Block] = {}
        self.compared = [arm.name for arm in state.treatment_arms(status)]
        self.folded = EpochBlocks.empty(FIRST, len(self.compared))

    def block(self, requests: Mapping[str, int], errors: Mapping[str, int]) -> None:
        """Ten more seconds."""
        own = Block()
        for name, asked in requests.items():
            failed = errors.get(name, 0)
            self.rows[1, name] = self.rows[1, name].plus(ArmCounts(assigned=asked, errors=failed))
            own.add(name, BlockCounts(errors=failed, ended=asked))
        self.folded = self.folded.take(own, "control", self.compared)
        following = self.folded.following
        self.blocks = {**{n: b for n, b in self.blocks.items() if n > following - 60}, following - 1: own}

    def judge(self, feedback: tuple[str, str] | None = None) -> ExperimentEvaluation:
        seen = CollectedCounts(
            tallies=Counters("uid", {"edge-0/b": self.rows}, {1: self.folded}, {1: self.folded}),
            reports=[],
            blocks={1: self.blocks},
            traffic=StableTraffic(),
            now_s=self.folded.following * blocks.BLOCK_S + blocks.GRACE_S,
            timeout_s=1.0,
        )
        return evaluate.evaluate_experiment(self.status, seen, dict.fromkeys(("control", *self.compared), 1), feedback)


def drawn(
    status: ExperimentStatus, rates: Mapping[str, float], seed: int, minutes: int = 60, rps: float = 100
) -> tuple[Counts, dict[str, int]]:
    """Requests by Poisson's law for so long, looked at twice a minute; and in which minute each arm was found to do harm."""
    draw, counts, harmed = np.random.default_rng(seed), Counts(status), {}
    shares = {arm.name: arm.weight / 100 for arm in status.arms if arm.weight}
    for minute in range(minutes):
        for half in range(2):
            for _ in range(3):
                asked = {name: int(draw.poisson(rps * 10 * share)) for name, share in shares.items()}
                failed = {name: int(draw.binomial(n, rates.get(name, 0.01))) for name, n in asked.items()}
                counts.block(asked, failed)
            del half
            for arm in {**counts.judge().harm, **counts.judge().dead}:
                harmed.setdefault(arm, minute)
    return counts, harmed


@pytest.mark.extended
def test_arms_that_are_alike_are_hardly_ever_found_to_do_harm() -> None:
    """α is shared among three arms and two metrics: in twenty experiments of a quarter of an hour one is found at most now and then."""
    status = running("a", "b", "c")
    found = [bool(drawn(status, {}, seed, minutes=15)[1]) for seed in range(20)]
    assert sum(found) <= 3


@pytest.mark.extended
def test_an_arm_that_is_three_times_worse_is_found_and_the_others_are_not() -> None:
    status = running("a", "b", "c")
    for seed in range(5):
        _, harmed = drawn(status, {"b": 0.03}, seed, minutes=15)
        assert set(harmed) == {"b"}


def test_an_arm_that_fails_everything_is_dead_in_seconds() -> None:
    counts = Counts(running("a", "b"))
    for _ in range(5):
        counts.block({"control": 100, "a": 100, "b": 100}, {"control": 1, "a": 95, "b": 2})
    assert list(counts.judge().dead) == ["a"]
    assert counts.judge().dead["a"] == "arm a failed 285 of 300 requests in 30 s, while control did not"


def test_the_error_is_shared_among_all_arms_of_the_plan() -> None:
    """What is harm of one arm alone is not yet of one among nine."""

    def blocks_until_harm(*names: str, alpha: float = 0.05) -> int:
        counts = Counts(running(*names, alpha=alpha))
        for block in range(1, 61):
            requests = {"control": 100, **dict.fromkeys(names, 100)}
            counts.block(requests, {"control": 2, **dict.fromkeys(names, 2), "a": 5})
            if block % 3 == 0 and (harm := counts.judge().harm):
                assert list(harm) == ["a"]
                assert harm["a"].startswith("arm a: errorRate is 2.5 times control's")
                return block
        raise AssertionError("no harm was found")

    assert 12 <= blocks_until_harm("a") < blocks_until_harm(*"abcdefghi")
    assert blocks_until_harm("a") < blocks_until_harm("a", alpha=0.001)


def test_each_arm_is_compared_with_control_by_its_own_blocks() -> None:
    """An arm that fails in bursts has a dispersion of its own; one that fails evenly is found by as many failures."""
    counts = Counts(running("bursts", "evenly"))
    for number in range(40):
        burst = 60 if number % 10 == 0 else 0
        counts.block(dict.fromkeys(("control", "bursts", "evenly"), 200), {"control": 2, "bursts": burst, "evenly": 6})
    assert list(counts.judge().harm) == ["evenly"]


def test_a_split_that_is_off_is_told_with_every_arm() -> None:
    counts = Counts(running("a", exposure="40%"))
    for _ in range(40):
        counts.block({"stable": 600, "control": 260, "a": 140}, {})
    told = counts.judge().broken
    assert told.startswith(
        "of 40000 requests stable 24000 (24000 expected), control 10400 (8000 expected), a 5600 (8000 expected)"
    )


@pytest.mark.parametrize(("dropped", "arms_told"), [(None, {"a", "b"}), ("Harm: worse", {"b"})])
def test_a_dropped_arm_is_judged_no_more(dropped: str | None, arms_told: set[str]) -> None:
    status = running("a", "b")
    marked = tuple(arm.model_copy(update={"dropped": dropped}) if arm.name == "a" else arm for arm in status.arms)
    counts = Counts(status.model_copy(update={"arms": marked}))
    for _ in range(20):
        counts.block({"control": 100, "a": 100, "b": 100}, {"control": 2, "a": 20, "b": 2})
    judged = counts.judge()
    assert {each.arm for each in judged.metrics} == arms_told
    assert set(judged.harm) == {"a"} & arms_told


def test_outcomes_that_nobody_counts_yet_are_told_as_such() -> None:
    metrics = {
        "success": [{"name": "conversion", "feedback": "converted"}],
        "secondary": [{"name": "s", "feedback": "s"}],
    }
    told = Counts(running("a", metrics=metrics)).judge().metrics
    assert {(each.name, each.role, each.verdict) for each in told if each.role not in ("harm", "guardrail")} == {
        ("conversion", "success", "NoData"),
        ("s", "secondary", "NoData"),
    }


def test_nothing_is_decided_while_what_edges_tell_of_outcomes_is_not_to_be_built_on() -> None:
    counts = Counts(running("a", metrics={"success": [{"name": "conversion", "feedback": "converted"}]}))
    problem = ("FeedbackUnavailable", "no edge has any")
    judged = counts.judge(problem)
    assert judged.feedback == problem
    assert judged.ruling is not None
    assert (judged.ruling.decision, judged.ruling.reason) == ("Undecided", "nothing is decided: no edge has any")


def test_nothing_is_decided_while_too_much_of_what_was_to_be_counted_is_missing() -> None:
    counts = Counts(running("a", metrics={"success": [{"name": "conversion", "feedback": "converted"}]}))
    counts.block({"control": 3000, "a": 3000}, {})
    assert counts.judge().lost is None
    counts.rows[1, "a"] = counts.rows[1, "a"]._replace(lost=900)
    judged = counts.judge()
    assert judged.lost is not None
    assert (judged.broken, judged.harm) == ("", {})
    assert judged.ruling is not None
    assert (judged.ruling.decision, judged.ruling.reason) == ("Undecided", f"nothing is decided: {judged.lost[1]}")


def test_only_the_epoch_before_the_first_one_of_evidence_is_a_warm_up() -> None:
    status = running("wide")
    shares = dict.fromkeys((2, 3, 9), (0.8, 0.1, 0.1))
    assert evaluate.include_warmup(status, shares) == {1: (0.8, 0.1, 0.1), **shares}
    # Of a long experiment the first epochs were let go of: the one before the others may have had other shares.
    long = status.model_copy(update={"evidence_epochs": status.evidence_epochs * state.MAX_EPOCHS})
    assert evaluate.include_warmup(long, shares) == shares
