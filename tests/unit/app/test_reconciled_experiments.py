"""The simulated world of the campaign of whole experiments: what it contains is found."""

from dataclasses import replace

import reconciled_experiments
from reconciled_experiments import CONVERTED, SPENT, Design, Users

CONVERSION = {"name": "conversion", "feedback": CONVERTED, "minimumEffect": "50%"}
REVENUE = {"name": "revenue", "feedback": SPENT, "type": "mean", "minimumEffect": "50%"}
USERS = Users(per_hour=500, returns=1.5, converting=0.2, spending=0.5, failing=0.01, bursts=1, drift=0.3, delay_s=300)
DESIGN = Design(USERS, {"metrics": {"success": [CONVERSION]}}, hours=2, look_s=600)


def test_an_arm_that_is_twice_as_good_wins() -> None:
    ended = reconciled_experiments.play(replace(DESIGN, conversion={"arm-1": 2.0}), seed=1)
    assert (ended.decision, ended.winner) == ("Winner", "arm-1")
    assert not ended.mismatched
    assert 200 < ended.units < 1000


def test_amounts_decide_a_mean_once_their_window_has_passed() -> None:
    spec = {"metrics": {"success": [{**REVENUE, "window": "30m"}]}}
    ended = reconciled_experiments.play(replace(DESIGN, spec=spec, amount={"arm-1": 3.0}), seed=1)
    assert ended.winner == "arm-1"
    assert ended.seconds > 1800
    assert ended.matured < ended.units


def test_a_split_that_loses_users_of_an_arm_is_found() -> None:
    ended = reconciled_experiments.play(replace(DESIGN, users=replace(USERS, lost={"arm-1": 0.6}), hours=1), seed=1)
    assert ended.mismatched
    assert not ended.winner
