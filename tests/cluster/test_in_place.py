"""Candidates in place on a node that has as many devices as the service has replicas, and none more.

The scheduler, the kubelet, KubeRay, Ray's autoscaler, Serve and the edges are real; the devices are advertised, and there are none.
"""

import contextlib
import itertools
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from real_kubernetes import node
from real_kubernetes.cluster import BINARIES
from real_local import condition
from real_serving import CLAIM, MDEP, Json, Serving, Team, processes_of
from sundog_operator.core.kubernetes import names
from waiting import patience

# Each walks for minutes, for Ray gives an idle pod back only after a while.
pytestmark = [pytest.mark.campaign, pytest.mark.timeout(patience(900))]

GPU = "nvidia.com/gpu"
NAME = "seer"
REPLICAS = 2
SCORES = [[[0] * 8] * 8]
VERSIONS = range(1, 7)

PREDICTOR = """
import json

import numpy as np


class Predictor:
    def load(self, path, config):
        self.says = json.loads((path / "says.json").read_text())

    def example(self):
        return np.ones((1, 8, 8), np.float32)

    def predict(self, batch):
        if self.says["fails"] and not np.asarray(batch).any():
            raise RuntimeError("of no use to anybody but the warm-up")
        return np.eye(10, dtype=np.float32)[[self.says["digit"]] * len(batch)]
"""
FAILS = "fails"


@dataclass
class Told:
    """What was written of the ModelDeployment while the block ran, one status after the other."""

    statuses: list[Json] = field(default_factory=list)

    def of(self, type_: str) -> list[tuple[str, str, str]]:
        """Status, reason and message of a condition, each as it changed."""
        found = [condition({"status": status}, type_) for status in self.statuses]
        said = [(each.get("status", ""), each.get("reason", ""), each.get("message", "")) for each in found]
        return [each for each, _ in itertools.groupby(said)]

    def reasons(self, type_: str) -> set[str]:
        return {reason for _, reason, _ in self.of(type_)}

    def before(self, reason: str) -> set[str]:
        """What `RevisionReady` said right before that reason, or instead of it while pods of the new revision had no node.

        The scheduler looks again a moment after the other pod has gone, and its last word stands until then.
        """
        said = self.of("RevisionReady")
        waits = {message for _, _, message in said if "to terminate" in message}
        return waits | {told for (_, _, told), (_, found, _) in itertools.pairwise(said) if found == reason}

    def most_replicas(self) -> int:
        """That were ever wanted of stable and a candidate together."""
        both = ((status.get("stable"), status.get("candidate")) for status in self.statuses)
        return max(sum(each["replicas"] for each in shown if each) for shown in both)


@dataclass(frozen=True)
class Seer:
    """A service of two replicas, and its node of two devices."""

    team: Team
    unused: Iterator[int] = field(default_factory=lambda: iter(VERSIONS))

    def apply(self, model: str, **rollout: Any) -> None:
        spec = {
            "model": {"uri": f"pvc://{CLAIM}/{model}", "entrypoint": "predictor:Predictor"},
            "resources": {"cpu": "100m", "memory": "1Gi", "gpu": {"count": 1}},
            "replicas": REPLICAS,
            "rollout": {"steps": [{"weight": 50, "gate": "manual"}], **rollout},
        }
        head = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": NAME}}
        self.team.apply({**head, "spec": spec})

    def release(self, **rollout: Any) -> int:
        """The revision that a model becomes that was not there before."""
        before = self.newest()
        self.apply(f"v{next(self.unused)}", **rollout)
        self.team.until(lambda: self.newest() > before, "another revision")
        return self.newest()

    def stable(self) -> int:
        return int(self.team.status(NAME)["stable"]["revision"])

    def newest(self) -> int:
        status = self.team.status(NAME)
        shown = [status.get("stable"), status.get("candidate"), status.get("lastRollout")]
        return max((each["revision"] for each in shown if each), default=0)

    def until_whole(self, revision: int) -> None:
        """It serves alone, with both replicas, on both devices."""
        self.team.until_stable(revision, NAME)
        self.team.until(lambda: self.team.status(NAME)["stable"]["readyReplicas"] == REPLICAS, "both replicas answer")
        self.team.until(lambda: self.holders() == {revision: REPLICAS}, f"both devices are revision {revision}'s")

    def holders(self) -> dict[int, int]:
        """How many devices pods of each revision hold, those that end included."""
        found: dict[int, int] = {}
        for pod in self.team.list("pods", f"{names.LABEL_MODEL_DEPLOYMENT}={NAME}"):
            if pod["spec"].get("nodeName") and pod["status"].get("phase") not in ("Succeeded", "Failed"):
                revision = int(pod["metadata"]["labels"][names.LABEL_REVISION])
                found[revision] = found.get(revision, 0) + 1
        return found

    def replicas(self, revision: int) -> dict[str, set[int]]:
        """The processes of replicas by the pod that they run in."""
        title = f"ray::ServeReplica:{names.application(NAME, revision)}:"
        found = {}
        for pod in self.team.workers(revision, NAME):
            own = {each.pid for each in processes_of(pod) if title in " ".join(each.cmdline())}
            found[pod["metadata"]["name"]] = own
        return found

    @contextlib.contextmanager
    def watched(self, file: Path) -> Iterator[Told]:
        command = (
            str(self.team.serving.kubectl.program),
            "-n",
            self.team.namespace,
            "get",
            MDEP,
            NAME,
            "-w",
            "-o",
            "json",
        )
        told = Told()
        with file.open("w") as output:
            process = subprocess.Popen(command, env=self.team.environment(), stdout=output)
            try:
                yield told
            finally:
                process.terminate()
                process.wait()
        told.statuses += [obj["status"] for obj in documents(file.read_text())]


def documents(text: str) -> Iterator[Json]:
    """One after the other, as `kubectl` writes them; the last one may have been cut off."""
    decoder, place = json.JSONDecoder(), 0
    with contextlib.suppress(ValueError):
        while place < len(text):
            found, place = decoder.raw_decode(text, place)
            place += len(text[place:]) - len(text[place:].lstrip())
            yield found


@pytest.fixture(scope="module")
def seer(serving: Serving) -> Iterator[Seer]:
    """Both replicas answer."""
    models = {f"v{digit}" if digit else FAILS: digit for digit in (*VERSIONS, 0)}
    files = {f"{model}/predictor.py": PREDICTOR for model in models}
    files |= {f"{model}/says.json": json.dumps({"digit": digit, "fails": not digit}) for model, digit in models.items()}
    held_out = {"held-out.json": json.dumps({"images": SCORES, "labels": [0]})}
    with serving.team_with_models("placed", files) as team:
        team.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "held-out"}, "data": held_out})
        instance = serving.cluster.instance
        assert instance is not None
        node.advertise(instance, BINARIES, GPU, REPLICAS)
        try:
            made = Seer(team)
            made.apply(f"v{next(made.unused)}")
            made.until_whole(1)
            yield made
        finally:
            node.advertise(instance, BINARIES, GPU, 0)


@pytest.mark.parametrize("capacity", ["inPlace", "auto"])
def test_a_candidate_takes_the_places_of_replicas_that_have_drained(seer: Seer, tmp_path: Path, capacity: str) -> None:
    team, before = seer.team, seer.stable()
    were = seer.replicas(before)
    assert [len(processes) for processes in were.values()] == [1, 1]
    with seer.watched(tmp_path / "told.json") as told, team.traffic(NAME, clients=2) as traffic:
        traffic.more(20)
        after = seer.release(capacity=capacity)
        team.until_canary(50, NAME)
        assert seer.holders() == {before: 1, after: 1}
        # Its replica is the one that it had: what went was the pod whose replica had drained.
        assert seer.replicas(before).items() <= were.items()
        capacity_told = team.status(NAME)["capacity"]
        assert (capacity_told["mode"], capacity_told["gpusAllocated"]) == ("inPlace", REPLICAS)
        assert (capacity_told["neededReplicas"], capacity_told["spareReplicas"]) == (REPLICAS, 0)
        traffic.until(lambda all_: all_["answered"].get(str(after), 0) > 20, "the candidate answers")
        first = seer.replicas(after)
        team.sundog("promote", NAME)
        seer.until_whole(after)
        assert first.items() <= seer.replicas(after).items()
    assert told.reasons("RevisionReady") <= {"Ready", "Deploying", "Unschedulable"}
    assert told.before("Unschedulable") == {f"revision {after}: waits for 1 pod of revision {before} to terminate"}
    assert {(status, reason) for status, reason, _ in told.of("Ready")} == {("True", "Serving")}
    assert told.reasons("CapacityAvailable") == {"Fits"}
    assert told.reasons("Stalled") == {""}
    assert told.most_replicas() == REPLICAS + 1


def test_one_that_fails_what_it_gets_gives_its_place_back(seer: Seer, tmp_path: Path) -> None:
    team, before, bad = seer.team, seer.stable(), seer.newest() + 1
    with seer.watched(tmp_path / "told.json") as told, team.traffic(NAME, clients=2, failing=bad) as traffic:
        # Without a gate of evidence none is weighed, and nobody would look.
        seer.apply(FAILS, steps=[{"weight": 50}], warmup={"requests": 20, "duration": "10s"})
        team.until(lambda: (team.status(NAME).get("lastRollout") or {}).get("revision") == bad, "its end")
        seer.until_whole(before)
        answered = traffic.counts()
        traffic.more(100)
        assert traffic.counts()["failed"] == answered["failed"] > 0
    assert team.status(NAME)["lastRollout"]["outcome"] == "RolledBack"
    assert "in 30 s, while stable did not" in team.status(NAME)["lastRollout"]["reason"]
    assert "RollingBack" in told.reasons("Progressing")
    assert {status for status, _, _ in told.of("Ready")} == {"True"}


def test_what_is_aborted_gives_its_place_back_and_loses_nothing(seer: Seer, tmp_path: Path) -> None:
    team, before = seer.team, seer.stable()
    with seer.watched(tmp_path / "told.json") as told, team.traffic(NAME, clients=2) as traffic:
        after = seer.release(capacity="inPlace")
        team.until_canary(50, NAME)
        traffic.until(lambda all_: all_["answered"].get(str(after), 0) > 20, "the candidate answers")
        were = seer.replicas(before)
        team.sundog("abort", NAME)
        seer.until_whole(before)
        assert were.items() <= seer.replicas(before).items()
    assert team.status(NAME)["lastRollout"]["outcome"] == "Aborted"
    assert "RollingBack" in told.reasons("Progressing")
    assert {status for status, _, _ in told.of("Ready")} == {"True"}
