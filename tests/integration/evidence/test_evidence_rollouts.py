"""Five rollouts at a time, on one Ray and behind one edge: what the edge counts of them decides each, and nobody says anything.

One step at 50 % tells two arms apart with the fewest requests. Evidence takes twelve blocks of ten seconds whatever happens, so the warm-up
and the step's own time are the shortest that still are some. With a floor of 5 % those twelve blocks let a candidate without errors pass at
20 requests a second.
"""

import json
import logging
import os
import signal
from typing import Any

import pytest

from waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]

log = logging.getLogger(__name__)

Json = dict[str, Any]

ERRORS = {"metric": "errorRate", "margin": "25%", "floor": "5%"}
CLIENTS = 4
FLAWED = "        if int(x[0, 3]) % 5 < 2:\n            raise RuntimeError('a flaw')\n"
"""Four of the ten batches fail."""

DEAD = "        raise RuntimeError('nothing works')\n"
LEAST_BLOCKS = 12


def rollout(*guardrails: Json) -> Json:
    return {
        "steps": [{"weight": 50, "minDuration": "10s"}],
        "warmup": {"requests": 50, "duration": "10s"},
        "guardrails": [ERRORS, *guardrails],
    }


@pytest.fixture(scope="module")
def fleet(bench: Any) -> dict[str, Any]:
    """Each service by its name, with its second revision released and its clients asking since before."""
    # Latencies on a busy machine come in bursts, which count little: half of stable's answers, above what a candidate may take, are enough.
    latency = {"metric": "latencyP50", "margin": "200%"}
    services = {
        "sound": bench.add("sound", rollout(latency)),
        "flawed": bench.add("flawed", rollout()),
        "dead": bench.add("dead", rollout()),
        "loyal": bench.add("loyal", {**rollout(), "unit": {"header": "x-user-id"}}, pause_s=0.2, users=200),
        "slow": bench.add("slow", rollout({"metric": "latencyP95", "margin": "25%"})),
    }
    for name, service in services.items():
        service.release(1, SLEEPS.get(name, ""))
    bench.begin(CLIENTS)
    for name, behaviour in SECOND.items():
        services[name].release(2, behaviour)
    return services


SLEEPS = {"slow": "        time.sleep(0.05)\n", "sound": "        time.sleep(0.02)\n"}
SECOND = {
    "dead": DEAD,
    "flawed": FLAWED,
    "loyal": FLAWED,
    "slow": "        time.sleep(0.1)\n",
    "sound": SLEEPS["sound"],
}


def test_a_dead_candidate_is_taken_back_before_there_is_any_statistics_of_it(fleet: Any) -> None:
    dead = fleet["dead"]
    ended = dead.ends()
    tell(dead, ended)
    assert_rolled_back(dead, ended)
    assert "the candidate failed" in ended["verdict"]["reason"]
    assert all(each["lengths"][0][0] < LEAST_BLOCKS for each in dead.counted()["epochs"].values())


def test_the_agent_and_the_operator_die_in_the_middle(fleet: Any) -> None:
    up, sound = fleet["sound"].up, fleet["sound"]
    eventually(sound.is_warm, "what is counted being evidence")
    before = sound.progress()["evidenceEpochs"]
    agent = up.pid("edge-0-agent")
    os.kill(agent, signal.SIGKILL)

    eventually(lambda: up.is_replaced("edge-0-agent", agent) and up.evidence(), "another agent in its place")
    up.end(signal.SIGKILL)
    up.start()
    eventually(sound.progress, "the API server after the restart")
    assert sound.progress()["evidenceEpochs"] == before


def test_a_running_rollout_says_what_it_waits_for(fleet: Any) -> None:
    sound = fleet["sound"]

    def told() -> str:
        return str((sound.progress().get("step") or {}).get("reason", ""))

    eventually(lambda: "so far" in told() or sound.progress().get("phase") != "Running", "a reason with numbers")
    shown = sound.up.sundog("describe", "sound").stdout
    log.info("%s", shown)
    assert "no gate opens before 120 s were counted" in " ".join(shown.split())


def test_a_candidate_that_fails_for_some_inputs_is_rolled_back(fleet: Any) -> None:
    flawed = fleet["flawed"]
    ended = flawed.ends()
    tell(flawed, ended)
    assert_rolled_back(flawed, ended)
    assert "errorRate" in ended["verdict"]["reason"]
    stalled = condition_of(flawed, "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "RolledBack")
    assert "errorRate" in stalled["message"]
    assert any(letter.isdigit() for letter in stalled["message"].partition("errorRate")[2])


def test_a_candidate_that_fails_users_who_come_back_is_rolled_back(fleet: Any) -> None:
    loyal = fleet["loyal"]
    ended = loyal.ends()
    tell(loyal, ended)
    assert ended["plan"]["unit"] == {"kind": "header", "name": "x-user-id"}
    assert "errorRate" in ended["verdict"]["reason"]
    # The agent was killed in the middle, and with it the groups of the last seconds.
    for arm in ("stable", "canary"):
        assert 100 < loyal.grouped(arm) <= loyal.sums(arm)["assigned"]
    assert_rolled_back(loyal, ended)


def test_a_candidate_that_is_slow_is_not_promoted(fleet: Any) -> None:
    slow = fleet["slow"]
    ended = slow.ends()
    tell(slow, ended)
    assert_rolled_back(slow, ended)
    assert "latencyP95" in ended["verdict"]["reason"]
    assert slow.load.wrong == []


def test_a_good_candidate_is_promoted_by_evidence_alone(fleet: Any) -> None:
    sound = fleet["sound"]
    ended = sound.ends()
    tell(sound, ended)
    assert ended["phase"] == "Concluded"
    assert (ended["verdict"]["decision"], ended["verdict"]["winner"]) == ("Promoted", "canary")
    sound.settles(2)
    assert sound.load.wrong == []
    frozen = {each["metric"]: each for each in ended["plan"]["guardrails"]}
    assert set(frozen) == {"errorRate", "latencyP50", "rejections"}
    threshold = frozen["latencyP50"]["thresholdMicroseconds"]
    assert frozen["latencyP50"]["candidateThresholdMicroseconds"] == pytest.approx(3 * threshold, rel=1e-3)
    assert all(each["verdict"] == "Passed" for each in ended["metrics"] if each["role"] == "guardrail")
    assert_counted(sound)


def condition_of(service: Any, type_: str) -> Json:
    found = service.read()["status"]["conditions"]
    return next(dict(each) for each in found if each["type"] == type_)


def assert_rolled_back(service: Any, ended: Json) -> None:
    """By evidence, and stable has all traffic again."""
    assert ended["phase"] == "Stopped"
    assert (ended["verdict"]["decision"], ended["verdict"]["winner"]) == ("RolledBack", "stable"), ended["verdict"]
    assert service.read()["status"]["stable"]["revision"] == 1
    service.settles(1)
    assert all("status 5" in problem for problem in service.load.wrong)
    assert_counted(service)


def assert_counted(service: Any) -> None:
    """What is stored is what the edge had counted when the verdict fell, and the edge has counted what clients saw."""
    service.load.stop()
    sent, canary = service.load.sent, service.load.revisions["2"]
    stored = {arm: service.sums(arm) for arm in ("stable", "canary")}
    assert 0 < stored["canary"]["assigned"] <= canary
    assert stored["canary"]["errors"] <= len(service.load.wrong)
    assert stored["stable"]["errors"] == 0
    assert sum(each["assigned"] for each in stored.values()) <= sent


def tell(service: Any, ended: Json) -> None:
    """For who reads along."""
    stored = {arm: service.sums(arm) for arm in ("stable", "canary")}
    log.info("%s: %s", service.name, json.dumps(ended["verdict"]))
    log.info("%s: %d bad answers of %d, counted %s", service.name, len(service.load.wrong), service.load.sent, stored)
