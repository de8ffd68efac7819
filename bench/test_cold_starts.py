"""Time of a request at zero replicas, against the same application at zero on a bare Ray Serve. Pairs are interleaved in one run.

Both sides have the same model server with a small PyTorch network, and both requests are held while Ray starts a process for it: by HAProxy
and Serve's proxy here, by Serve's proxy alone there. Before each pair both are left alone for a while, as a service at zero is.
"""

import http.client
import json
import re
import statistics
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from measuring.record import Record
from real_local import Up, instance, is_at_zero, is_ready, save_network
from real_ray import RayServe
from sundog_operator.api import ModelDeploymentSpec, parse_duration
from sundog_operator.core import revisions
from sundog_operator.core.ray import serve_config
from sundog_operator.core.ray.scaling import find_scaling
from sundog_operator.core.revisions import Revision
from waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.bench, pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(3600)]

PAIRS = 10
IDLE_S = 20.0
"""Time at zero before a pair. The kernel may give memory of idle processes to others, which the next start reads again."""
BATCH = [[1.0, 2.0, 3.0, 4.0]]
BODY = json.dumps({"inputs": BATCH}).encode()
NAME = "bench"
PHASES = ("ray", "download", "load", "warmup")
"""The phases that are Ray's and the model's. `ray` is the start of the replica's process, with its imports."""

PARTS = {
    "Serve decides": ("controller_*", "Upscaling Deployment"),
    "Serve calls the process": ("controller_*", "Starting Replica("),
    "the process starts": ("replica_*", "Started initializing replica"),
    "the model loads": ("replica_*", '"message":"started: '),
    "Serve has the replica": ("controller_*", "started successfully on node"),
}
"""The parts of a wake, each until a line of a log of Serve appears. The answer follows."""

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)[.,](\d{3})")

Phases = dict[str, float]


def make_manifest(model: Path) -> dict[str, Any]:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"uri": f"file://{model}", "entrypoint": "net:Net"},
            "autoscaling": {"minReplicas": 0, "maxReplicas": 1, "scaleToZeroDelay": "1s", "downscaleDelay": "1s"},
        },
    }


def ask(url: str) -> float:
    """Send one request, and return the seconds until its answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE_S)
    started = time.perf_counter()
    connection.request("POST", parts.path or "/", BODY, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    took = time.perf_counter() - started
    connection.close()
    assert answer.status == 200
    return took


def read_parts(logs: Path, asked: datetime, took_s: float) -> Phases:
    """Return the seconds of each part of a wake, from Serve's logs, whose clock is UTC; empty if a line is missing."""
    at, found = asked, {}
    for name, (pattern, text) in PARTS.items():
        lines = (line for path in logs.glob(f"{pattern}.log") for line in path.read_text().splitlines() if text in line)
        times = [
            datetime.fromisoformat(f"{each[1]}T{each[2]}.{each[3]}+00:00")
            for line in lines
            if (each := _TIME.search(line))
        ]
        if (end := min((each for each in times if each >= at), default=None)) is None:
            return {}
        found[name], at = (end - at).total_seconds(), end
    return {**found, "the answer": (asked + timedelta(seconds=took_s) - at).total_seconds()}


class Sundog:
    """A deployment under `sundog local up`."""

    def __init__(self, up: Up) -> None:
        self._up = up
        self.parts: list[Phases] = []

    def is_at_zero(self) -> bool:
        found = is_at_zero(self._up.read(NAME))
        layouts = [json.loads(path.read_bytes()) for path in (self._up.state / "edge").glob("*/state/layout.json")]
        return found and all(layout["cold"] for layout in layouts)

    def wake(self) -> tuple[float, Phases]:
        """Return the seconds of a request at zero, and those of each phase of the start."""
        before, status = datetime.now().astimezone(), self._up.read(NAME)["status"]
        asked = datetime.now().astimezone()
        took = ask(status["url"])
        [logs] = (self._up.state / "ray").glob("**/session_2*/logs/serve")
        self.parts.append(read_parts(logs, asked, took))

        def find_startup() -> dict[str, Any] | None:
            startup = self._up.read(NAME)["status"].get("startup") or {}
            woken = startup.get("wokenAt")
            # A status has whole seconds.
            is_new = woken is not None and datetime.fromisoformat(woken) >= before - timedelta(seconds=1)
            return startup if is_new else None

        startup = eventually(find_startup, "the phases of this start")
        return took, {name: parse_duration(startup[name]).total_seconds() for name in PHASES if name in startup}


class Bare:
    """The same application on its own Ray, with the same bounds."""

    def __init__(self, ray: RayServe, model: Path) -> None:
        self._ray = ray
        spec = ModelDeploymentSpec.from_json(make_manifest(model)["spec"])
        content = revisions.content_of(spec)
        revision = Revision(1, revisions.content_hash(content), content)
        scale = serve_config.ReplicaScale(0, 1, find_scaling(spec))
        self._application = serve_config.make_application("default", NAME, revision, spec, scale)
        ray.put({"applications": [self._application]})

    def is_at_zero(self) -> bool:
        found = self._ray.application(self._application["name"])
        deployments = found.get("deployments", {}).values()
        return found.get("status") == "RUNNING" and not any(each["replicas"] for each in deployments)

    def wake(self) -> float:
        """Return the seconds of a request at zero."""
        return ask(f"http://{self._ray.fallback}{self._application['route_prefix']}")


@pytest.fixture
def sundog(tmp_path: Path) -> Iterator[Sundog]:
    with instance(tmp_path) as up:
        (up.manifests / "bench.yaml").write_text(json.dumps(make_manifest(tmp_path / "model")))
        up.start()
        eventually(lambda: is_ready(up.read(NAME)), "the first revision ready")
        yield Sundog(up)


@pytest.fixture(autouse=True)
def model(tmp_path: Path) -> Path:
    save_network(tmp_path / "model", 1, [BATCH])
    return tmp_path / "model"


def describe(seconds: list[float]) -> tuple[str, str, str]:
    """Return the median, the highest and the lowest number."""
    return tuple(f"{each:.2f} s" for each in (statistics.median(seconds), max(seconds), min(seconds)))


def wait_until_idle(sundog: Sundog, bare: Bare) -> None:
    """Wait until both have been without a replica for IDLE_S."""
    eventually(bare.is_at_zero, "no replica on the bare Ray")
    eventually(sundog.is_at_zero, "no replica, and an edge that knows")
    since = time.monotonic()
    eventually(lambda: time.monotonic() - since > IDLE_S, "the time at zero")


def test_a_request_at_zero_against_bare_serve(sundog: Sundog, ray_serve: RayServe, model: Path) -> None:
    bare = Bare(ray_serve, model)
    theirs, ours, phases = [], [], []
    for pair in range(PAIRS):
        wait_until_idle(sundog, bare)
        if pair % 2:
            theirs.append(bare.wake())
        took, found = sundog.wake()
        ours.append(took)
        phases.append(found)
        if not pair % 2:
            theirs.append(bare.wake())
    record = Record(
        "cold_starts", f"A request at zero replicas, {PAIRS} interleaved pairs", ("", "median", "highest", "lowest")
    )
    record.add("bare Ray Serve", *describe(theirs))
    record.add("Sundog", *describe(ours))
    for name in PHASES:
        if known := [each[name] for each in phases if name in each]:
            record.add(f"Sundog: {name}", *describe(known))
    rest = [took - sum(found.values()) for took, found in zip(ours, phases, strict=True)]
    record.add("Sundog: all else", *describe(rest))
    record.add("Sundog − bare, by pair", *describe([ours[i] - theirs[i] for i in range(PAIRS)]))
    parts = [each for each in sundog.parts if each]
    for name in (*PARTS, "the answer"):
        record.add(f"Sundog, by Serve's logs: {name}", *describe([each[name] for each in parts]))
    record.raw = {"sundog": ours, "bare": theirs, "phases": phases, "parts": parts}
    record.finish()
