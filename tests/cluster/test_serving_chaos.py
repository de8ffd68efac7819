"""Whatever dies on the cluster while digits are served and rolled out: no request is lost, and the end is the one that was asked for.

One rollout through most of it is part of `make e2e`.
Each loss by itself, at random moments and for longer, is a campaign of `make test-all`.
"""

import os
import random
import sys
import time
from collections.abc import Iterator

import pytest

from charting import NAMESPACE
from real_kubernetes import control_plane
from real_serving import Json, Team, Traffic, has_store
from waiting import patience

pytestmark = pytest.mark.timeout(patience(900))

AWAY_S = 30.0
SLOW = 8
"""Clients that take their time to send a request: fast ones alone would not tell an edge that leaves too early."""

# Long enough to be seen, and to be hit by a kill.
STEPS = [{"weight": weight, "gate": "time", "minDuration": "10s"} for weight in (25, 50)]
# Both replicas of the candidate have traffic, and it waits for all that is to be lost.
HELD = [{"weight": 60, "gate": "manual"}]
SEED = int(os.environ.get("SUNDOG_CHAOS_SEED") or random.randrange(2**32))
"""Of the moments at which operators die, and of the order of changes. The tests print it, and take one that was printed."""
CHANGES_S = 60 * float(os.environ.get("SUNDOG_CHAOS_MINUTES", "30"))
"""Time in which random changes begin. Each kind of them comes once at least."""

needs_store = pytest.mark.skipif(not has_store(), reason="neither valkey-server nor redis-server is installed")


@pytest.fixture(scope="module")
def digits(vision: Team) -> Team:
    """Two replicas of `digits` serve, of the model that serves already."""
    vision.apply(manifest(vision, model(vision) if vision.list("mdep") else "v1"))
    vision.until_stable(newest(vision))
    vision.until(lambda: replicas(vision, "stable") == len(vision.workers()) == 2, "two replicas")
    return vision


@pytest.fixture(scope="module")
def clients(digits: Team) -> Iterator[Traffic]:
    """Clients all the time, slow ones among them."""
    with digits.traffic(slow=SLOW) as traffic:
        yield traffic


@pytest.fixture
def traffic(clients: Traffic) -> Iterator[Traffic]:
    """The same, and no request was lost in a test."""
    yield clients
    clients.more(100)
    clients.lost_nothing()


def manifest(team: Team, version: str, steps: list[Json] = STEPS) -> Json:
    return team.digits(version, replicas=2, rollout={"steps": steps})


def model(team: Team) -> str:
    """What serves: v1 or v2."""
    return str(team.status()["stable"]["uri"]).rpartition("/")[2]


def replicas(team: Team, which: str) -> int:
    """How many of `stable` or of the `candidate` are ready."""
    return int((team.status().get(which) or {}).get("readyReplicas", 0))


def newest(team: Team) -> int:
    """The revision that the spec stands for, once it is known."""

    def known() -> int:
        found = team.get()
        status = found.get("status", {})
        current = status.get("observedGeneration") == found["metadata"]["generation"]
        last = status.get("candidate") or status.get("stable") or {}
        return int(last.get("revision", 0)) if current else 0

    return team.until(known, "the revision of the spec")


def roll_out(team: Team, steps: list[Json] = STEPS) -> int:
    """Begins a rollout to the other model; gives its revision."""
    team.apply(manifest(team, "v2" if model(team) == "v1" else "v1", steps))
    revision = newest(team)
    assert revision != team.status()["stable"]["revision"]
    return revision


def lose_head(team: Team) -> None:
    """Deletes it as a node does that is gone; returns when there is another."""
    head = team.heads()[0]["metadata"]["name"]
    team.kubectl("delete", "pod", head, "--force", "--grace-period=0")
    team.until(lambda: is_ready(team.heads(), but=head, count=1), "another head")


def delete(team: Team, pod: Json) -> str:
    """Asks for a pod's end; gives its name."""
    name = str(pod["metadata"]["name"])
    team.kubectl("delete", "pod", name, "--wait=false")
    return name


def is_ready(pods: list[Json], but: str, count: int) -> bool:
    ready = [
        pod["metadata"]["name"]
        for pod in pods
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
    ]
    return but not in ready and len(ready) == count


@needs_store
def test_a_step_outlives_its_operator_its_head_a_worker_and_an_edge(served: Team) -> None:
    serving = served.serving
    if serving.cluster.instance is None:
        pytest.skip("the operator's processes are not on this machine")
    revision = roll_out(served, HELD)
    # Digits are read in milliseconds: an edge that cuts its requests off is seen by those that last.
    with served.traffic(slow=SLOW) as traffic:
        served.until_canary(60)
        served.until(lambda: replicas(served, "stable") == replicas(served, "candidate") == 2, "two replicas of each")
        served.until(serving.kill_leader, "a leader to kill")
        lose_head(served)
        worker, edge = delete(served, served.workers(revision)[0]), delete(served, served.edges()[0])
        traffic.more(100)
        held = served.status()["candidate"]
        assert (held["revision"], held["weight"]) == (revision, 60)

        served.sundog("promote", "digits")
        served.until_stable(revision)
        served.until(lambda: len(served.workers()) == 2, "the pods of this revision alone")
        served.until(lambda: is_ready(served.workers(revision), but=worker, count=2), "another worker")
        served.until(lambda: is_ready(served.edges(), but=edge, count=2), "two edges again")
        served.until(lambda: replicas(served, "stable") == 2, "two replicas")
        assert served.condition_state("Ready")[0] == "True"


@pytest.mark.campaign
def test_a_rollout_reaches_its_end_whatever_becomes_of_its_operators(digits: Team, traffic: Traffic) -> None:
    serving, points = digits.serving, random.Random(SEED)
    if serving.cluster.instance is None:
        pytest.skip("the operator's processes are not on this machine")
    sys.stdout.write(f"SUNDOG_CHAOS_SEED={SEED}\n")
    revision = roll_out(digits)
    traffic.more(points.randrange(10, 200))
    digits.until(serving.kill_leader, "a leader to kill")
    for weight in (25, 50):
        digits.until_canary(weight)
        traffic.more(points.randrange(1, 100))
        assert digits.status()["candidate"]["weight"] == weight
        digits.until(serving.kill_leader, "a leader to kill")
    before = serving.leader()
    serving.kubectl("-n", NAMESPACE, "delete", "pod", before, "--wait=false")
    digits.until(lambda: serving.leader() not in ("", before), "another leader")
    digits.until_stable(revision)
    digits.until(lambda: len(digits.workers()) == len(digits.workers(revision)) == 2, "the pods of this revision alone")


@pytest.mark.campaign
def test_an_api_server_that_is_away_stops_a_rollout_and_no_traffic(digits: Team, traffic: Traffic) -> None:
    instance = digits.serving.cluster.instance
    if instance is None:
        pytest.skip("the API server is somebody else's")
    revision = roll_out(digits)
    digits.until_canary(25)
    with control_plane.api_server_away(instance, digits.serving.kubectl):
        left = time.monotonic()
        answered = traffic.counts()["sent"]
        traffic.until(lambda _: time.monotonic() - left > AWAY_S, f"{AWAY_S:g} s without an API server")
        assert traffic.counts()["sent"] > answered + 100
    digits.until_stable(revision)


@pytest.mark.campaign
def test_an_edge_that_goes_loses_nothing(digits: Team, traffic: Traffic) -> None:
    gone = delete(digits, digits.edges()[0])
    traffic.more(200)
    digits.until(lambda: is_ready(digits.edges(), but=gone, count=2), "two edges again")


@pytest.mark.campaign
@needs_store
def test_a_head_that_goes_is_replaced_and_its_replicas_answer_on(digits: Team, traffic: Traffic) -> None:
    workers = {pod["metadata"]["uid"] for pod in digits.workers()}
    lose_head(digits)
    # Its control works: it takes a change that only it can make.
    digits.kubectl("scale", "mdep/digits", "--replicas=3")
    digits.until(lambda: replicas(digits, "stable") == 3, "a third replica")
    assert workers <= {pod["metadata"]["uid"] for pod in digits.workers()}


@pytest.mark.campaign
def test_a_worker_that_goes_loses_nothing_and_is_replaced(digits: Team, traffic: Traffic) -> None:
    workers = digits.workers()
    gone = delete(digits, workers[0])
    traffic.more(200)
    digits.until(lambda: is_ready(digits.workers(), but=gone, count=len(workers)), "another worker")
    digits.until(lambda: replicas(digits, "stable") == len(workers), "as many replicas as before")
    assert digits.condition_state("Ready")[0] == "True"


def scale(team: Team, points: random.Random) -> None:
    count = points.randint(1, 3)
    team.kubectl("scale", "mdep/digits", f"--replicas={count}")
    team.until(lambda: team.status()["stable"]["replicas"] == count, f"{count} replicas wanted")


def promote(team: Team, points: random.Random) -> None:
    team.until_stable(roll_out(team))


def abort(team: Team, points: random.Random) -> None:
    """Abort a rollout in its middle, and take the change out of the manifest, as a team does in Git."""
    before = model(team)
    roll_out(team, HELD)
    team.until_canary(60)
    team.sundog("abort", "digits")
    team.until(lambda: "candidate" not in team.status(), "the end of the rollout")
    team.apply(manifest(team, before, HELD))


def drain(team: Team, points: random.Random) -> None:
    """Evict an edge and a worker, as a drain of their node does. A lone worker has no other that could answer meanwhile."""
    workers = team.workers()
    evict(team, points.choice(team.edges()))
    if len(workers) > 1:
        evict(team, points.choice(workers))


def evict(team: Team, pod: Json) -> None:
    team.until(lambda: team.evict(pod) == "", "an eviction that the budget allows")


def lose_worker(team: Team, points: random.Random) -> None:
    workers = team.workers()
    if len(workers) > 1:
        delete(team, points.choice(workers))


def lose_operator(team: Team, points: random.Random) -> None:
    team.until(team.serving.kill_leader, "a leader to kill")


def until_calm(team: Team) -> None:
    """Wait until all is over that the last change began: no rollout, as many pods as replicas, and none that ends."""

    def is_calm() -> bool:
        status, wanted = team.status(), team.get()["spec"]["replicas"]
        pods = [*team.workers(), *team.edges()]
        return (
            "candidate" not in status
            and replicas(team, "stable") == wanted
            and is_ready(pods, but="", count=wanted + 2)
            and not any("deletionTimestamp" in pod["metadata"] for pod in pods)
            and team.condition_state("Ready")[0] == "True"
        )

    team.until(is_calm, "an end of the last change")


@pytest.mark.campaign
@pytest.mark.timeout(CHANGES_S + patience(2 * 900))
def test_half_an_hour_of_random_changes_loses_no_request(digits: Team, traffic: Traffic) -> None:
    """Scales, rollouts, drains and losses in a random order, each while a random number of further clients ask."""
    if digits.serving.cluster.instance is None:
        pytest.skip("the operator's processes are not on this machine")
    changes = [scale, promote, abort, drain, lose_worker, lose_operator]
    points, began, made = random.Random(SEED), time.monotonic(), 0
    sys.stdout.write(f"SUNDOG_CHAOS_SEED={SEED}\n")
    while made < len(changes) or time.monotonic() - began < CHANGES_S:
        for change in points.sample(changes, len(changes)):
            with digits.traffic(clients=points.randint(1, 8), pod="digits-burst") as burst:
                change(digits, points)
                burst.more(points.randint(20, 200))
                until_calm(digits)
            made += 1
            sys.stdout.write(f"{time.monotonic() - began:.0f} s: {change.__name__}\n")
    sys.stdout.write(f"{made} changes, {traffic.counts()['sent']} requests\n")
