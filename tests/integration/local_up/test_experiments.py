"""Experiments of users through real Ray Serve and a real HAProxy: two at once, on two services of one namespace."""

import http.client
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from scipy.stats import chi2_contingency

from real_local import EXPERIMENTS, is_ready
from waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.ray, pytest.mark.haproxy, pytest.mark.campaign]

USERS = 240
SERVICES = ("letters", "digits")
PREDICTOR = """
class Model:
    def load(self, path, config):
        self.fails = config.get("fails", False)

    def predict(self, batch):
        if self.fails:
            raise ValueError("this arm cannot do that")
        return batch
"""

Json = dict[str, Any]


def manifest(name: str) -> Json:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "file://${MANIFEST_DIR}/../echo", "format": "python", "entrypoint": "model:Model"},
            "runtime": {"warmup": {"requests": 0}},
            "rollout": {"warmup": {"requests": 20, "duration": "10s"}},
        },
    }


def experiment(name: str, service: str, *arms: Json, **spec: Any) -> Json:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"modelDeployment": service, "arms": list(arms), "unit": {"header": "x-user-id"}, **spec},
    }


class Asking:
    """Users who ask a service in turn, and where each was answered."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self.arms: dict[int, list[str]] = defaultdict(list)
        self.failed: list[tuple[int, str]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._url.netloc, timeout=PATIENCE_S)
        turn = 0
        while not self._stop.wait(0.01):
            user = turn % USERS
            turn += 1
            body = json.dumps({"inputs": [[7.0]]}).encode()
            headers = {"content-type": "application/json", "x-user-id": f"user-{user}"}
            connection.request("POST", self._url.path, body, headers)
            response = connection.getresponse()
            response.read()
            arm = response.getheader("x-sundog-arm", "")
            self.arms[user].append(arm)
            if response.status != 200:
                self.failed.append((response.status, arm))
        connection.close()


@pytest.fixture
def asking(up: Any) -> Iterator[Callable[[str], Asking]]:
    made: list[Asking] = []

    def make(service: str) -> Asking:
        made.append(Asking(up.read(service)["status"]["url"]))
        return made[-1]

    yield make
    for each in made:
        each.stop()


AGAIN, BAD = {"name": "again"}, {"name": "bad", "model": {"config": {"fails": True}}}
MADE = {
    "with-bad": experiment(
        "with-bad", "letters", AGAIN, BAD, exposure="80%", weights={"control": 40, "again": 40, "bad": 20}
    ),
    "a-a": experiment("a-a", "digits", AGAIN, exposure="60%"),
}


class World:
    """Both services, and the experiments on them."""

    def __init__(self, up: Any) -> None:
        self.up = up
        folder = up.manifests.parent / "echo"
        folder.mkdir()
        (folder / "model.py").write_text(PREDICTOR)
        for service in SERVICES:
            (up.manifests / f"{service}.yaml").write_text(json.dumps(manifest(service)))
        up.start()
        eventually(lambda: all(is_ready(up.read(service)) for service in SERVICES), "both serving")

    def read(self, name: str) -> Json:
        _, obj = self.up.api("GET", f"{EXPERIMENTS}/{name}")
        return obj["status"]

    def begin(self) -> None:
        for each in MADE.values():
            status, told = self.up.api("POST", EXPERIMENTS, each)
            assert status == 201, told
        self.reach("Running")
        eventually(lambda: all(self.read(name)["epoch"]["confirmed"] for name in MADE), "both in force")

    def reach(self, phase: str) -> None:
        eventually(lambda: all(self.read(name).get("phase") == phase for name in MADE), f"both {phase}")

    def stop(self) -> None:
        for name in MADE:
            assert self.up.api("PATCH", f"{EXPERIMENTS}/{name}", {"spec": {"stopped": True}})[0] == 200
        self.reach("Stopped")
        eventually(lambda: all(map(self.is_clean, SERVICES)), "nothing of them left")

    def is_clean(self, service: str) -> bool:
        status = self.up.read(service)["status"]
        return not status["retiring"] and "arms" not in status and not status["experiment"]

    def dropped(self) -> Json | None:
        """The arms by name, once one was dropped."""
        arms = {arm["name"]: arm for arm in self.read("with-bad")["arms"]}
        return arms if "dropped" in arms["bad"] else None


def asked_again(own: Asking) -> None:
    """Wait until everybody was answered twice from now on: once by whatever is in force now."""
    asked = {user: len(told) for user, told in own.arms.items()}
    eventually(lambda: all(len(own.arms[user]) > asked[user] + 1 for user in asked), "everybody asked again")


def test_two_experiments_at_once_assign_independently_and_one_drops_the_arm_that_fails(
    up: Any, asking: Callable[[str], Asking]
) -> None:
    world = World(up)
    world.begin()
    letters, digits = asking("letters"), asking("digits")
    eventually(lambda: min(len(letters.arms), len(digits.arms)) == USERS, "everybody asked once")
    mine, other = ({user: told[0] for user, told in own.arms.items()} for own in (letters, digits))
    pairs = Counter((mine[user], other[user]) for user in range(USERS))
    table = [[pairs[a, b] for b in ("stable", "control", "again")] for a in ("stable", "control", "again", "bad")]
    assert pairs.total() == sum(map(sum, table))
    assert chi2_contingency(table).pvalue > 1e-4, table

    arms = eventually(world.dropped, "the arm that fails dropped")
    assert arms["bad"]["dropped"].startswith("Harm: ")
    assert [arms[name]["weight"] for name in ("stable", "control", "again", "bad")] == [36, 32, 32, 0]
    eventually(lambda: not up.read("letters")["status"]["retiring"], "its replicas gone")
    asked_again(letters)
    # Who was with the arm is outside of the experiment now, and all others are where they were from the first request on.
    moved = [user for user in mine if mine[user] == "bad"]
    assert {letters.arms[user][-1] for user in moved} == {"stable"}
    assert all(set(told) == {mine[user]} for user, told in letters.arms.items() if user not in moved)
    assert all(set(told) == {other[user]} for user, told in digits.arms.items())
    assert world.read("a-a")["phase"] == "Running"
    described = up.sundog("describe", "mexp", "with-bad")
    assert "0 % (dropped)" in described.stdout, described.stderr

    world.stop()
    for own in (letters, digits):
        asked_again(own)
        own.stop()
        assert {told[-1] for told in own.arms.values()} == {"stable"}
        assert {arm for _, arm in own.failed} <= {"bad"}
    assert letters.failed
