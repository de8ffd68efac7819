"""Overhead of Sundog beside the forward pass, against bare uvicorn and plain Ray Serve with the same network.

All run on one machine, in turns. Answers per second are those of a client, and are rough if other programs run. CPU per answer is the
time that the processes of one side used, whatever else runs.
"""

import os
import statistics
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from measuring import networks
from measuring.deployments import application, deploy
from measuring.load import Request, Sample, Side, compare, ratio
from measuring.networks import body_of, features
from measuring.processes import cost_of, listening, running
from measuring.record import IMPORT_PATH, Record, throughput
from ports import free_ports
from real_edge import Edge
from real_ray import RayServe
from waiting import eventually

pytestmark = [pytest.mark.bench, pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(900)]

BARE, PLAIN = "bare uvicorn, raw ASGI", "plain Ray Serve, raw ASGI, replica's port"
REPLICA, THROUGH_EDGE = "Sundog, replica's port", "Sundog through the edge"
X, INPUTS = Request(body_of("x", features())), Request(body_of("inputs", [features()]), units=512)
ROUNDS = 4


class Meter:
    """CPU seconds of some processes in each round, per answer."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = pids
        self.answers = 0
        self.cpu_s: list[float] = []
        self._before = 0.0

    def side(self, name: str, url: str, request: Request) -> Side:
        """Return the side of the comparison for these processes."""
        return Side(name, url, request, self._begin, self._end)

    def _cost(self) -> float:
        return sum(cost_of(pid).cpu_s for pid in self.pids)

    def _begin(self) -> None:
        self._before = self._cost()

    def _end(self, sample: Sample) -> None:
        self.answers += sample.answers
        self.cpu_s.append((self._cost() - self._before) / sample.answers)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[str]:
    """Start uvicorn as in its documentation, with one worker and no access log; yield its URL."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "measuring.raw_asgi:app", f"--port={port}"]
    variables = {**os.environ, "PYTHONPATH": IMPORT_PATH, "OMP_NUM_THREADS": "1"}
    quiet = ["--no-access-log", "--log-level=warning"]
    with running([*command, *quiet], tmp_path / "bare.log", variables):
        url = f"http://127.0.0.1:{port}/"
        eventually(lambda: X.is_answered(url), "bare uvicorn answers")
        yield url


def port_of(url: str) -> int:
    return int(url.split("/")[2].split(":")[1])


def total(ray: RayServe, name: str) -> float:
    """Return a counter of the model server, summed over its labels, as Ray exports it."""
    with urllib.request.urlopen(f"http://{ray.metrics}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"ray_sundog_runtime_{name}_total{{"))


def plain_application() -> dict[str, object]:
    return {
        "name": "plain",
        "route_prefix": "/plain.app",
        "import_path": "measuring.serve_apps:mlp",
        "args": {},
        "logging_config": {"enable_access_log": False},
        "deployments": [{"name": "Mlp", "num_replicas": 1, "max_ongoing_requests": 256}],
    }


def quotient(mine: Sequence[float], others: Sequence[float]) -> str:
    return f"{statistics.median(a / b for a, b in zip(mine, others, strict=True)):.2f}"


def test_against_bare_uvicorn_and_plain_serve(
    wrk: None, ray_serve: RayServe, edge: Edge, bare: str, tmp_path: Path
) -> None:
    ours = application("mlp", networks.save(tmp_path / "mlp", networks.MLP, [networks.FEATURES]))
    deploy(ray_serve, edge, [ours])
    ray_serve.put({"applications": [ours, plain_application()]})
    ray_serve.wait_running("plain")
    ((replica,), (plain,)) = (ray_serve.replicas(name) for name in (ours["name"], "plain"))
    urls = {
        BARE: (bare, X),
        PLAIN: (f"http://{plain}/plain.app/", X),
        REPLICA: (f"http://{replica}{ours['route_prefix']}/", INPUTS),
        THROUGH_EDGE: (edge.url("mlp"), INPUTS),
    }
    pids: dict[str, list[int]] = {name: [listening(port_of(url))] for name, (url, _) in urls.items()}
    pids[THROUGH_EDGE] = [edge.haproxy.pid, edge.agent.pid, *pids[REPLICA]]
    found: dict[str, list[str]] = {name: [] for name in urls}
    record = Record(
        "bare",
        "The same forward pass on bare uvicorn, on plain Ray Serve and on Sundog, MLP of 256 floats as JSON",
        (
            "server",
            *(
                f"{what}, {connections}"
                for connections in (1, 16)
                for what in ("answers/s", "/ bare", "CPU µs per answer", "CPU of bare / its CPU")
            ),
        ),
    )
    answered = 0
    for connections in (1, 16):
        meters = {name: Meter(pids[name]) for name in urls}
        sides = [meters[name].side(name, url, request) for name, (url, request) in urls.items()]
        samples = compare(sides, connections, ROUNDS)
        record.keep_samples(f"c{connections}", samples)
        record.raw[f"cpu_s_c{connections}"] = {name: meter.cpu_s for name, meter in meters.items()}
        for name, meter in meters.items():
            found[name] += [
                throughput(samples[name]),
                f"{ratio(samples[name], samples[BARE]):.2f}",
                f"{statistics.median(meter.cpu_s) * 1e6:.0f}",
                quotient(meters[BARE].cpu_s, meter.cpu_s),
            ]
        answered += meters[REPLICA].answers + meters[THROUGH_EDGE].answers
    for name, cells in found.items():
        record.add(name, *cells)
    eventually(lambda: total(ray_serve, "requests") >= answered, "all answers exported")
    share = total(ray_serve, "requests_at_once") / total(ray_serve, "requests")
    record.notes.append(f"{share:.1%} of Sundog's answers were given at once. Load while measured: {_loads()}.")
    record.finish()


def _loads() -> str:
    return ", ".join(f"{load:.1f}" for load in os.getloadavg()) + " (1, 5, 15 minutes)"
