"""Two rollouts at once whose weights rise, on a real cluster: who got a candidate keeps it, and getting one says nothing of the other.

Meanwhile the leader is killed and an edge is deleted.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from scipy.stats import chi2_contingency

from digit_traffic import USER_HEADER
from real_serving import Serving, Team, Traffic
from waiting import patience

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(patience(900))]

USERS = 300
WEIGHTS = (25, 50, 75)
NAMES = ("digits", "letters")
RAMP = {
    "rollout": {
        "steps": [{"weight": weight, "gate": "manual"} for weight in WEIGHTS],
        "unit": {"header": USER_HEADER},
    },
    "resources": {"cpu": "100m"},
}
ALIKE = {"runtime": {"env": [{"name": "RELEASE", "value": "2"}]}}
"""Another revision of the same model."""


@pytest.fixture(scope="module")
def walk(serving: Serving) -> Iterator[Team]:
    """A namespace in which both serve their first revision."""
    with serving.team("ramps") as team:
        team.apply(*(team.digits(name=name, **RAMP) for name in NAMES))
        for name in NAMES:
            team.until_stable(1, name)
        yield team


def candidates(traffic: Traffic) -> set[str]:
    """The users whom the candidate answered last, once each was answered by what is in force now."""
    traffic.more(2 * USERS)
    return {user for user, met in traffic.counts()["met"].items() if met[-1] == 2}


def test_who_got_a_candidate_keeps_it_and_two_rollouts_assign_independently(walk: Team) -> None:
    with (
        walk.traffic("digits", users=USERS, pause_s=0.02) as digits,
        walk.traffic("letters", users=USERS, pause_s=0.02) as letters,
    ):
        asked = dict(zip(NAMES, (digits, letters), strict=True))
        for traffic in asked.values():
            traffic.more(USERS)
        walk.apply(*(walk.digits(name=name, **RAMP, **ALIKE) for name in NAMES))
        moved: list[dict[str, set[str]]] = []
        for weight in WEIGHTS:
            for name in NAMES:
                walk.until_canary(weight, name)
                walk.until(
                    lambda name=name: walk.condition_state("TrafficSynced", name)[1] == "InForce",
                    f"{weight} % of {name}",
                )
            moved.append({name: candidates(traffic) for name, traffic in asked.items()})
            lose(walk, weight)
            for name in NAMES:
                walk.sundog("promote", name)
        for name in NAMES:
            walk.until_stable(2, name)
        moved.append({name: candidates(traffic) for name, traffic in asked.items()})
        met = [tuple(own) for traffic in asked.values() for own in traffic.counts()["met"].values()]
    assert set(met) == {(1, 2)}, Counter(met)
    for name in NAMES:
        assert all(before[name] < after[name] for before, after in pairwise(moved)), name
        assert len(moved[-1][name]) == USERS
    for found in moved[:-1]:
        pairs = Counter((user in found["digits"], user in found["letters"]) for user in moved[-1]["digits"])
        table = [[pairs[mine, other] for other in (False, True)] for mine in (False, True)]
        assert chi2_contingency(table).pvalue > 1e-6, table


def lose(team: Team, weight: int) -> None:
    """At the first weight the leader, where its process is on this machine, at the second an edge."""
    serving = team.serving
    if weight == WEIGHTS[0] and serving.cluster.instance is not None:
        leader = team.until(serving.lose_leader, "a leader to kill")
        team.until(lambda: serving.leader() not in ("", leader), "another leader")
    elif weight == WEIGHTS[1]:
        edge = team.edges()[0]["metadata"]["name"]
        team.kubectl("delete", "pod", edge, "--wait=false")
        team.until(lambda: edge not in {pod["metadata"]["name"] for pod in team.list("pods")}, f"{edge} is gone")
