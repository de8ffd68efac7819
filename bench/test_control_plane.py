"""The operator and many ModelDeployments, on a real API server with test doubles for KubeRay, Ray Serve and the edges."""

import asyncio
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from fake_cluster.operator_process import wait_until
from measuring import fleet
from measuring.record import Record

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

NAMESPACES = 20
COUNTS = [int(each) for each in os.environ.get("SUNDOG_BENCH_COUNTS", "100,1000").split(",")]
WITHIN_S = 600.0
QUIET_S = 20.0
SETTLE_S = 180.0
REST_S = 30.0
# None: as many as the chart gives it.
WORKERS = int(os.environ.get("SUNDOG_BENCH_WORKERS", "0")) or None
PASSES = "controller_runtime_reconcile_total"


@dataclass
class Found:
    """The result of one round."""

    count: int
    all_ready_s: float
    cpu_s: float
    others_cpu_s: dict[str, float]
    requests: dict[str, int]
    passes: float
    settled_s: float
    at_rest: dict[str, int]
    at_rest_cpu_s: float
    peak_mib: float
    restart_s: float = 0.0
    restart: dict[str, int] = field(default_factory=dict)


def writes(requests: dict[str, int]) -> int:
    return sum(fleet.writes(Counter(requests)).values())


def settle(here: fleet.Fleet) -> float:
    """Wait until there were no writes for a while. Return the time of the last write, in seconds after the start."""
    began = last = time.monotonic()
    written = writes(here.requests())
    while (now := time.monotonic()) - last < QUIET_S:
        assert now - began < SETTLE_S, f"the operator still writes {SETTLE_S:g} s after the last is Ready"
        time.sleep(4)
        if (seen := writes(here.requests())) != written:
            written, last = seen, time.monotonic()
    return last - began


def measure(here: fleet.Fleet, count: int) -> Found:
    with here.operator(workers=WORKERS) as operator:
        began = here.requests()
        others = here.cpu_s()
        took = asyncio.run(fleet.apply_all(here.cluster.kubeconfig, operator, count, NAMESPACES, WITHIN_S))
        cpu, passes = operator.cpu_s(), operator.metric(PASSES)
        others = {name: spent - others[name] for name, spent in here.cpu_s().items()}
        asked = here.requests() - began
        settled = settle(here)
        before, cpu_before = here.requests(), operator.cpu_s()
        time.sleep(REST_S)
        rest, rest_cpu = here.requests() - before, operator.cpu_s() - cpu_before
        found = Found(count, took, cpu, others, dict(asked), passes, settled, dict(rest), rest_cpu, operator.peak_mib())
    before, began_s = here.requests(), time.monotonic()
    with here.operator("b", WORKERS) as operator:
        wait_until(
            lambda: operator.metric(PASSES, controller="modeldeployment") >= count, "a pass of each", 300, every=1
        )
        found.restart_s = time.monotonic() - began_s
        found.restart = dict(here.requests() - before)
    return found


def test_many_model_deployments(tmp_path: Path) -> None:
    columns = ("", *(f"{count}" for count in COUNTS))
    record = Record("control_plane", f"ModelDeployments in {NAMESPACES} namespaces", columns)
    rounds = []
    for count in COUNTS:
        folder = tmp_path / str(count)
        folder.mkdir()
        # One of its own for each count: what an earlier one left in the API server would be counted too.
        with fleet.fleet("bench", folder) as here:
            rounds.append(measure(here, count))
    for name, told in ROWS.items():
        record.add(name, *map(told, rounds))
    record.raw = {str(found.count): asdict(found) for found in rounds}
    record.notes.append(f"Of the requests of {COUNTS[-1]}, each: {most(rounds[-1])}.")
    record.finish()
    assert [writes(found.at_rest) for found in rounds] == [0] * len(rounds)


def most(found: Found) -> str:
    """Return the most frequent requests per ModelDeployment."""
    listed = Counter(found.requests).most_common(10)
    return ", ".join(f"{number / found.count:.1f} {what}" for what, number in listed)


ROWS = {
    "from the first create until all are Ready": lambda found: f"{found.all_ready_s:.1f} s",
    "each": lambda found: f"{found.all_ready_s / found.count * 1000:.0f} ms",
    "CPU of the operator, each": lambda found: f"{found.cpu_s / found.count * 1000:.0f} ms",
    "CPU of API server, etcd and controllers, each": (
        lambda found: f"{sum(found.others_cpu_s.values()) / found.count * 1000:.0f} ms"
    ),
    "requests, each": lambda found: f"{sum(found.requests.values()) / found.count:.1f}",
    "of them writes": lambda found: f"{writes(found.requests) / found.count:.1f}",
    "passes, each": lambda found: f"{found.passes / found.count:.1f}",
    "the last write after the last is Ready": lambda found: f"{found.settled_s:.0f} s",
    "memory of the operator, peak": lambda found: f"{found.peak_mib:.0f} MiB",
    "at rest, requests per second": lambda found: f"{sum(found.at_rest.values()) / REST_S:.2f}",
    "at rest, writes but the Lease's": lambda found: f"{writes(found.at_rest)}",
    "at rest, of a core": lambda found: f"{found.at_rest_cpu_s / REST_S * 100:.0f} %",
    "a new operator has looked at each after": lambda found: f"{found.restart_s:.1f} s",
    "its writes": lambda found: f"{writes(found.restart)}",
}
