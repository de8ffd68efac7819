"""Ray's whole control plane dies: the replicas answer on, and nobody who asks them notices."""

import contextlib
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from real_edge import Edge, arm, running_edge, service
from real_local import SLOW, Clients, save_network
from real_ray import RayServe, running_ray
from waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]

BATCHES = [*([[0.5, -1.0, 2.0, float(number)]] for number in range(8)), SLOW]
APPLICATION = "steady-r1"
SECONDS = 12.0
"""Ray's own daemons give up without the GCS after a minute; a head that is restarted is back long before."""


def application(model: Path) -> dict[str, Any]:
    return {
        "name": APPLICATION,
        "route_prefix": f"/{APPLICATION}.app",
        "import_path": "sundog_runtime.serve:build",
        "args": {
            "version": 1,
            "namespace": "vision",
            "service": "steady",
            "revision": 1,
            "model": {"uri": f"file://{model}", "entrypoint": "net:Net"},
        },
        "deployments": [{"name": "Model", "num_replicas": 2, "ray_actor_options": {"num_cpus": 0.5}}],
    }


def test_the_gcs_is_killed_and_stays_away(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    answers = save_network(tmp_path / "model", 1, BATCHES)
    with running_ray() as ray, running_edge(ray.dashboard, ray.fallback) as edge:
        ray.put({"applications": [application(tmp_path / "model")]})
        ray.wait_running(APPLICATION)
        edge.apply([service("steady", [arm("stable", APPLICATION, f"/{APPLICATION}.app", [(0, 10_000)])])], up=2)
        load = Clients(edge.url("steady"), BATCHES, {"1": [answers]})
        load.start(6, slow=2)
        try:
            answered(load, 200)
            gcs_of(ray).kill()
            ends = time.monotonic() + SECONDS
            eventually(
                lambda: time.monotonic() > ends and answered(load, 200), "answers without Ray", SECONDS + PATIENCE_S
            )
            assert edge.evidence()["services"]["steady"]["arms"]["stable"]["servers"]["up"] == 2
        finally:
            load.stop()
        assert load.wrong == []
        assert_whole(edge, load.sent)


def answered(load: Clients, count: int) -> bool:
    load.fresh()
    return eventually(lambda: load.total() >= count, f"{count} more answers")


def gcs_of(ray: RayServe) -> psutil.Process:
    """The GCS of this Ray, known by its session's directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if line and line[0].endswith("/gcs_server") and any(str(ray.directory) in part for part in line):
                found.append(process)
    (gcs,) = found
    return gcs


def assert_whole(edge: Edge, sent: int) -> None:
    """Each request is counted once, as a good one."""

    def rows() -> list[dict[str, Any]]:
        return [row for row in edge.evidence()["counters"] if row["service"] == "steady"]

    eventually(lambda: sum(row["assigned"] for row in rows()) >= sent, f"{sent} assigned requests")
    eventually(lambda: not sum(row["inFlight"] for row in rows()), "no request in flight")
    found = rows()
    assert sum(row["ends"]["ok"] for row in found) == sum(row["assigned"] for row in found) == sent, found
