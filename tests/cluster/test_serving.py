"""Digits served on a cluster from end to end: by the chart, real Ray Serve, real edges, and clients in pods.

One ModelDeployment goes through all of it, in the order of the tests; each begins with what it finds.
"""

import json
import shutil
import time
from collections.abc import Iterator

import pytest

from charting import account
from measuring.record import Record
from real_kubernetes import audit
from real_serving import CLAIM, ROOT, Json, Team, Traffic, example, readme_commands
from sundog_operator.core.rollout.tallies import Tallies

pytestmark = pytest.mark.timeout(900)

HELD_OUT = 540
STEPS = [{"weight": 25, "gate": "time", "minDuration": "3s"}, {"weight": 50, "gate": "manual"}]
ROLLOUT = {"rollout": {"steps": STEPS}}
EVIDENCE = {
    "rollout": {
        # What is to be seen is that evidence decides, and not how little of it: a wide floor needs some hundred requests.
        "steps": [{"weight": 50, "minDuration": "10s"}],
        "guardrails": [{"metric": "errorRate", "floor": "5%"}],
        "warmup": {"requests": 50, "duration": "10s"},
    }
}


def test_the_example_is_served_by_the_name_of_its_service(vision: Team) -> None:
    began = time.monotonic()
    vision.kubectl("apply", "-f", "-", stdin=example())
    vision.kubectl("wait", "mdep/digits", "--for=condition=Ready", "--timeout=10m", timeout=610)
    took = time.monotonic() - began
    assert vision.status()["url"] == "http://digits.vision.svc"
    with vision.traffic() as traffic:
        told = traffic.until(lambda told: told["images"].get("1") == HELD_OUT, "every held-out image was read")
    assert told["right"] == {"1": round(vision.serving.accuracy("v1") * HELD_OUT)}
    vision.until(lambda: vision.status().get("startup"), "how long the phases of the start took")
    startup = vision.status()["startup"]
    assert startup["revision"] == 1
    assert {"scheduled", "image", "load", "warmup"} <= startup.keys()
    record_start(took, startup)


def record_start(took_s: float, startup: Json) -> None:
    """For the page of benchmarks, which is rendered from what was kept last."""
    record = Record("startup_on_a_node", "The first model of a namespace, on the tests' node", ("phase", "took"))
    for phase in ("scheduled", "image", "download", "load", "warmup"):
        if phase in startup:
            record.add(phase, startup[phase])
    record.add("from `kubectl apply` to Ready", f"{took_s:.1f}s")
    record.finish()


@pytest.fixture(scope="module")
def served(vision: Team) -> Team:
    """`digits` serves, whatever model."""
    if not vision.list("mdep"):
        vision.apply(vision.digits())
    vision.until(lambda: vision.says("Ready")[0] == "True", "digits is Ready")
    return vision


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


def test_the_command_of_the_readme_asks_it(served: Team, traffic: Traffic) -> None:
    if shutil.which("curl") is None:
        pytest.skip("pods have the machine's programs, and it has no curl")
    _, _, command = readme_commands(ROOT / "README.md", "On a cluster")[-1].partition(" -- ")
    answer = json.loads(served.kubectl("exec", traffic.pod, "--", "sh", "-c", command))
    [scores] = answer["outputs"]
    assert scores.index(max(scores)) == 0
    answer = json.loads(served.sundog("predict", "digits", "--data", json.dumps({"inputs": [[[0] * 8] * 8]})))
    assert len(answer["outputs"][0]) == len(scores)


@pytest.fixture(scope="module")
def weighed(served: Team) -> Iterator[Traffic]:
    """A neighbour whose rollout is decided by evidence while the other tests go on: that takes minutes."""
    served.apply(served.digits(name="numerals", **EVIDENCE))
    served.until_stable(1, "numerals")
    with served.traffic("numerals", clients=2) as traffic:
        traffic.more(20)
        served.apply(served.digits("v2", "numerals", **EVIDENCE))
        yield traffic
    served.kubectl("delete", "mdep", "numerals")


def test_a_plan_of_evidence_is_frozen_and_kept_with_its_counts(served: Team, weighed: Traffic) -> None:
    served.until_canary(50, "numerals")
    status = served.get("numerals-r2", "mexp")["status"]
    plan = status["plan"]
    assert [(step["weight"], step["gate"]) for step in plan["steps"]] == [(50, "evidence"), (100, "none")]
    assert [(each["metric"], each["role"]) for each in plan["guardrails"]] == [
        ("errorRate", "guardrail"),
        ("rejections", "harm"),
    ]
    counted = Tallies.unpack(status["tallies"], served.get("numerals-r2", "mexp")["metadata"]["uid"])
    assert len(counted.sources) == 2, "each edge is one"
    weighed.more(20)


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
def test_what_cannot_start_is_told_in_one_line_and_stable_serves_on(
    served: Team, traffic: Traffic, mistake: str
) -> None:
    """Each is an edit while the rollout of the one before may still be under way."""
    before, (wrong, words) = stable(served), MISTAKES[mistake]
    served.apply(served.digits(**ROLLOUT, **wrong))
    line = served.until_told(*words)
    assert "\n" not in line
    assert stable(served) == before
    assert traffic.told()["answered"].keys() == {str(before)}
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


def test_evidence_alone_has_promoted_the_neighbour(served: Team, weighed: Traffic) -> None:
    served.until_stable(2, "numerals")
    status = served.get("numerals-r2", "mexp")["status"]
    assert (status["verdict"]["decision"], status["verdict"]["winner"]) == ("Promoted", "canary")
    assert {each["name"]: each["verdict"] for each in status["metrics"]}["errorRate"] == "Passed"
    requests = {arm["name"]: arm["requests"] for arm in status["arms"]}
    assert min(requests.values()) > 100
    weighed.more(20)


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
    assert served.says("Ready")[0] == "True"


def test_the_operator_was_refused_nothing_in_all_of_it(served: Team) -> None:
    """Before the API server is away in other tests: one that starts refuses for a moment what it will allow."""
    instance = served.serving.cluster.instance
    if instance is None:
        pytest.skip("only the API server of these tests writes down what accounts do")
    log = audit.log(instance)
    assert served.namespace in {use.namespace for use in audit.uses(log, account.ACCOUNT)}
    assert {use for use in audit.refusals(log, account.ACCOUNT) if use.namespace == served.namespace} == set()
