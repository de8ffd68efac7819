"""How much of what was to be counted may be missing before nothing is won by the rest."""

from datetime import UTC, datetime
from typing import Any

import pytest

from sundog_operator.api import EvidenceEpoch, ExperimentSpec, ExperimentStatus, ModelDeploymentSpec, Rollout
from sundog_operator.core import revisions
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.arm_pair import CollectedCounts
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSums, OutcomeSums
from sundog_operator.core.experiments import arms, data_loss, freeze, state, state_machine
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout.resolve import StableTraffic

T0 = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
BY_USER: dict[str, Any] = {"header": "x-user-id"}


def running(dropped: str = "", troubled: tuple[int, ...] = (), **spec: Any) -> ExperimentStatus:
    content = revisions.content_of(ModelDeploymentSpec.from_json({"model": {"uri": "file:///models/v1"}}))
    stable = Revision(7, revisions.content_hash(content), content)
    told = ExperimentSpec.from_json(
        {
            "modelDeployment": "digits",
            "arms": [{"name": "a"}, {"name": "b"}],
            "exposure": "60%",
            "unit": BY_USER,
            "metrics": {"success": [{"name": "conversion", "feedback": "bought"}]},
            **spec,
        }
    )
    planned = [(arm, 8 + place) for place, arm in enumerate(arms.plan_arms(stable, told))]
    frozen = freeze.freeze(told, Rollout(), (7, stable.hash), planned, StableTraffic(), T0)
    ready = {name: state.ArmState(available=1) for name in ("a", "b")}
    begun = state_machine.tick(frozen, state.ExperimentInputs(now=T0, confirmed=True, arms=ready))
    shares = tuple(state.target_buckets(begun)[arm.name] for arm in begun.arms)
    marked = tuple(arm.model_copy(update={"dropped": "Harm: x"}) if arm.name == dropped else arm for arm in begun.arms)
    epochs = tuple(EvidenceEpoch(number=n, buckets=shares, troubled=n in troubled) for n in (2, 3))
    return begun.model_copy(update={"arms": marked, "evidence_epochs": epochs})


def seen(rows: dict[tuple[int, str], ArmCounts], sums: FeedbackSums | None = None) -> CollectedCounts:
    tallies = Counters("uid", {"edge/boot": rows}, feedback=sums or FeedbackSums())
    return CollectedCounts(tallies=tallies, reports=[], blocks={}, traffic=StableTraffic(), now_s=0.0, timeout_s=1.0)


def lost(lost: int, assigned: int, arm: str = "a", epoch: int = 2) -> dict[tuple[int, str], ArmCounts]:
    every = {(2, name): ArmCounts(assigned=100_000) for name in ("stable", "control", "a", "b")}
    return {**every, (epoch, arm): ArmCounts(assigned=assigned, lost=lost)}


def test_a_third_of_the_lines_of_an_hour_is_told_with_its_numbers() -> None:
    found = data_loss.find_data_loss(running(), seen(lost(3600, 12_000)))
    assert found is not None
    assert found == (
        "RequestsLost",
        "3600 of 12000 requests of a have no known outcome (30 %, limit 1 %): their log lines were lost, and with them first"
        " exposures; no arm can win until the missing share is below the limit",
    )


@pytest.mark.parametrize(
    ("missing", "assigned", "told"),
    [
        (120, 12_000, False),
        (121, 12_000, True),
        # What a killed agent loses of a few minutes is no more than chance moves the number of units by.
        (30, 900, False),
        (31, 900, True),
        # The same loss heals as more is counted.
        (3600, 360_000, False),
        (0, 0, False),
    ],
)
def test_what_is_lost_is_compared_with_all_that_was_counted(missing: int, assigned: int, told: bool) -> None:
    assert (data_loss.find_data_loss(running(), seen(lost(missing, assigned))) is not None) is told


@pytest.mark.parametrize("arm", ["control", "b"])
def test_a_loss_of_one_arm_does_not_hide_in_all_of_them(arm: str) -> None:
    found = data_loss.find_data_loss(running(), seen(lost(200, 10_000, arm)))
    assert found is not None
    assert f" of 10000 requests of {arm} " in found[1]


def test_what_decides_nothing_may_be_lost() -> None:
    """Of an arm that is out no more comes, so that its loss would never heal; a warm-up and an outage are no evidence."""
    assert data_loss.find_data_loss(running(dropped="a"), seen(lost(5000, 10_000))) is None
    assert data_loss.find_data_loss(running(), seen(lost(5000, 10_000, "stable"))) is None
    assert data_loss.find_data_loss(running(), seen(lost(5000, 10_000, epoch=1))) is None
    assert data_loss.find_data_loss(running(troubled=(3,)), seen(lost(5000, 10_000, epoch=3))) is None
    assert data_loss.find_data_loss(running(), seen(lost(5000, 10_000, epoch=3))) is not None


def sums(units: int, **counts: int) -> FeedbackSums:
    outcomes = {("bought", 2, arm): OutcomeSums(units // 10, units // 10, 0, 0) for arm in ("control", "a")}
    return FeedbackSums("s1", 9, {(2, "stable"): units, (3, "control"): units}, outcomes, **counts)


@pytest.mark.parametrize(("overflow", "told"), [(0, False), (222, False), (223, True), (1000, True)])
def test_what_the_store_had_no_room_for_is_told_with_its_numbers(overflow: int, told: bool) -> None:
    found = data_loss.find_data_loss(running(), seen(lost(0, 1), sums(10_000, overflow=overflow)))
    assert (found is not None) is told
    if overflow == 1000:
        assert found == (
            "FeedbackOverflow",
            "the feedback store had no space for 1000 exposures and outcomes beside 22000 units (4.35 %, limit 1 %): later ones"
            " are missing; no arm can win until the missing share is below the limit",
        )


def test_units_beyond_those_that_are_to_be_kept_are_no_loss() -> None:
    """It has its units then, and ends: none that came later counts, whatever comes of it."""
    full = running(stop={"maxUnits": 12_000})
    assert state.max_first_exposures(full) == 20_000
    assert data_loss.find_data_loss(full, seen(lost(0, 1), sums(10_000, overflow=9000))) is None
    assert data_loss.find_data_loss(full, seen(lost(0, 1), sums(9_999, overflow=9000))) is not None


@pytest.mark.parametrize(("unknown", "told"), [(0, False), (222, False), (2000, True)])
def test_outcomes_of_nobody_are_told_and_no_loss(unknown: int, told: bool) -> None:
    """Whoever reports outcomes of those who never asked must not keep an arm from winning."""
    known = seen(lost(0, 1), sums(10_000, unknown=unknown))
    assert data_loss.find_data_loss(running(), known) is None
    expected = "2000 outcomes belong to no exposed unit and are ignored; 2000 units have an outcome that counts"
    assert data_loss.report_unknown_units(known) == (expected if told else "")
