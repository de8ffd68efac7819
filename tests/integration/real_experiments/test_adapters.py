"""The example of adapters: which of two low-rank adapters of one network reads better, on real Ray and a real HAProxy."""

import asyncio
import importlib.util
import itertools
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from real_local import stable
from sundog_feedback import AsyncFeedback
from waiting import PATIENCE_S, comes_true

pytest.importorskip("torch")
pytestmark = [pytest.mark.ray, pytest.mark.haproxy, pytest.mark.campaign]

EXAMPLES = Path(__file__).parents[3] / "examples" / "experiments"
ADAPTERS = {"control": "", "narrow": "narrow", "wide": "wide"}
CLIENTS = 4


class Reading:
    """Clients who send images, and report of each answer whether it was right, until nobody wants to know."""

    def __init__(self, site: Any, url: str, images: Any, labels: list[int]) -> None:
        self._site, self._url, self._images, self._labels = site, url, images, labels
        self._turns = itertools.cycle(range(len(labels)))
        self._going_on = True
        self.arms: Counter[str] = Counter()
        self.reported = 0

    def stop(self) -> None:
        self._going_on = False

    async def run(self) -> None:
        async with AsyncFeedback(self._url) as feedback:
            await asyncio.gather(*(self._ask(feedback) for _ in range(CLIENTS)))
        # What is reported after the end is answered 404.
        assert (feedback.counts.accepted + feedback.counts.dropped, feedback.counts.refused) == (self.reported, 0)

    async def _ask(self, feedback: AsyncFeedback) -> None:
        while self._going_on:
            image = next(self._turns)
            status, headers, answer = await self._site.ask(self._url, [self._images[image]])
            assert status == 200, answer
            self.arms[headers["x-sundog-arm"]] += 1
            if exposure := headers.get("x-sundog-exposure"):
                right = int(np.argmax(answer["outputs"][0])) == self._labels[image]
                self.reported += feedback.send(exposure=exposure, metric="correct", value=right)


def trained(folder: Path) -> tuple[dict[str, Any], Any, list[int]]:
    """The scores that each adapter gives to the held-out images, these, and their labels."""
    command = [sys.executable, str(folder / "train.py"), str(folder / "model")]
    subprocess.run(command, check=True, timeout=PATIENCE_S)
    held_out = json.loads((folder / "held-out.json").read_text())
    spec = importlib.util.spec_from_file_location("adapters_predictor", folder / "model" / "predictor.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    predictor = module.Predictor()
    predictor.load(folder / "model", {})
    scores = {}
    for adapter in ADAPTERS.values():
        predictor.configure({"adapter": adapter})
        scores[adapter] = predictor.predict(np.array(held_out["images"], np.float32))
    return scores, held_out["images"], held_out["labels"]


async def test_the_adapter_that_reads_better_wins_and_is_served_in_place(site: Any) -> None:
    folder = site.folder / "adapters"
    shutil.copytree(EXAMPLES / "adapters", folder)
    scores, images, labels = await asyncio.to_thread(trained, folder)
    reads = {name: float((own.argmax(1) == labels).mean()) for name, own in scores.items()}
    assert reads[""] < reads["narrow"] - 0.2 < reads["wide"] - 0.4
    manifest = (EXAMPLES / "adapters.yaml").read_text().replace("${MANIFEST_DIR}", str(site.folder))
    service, experiment = yaml.safe_load_all(manifest)
    site.name = experiment["metadata"]["name"]
    await site.apply(service["metadata"]["name"], manifest)

    url = site.url
    reading = Reading(site, url, images, labels)
    running = asyncio.create_task(reading.run())
    try:
        obj = await site.concludes()
    finally:
        reading.stop()
        await running
    assert obj["status"]["verdict"]["winner"] == "wide", obj["status"]["verdict"]
    assert {"control", "narrow", "wide"} <= reading.arms.keys()
    for arm in ("narrow", "wide"):
        lower, upper = site.metric(obj, arm, "accuracy")["interval"]
        assert lower < reads[arm] / reads[""] < upper, (arm, lower, upper)
        assert lower > 1

    # The winner is served by an edit of userConfig: no other revision, and the base is not loaded again.
    service["spec"]["runtime"]["userConfig"] = {"adapter": "wide"}
    await site.apply(site.service, yaml.safe_dump_all([service, experiment]))

    async def is_served() -> bool:
        status, headers, answer = await site.ask(url, images[:20])
        assert status == 200, answer
        return headers["x-sundog-arm"] == "stable" and bool(
            np.allclose(answer["outputs"], scores["wide"][:20], atol=1e-3)
        )

    await comes_true(is_served, "the winner's answers from stable")
    assert stable(site.up.read(site.service)) == 1
