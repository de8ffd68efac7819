"""The rules of other tools, which benchmarks hold against ours."""

import pytest

from doubles.traffic import Answers, Traffic
from measuring.thresholds import Argo, Block, Fixed, Flagger, Policy, Replayed, play, replay, slower_than_stable

APPLICATIONS = ("digits-r1", "digits-r2")


def decisions(policy: Policy, failing: list[float]) -> list[tuple[str, int]]:
    """After each minute what is decided, and the weight."""
    found = []
    for share in failing:
        how = policy.check(share)
        found.append((how, policy.weight))
    return found


def test_argo_checks_five_times_at_each_weight() -> None:
    assert decisions(Argo(0.01), [0.0] * 10) == [("", 25)] * 4 + [("", 50)] * 5 + [("Promoted", 50)]


def test_argo_forgives_one_failed_check_of_an_analysis() -> None:
    assert decisions(Argo(0.01), [0.02, 0, 0, 0, 0, 0.02, 0.02]) == [("", 25)] * 4 + [("", 50)] * 2 + [
        ("RolledBack", 50)
    ]


def test_flagger_steps_with_each_check_that_passes_and_adds_up_those_that_fail() -> None:
    weights = [20, 20, 30, 30, 40, 50, 50]
    ends = [*[""] * 6, "Promoted"]
    assert decisions(Flagger(0.01), [0, 0.02, 0, 0.02, 0, 0, 0]) == list(zip(ends, weights, strict=True))
    assert decisions(Flagger(0.01), [0.02, 0, *[0.02] * 4, 0])[-2:] == [("", 20), ("RolledBack", 20)]


def test_argo_forgives_one_failed_check_of_each_metric_and_flagger_counts_checks_in_which_any_fails() -> None:
    argo, flagger = Argo(0.02, slower=1.25), Flagger(0.02, slower=1.25)
    minutes = [(0.05, 1.0), (0.0, 1.5), (0.0, 1.3)]
    assert [argo.check(*minute) for minute in minutes] == ["", "", "RolledBack"]
    assert [flagger.check(*minute) for minute in [*minutes, (0.05, 1.5), (0.01, 1.3), (0, 1)]] == [
        *[""] * 5,
        "RolledBack",
    ]
    assert Argo(slower=1.25).check(1.0, 1.25) == ""
    assert Flagger(0.02).check(0.02, 9.0) == ""


@pytest.mark.parametrize(("errors", "how", "minutes"), [(0.0, "Promoted", 5), (1.0, "RolledBack", 6)])
def test_a_played_rollout_counts_what_the_candidate_failed(errors: float, how: str, minutes: int) -> None:
    traffic = Traffic(1)
    traffic.rps, traffic.answers = {"digits": 20.0}, {APPLICATIONS[1]: Answers(errors=errors)}
    found = play(Flagger(0.01), traffic, "digits", APPLICATIONS, Fixed(1))
    assert (found.how, found.minutes) == (how, minutes)
    canary, stable = (sum(n for at, n in traffic.assigned.items() if at.arm == arm) for arm in ("canary", "stable"))
    assert found.failed == errors * canary
    assert canary == pytest.approx((0.3 if how == "Promoted" else 0.1) * (canary + stable), rel=0.1)


def test_without_requests_no_check_passes() -> None:
    assert play(Argo(0.05), Traffic(1), "digits", APPLICATIONS, Fixed(1)).how == "RolledBack"


def blocks(*shares: float, requests: int = 100) -> list[Block]:
    """A quarter of the requests is the candidate's, of which these shares fail, and half as many are slow."""
    own = requests // 4
    return [Block(requests, own, round(own * share), round(own * share / 2)) for share in shares]


def test_a_recording_is_judged_minute_by_minute_and_costs_what_the_policys_own_weights_would() -> None:
    fine, bad = [0.0] * 6, [0.4] * 6
    found = replay(Argo(0.1), blocks(*fine, *bad, *bad))
    assert (found.how, found.minutes, found.repeated) == ("RolledBack", 3, 0)
    assert found.exposed == 3 * 600 * 0.25
    assert found.failed == pytest.approx(2 * 600 * 0.25 * 0.4)
    assert found.slow == pytest.approx(found.failed / 2)
    flagger = replay(Flagger(0.1), blocks(*bad))
    assert (flagger.how, flagger.minutes, flagger.repeated) == ("RolledBack", 6, 5)
    assert flagger.failed == pytest.approx(6 * 600 * 0.1 * 0.4)


def test_a_recording_may_be_held_to_how_long_answers_took_in_both_arms_at_the_same_time() -> None:
    """Both arms are slow in every second minute."""
    took = [tuple(milliseconds / 1000 for milliseconds in range(first, first + 100)) for first in (100, 300)]
    alike = [Block(400, 100, 0, 0, own, own) for own in took for _ in range(6)]
    assert replay(Argo(slower=1.25), alike).how == "Promoted"
    slower = [block._replace(took=tuple(1.3 * seconds for seconds in block.took)) for block in alike]
    assert slower_than_stable(slower[:6]) == pytest.approx(1.3)
    assert replay(Argo(slower=1.25), slower).minutes == 2
    assert replay(Argo(0.01), slower).how == "Promoted"
    assert slower_than_stable([Block(400, 0, 0, 0, (), took[0])]) == float("inf")


def test_a_recorded_minute_without_answers_meets_no_condition_and_less_than_one_is_no_recording() -> None:
    silent = [Block(100, 0, 0)] * 6
    assert replay(Argo(0.1), silent) == Replayed("RolledBack", 2, 0.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="5 blocks were recorded; a check takes 6"):
        replay(Argo(0.1), silent[:5])
