"""Up to seven rollouts at a time, on one Ray and behind one edge: what the edge counts of them decides each, and nobody says anything.

One step at 50 % tells two arms apart with the fewest requests. Evidence takes twelve blocks of ten seconds whatever happens, so the warm-up
and the step's own time are the shortest that still are some. With a floor of 5 % those twelve blocks let a candidate without errors pass at
20 requests a second.
"""

import json
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_counts import sum_rows
from invalid_specs import REFUSED, REFUSED_EXPERIMENTS
from waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]

log = logging.getLogger(__name__)

Json = dict[str, Any]

ERRORS = {"metric": "errorRate", "margin": "25%", "floor": "5%"}
CLIENTS = 4
FLAWED = "        if int(x[0, 3]) % 5 < 2:\n            raise RuntimeError('a flaw')\n"
"""Four of the ten batches fail."""

NOT_A_NUMBER = "        if int(x[0, 3]) % 5 < 2:\n            return self.layers(x) * float('nan')\n"
DYING = "        if int(x[0, 3]) % 5 < 2:\n            import os\n            os._exit(1)\n"
"""The process goes with the request, as by a segmentation fault."""

DEAD = "        raise RuntimeError('nothing works')\n"
LEAST_BLOCKS = 12
BY_USER = {"unit": {"header": "x-user-id"}}
ARMS = ("stable", "canary")
# The slowest answers of a busy machine are its own.
UNWATCHED = {"metric": "latencyP95", "enabled": False}
STRANGERS = 2000
FEEDBACK = (b"", b"no JSON", b"[]", b'{"unit": "user-1", "metric": "bought"}', b"[" + b"{}," * 2000 + b"{}]")


def rollout(*guardrails: Json) -> Json:
    watched = {each["metric"] for each in guardrails}
    return {
        "steps": [{"weight": 50, "minDuration": "10s"}],
        "warmup": {"requests": 50, "duration": "10s"},
        "guardrails": [ERRORS, *([] if UNWATCHED["metric"] in watched else [UNWATCHED]), *guardrails],
    }


@pytest.fixture(scope="module")
def fleet(bench: Any, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each service by its name, with its second revision released and its clients asking since before.

    Services whose tests are not part of this run are left out: each takes two replicas and forty requests a second.
    """
    # Latencies on a busy machine come in bursts, which count little: half of stable's answers, above what a candidate may take, are enough.
    latency = {"metric": "latencyP50", "margin": "200%"}
    chosen = {getattr(item, "originalname", "") for item in request.session.items}
    wanted = [name for name in SECOND if OWN_TEST.get(name, "") in {"", *chosen}]
    plans = {
        "sound": {**rollout(latency), **BY_USER},
        "loyal": {**rollout(), **BY_USER},
        "slow": rollout({"metric": "latencyP95", "margin": "25%"}),
    }
    asking: dict[str, Any] = {"loyal": {"pause_s": 0.2, "users": 200}}
    services = {name: bench.add(name, plans.get(name, rollout()), **asking.get(name, {})) for name in wanted}
    for name, service in services.items():
        service.release(1, SLEEPS.get(name, ""))
    bench.begin(CLIENTS)
    for name, service in services.items():
        service.release(2, SECOND[name])
    return services


OWN_TEST = {
    "dead": "test_a_dead_candidate_is_taken_back_before_there_is_any_statistics_of_it",
    "flawed": "test_a_candidate_that_fails_for_some_inputs_is_rolled_back",
    "nonsense": "test_a_candidate_whose_scores_are_no_numbers_is_rolled_back",
    "dying": "test_a_candidate_whose_process_dies_is_taken_back",
    "loyal": "test_a_candidate_that_fails_users_who_come_back_is_rolled_back",
    "slow": "test_a_candidate_that_is_slow_is_not_promoted",
}
"""`sound` is part of every run: what is killed, is killed while it collects."""

SLEEPS = {"slow": "        time.sleep(0.1)\n", "sound": "        time.sleep(0.02)\n"}
SECOND = {
    "dead": DEAD,
    "flawed": FLAWED,
    "nonsense": NOT_A_NUMBER,
    "dying": DYING,
    "loyal": FLAWED,
    "slow": "        time.sleep(0.3)\n",
    "sound": SLEEPS["sound"],
}


def test_a_dead_candidate_is_taken_back_before_there_is_any_statistics_of_it(fleet: Any) -> None:
    dead = fleet["dead"]
    ended = dead.ends()
    tell(dead, ended)
    assert_rolled_back(dead, ended)
    assert "the canary failed" in ended["verdict"]["reason"]
    assert all(each["lengths"][0][0] < LEAST_BLOCKS for each in dead.counted()["epochs"].values())


def test_a_candidate_whose_process_dies_is_taken_back(fleet: Any) -> None:
    dying = fleet["dying"]
    ended = dying.ends()
    tell(dying, ended)
    assert ended["phase"] == "Stopped"
    assert dying.read()["status"]["stable"]["revision"] == 1
    dying.settles(1)
    dying.load.stop()
    assert dying.sums("stable")["errors"] == 0


@dataclass(frozen=True)
class Known:
    """What was stored of `sound` at some time: its epochs of evidence, and by epoch and arm what was counted in them."""

    epochs: list[Json]
    sums: dict[tuple[int, str], Json]


@pytest.fixture(scope="module")
def before(fleet: Any) -> Known:
    """What was stored when first the agent and then the operator were killed; both are there again."""
    up, sound = fleet["sound"].up, fleet["sound"]
    eventually(sound.is_warm, "what is counted being evidence")

    def known() -> Known | None:
        status = sound.progress()
        epochs = status.get("evidenceEpochs", []) if status.get("tallies") else []
        sums = {(each["number"], arm): sound.sums(arm, each["number"]) for each in epochs for arm in ARMS}
        return Known(epochs, sums) if sums and all(counts["assigned"] for counts in sums.values()) else None

    found = eventually(known, "evidence that is stored")
    agent = up.pid("edge-0-agent")
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: up.is_replaced("edge-0-agent", agent) and up.evidence(), "another agent in its place")
    up.end(signal.SIGKILL)
    up.start()
    eventually(sound.progress, "the API server after the restart")
    return found


def test_the_agent_and_the_operator_die_in_the_middle(fleet: Any, before: Known) -> None:
    """What they knew has to be part of what `sound` ends by."""
    # On a busy machine stable may have been no measure for a while, after which another epoch begins.
    assert {each["weight"] for each in before.epochs} == {50}
    assert fleet["sound"].progress()["phase"] == "Running"


def test_a_running_rollout_says_what_it_waits_for(fleet: Any) -> None:
    sound = fleet["sound"]

    def told() -> str:
        return str((sound.progress().get("step") or {}).get("reason", ""))

    eventually(lambda: "so far" in told() or sound.progress().get("phase") != "Running", "a reason with numbers")
    shown = sound.up.sundog("describe", "sound").stdout
    log.info("%s", shown)
    assert "no gate opens before 120 s of data" in " ".join(shown.split())


def test_nonsense_is_refused_and_a_rollout_goes_on_collecting(fleet: Any, tmp_path: Path) -> None:
    """`sound` has to end as it would have without."""
    sound = fleet["sound"]
    was = standing(sound)
    rejected = sound.up.command("sound", "promote revision=7 id=nonsense")
    assert (rejected["result"], rejected["message"]) == (
        "Rejected",
        "revision 7 is not the candidate; expected revision 2",
    )

    spec, told = REFUSED["wrong-type"]
    manifests, wanted = [sound.document(spec)], [told]
    for name, (spec, told) in REFUSED_EXPERIMENTS.items():
        beside = {"modelDeployment": "sound", "arms": [{"name": "wide"}], **spec}
        manifests.append({**sound.document(beside), "kind": "Experiment", "metadata": {"name": name}})
        wanted.append(told)
    file = tmp_path / "nonsense.yaml"
    file.write_text("\n---\n".join(map(json.dumps, manifests)))
    done = sound.up.sundog("apply", "-f", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert [line[-len(told) :] for line, told in zip(lines, wanted, strict=True)] == wanted

    assert {sound.report(body) for body in FEEDBACK} == {(404, "NoFeedback")}
    crowd = sound.gather()
    eventually(lambda: crowd.total() >= STRANGERS, "so many strangers")
    crowd.stop()
    assert (crowd.wrong, set(crowd.revisions)) == ([], {"1", "2"})
    assert standing(sound) == was


def standing(service: Any) -> Json:
    """What of a rollout stays as it is while it collects, and after it."""
    return {"plan": service.progress()["plan"], "spec": service.read()["spec"]}


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


def test_a_candidate_whose_scores_are_no_numbers_is_rolled_back(fleet: Any) -> None:
    nonsense = fleet["nonsense"]
    ended = nonsense.ends()
    tell(nonsense, ended)
    assert_rolled_back(nonsense, ended)
    assert "errorRate" in ended["verdict"]["reason"]
    assert all("not finite" in problem or "OutputNotFinite" in problem for problem in nonsense.load.wrong)


def test_a_candidate_that_fails_users_who_come_back_is_rolled_back(fleet: Any) -> None:
    loyal = fleet["loyal"]
    ended = loyal.ends()
    tell(loyal, ended)
    assert ended["plan"]["unit"] == {"kind": "header", "name": "x-user-id"}
    assert "errorRate" in ended["verdict"]["reason"]
    # The agent was killed in the middle, and with it the groups of the last seconds.
    for arm in ARMS:
        assert 100 < loyal.grouped(arm) <= loyal.sums(arm)["assigned"]
    assert_rolled_back(loyal, ended)


def test_a_candidate_that_is_slow_is_not_promoted(fleet: Any) -> None:
    slow = fleet["slow"]
    ended = slow.ends()
    tell(slow, ended)
    assert_rolled_back(slow, ended)
    assert "latencyP95" in ended["verdict"]["reason"]
    assert slow.load.wrong == []


def test_a_good_candidate_is_promoted_by_evidence_alone(fleet: Any, before: Known) -> None:
    sound = fleet["sound"]
    ended = sound.ends()
    tell(sound, ended)
    assert ended["phase"] == "Concluded"
    assert (ended["verdict"]["decision"], ended["verdict"]["winner"]) == ("Promoted", "canary")
    sound.settles(2)
    assert sound.load.wrong == []
    frozen = {each["metric"]: each for each in ended["plan"]["guardrails"]}
    assert set(frozen) == {"errorRate", "latencyP50", "rejections", "retries"}
    threshold = frozen["latencyP50"]["thresholdMicroseconds"]
    assert frozen["latencyP50"]["candidateThresholdMicroseconds"] == pytest.approx(
        threshold + max(2 * threshold, 1000), rel=1e-3
    )
    assert all(each["verdict"] == "Passed" for each in ended["metrics"] if each["role"] == "guardrail")
    assert [each["number"] for each in ended["evidenceEpochs"]][: len(before.epochs)] == [
        each["number"] for each in before.epochs
    ]
    for (epoch, arm), known in before.sums.items():
        counts = sound.sums(arm, epoch)
        assert all(counts[column] >= known[column] for column in ("assigned", "errors")), (epoch, arm)
    assert_counted(sound)
    strangers = [row for row in sound.has_counted(sound.sent()) if row["unit"] == "sticky"]
    assert sum_rows(strangers)["assigned"] == sound.crowd.total() >= STRANGERS


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
    """The edge has counted what clients saw, and what is stored of it is what it had counted when the verdict fell."""
    service.load.stop()
    sent, wrong = service.sent(), len(service.load.wrong)
    rows = eventually(lambda: service.has_counted(sent), "all that was sent, as counted by the edge")
    whole = sum_rows(rows)
    assert whole["assigned"] == sent
    # Of the seconds before the agent was killed it may be lost how requests ended.
    assert whole["errors"] <= wrong <= whole["errors"] + whole["lost"]
    attempt, answered = service.attempt()["metadata"]["uid"], service.answered(2)
    stable, canary = (sum_rows(row for row in rows if (row["attempt"], row["arm"]) == (attempt, a)) for a in ARMS)
    assert stable["errors"] == 0
    # Once promoted it answers as stable; and not every failed request has an answer of the revision's own.
    promoted = service.read()["status"]["stable"]["revision"] == 2
    assert canary["assigned"] < answered if promoted else answered <= canary["assigned"] <= answered + wrong
    for arm, at_edge in zip(ARMS, (stable, canary), strict=True):
        stored = service.sums(arm)
        assert 0 < stored["assigned"] <= at_edge["assigned"]
        assert stored["errors"] <= at_edge["errors"] + at_edge["lost"]
    assert bool(service.sums("canary")["errors"]) == bool(wrong)


def tell(service: Any, ended: Json) -> None:
    """For who reads along."""
    stored = {arm: service.sums(arm) for arm in ARMS}
    log.info("%s: %s", service.name, json.dumps(ended["verdict"]))
    log.info("%s: %d bad answers of %d, counted %s", service.name, len(service.load.wrong), service.load.sent, stored)
