"""Digits served on a cluster from end to end: by the chart, real Ray Serve, real edges, and clients in pods.

One ModelDeployment goes through all of it, in the order of the tests; each begins with what it finds.
"""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from charting import NAMESPACE, service_account
from edge_totals import EdgeTotals
from measuring.record import Record
from real_kubernetes import audit
from real_serving import CLAIM, ROOT, Json, Team, Traffic, example, readme_commands
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.counters import Counters
from waiting import patience

pytestmark = pytest.mark.timeout(patience(900))

HELD_OUT = 540
STEPS = [{"weight": 25, "gate": "time", "minDuration": "3s"}, {"weight": 50, "gate": "manual"}]
ROLLOUT = {"rollout": {"steps": STEPS}}
EVIDENCE = {
    "rollout": {
        # What is to be seen is that evidence decides, and not how little of it: a wide floor needs some hundred requests.
        "steps": [{"weight": 50, "minDuration": "10s"}],
        # The slowest answers of a busy machine are its own.
        "guardrails": [{"metric": "errorRate", "floor": "5%"}, {"metric": "latencyP95", "enabled": False}],
        "warmup": {"requests": 50, "duration": "10s"},
    }
}
# As good as its neighbour but for that, so that nothing else can be held against it.
FLAWED = {"model": {"entrypoint": "faulty_model:FaultyModel", "config": {"failing": 0.2}}}


def test_the_example_is_served_by_the_name_of_its_service(vision: Team) -> None:
    began = time.monotonic()
    vision.kubectl("apply", "-f", "-", stdin=example())
    vision.kubectl(
        "wait", "mdep/digits", "--for=condition=Ready", f"--timeout={patience(600):.0f}s", timeout=patience(610)
    )
    took = time.monotonic() - began
    assert vision.status()["url"] == "http://digits.vision.svc"
    with vision.traffic() as traffic:
        told = traffic.until(lambda told: told["images"].get("1") == HELD_OUT, "every held-out image was read")
    assert told["right"] == {"1": round(vision.serving.accuracy("v1") * HELD_OUT)}
    vision.until(lambda: vision.status().get("startup"), "how long the phases of the start took")
    startup = vision.status()["startup"]
    assert startup["revision"] == 1
    assert {"cluster", "scheduled", "image", "ray", "load", "warmup", "total"} <= startup.keys()
    record_start(took, startup)


def record_start(took_s: float, startup: Json) -> None:
    """For the page of benchmarks, which is rendered from what was kept last."""
    record = Record("startup_on_a_node", "The first model of a namespace, on the tests' node", ("phase", "took"))
    for phase in ("cluster", "scheduled", "image", "ray", "download", "load", "warmup", "total"):
        if phase in startup:
            record.add(phase, startup[phase])
    record.add("from `kubectl apply` to Ready", f"{took_s:.1f}s")
    record.finish()


@pytest.fixture(scope="module")
def clients(served: Team) -> Iterator[Traffic]:
    """Clients of `digits` all the time."""
    with served.traffic() as traffic:
        yield traffic


@pytest.fixture
def traffic(clients: Traffic) -> Iterator[Traffic]:
    """The same, and no request was lost in a test."""
    yield clients
    clients.lost_nothing()


def test_the_command_of_the_example_asks_it(served: Team, traffic: Traffic) -> None:
    if shutil.which("curl") is None:
        pytest.skip("pods have the machine's programs, and it has no curl")
    _, _, command = readme_commands(ROOT / "examples" / "digits" / "README.md", "In a cluster")[-1].partition(" -- ")
    answer = json.loads(served.kubectl("exec", traffic.pod, "--", "sh", "-c", command))
    [scores] = answer["outputs"]
    assert scores.index(max(scores)) == 0
    answer = json.loads(served.sundog("predict", "digits", "--data", json.dumps({"inputs": [[[0] * 8] * 8]})))
    assert len(answer["outputs"][0]) == len(scores)


@dataclass
class Weighed:
    """Two neighbours whose rollouts are decided by evidence while the other tests go on, which takes minutes.

    Attributes:
        numerals: who asks the one whose candidate is good.
        flawed: who asks the one whose candidate, revision 2, fails each fifth request.
        edges: what edges said of both.
        before: what was stored of the rollout of each when their operator was killed.
    """

    numerals: Traffic
    flawed: Traffic
    edges: EdgeTotals = field(default_factory=EdgeTotals)
    before: dict[str, Json] = field(default_factory=dict)


@pytest.fixture(scope="module")
def weighed(served: Team) -> Iterator[Weighed]:
    little: Json = {"resources": {"cpu": "100m"}}
    served.apply(served.digits(name="numerals", **EVIDENCE), served.digits(name="flawed", **EVIDENCE, **little))
    for name in ("numerals", "flawed"):
        served.until_stable(1, name)
    with (
        served.traffic("numerals", clients=2) as numerals,
        served.traffic("flawed", pause_s=0.3, failing=2) as flawed,
    ):
        numerals.more(20)
        flawed.more(20)
        served.apply(
            served.digits("v2", "numerals", **EVIDENCE), served.digits("v2", "flawed", **EVIDENCE, **little, **FLAWED)
        )
        yield Weighed(numerals, flawed)
    served.kubectl("delete", "mdep", "numerals", "flawed")


def rollout(team: Team, name: str) -> Json:
    """The Experiment of a neighbour's rollout."""
    return team.get(f"{name}-r2", "mexp")


def counted(experiment: Json) -> Counters:
    """What is stored of what edges have counted."""
    return Counters.unpack(experiment["status"].get("tallies", ""), experiment["metadata"]["uid"])


def test_a_plan_of_evidence_is_frozen_and_kept_with_its_counts(served: Team, weighed: Weighed) -> None:
    served.until_canary(50, "numerals")
    found = rollout(served, "numerals")
    plan = found["status"]["plan"]
    assert [(step["weight"], step["gate"]) for step in plan["steps"]] == [(50, "evidence"), (100, "none")]
    assert [(each["metric"], each["role"]) for each in plan["guardrails"]] == [
        ("errorRate", "guardrail"),
        ("rejections", "harm"),
        ("retries", "harm"),
    ]
    assert len(counted(found).sources) == 2, "each edge is one"
    weighed.numerals.more(20)


def collects(team: Team, name: str) -> bool:
    """What its edges count is evidence by now."""
    status = rollout(team, name).get("status", {})
    return bool(status.get("step", {}).get("warm")) and bool(status.get("epoch", {}).get("confirmed"))


def of_candidate(experiment: Json, edge: str = "") -> ArmCounts:
    """What is stored of what an edge has counted of the candidate, or all of them."""
    known = counted(experiment)
    sources = {source: own for source, own in known.sources.items() if source.startswith(edge)}
    return replace(known, sources=sources).over_epochs("canary")


def test_evidence_is_collected_on_when_an_edge_and_then_the_operator_are_gone(
    served: Team, traffic: Traffic, weighed: Weighed
) -> None:
    """What the edge has counted is in statuses alone then, and from there another operator has to know it."""
    serving, edges = served.serving, weighed.edges
    if serving.cluster.instance is None:
        pytest.skip("the operator's processes are not on this machine")
    served.until_canary(50, "flawed")
    attempts = {name: rollout(served, name)["metadata"]["uid"] for name in ("numerals", "flawed")}
    served.until(lambda: all(collects(served, name) for name in attempts), "evidence of both")
    gone = served.edges()[0]
    edge = gone["metadata"]["name"]
    served.until(
        lambda: edges.read(gone) and edges.sums(attempts["flawed"], "canary")["errors"] > 0,
        f"{edge} has counted failures",
    )
    served.kubectl("delete", "pod", edge, "--wait=false")
    served.until(
        lambda: not edges.read(gone) and edge not in {pod["metadata"]["name"] for pod in served.list("pods")},
        f"{edge} is gone",
    )
    weighed.before = {name: rollout(served, name) for name in attempts}
    assert {found["status"]["phase"] for found in weighed.before.values()} == {"Running"}
    assert of_candidate(weighed.before["numerals"], f"{edge}/").assigned > 0
    assert of_candidate(weighed.before["flawed"], f"{edge}/").errors > 0

    leader = served.until(serving.lose_leader, "a leader to kill")
    served.until(lambda: serving.leader() not in ("", leader), "another leader")
    traffic.more(20)
    weighed.numerals.lost_nothing()
    weighed.flawed.lost_nothing(failing=2)


def forgotten(before: Json, after: Json) -> list[str]:
    """What was stored of a rollout, and is not in what was stored of it later."""
    old, new = counted(before), counted(after)
    rows = [(source, key, tally) for source, own in old.sources.items() for key, tally in own.items()]
    lost = [
        f"{source} {key}: {now}, it was {tally}"
        for source, key, tally in rows
        if (now := new.sources.get(source, {}).get(key, ArmCounts())).assigned < tally.assigned
        or now.errors < tally.errors
    ]
    blocks = {number: (own.following, own.lengths[0].closed) for number, own in new.folded.items()}
    lost += [
        f"blocks of epoch {number}: {blocks.get(number)}"
        for number, own in old.folded.items()
        if not (number in blocks and blocks[number] >= (own.following, own.lengths[0].closed))
    ]
    then, now = before["status"], after["status"]
    lost += [f"epoch {each}" for each in then["evidenceEpochs"] if each not in now["evidenceEpochs"]]
    return lost + [f"epoch {now['epoch']}"] * (now["epoch"]["number"] < then["epoch"]["number"])


def stable(team: Team, name: str = "digits") -> int:
    return int(team.status(name)["stable"]["revision"])


def candidate(team: Team, name: str = "digits") -> int:
    return int((team.status(name).get("candidate") or {}).get("revision", 0))


MISTAKES: dict[str, tuple[Json, tuple[str, ...]]] = {
    "a missing model": ({"model": {"uri": f"pvc://{CLAIM}/v9"}}, ("ModelNotFound", f"{CLAIM}/v9")),
    "a broken image": ({"runtime": {"image": "registry.example.com/no/such:1"}}, ("ImagePullBackOff", "no/such:1")),
    "a wrong digest": ({"model": {"digest": f"sha256:{'0' * 64}"}}, ("DigestMismatch", "0" * 64)),
    "a model that cannot be loaded": ({"model": {"uri": f"pvc://{CLAIM}/v3"}}, ("LoadFailed",)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_start_is_reported_in_one_line_and_stable_serves_on(
    served: Team, traffic: Traffic, mistake: str
) -> None:
    """Each is an edit while the rollout of the one before may still be under way."""
    before, (wrong, words) = stable(served), MISTAKES[mistake]
    served.apply(served.digits(**ROLLOUT, **wrong))
    line = served.until_told(*words)
    assert "\n" not in line
    assert stable(served) == before
    assert traffic.counts()["answered"].keys() == {str(before)}
    traffic.more(50)


def test_an_edit_walks_its_steps_is_edited_again_and_is_promoted(served: Team, traffic: Traffic) -> None:
    """Three edits while one rollout is under way: before it serves, and while it does."""
    before = stable(served)
    served.apply(served.digits("v2", **ROLLOUT, resources={"memory": "1200Mi"}))
    served.until(lambda: candidate(served) > before, "a candidate")
    served.apply(served.digits("v2", **ROLLOUT, resources={"memory": "1100Mi"}))
    served.until_canary(25)
    first = candidate(served)
    traffic.until(lambda told: told["answered"].get(str(first), 0) > 20, "the canary answers")

    served.apply(served.digits("v2", **ROLLOUT, resources={"memory": "1300Mi"}))
    served.until(lambda: candidate(served) not in (0, first), "another candidate")
    third = candidate(served)
    served.apply(served.digits("v2", **ROLLOUT))
    served.until(lambda: candidate(served) not in (0, first, third), "another candidate")
    second = candidate(served)
    served.until_canary(50)
    traffic.until(lambda told: told["answered"].get(str(second), 0) > 50, "the canary answers")
    assert stable(served) == before

    served.sundog("promote", "digits")
    served.until_stable(second)
    told = traffic.until(lambda told: told["images"].get(str(second)) == HELD_OUT, "every held-out image was read")
    assert told["right"][str(second)] == round(served.serving.accuracy("v2") * HELD_OUT)


def test_kubectl_scale_adds_and_takes_replicas(served: Team, traffic: Traffic) -> None:
    for replicas in (3, 1):
        served.kubectl("scale", "mdep/digits", f"--replicas={replicas}")
        served.until(
            lambda replicas=replicas: served.status()["readyReplicas"] == replicas == len(served.workers()),
            f"{replicas} replicas",
        )
        traffic.more(100)


def test_evidence_alone_has_promoted_the_neighbour(served: Team, weighed: Weighed) -> None:
    served.until_stable(2, "numerals")
    found = rollout(served, "numerals")
    status = found["status"]
    assert (status["verdict"]["decision"], status["verdict"]["winner"]) == ("Promoted", "canary")
    assert {each["name"]: each["verdict"] for each in status["metrics"]}["errorRate"] == "Passed"
    requests = {arm["name"]: arm["requests"] for arm in status["arms"]}
    assert min(requests.values()) > 100
    if weighed.before:
        assert forgotten(weighed.before["numerals"], found) == []
    weighed.numerals.more(20)


def test_evidence_alone_has_rolled_back_the_one_that_fails(served: Team, weighed: Weighed) -> None:
    served.until_stable(1, "flawed")
    found = rollout(served, "flawed")
    status, verdict = found["status"], found["status"]["verdict"]
    assert (status["phase"], verdict["decision"], verdict["winner"]) == ("Stopped", "RolledBack", "stable")
    assert verdict["reason"].startswith("RolledBack: errorRate"), verdict["reason"]
    assert {each["name"]: each["verdict"] for each in status["metrics"]}["errorRate"] == "Harm"
    assert {arm["name"]: arm["weight"] for arm in status["arms"]} == {"stable": 100, "canary": 0}
    if weighed.before:
        assert forgotten(weighed.before["flawed"], found) == []
    asked = weighed.flawed.counts()
    weighed.flawed.more(50)
    assert got_of_candidate(weighed.flawed.counts()) == got_of_candidate(asked), "stable has all traffic"


def got_of_candidate(told: Json) -> tuple[int, int]:
    """What callers got of revision 2: all answers, and the bad ones among them."""
    bad = int(told["failed_of"].get("2", 0))
    return int(told["answered"].get("2", 0)) + bad, bad


def test_each_answer_of_the_one_that_fails_was_counted_by_an_edge(served: Team, weighed: Weighed) -> None:
    if not weighed.before:
        pytest.skip("edges cannot be asked from here")
    found = rollout(served, "flawed")
    for edge in served.edges():
        assert weighed.edges.read(edge)
    sums = weighed.edges.sums(found["metadata"]["uid"], "canary")
    assert (sums["assigned"], sums["errors"]) == got_of_candidate(weighed.flawed.counts())
    assert (sums["lost"], sums["running"]) == (0, 0)
    # What an edge has counted between its last report and its end is known to nobody; nothing is ever made up.
    known = of_candidate(found)
    arms = {arm["name"]: (arm["requests"], arm["errors"]) for arm in found["status"]["arms"]}
    assert arms["canary"] == (known.assigned, known.errors)
    assert known.assigned <= sums["assigned"]
    assert known.errors <= sums["errors"]
    assert weighed.edges.sums(found["metadata"]["uid"], "stable")["errors"] == 0


def test_a_neighbour_deleted_in_its_rollout_goes_alone(served: Team, traffic: Traffic) -> None:
    served.apply(served.digits(name="letters", **ROLLOUT))
    served.until_stable(1, "letters")
    assert served.status("letters")["cluster"] == served.status()["cluster"]
    assert len(served.heads()) == 1
    with served.traffic("letters", clients=1) as letters:
        letters.more(20)
    served.apply(served.digits("v2", "letters", **ROLLOUT))
    served.until(lambda: served.workers(2, "letters"), "a pod of the second revision")

    served.kubectl("delete", "mdep", "letters")
    kinds = "services,controllerrevisions,experiments,pods"

    def left() -> list[str]:
        return [obj["metadata"]["name"] for obj in served.list(kinds) if "letters" in obj["metadata"]["name"]]

    served.until(lambda: not left(), "nothing of letters is left")
    traffic.more(100)
    assert served.condition_state("Ready")[0] == "True"


def test_the_operator_was_refused_nothing_in_all_of_it(served: Team) -> None:
    """Before the API server is away in other tests: one that starts refuses for a moment what it will allow."""
    instance = served.serving.cluster.instance
    if instance is None:
        pytest.skip("only the API server of these tests writes down what accounts do")
    log = audit.log(instance)
    assert served.namespace in {use.namespace for use in audit.uses(log, service_account.ACCOUNT)}
    # Elsewhere are other tests' namespaces: in one that goes nothing may be made any more.
    ours = {"", NAMESPACE, served.namespace}
    assert {use for use in audit.refusals(log, service_account.ACCOUNT) if use.namespace in ours} == set()
