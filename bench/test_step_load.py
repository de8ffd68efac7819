"""From 1 to 20 concurrent requests on a model that takes 20 ms and no CPU: how soon replicas follow, and how many.

Sundog's side is a ModelDeployment in local mode, asked through its edge. Against it, the same model server on a Ray of its own with Serve's
default `autoscaling_config` and queue, asked through Serve's proxy. Both have the same bounds. They come in turn, A B B A, each from one
replica.

An HPA on CPU has no metrics server here. What it would do is computed from the CPU of the replicas, by its documented algorithm.
"""

import asyncio
import contextlib
import json
import math
import os
import statistics
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest

from measuring import step_load
from measuring.record import Record
from measuring.step_load import Answer, Sample
from real_local import Up, instance, is_ready
from real_ray import RayServe
from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.core import revisions
from sundog_operator.core.ray import serve_config
from sundog_operator.core.revisions import Revision
from waiting import eventually

pytestmark = [pytest.mark.bench, pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(7200)]

NAME = "bench"
CLIENTS = 20
MOST = 12
"""Serve aims at two requests for each replica, so ten are enough."""
ROUNDS = int(os.environ.get("SUNDOG_BENCH_ROUNDS", "2"))
LOAD_S = float(os.environ.get("SUNDOG_BENCH_LOAD_S", "180"))
UNLOADED_S = 15.0
FACTOR = 3.0
HPA_TARGET = 0.8
BODY = json.dumps({"inputs": [[1.0, 2.0]]}).encode()
PREDICTOR = """
import time


class Model:
    def load(self, path, config):
        pass

    def predict(self, batch):
        time.sleep(0.02)
        return {"number": 1}
"""

Json = dict[str, Any]


def make_manifest(model: Path, most: int) -> Json:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"uri": f"file://{model}", "format": "python", "entrypoint": "model:Model"},
            "runtime": {"warmup": {"requests": 0}},
            # Ray counts CPU and memory, and has those of this machine.
            "resources": {"cpu": "100m", "memory": "256Mi"},
            "autoscaling": {
                "minReplicas": 1,
                "maxReplicas": most,
                "targetOngoingRequests": 2,
                "upscaleDelay": "10s",
                "downscaleFactor": "100%",
            },
        },
    }


def cpu_of_replicas(applications: Json) -> dict[int, float]:
    """Return the CPU seconds of running replicas by pid, from the document of Serve's REST API."""
    found = {}
    for application in applications.values():
        for deployment in application["deployments"].values():
            for replica in deployment["replicas"]:
                if replica["state"] == "RUNNING":
                    with contextlib.suppress(psutil.NoSuchProcess):
                        times = psutil.Process(replica["pid"]).cpu_times()
                        found[replica["pid"]] = float(times.user + times.system)
    return found


class Served(Protocol):
    """One side."""

    url: str

    def bound(self, most: int) -> None:
        """Set the most replicas."""

    def look(self) -> dict[int, float]:
        """Return the CPU seconds of running replicas by pid."""


class Sundog:
    """A deployment under `sundog local up`."""

    def __init__(self, up: Up, model: Path) -> None:
        self._up, self._model = up, model
        self.bound(1)
        up.start()
        eventually(lambda: is_ready(up.read(NAME)), "the first revision ready")
        self.url = up.read(NAME)["status"]["url"]
        _, clusters = up.api("GET", "/apis/ray.io/v1/namespaces/default/rayclusters")
        port = clusters["items"][0]["status"]["endpoints"]["dashboard"]
        token = (up.state / "ray-token").read_text().strip()
        self._serve = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/serve/applications/", headers={"Authorization": f"Bearer {token}"}
        )

    def bound(self, most: int) -> None:
        (self._up.manifests / "bench.yaml").write_text(json.dumps(make_manifest(self._model, most)))

    def look(self) -> dict[int, float]:
        with urllib.request.urlopen(self._serve, timeout=60) as answer:
            return cpu_of_replicas(json.load(answer)["applications"])


class Plain:
    """The same model server on its own Ray, with what Serve takes by default."""

    def __init__(self, ray: RayServe, model: Path) -> None:
        self._ray = ray
        spec = ModelDeploymentSpec.from_json(make_manifest(model, MOST)["spec"])
        content = revisions.content_of(spec)
        revision = Revision(1, revisions.content_hash(content), content)
        self._application = serve_config.make_application(
            "default", NAME, revision, spec, serve_config.ReplicaScale(1, 1)
        )
        self.url = f"http://{ray.fallback}{self._application['route_prefix']}"
        self.bound(1)
        ray.wait_running(self._application["name"])

    def bound(self, most: int) -> None:
        kept = ("name", "user_config", "ray_actor_options")
        [deployment] = self._application["deployments"]
        scaling = {"autoscaling_config": {"min_replicas": 1, "max_replicas": most}}
        plain = {key: deployment[key] for key in kept} | scaling
        self._ray.put({"applications": [self._application | {"deployments": [plain]}]})

    def look(self) -> dict[int, float]:
        return cpu_of_replicas(self._ray.get()["applications"])


@dataclass(frozen=True)
class Found:
    """The result of one round. Times in seconds."""

    unloaded_p99_s: float
    loaded_p99_s: float
    last_p99_s: float
    recovery_s: float
    replicas: int
    replica_s: float
    answers: int
    cores: float


async def step(side: Served) -> tuple[list[Answer], list[Sample]]:
    watching = asyncio.create_task(step_load.watch(side.look))
    answers = await step_load.drive(side.url, BODY, CLIENTS, LOAD_S)
    watching.cancel()
    return answers, await watching


def measure(side: Served) -> Found:
    """Measure a step of the load, from one replica."""
    side.bound(1)
    eventually(lambda: len(side.look()) == 1, "one replica")
    side.bound(MOST)
    unloaded = step_load.p99_s(asyncio.run(step_load.drive(side.url, BODY, 1, UNLOADED_S)))
    answers, samples = asyncio.run(step(side))
    return Found(
        unloaded,
        step_load.p99_s(answers, 0, 2 * step_load.WINDOW_S),
        step_load.p99_s(answers, LOAD_S - 4 * step_load.WINDOW_S),
        step_load.find_recovery_s(answers, FACTOR * unloaded, LOAD_S),
        max(len(each.cpu_s) for each in samples),
        step_load.replica_seconds(samples, LOAD_S),
        len(answers),
        step_load.busiest_cores(samples),
    )


@pytest.fixture
def sides(tmp_path: Path, ray_serve: RayServe) -> Iterator[dict[str, Served]]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.py").write_text(PREDICTOR)
    with instance(tmp_path) as up:
        yield {"Sundog": Sundog(up, model), "plain Ray Serve": Plain(ray_serve, model)}


def listed(values: Sequence[float], form: str, unit: str = "") -> str:
    """Return the value of each round."""
    return ", ".join("never" if value == math.inf else f"{value:{form}}{unit}" for value in values)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median over rounds of our value divided by theirs; empty where one of them never came."""
    if math.inf in (*ours, *theirs):
        return ""
    return f"{statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True)):.2f}"


def test_step_load(sides: dict[str, Served]) -> None:
    found: dict[str, list[Found]] = {name: [] for name in sides}
    for number in range(ROUNDS):
        for name in sides if number % 2 == 0 else reversed(sides):
            found[name].append(measure(sides[name]))
    ours, theirs = found["Sundog"], found["plain Ray Serve"]
    record = Record(
        "step_load",
        f"From 1 to {CLIENTS} clients of a model of 20 ms, {LOAD_S:.0f} s, {ROUNDS} interleaved rounds",
        (
            "",
            "p99 of one client, ms",
            f"p99 in the first {2 * step_load.WINDOW_S:.0f} s, ms",
            f"p99 under {FACTOR:.0f} × that of one client after",
            "p99 at the end, ms",
            "most replicas",
            "replica-seconds",
            "answers",
        ),
    )
    for name, rounds in found.items():
        record.add(
            name,
            listed([each.unloaded_p99_s * 1000 for each in rounds], ".0f"),
            listed([each.loaded_p99_s * 1000 for each in rounds], ".0f"),
            listed([each.recovery_s for each in rounds], ".0f", " s"),
            listed([each.last_p99_s * 1000 for each in rounds], ".0f"),
            listed([each.replicas for each in rounds], "d"),
            listed([each.replica_s for each in rounds], ".0f"),
            listed([each.answers for each in rounds], "d"),
        )
    record.add(
        "Sundog / plain Ray Serve",
        "",
        "",
        ratio([each.recovery_s for each in ours], [each.recovery_s for each in theirs]),
        "",
        "",
        ratio([each.replica_s for each in ours], [each.replica_s for each in theirs]),
        ratio([each.answers for each in ours], [each.answers for each in theirs]),
    )
    cores = max(each.cores for each in (*ours, *theirs))
    wanted = step_load.hpa_replicas(1, cores, HPA_TARGET)
    record.notes.append(
        f"The busiest replica used {cores:.3f} cores. With `cpu: 1`, an HPA that aims at {HPA_TARGET:.0%} of it asks for"
        f" {wanted} replica{'s' if wanted > 1 else ''} (computed)."
    )
    record.raw = {name: [asdict(each) for each in rounds] for name, rounds in found.items()}
    record.finish()
