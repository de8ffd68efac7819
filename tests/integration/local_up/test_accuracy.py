"""Which of two networks reads digits better, decided by labels that come late: through real Ray, HAProxy and the store of outcomes."""

import asyncio
import itertools
import json
from collections import Counter, deque
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import analysis_script
from experiment_statuses import has_judged
from real_local import EXPERIMENTS, Up, is_ready
from sundog_feedback import AsyncFeedback, Counts
from sundog_operator.core.analysis.counters import Counters
from waiting import eventually

pytest.importorskip("torch")
pytestmark = [pytest.mark.ray, pytest.mark.haproxy, pytest.mark.campaign]

NAME = "reads-better"
LATE = 400
"""Requests that are answered until the label of one is known."""

CLIENTS = 4
Json = dict[str, Any]


def service() -> Json:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits"},
        "spec": {
            "model": {"uri": "file://${MANIFEST_DIR}/../models/linear", "entrypoint": "net:Net"},
            "rollout": {"warmup": {"requests": 50, "duration": "10s"}},
        },
    }


def experiment(models: Path) -> Json:
    arms = [{"name": "conv", "model": {"uri": f"file://{models}/conv"}}, {"name": "again"}]
    accuracy = {"name": "accuracy", "feedback": "correct", "type": "mean", "minimumEffect": "5%"}
    mistakes = {"name": "mistakes", "feedback": "wrong", "goal": "decrease"}
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": NAME, "namespace": "default"},
        "spec": {
            "modelDeployment": "digits",
            "arms": arms,
            "exposure": "90%",
            "metrics": {"success": [accuracy], "secondary": [mistakes]},
            "onWin": "pause",
        },
    }


class Reading:
    """Clients who send images without a stop, and somebody who knows the labels later."""

    def __init__(self, url: str, images: list[Any], labels: list[int]) -> None:
        self._url, self._labels = url, labels
        self._bodies = [json.dumps({"inputs": [image]}).encode() for image in images]
        self._turns = itertools.cycle(range(len(labels)))
        self._waiting: deque[tuple[str, bool]] = deque()
        self._going_on = True
        self.told = 0
        self.read: Counter[tuple[int, str]] = Counter()
        self.right: Counter[tuple[int, str]] = Counter()
        self.failed: list[Any] = []

    def stop(self) -> None:
        self._going_on = False

    async def run(self) -> Counts:
        async with aiohttp.ClientSession() as session, AsyncFeedback(self._url.rstrip("/")) as feedback:
            await asyncio.gather(*(self._ask(session, feedback) for _ in range(CLIENTS)))
            while self._waiting:
                self._tell(feedback)
        return feedback.counts

    def _tell(self, feedback: AsyncFeedback) -> None:
        exposure, right = self._waiting.popleft()
        self.told += 2 - right
        feedback.send(exposure=exposure, metric="correct", value=right)
        if not right:
            feedback.send(exposure=exposure, metric="wrong")

    async def _ask(self, session: aiohttp.ClientSession, feedback: AsyncFeedback) -> None:
        while self._going_on:
            image = next(self._turns)
            headers = {"content-type": "application/json"}
            async with session.post(self._url, data=self._bodies[image], headers=headers) as response:
                answer, arm = await response.json(), response.headers.get("x-sundog-arm", "")
                exposure = response.headers.get("x-sundog-exposure")
            if response.status != 200:
                self.failed.append(answer)
                continue
            scores = answer["outputs"][0]
            right = max(range(10), key=scores.__getitem__) == self._labels[image]
            if exposure is not None:
                self.read[int(exposure.split("~")[2]), arm] += 1
                self.right[int(exposure.split("~")[2]), arm] += right
                self._waiting.append((exposure, right))
            if len(self._waiting) > LATE:
                self._tell(feedback)
            await asyncio.sleep(0.005)


def trained(models: Path) -> tuple[dict[str, float], list[Any], list[int]]:
    """The share that each network reads right of the images that it was not trained on, those images, and their labels."""
    import torch

    from sundog_operator.shell.demo import training

    torch.set_num_threads(1)
    digits = training.read_digits()
    reached = {}
    for recipe in (
        training.TrainingRecipe("linear", "linear", 10, 0.01),
        training.TrainingRecipe("conv", "conv", 2, 0.01),
    ):
        net = training.train(recipe, digits, lambda *_: None)
        reached[recipe.name] = training.measure_accuracy(net, digits)
        training.write_model(models / recipe.name, recipe.code, net)
    return reached, digits.held_out_images.int().tolist(), digits.held_out_labels.tolist()


def read(up: Up) -> Json:
    status, obj = up.api("GET", f"{EXPERIMENTS}/{NAME}")
    assert status == 200, obj
    return obj


def has_won(up: Up) -> Json | None:
    obj = read(up)
    assert obj["status"].get("phase") not in ("Stopped", "Concluded"), obj["status"]["verdict"]
    return obj if (obj["status"].get("paused") or {}).get("reason") == "Won" else None


def is_plain(up: Up) -> bool:
    lower, *_ = (*found(read(up), "conv").get("interval", ()), 0.0)
    return lower > 1.02


def feedback(up: Up) -> Json:
    return dict(up.evidence()["services"]["digits"]["feedback"])


def stored(told: Json) -> dict[tuple[int, str], int]:
    """Units with a label by epoch and arm, as the edge tells them."""
    return {(epoch, arm): units for metric, epoch, arm, units, *_ in told["outcomes"] if metric == "correct"}


def has_seen_all(up: Up, labels: int) -> Json | None:
    """The Experiment, once the operator has written what the store holds of so many labels."""
    told = feedback(up)
    if sum(stored(told).values()) < labels:
        return None
    obj = read(up)
    return obj if has_judged(obj, told) else None


def found(obj: Json, arm: str, name: str = "accuracy") -> Json:
    return next(dict(each) for each in obj["status"]["metrics"] if (each["arm"], each["name"]) == (arm, name))


async def test_the_network_that_reads_better_wins_by_labels_that_come_late(up: Up, tmp_path: Path) -> None:
    models = up.manifests.parent / "models"
    reached, images, labels = trained(models)
    assert 0.05 < reached["conv"] - reached["linear"] < 0.15
    (up.manifests / "digits.yaml").write_text(json.dumps(service()))
    up.start()
    await asyncio.to_thread(eventually, lambda: is_ready(up.read("digits")), "digits serve")
    status, told = up.api("POST", EXPERIMENTS, experiment(models))
    assert status == 201, told

    reading = Reading(up.read("digits")["status"]["url"], images, labels)
    running = asyncio.create_task(reading.run())
    try:
        obj = await asyncio.to_thread(eventually, lambda: has_won(up), "an arm has won")
        assert found(obj, "conv")["verdict"] == "Better"
        # What is sure at every evaluation is not the same at every evaluation: a win by a little is one by more later.
        await asyncio.to_thread(eventually, lambda: is_plain(up), "it is plain")
    finally:
        reading.stop()
        counts = await running
    obj = await asyncio.to_thread(eventually, lambda: has_seen_all(up, reading.read.total()), "all outcomes judged")

    assert obj["status"]["verdict"]["winner"] == "conv"
    assert found(obj, "again")["verdict"] in ("Undecided", "NoEffect")
    truth = reached["conv"] / reached["linear"]
    lower, upper = found(obj, "conv")["interval"]
    assert lower < truth < upper, (lower, truth, upper)
    assert lower > 1
    lower, upper = found(obj, "again")["interval"]
    assert lower < 1 < upper

    assert not reading.failed
    assert (counts.accepted, counts.duplicate, counts.refused, counts.dropped) == (reading.told, 0, 0, 0)
    assert stored(feedback(up)) == reading.read
    seen = Counters.unpack(obj["status"]["tallies"], obj["metadata"]["uid"]).feedback
    evidence = [epoch["number"] for epoch in obj["status"]["evidenceEpochs"]]
    for place in ((epoch, arm) for epoch in evidence for arm in ("control", "conv", "again")):
        assert seen.of("correct", *place)[:1] == (reading.read[place],)
        assert seen.of("correct", *place).total == reading.right[place] * 1_000_000

    out = tmp_path / "out"
    done = await asyncio.to_thread(up.sundog, "experiment", "export", NAME, "--to", str(out))
    assert done.returncode == 0, done.stderr
    plan = json.loads((out / "plan.json").read_text())
    assert plan["complete"]
    assert plan["judged"]["sequence"] == plan["feedback"]["sequence"]
    here, decision, winner = analysis_script.load().analyse(out)
    assert (decision, winner) == ("Winner", "conv")
    for arm in ("conv", "again"):
        own, theirs = here["accuracy"][arm], found(obj, arm)
        assert own["verdict"] == theirs["verdict"]
        assert [1 + own["uplift"], 1 + own["lower"], 1 + own["upper"]] == [theirs["ratio"], *theirs["interval"]]

    assert up.api("PATCH", f"{EXPERIMENTS}/{NAME}", {"spec": {"stopped": True}})[0] == 200
    await asyncio.to_thread(eventually, lambda: read(up)["status"]["phase"] == "Concluded", "it has run its course")
    described = await asyncio.to_thread(up.sundog, "describe", "mexp", NAME)
    assert "Winner: accuracy of conv is " in described.stdout, described.stderr
    reported = await asyncio.to_thread(up.sundog, "experiment", "report", NAME)
    assert "conv: accuracy" in reported.stdout, reported.stderr
