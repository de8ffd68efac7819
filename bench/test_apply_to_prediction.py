"""Time from the edit of a manifest to the first prediction of the new revision, against a bare PUT of the same application.

Pairs are interleaved in one run, on two Rays of one machine, each with a revision that already serves. Both sides end with an HTTP answer
of the new revision: through the edge here, through Serve's own proxy there.
"""

import http.client
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from measuring.record import Record
from real_local import Up, instance, is_ready, save_network
from real_ray import RayServe
from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.core import revisions
from sundog_operator.core.ray import serve_config
from sundog_operator.core.revisions import Revision
from waiting import eventually

pytestmark = [pytest.mark.bench, pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(900)]

PAIRS = 7
POLL_S = 0.02
BATCH = [[1.0, 2.0, 3.0, 4.0]]
BODY = json.dumps({"inputs": BATCH}).encode()


def manifest(model: Path) -> dict[str, Any]:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "bench"},
        "spec": {"model": {"uri": f"file://{model}", "entrypoint": "net:Net"}, "rollout": {"strategy": "recreate"}},
    }


def answers(url: str, wanted: Callable[[http.client.HTTPResponse], bool]) -> bool:
    """Return whether the endpoint gives the expected prediction."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    try:
        connection.request("POST", parts.path or "/", BODY, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status == 200 and wanted(answer)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def seconds_until(url: str, wanted: Callable[[http.client.HTTPResponse], bool]) -> float:
    started = time.perf_counter()
    while not answers(url, wanted):
        time.sleep(POLL_S)
    return time.perf_counter() - started


@dataclass
class Sundog:
    """A deployment under `sundog local up`."""

    up: Up
    url: str

    def roll(self, number: int, model: Path) -> float:
        (self.up.manifests / "bench.yaml").write_text(json.dumps(manifest(model)))
        return seconds_until(self.url, lambda answer: answer.getheader("x-sundog-revision") == str(number))

    def settled(self, number: int) -> bool:
        status = self.up.read("bench").get("status", {})
        return status.get("stable", {}).get("revision") == number and not status.get("retiring")


@dataclass
class Bare:
    """The same application on its own Ray, deployed by a manual PUT."""

    ray: RayServe

    def application(self, number: int, model: Path) -> dict[str, Any]:
        spec = ModelDeploymentSpec.from_json(manifest(model)["spec"])
        content = revisions.content_of(spec)
        return serve_config.make_application(
            "default",
            "bench",
            Revision(number, revisions.content_hash(content), content),
            spec,
            serve_config.ReplicaScale(1, 1),
        )

    def roll(self, number: int, before: Path | None, model: Path) -> float:
        kept = [self.application(number - 1, before)] if before else []
        wanted = self.application(number, model)
        started = time.perf_counter()
        self.ray.put({"applications": [*kept, wanted]})
        put_s = time.perf_counter() - started
        return put_s + seconds_until(f"http://{self.ray.fallback}{wanted['route_prefix']}", lambda _: True)


@pytest.fixture
def sundog(tmp_path: Path) -> Iterator[Sundog]:
    save_network(tmp_path / "v1", 1, [BATCH])
    with instance(tmp_path) as up:
        (up.manifests / "bench.yaml").write_text(json.dumps(manifest(tmp_path / "v1")))
        up.start()
        eventually(lambda: is_ready(up.read("bench")), "the first revision ready")
        yield Sundog(up, up.read("bench")["status"]["url"])


def test_apply_to_first_prediction_against_a_bare_put(sundog: Sundog, ray_serve: RayServe, tmp_path: Path) -> None:
    bare = Bare(ray_serve)
    bare.roll(1, None, tmp_path / "v1")
    ours, theirs = [], []
    for number in range(2, PAIRS + 2):
        model = tmp_path / f"v{number}"
        save_network(model, number, [BATCH])
        theirs.append(bare.roll(number, tmp_path / f"v{number - 1}", model))
        ray_serve.put({"applications": [bare.application(number, model)]})
        eventually(lambda: len(ray_serve.get()["applications"]) == 1, "the previous application gone")
        ours.append(sundog.roll(number, model))
        eventually(lambda: sundog.settled(number), "the previous revision gone")  # noqa: B023 called at once
    record = Record(
        "apply_to_prediction",
        f"Manifest to first prediction, {PAIRS} interleaved pairs",
        ("", "median", "min", "max", "sundog / bare", "median of pair ratios"),
    )
    ratios = [mine / plain for mine, plain in zip(ours, theirs, strict=True)]
    compared = {
        "bare PUT": ("", ""),
        "sundog": (f"{statistics.median(ours) / statistics.median(theirs):.2f}", f"{statistics.median(ratios):.2f}"),
    }
    record.raw |= {"bare PUT": theirs, "sundog": ours}
    for name, times in record.raw.items():
        seconds = (f"{value:.2f} s" for value in (statistics.median(times), min(times), max(times)))
        record.add(name, *seconds, *compared[name])
    record.finish()
