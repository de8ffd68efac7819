"""The rules of other tools, which benchmarks hold against ours."""

import pytest

from doubles.traffic import Answers, Traffic
from measuring.thresholds import Argo, Fixed, Flagger, Policy, play

APPLICATIONS = ("digits-r1", "digits-r2")


def told(policy: Policy, failing: list[float]) -> list[tuple[str, int]]:
    """After each minute what is decided, and the weight."""
    found = []
    for share in failing:
        how = policy.check(share)
        found.append((how, policy.weight))
    return found


def test_argo_checks_five_times_at_each_weight() -> None:
    assert told(Argo(0.01), [0.0] * 10) == [("", 25)] * 4 + [("", 50)] * 5 + [("Promoted", 50)]


def test_argo_forgives_one_failed_check_of_an_analysis() -> None:
    assert told(Argo(0.01), [0.02, 0, 0, 0, 0, 0.02, 0.02]) == [("", 25)] * 4 + [("", 50)] * 2 + [("RolledBack", 50)]


def test_flagger_steps_with_each_check_that_passes_and_adds_up_those_that_fail() -> None:
    weights = [20, 20, 30, 30, 40, 50, 50]
    ends = [*[""] * 6, "Promoted"]
    assert told(Flagger(0.01), [0, 0.02, 0, 0.02, 0, 0, 0]) == list(zip(ends, weights, strict=True))
    assert told(Flagger(0.01), [0.02, 0, 0.02, 0.02, 0.02, 0.02])[-1] == ("RolledBack", 20)


@pytest.mark.parametrize(("errors", "how", "minutes"), [(0.0, "Promoted", 5), (1.0, "RolledBack", 5)])
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
