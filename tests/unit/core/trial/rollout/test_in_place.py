"""Two revisions that share replicas: the replicas of each at every weight, on the way up and on the way back."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from sundog_operator.api import ExperimentStatus, PlanInPlace, Rollout
from sundog_operator.api.reasons import Cause
from sundog_operator.core.trial import replica_counts
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.evaluation import RolloutEvaluation
from sundog_operator.core.trial.rollout import freeze, in_place, state, state_machine, steering, transitions
from sundog_operator.core.trial.rollout.commands import RolloutCommand
from sundog_operator.core.trial.rollout.in_place import ArmReplicas
from sundog_operator.core.trial.rollout.state import RolloutInputs

T0 = datetime(2026, 11, 25, 12, tzinfo=UTC)
SERVICES = [(needed, spare) for needed in (*range(2, 26), 100, 101, 250, 1000) for spare in (0, 1)]
WEIGHTS = (1, 5, 12, 25, 30, 33, 50, 66, 75, 90, 95, 99, 100)


def up(needed: int, spare: int, target: int) -> Iterator[tuple[int, ArmReplicas]]:
    """Return each weight on the way to a target, with the replicas that the next one waits for."""
    weight = 0
    for _ in range(1100):
        sizes = in_place.compute_replicas(needed, spare, weight, target)
        yield weight, sizes
        if weight == target:
            return
        reached = in_place.reachable_weight(needed, spare, target, sizes.candidate)
        assert reached > weight, "the candidate has all it may have, and traffic does not follow"
        weight = reached
    raise AssertionError("never there")


def back(needed: int, spare: int, weight: int) -> Iterator[tuple[int, ArmReplicas, int]]:
    """Return each weight on the way back, the replicas that start meanwhile, and the next weight."""
    for _ in range(1100):
        sizes = in_place.compute_replicas(needed, spare, weight, 0)
        left = in_place.remaining_weight(needed, spare, weight, sizes.stable)
        yield weight, sizes, left
        assert left < weight, "stable has all it may have, and traffic does not follow"
        if not left:
            return
        weight = left
    raise AssertionError("never there")


def missing_replicas(needed: int, weight: int, replicas: int) -> float:
    """Return the replicas that a revision lacks for its traffic; the rounding of weights to whole percents is ignored."""
    return max(0.0, needed * weight / 100 - replicas - needed / 100)


@pytest.mark.parametrize(("needed", "spare"), SERVICES)
def test_on_the_way_up_each_lacks_at_most_one_replica_for_its_traffic(needed: int, spare: int) -> None:
    for target in WEIGHTS:
        for weight, sizes in up(needed, spare, target):
            assert sizes.stable + sizes.candidate <= needed + spare
            assert min(sizes.stable, sizes.candidate) >= 1
            assert missing_replicas(needed, 100 - weight, sizes.stable) <= 1 - spare
            assert missing_replicas(needed, weight, sizes.candidate) <= 1 - spare


@pytest.mark.parametrize(("needed", "spare"), SERVICES)
def test_at_the_target_each_has_the_rounded_replicas_of_its_weight(needed: int, spare: int) -> None:
    for weight in WEIGHTS[:-1]:
        sizes = in_place.compute_replicas(needed, spare, weight, weight)
        short = missing_replicas(needed, 100 - weight, sizes.stable)
        assert short == 0 if spare else short < 1
        assert sizes.stable + sizes.candidate <= needed + spare
        assert sizes.candidate == min(replica_counts.canary_replicas(needed, weight), needed - 1 + spare)


@pytest.mark.parametrize(("needed", "spare"), SERVICES)
def test_on_the_way_back_each_lacks_at_most_one_replica_from_every_weight(needed: int, spare: int) -> None:
    for begin in range(1, 101):
        for weight, sizes, left in back(needed, spare, begin):
            assert sizes.stable + sizes.candidate <= needed + spare
            assert sizes.candidate >= 1
            assert missing_replicas(needed, weight, sizes.candidate) <= 1 - spare
            # Returned traffic goes to replicas that are available.
            assert missing_replicas(needed, 100 - left, sizes.stable) <= 1 - spare


def test_a_rollout_of_four_moves_one_replica_at_a_time() -> None:
    walked = [(weight, sizes.stable, sizes.candidate) for weight, sizes in up(4, 0, 100)]
    assert walked == [(0, 3, 1), (25, 2, 2), (50, 1, 3), (100, 1, 3)]
    given = [(weight, sizes.stable, sizes.candidate, left) for weight, sizes, left in back(4, 0, 50)]
    assert given == [(50, 2, 2, 25), (25, 3, 1, 0)]


def test_with_a_spare_one_stable_lacks_none() -> None:
    walked = [(weight, sizes.stable, sizes.candidate) for weight, sizes in up(4, 1, 50)]
    assert walked == [(0, 4, 1), (25, 3, 2), (50, 2, 2)]
    given = [(weight, sizes.stable, sizes.candidate, left) for weight, sizes, left in back(4, 1, 50)]
    assert given == [(50, 3, 2, 25), (25, 4, 1, 0)]


@pytest.mark.parametrize(
    ("needed", "spare", "weight"),
    [(2, 0, 50), (2, 1, 50), (3, 0, 33), (3, 1, 33), (4, 0, 25), (5, 0, 20), (8, 0, 25)],
)
def test_the_last_gate_compares_latencies_under_the_same_load(needed: int, spare: int, weight: int) -> None:
    rollout = Rollout.from_json({"steps": [{"weight": 20}], "capacity": "inPlace"})
    plan = freeze.resolve_plan(rollout, StableTraffic(10), needed, PlanInPlace(spare=spare))
    assert [step.weight for step in plan.steps][-2:] == [weight, 100]
    sizes = in_place.compute_replicas(needed, spare, weight, weight)
    assert replica_counts.load_ratio(weight, sizes.stable, sizes.candidate) >= 1 / replica_counts.MAX_COMPARABLE_RATIO


def test_no_step_is_added_if_the_canary_has_as_much_load_or_more() -> None:
    shared = PlanInPlace(spare=0)
    equal = freeze.resolve_plan(Rollout.from_json({"steps": [{"weight": 50}]}), StableTraffic(10), 4, shared)
    assert [step.weight for step in equal.steps] == [50, 100]
    more = freeze.resolve_plan(Rollout.from_json({"steps": [{"weight": 90}]}), StableTraffic(10), 2, shared)
    assert [step.weight for step in more.steps] == [90, 100]


def test_a_plan_in_place_has_another_hash() -> None:
    shared = freeze.freeze(Rollout(), 7, 8, T0, shared=PlanInPlace()).plan
    assert shared.hash != freeze.freeze(Rollout(), 7, 8, T0).plan.hash
    assert shared.in_place == PlanInPlace(spare=0)


def rollout_at(weight: int, needed: int = 4, spare: int = 0) -> ExperimentStatus:
    """Return a status at a weight."""
    rollout = Rollout.from_json({"steps": [{"weight": weight, "gate": "manual"}], "capacity": "inPlace"})
    status = freeze.freeze(rollout, 7, 8, T0, replicas=needed, shared=PlanInPlace(spare=spare))
    ready = min(replica_counts.canary_replicas(needed, weight), needed - 1 + spare)
    for _ in range(20):
        status = state_machine.tick(status, inputs(needed, available=ready, stable=needed))
    assert state.canary_weight(status) == weight
    return status


def inputs(needed: int = 4, after: timedelta = timedelta(0), **changes: object) -> RolloutInputs:
    values: dict[str, object] = {"available": 0, "stable": 0, "confirmed": True, **changes}
    return RolloutInputs(now=T0 + after, replicas=needed, **values)  # type: ignore[arg-type]


class TestGivingBack:
    def test_traffic_follows_the_replicas_of_stable_and_then_it_has_ended(self) -> None:
        status = transitions.stop(rollout_at(50), Cause("RolledBack", "errors"), T0)
        assert (status.phase, state.canary_weight(status)) == ("Running", 50)
        weights = []
        for ready in (1, 2, 2, 3):
            status = state_machine.tick(status, inputs(stable=ready))
            weights.append(state.canary_weight(status))
        assert weights == [50, 25, 25, 0]
        assert (status.phase, status.giving_back, status.verdict.reason) == ("Stopped", None, "RolledBack: errors")

    def test_what_ends_it_first_is_what_is_reported(self) -> None:
        status = transitions.stop(rollout_at(50), Cause("Aborted", "by command a"), T0)
        assert transitions.stop(status, Cause("RolledBack", "errors"), T0) == status
        result = state_machine.tick(status, inputs(stable=1, failure=Cause("DeployFailed", "gone")))
        assert result.giving_back == status.giving_back
        assert result.step is not None
        assert result.step.reason == ("Aborted: returns traffic to stable as its replicas become available: 1 of 4")

    def test_a_replica_of_stable_that_dies_takes_no_traffic_back(self) -> None:
        status = state_machine.tick(transitions.stop(rollout_at(50), Cause("Aborted", "a"), T0), inputs(stable=2))
        assert state.canary_weight(state_machine.tick(status, inputs(stable=0))) == 25

    @pytest.mark.parametrize("end", [{"is_dead": True}, {"after": state.GIVE_BACK_TIMEOUT}])
    def test_all_of_it_goes_back_at_once_from_what_is_dead_or_where_nothing_comes(self, end: dict[str, object]) -> None:
        status = transitions.stop(rollout_at(75), Cause("Aborted", "a"), T0)
        status = state_machine.tick(status, inputs(stable=0))
        assert state.canary_weight(status) == 75
        ended = state_machine.tick(status, inputs(stable=0, **end))  # type: ignore[arg-type]
        assert (ended.phase, state.canary_weight(ended)) == ("Stopped", 0)

    def test_each_share_has_its_own_time_to_go_back(self) -> None:
        late = state.GIVE_BACK_TIMEOUT - timedelta(seconds=1)
        status = state_machine.tick(
            transitions.stop(rollout_at(75, 8), Cause("Aborted", "a"), T0), inputs(8, late, stable=3)
        )
        weight = state.canary_weight(status)
        assert 0 < weight < 75
        assert state.canary_weight(state_machine.tick(status, inputs(8, 2 * late, stable=3))) == weight

    def test_a_clock_that_is_set_back_lets_it_wait_for_no_longer(self) -> None:
        back = timedelta(days=1)
        status = state_machine.tick(transitions.stop(rollout_at(75), Cause("Aborted", "a"), T0), inputs(after=-back))
        assert state.canary_weight(status) == 75
        ended = state_machine.tick(status, inputs(after=state.GIVE_BACK_TIMEOUT - back))
        assert (ended.phase, state.canary_weight(ended)) == ("Stopped", 0)

    def test_without_traffic_there_is_nothing_to_give_back(self) -> None:
        rollout = Rollout.from_json({"steps": [{"weight": 25}], "capacity": "inPlace"})
        pending = freeze.freeze(rollout, 7, 8, T0, replicas=4, shared=PlanInPlace())
        assert transitions.stop(pending, Cause("Aborted", "a"), T0).phase == "Stopped"

    def test_beside_stable_it_ends_at_once(self) -> None:
        beside = rollout_at(50).model_copy(update={"plan": rollout_at(50).plan.model_copy(update={"in_place": None})})
        assert transitions.stop(beside, Cause("Aborted", "a"), T0).phase == "Stopped"

    @pytest.mark.parametrize(
        "ends", [{"failure": Cause("CandidateUnavailable", "gone")}, {"evidence": RolloutEvaluation(harm="h")}]
    )
    def test_whatever_ends_it_is_paced(self, ends: dict[str, object]) -> None:
        status = state_machine.tick(rollout_at(50), inputs(available=2, stable=2, **ends))
        assert (status.phase, state.canary_weight(status), status.paused) == ("Running", 50, None)
        assert status.giving_back is not None


class TestHolding:
    def test_what_stands_still_starts_no_replica_for_traffic_that_does_not_come(self) -> None:
        rollout = Rollout.from_json({"steps": [{"weight": 75, "gate": "manual"}], "capacity": "inPlace"})
        status = freeze.freeze(rollout, 7, 8, T0, replicas=4, shared=PlanInPlace())
        for _ in range(5):
            status = state_machine.tick(status, inputs(available=1, stable=3))
        assert state.canary_weight(status) == 25
        assert state.shared_replicas(status, 4) == ArmReplicas(2, 2)
        assert state.shared_replicas(status, 4, stands_still=True) == ArmReplicas(3, 1)
        paused = steering.execute_command(status, RolloutCommand("p", "pause", 8), T0)
        assert state.shared_replicas(paused, 4) == ArmReplicas(3, 1)

    def test_each_replica_has_its_own_time_to_come(self) -> None:
        rollout = Rollout.from_json({"steps": [{"weight": 75, "gate": "manual"}], "capacity": "inPlace"})
        status = freeze.freeze(rollout, 7, 8, T0, replicas=4, shared=PlanInPlace())
        for _ in range(5):
            status = state_machine.tick(status, inputs(available=1))
        assert status.step is not None
        assert status.step.short_since == T0
        assert status.step.reason == "waits for replicas: 1 of 2 are available"
        for minutes in (10, 20, 20):
            status = state_machine.tick(status, inputs(after=timedelta(minutes=minutes), available=2))
        assert state.canary_weight(status) == 50
        assert status.step is not None
        assert status.step.short_since == T0 + timedelta(minutes=20)


def test_all_traffic_needs_all_replicas_except_stables_last() -> None:
    for needed, spare, enough in ((4, 0, 3), (4, 1, 4), (2, 0, 1)):
        status = steering.execute_command(
            rollout_at(50, needed, spare), RolloutCommand("f", "promote", 8, full=True), T0
        )
        short = state_machine.tick(status, inputs(needed, available=enough - 1))
        assert short.phase == "Running"
        ended = state_machine.tick(status, inputs(needed, available=enough))
        assert (ended.phase, state.canary_weight(ended)) == ("Concluded", 100)


def test_the_shares_of_whole_percents_round_by_less_than_a_percent() -> None:
    for needed in range(1, 301):
        for ready in range(needed + 1):
            assert 0 <= ready / needed - in_place.supported_weight(needed, ready) / 100 < 0.01
