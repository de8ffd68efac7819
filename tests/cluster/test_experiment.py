"""An Experiment on a cluster, applied by kubectl, whose arm wins by what clients report, while a rollout runs beside it.

All the time a tool of Git with self-heal on applies the manifests of both, every second.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest

from git_syncs import SELF_HEAL, Syncs, syncing
from measuring.record import Record
from real_serving import CLAIM, Json, Team, Traffic, processes_of
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.kubernetes import names
from waiting import patience

pytestmark = pytest.mark.timeout(patience(1200))

READS, LETTERS, AB, MEXP = "reads", "letters", "reads-better", "experiments.serving.sundog.dev"
METRIC = "wrong"
USERS = 2000
SYNCS = 60
LITTLE: Json = {"resources": {"cpu": "100m"}}
RAMP: Json = {"rollout": {"steps": [{"weight": weight, "gate": "time", "minDuration": "20s"} for weight in (25, 50)]}}
EXPERIMENT: Json = {
    "apiVersion": "serving.sundog.dev/v1alpha1",
    "kind": "Experiment",
    "metadata": {"name": AB},
    "spec": {
        "modelDeployment": READS,
        "arms": [
            {"name": "conv", "model": {"uri": f"pvc://{CLAIM}/v2"}},
            {"name": "same", "runtime": {"env": [{"name": "RELEASE", "value": "2"}]}},
        ],
        "exposure": "100%",
        "unit": {"header": "x-user-id"},
        "metrics": {"success": [{"name": "mistakes", "feedback": METRIC, "goal": "decrease", "minimumEffect": "20%"}]},
        "onWin": "pause",
    },
}
"""Of the arms, one reads 98 % of the digits and not 89 % as control does, and one is control's equal."""


@dataclass(frozen=True)
class Compared:
    """The Experiment at work, the rollout beside it, who asks both, the tool that applies them, and what is to be kept."""

    team: Team
    reads: Traffic
    letters: Traffic
    syncs: Syncs
    record: Record

    def experiment(self) -> Json:
        return self.team.get(AB, MEXP)

    def status(self) -> Json:
        found: Json = self.experiment().get("status") or {}
        return found

    def columns(self) -> dict[str, str]:
        """Return what `kubectl get mexp -o wide` shows, by the names of its columns. Cells may be empty."""
        header, line = self.team.kubectl("get", "mexp", AB, "-o", "wide").splitlines()
        starts = [
            place for place, letter in enumerate(header) if letter != " " and header[place - 2 : place] in ("", "  ")
        ]
        cells = [slice(begin, end) for begin, end in pairwise([*starts, None])]
        return {header[cell].strip(): line[cell].strip() for cell in cells}

    def counted(self) -> dict[str, list[int]]:
        """Return by arm the units with an outcome that are stored in the Experiment, and those that had a wrong digit."""
        found = self.experiment()
        known = Counters.unpack(found["status"].get("tallies", ""), found["metadata"]["uid"]).feedback
        sums: dict[str, list[int]] = {}
        for (_, _, arm), own in known.outcomes.items():
            units, wrong = sums.get(arm, (0, 0))
            sums[arm] = [units + own.units, wrong + own.positive]
        return sums


def pods(team: Team, name: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in team.workers(name=name)}


@pytest.fixture(scope="module")
def compared(vision: Team) -> Iterator[Compared]:
    kubectl = vision.serving.kubectl
    reads, *letters = (
        vision.digits(version, name, **LITTLE, **RAMP)
        for version, name in (("v1", READS), ("v1", LETTERS), ("v2", LETTERS))
    )
    for manifest in (reads, EXPERIMENT, *letters):
        manifest["metadata"]["namespace"] = vision.namespace
    with syncing(kubectl, SELF_HEAL, reads, letters[0]) as before:
        for name in (READS, LETTERS):
            vision.until_stable(1, name)
        vision.kubectl("scale", f"mdep/{LETTERS}", "--replicas=2")
        vision.until(lambda: vision.status(LETTERS).get("readyReplicas") == 2, f"{LETTERS} has two replicas")
    assert before.problems == []
    with (
        vision.traffic(READS, users=USERS, metric=METRIC, pause_s=0.1) as asked,
        vision.traffic(LETTERS, clients=2, pause_s=0.2) as asked_too,
        syncing(kubectl, SELF_HEAL, reads, EXPERIMENT, letters[1], every_s=1.0) as syncs,
    ):
        record = Record("experiment_on_a_node", "An Experiment on the tests' node", ("what", "measured"))
        yield Compared(vision, asked, asked_too, syncs, record)
        record.finish()
    vision.kubectl("delete", "mexp", AB)
    vision.kubectl("delete", "mdep", READS, LETTERS)


def kill_store(team: Team) -> None:
    """End the server of the namespace's outcomes without a warning, and wait until its pod has started another one."""
    selector = f"{names.LABEL_NAME}={names.EDGE_STORE}"
    [pod] = team.pods(selector)
    [server] = [each for each in processes_of(pod) if each.name().endswith("-server")]
    server.kill()

    def is_back() -> bool:
        [status] = team.pods(selector)[0]["status"]["containerStatuses"]
        return bool(status["ready"]) and status["restartCount"] == 1

    team.until(is_back, "the store is back")


def kill_parts(compared: Compared) -> None:
    """End the store, the leading operator and an edge, each in the middle of reports."""
    team = compared.team
    team.until(lambda: sum(units for units, _ in compared.counted().values()) > 50, "some outcomes are counted")
    kill_store(team)
    team.until(team.serving.kill_leader, "a leader to kill")
    team.kubectl("delete", "pod", team.edges()[0]["metadata"]["name"], "--wait=false")


def test_the_arm_that_reads_better_wins_whatever_dies_meanwhile(compared: Compared) -> None:
    team, began = compared.team, time.monotonic()
    team.until(lambda: compared.status().get("phase") == "Running", "the arms have their traffic")
    compared.record.add(
        "from the end of the first sync until the arms have their traffic", f"{time.monotonic() - began:.0f}s"
    )
    if team.serving.cluster.instance is not None:
        kill_parts(compared)
    team.until(lambda: (compared.status().get("paused") or {}).get("reason") == "Won", "an arm has won")
    compared.record.add("from the end of the first sync until an arm has won", f"{time.monotonic() - began:.0f}s")
    status, shown = compared.status(), compared.columns()
    assert (status["verdict"]["decision"], status["verdict"]["winner"]) == ("Winner", "conv")
    told = (shown["READY"], shown["PHASE"], shown["PAUSED"], shown["DECISION"], shown["WINNER"])
    assert told == ("True", "Running", "Won", "Winner", "conv")
    verdicts = {each["arm"]: each["verdict"] for each in status["metrics"] if each["name"] == "mistakes"}
    assert (verdicts["conv"], verdicts["same"]) == ("Better", "Undecided")


def test_each_outcome_that_was_acknowledged_is_counted_once(compared: Compared) -> None:
    """By arm, also those that were reported after the win."""
    told = compared.reads.until(lambda told: not told["unreported"], f"{USERS} users are reported")
    assert told["refused"] == []
    assert sum(units for units, _ in told["reported"].values()) == USERS
    compared.team.until(lambda: sum(units for units, _ in compared.counted().values()) >= USERS, "all are counted")
    assert compared.counted() == told["reported"]
    for arm, (units, wrong) in sorted(told["reported"].items()):
        compared.record.add(f"users of {arm} with an outcome; with a wrong digit", f"{units}; {wrong}")


def test_no_user_has_met_two_arms(compared: Compared) -> None:
    """Each has met stable, which is control, before the arms had their traffic, and then its own."""
    met = {tuple(own) for own in compared.reads.counts()["met"].values()}
    assert all(len(set(own) - {1}) <= 1 and len(own) <= 2 for own in met), met


def test_the_rollout_beside_it_goes_on(compared: Compared) -> None:
    compared.team.until_stable(2, LETTERS)
    assert compared.letters.answered(2) > 0


def test_a_tool_that_applies_every_second_and_heals_changes_nothing(compared: Compared) -> None:
    team, syncs = compared.team, compared.syncs
    before = {name: pods(team, name) for name in (READS, LETTERS)}
    wanted = max(SYNCS, syncs.count + 5)
    team.until(lambda: syncs.count >= wanted, f"{wanted} syncs")
    compared.record.add("times that the manifests were applied and compared meanwhile", str(syncs.count))
    assert syncs.problems == []
    assert {name: pods(team, name) for name in before} == before

    experiments = [obj for obj in syncs.seen[AB] if obj.get("status")]
    assert {name: len(syncs.generations(name)) for name in (READS, LETTERS, AB)} == {READS: 1, LETTERS: 1, AB: 1}
    assert len({obj["metadata"]["uid"] for obj in experiments}) == 1
    plans = [obj["status"]["plan"]["hash"] for obj in experiments if obj["status"].get("plan")]
    assert len(set(plans)) == 1
    for grows in (lambda status: status.get("epoch", {}).get("number", 0), units):
        known = [grows(obj["status"]) for obj in experiments]
        assert known == sorted(known)

    assert {obj["spec"]["replicas"] for obj in syncs.seen[LETTERS]} == {2}, "`kubectl scale` has said so"
    assert {obj["status"]["stable"]["replicas"] for obj in syncs.seen[LETTERS]} == {2}
    assert {obj["status"]["stable"]["replicas"] for obj in syncs.seen[READS]} == {1}
    revisions = team.list("controllerrevisions")
    owners = sorted(obj["metadata"]["ownerReferences"][0]["name"] for obj in revisions)
    assert [(name, owners.count(name)) for name in (READS, LETTERS)] == [(READS, 3), (LETTERS, 2)]


def units(status: Json) -> int:
    return sum(arm.get("units", 0) for arm in status.get("arms", ()))
