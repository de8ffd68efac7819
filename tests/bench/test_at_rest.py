"""What the operator asks of the API server while nothing happens, over five minutes, so that every interval comes at least twice."""

import asyncio
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from measuring import fleet
from measuring.record import Record

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]

COUNT = 50
NAMESPACES = 5
SETTLE_S = 60.0
REST_S = 300.0


@dataclass
class Found:
    """Requests by verb and resource, and what they cost the operator."""

    requests: dict[str, int]
    writes: dict[str, int]
    cpu_s: float


def measure(here: fleet.Fleet) -> Found:
    with here.operator() as operator:
        asyncio.run(fleet.apply_all(here.cluster.kubeconfig, operator, COUNT, NAMESPACES, 300))
        time.sleep(SETTLE_S)
        before, cpu = here.requests(), operator.cpu_s()
        time.sleep(REST_S)
        asked = here.requests() - before
        return Found(dict(asked), dict(fleet.writes(asked)), operator.cpu_s() - cpu)


def test_nothing_to_do(tmp_path: Path) -> None:
    with fleet.fleet("rest", tmp_path) as here:
        found = measure(here)
    title = f"{COUNT} idle ModelDeployments in {NAMESPACES} namespaces, {REST_S / 60:.0f} minutes"
    record = Record("at_rest", title, ("request", "number", "per second"))
    for what, number in Counter(found.requests).most_common():
        record.add(what, f"{number}", f"{number / REST_S:.2f}")
    record.add("all", f"{sum(found.requests.values())}", f"{sum(found.requests.values()) / REST_S:.2f}")
    record.notes.append(
        f"Writes other than the Lease's: {sum(found.writes.values())}. CPU: {found.cpu_s / REST_S:.1%} of a core."
    )
    record.raw = asdict(found)
    record.finish()
    assert found.writes == {}
