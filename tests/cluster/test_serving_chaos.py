"""Whatever dies on the cluster while digits are served and rolled out: no request is lost, and the end is the one that was asked for."""

import contextlib
import random
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from charting import NAMESPACE
from real_kubernetes import control_plane
from real_serving import Json, Serving, Team, Traffic, has_store, processes_of

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]

AWAY_S = 30.0
# Long enough to be seen, and to be hit by a kill.
STEPS = [{"weight": weight, "gate": "time", "minDuration": "10s"} for weight in (25, 50)]
SEED = random.randrange(2**32)


@pytest.fixture(scope="module")
def digits(vision: Team) -> Team:
    """Two replicas of `digits` serve, of the model that serves already."""
    vision.apply(manifest(vision, model(vision) if vision.list("mdep") else "v1"))
    vision.until_stable(newest(vision))
    vision.until(lambda: vision.status()["stable"]["readyReplicas"] == len(vision.workers()) == 2, "two replicas")
    return vision


@pytest.fixture(scope="module")
def clients(digits: Team) -> Iterator[Traffic]:
    """Clients all the time."""
    with digits.traffic() as traffic:
        yield traffic


@pytest.fixture
def traffic(clients: Traffic) -> Iterator[Traffic]:
    """The same, and no request was lost in a test."""
    yield clients
    clients.more(100)
    clients.lost_nothing()


def manifest(team: Team, version: str) -> Json:
    return team.digits(version, replicas=2, rollout={"steps": STEPS})


def model(team: Team) -> str:
    """What serves: v1 or v2."""
    return str(team.status()["stable"]["uri"]).rpartition("/")[2]


def newest(team: Team) -> int:
    """The revision that the spec stands for, once it is known."""

    def known() -> int:
        found = team.get()
        status = found.get("status", {})
        current = status.get("observedGeneration") == found["metadata"]["generation"]
        last = status.get("candidate") or status.get("stable") or {}
        return int(last.get("revision", 0)) if current else 0

    return team.until(known, "the revision of the spec")


def roll_out(team: Team) -> int:
    """Begins a rollout to the other model; gives its revision."""
    team.apply(manifest(team, "v2" if model(team) == "v1" else "v1"))
    revision = newest(team)
    assert revision != team.status()["stable"]["revision"]
    return revision


def kill_leader(serving: Serving) -> bool:
    """SIGKILL for the process that holds the Lease: it has no time to say anything to anybody. False where it does not run."""
    name = serving.leader()
    pods = [pod for pod in serving.operators() if pod["metadata"]["name"] == name]
    processes = [process for pod in pods for process in processes_of(pod) if is_operator(process)]
    for process in processes:
        process.kill()
    return bool(processes)


def is_operator(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(part.endswith("/sundog-operator") for part in process.cmdline())
    return False


def test_a_rollout_reaches_its_end_whatever_becomes_of_its_operators(digits: Team, traffic: Traffic) -> None:
    serving, points = digits.serving, random.Random(SEED)
    if serving.cluster.instance is None:
        pytest.skip("the operator's processes are not on this machine")
    sys.stdout.write(f"seed {SEED}\n")
    revision = roll_out(digits)
    traffic.more(points.randrange(10, 200))
    digits.until(lambda: kill_leader(serving), "a leader to kill")
    for weight in (25, 50):
        digits.until_canary(weight)
        traffic.more(points.randrange(1, 100))
        assert digits.status()["candidate"]["weight"] == weight
        digits.until(lambda: kill_leader(serving), "a leader to kill")
    before = serving.leader()
    serving.kubectl("-n", NAMESPACE, "delete", "pod", before, "--wait=false")
    digits.until(lambda: serving.leader() not in ("", before), "another leader")
    digits.until_stable(revision)
    digits.until(lambda: len(digits.workers()) == len(digits.workers(revision)) == 2, "the pods of this revision alone")


def test_an_api_server_that_is_away_stops_a_rollout_and_no_traffic(digits: Team, traffic: Traffic) -> None:
    instance = digits.serving.cluster.instance
    if instance is None:
        pytest.skip("the API server is somebody else's")
    revision = roll_out(digits)
    digits.until_canary(25)
    with control_plane.api_server_away(instance, digits.serving.kubectl):
        left = time.monotonic()
        answered = traffic.told()["sent"]
        traffic.until(lambda _: time.monotonic() - left > AWAY_S, f"{AWAY_S:g} s without an API server")
        assert traffic.told()["sent"] > answered + 100
    digits.until_stable(revision)


def test_an_edge_that_goes_loses_nothing(digits: Team, traffic: Traffic) -> None:
    gone = digits.edges()[0]["metadata"]["name"]
    digits.kubectl("delete", "pod", gone, "--wait=false")
    traffic.more(200)
    digits.until(lambda: is_ready(digits.edges(), but=gone, count=2), "two edges again")


def test_a_head_that_goes_is_replaced_and_its_replicas_answer_on(digits: Team, traffic: Traffic) -> None:
    if not has_store():
        pytest.skip("neither valkey-server nor redis-server is on this machine")
    head = digits.heads()[0]["metadata"]["name"]
    workers = {pod["metadata"]["uid"] for pod in digits.workers()}
    digits.kubectl("delete", "pod", head, "--force", "--grace-period=0")
    digits.until(lambda: is_ready(digits.heads(), but=head, count=1), "another head")
    # Its control works: it takes a change that only it can make.
    digits.kubectl("scale", "mdep/digits", "--replicas=3")
    digits.until(lambda: digits.status()["stable"]["readyReplicas"] == 3, "a third replica")
    assert workers <= {pod["metadata"]["uid"] for pod in digits.workers()}


def test_a_worker_that_goes_loses_nothing_and_is_replaced(digits: Team, traffic: Traffic) -> None:
    workers = digits.workers()
    gone = workers[0]["metadata"]["name"]
    digits.kubectl("delete", "pod", gone, "--wait=false")
    traffic.more(200)
    digits.until(lambda: is_ready(digits.workers(), but=gone, count=len(workers)), "another worker")
    digits.until(lambda: digits.status()["stable"]["readyReplicas"] == len(workers), "as many replicas as before")
    assert digits.says("Ready")[0] == "True"


def is_ready(pods: list[Json], but: str, count: int) -> bool:
    ready = [
        pod["metadata"]["name"]
        for pod in pods
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
    ]
    return but not in ready and len(ready) == count
