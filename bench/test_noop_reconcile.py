"""CPU of a reconcile that has nothing to do, on in-memory ports: the cost of the reconciler alone."""

import statistics
import time

import pytest

from doubles.cluster import Cluster
from measuring.record import Record
from sundog_operator.app.controller import RECONCILERS

pytestmark = pytest.mark.bench

PASSES = 300


async def test_a_pass_with_nothing_to_do() -> None:
    cluster = Cluster()
    await cluster.apply()
    await cluster.settle(40)
    before = len(cluster.kube.writes), len(cluster.serve.puts)
    title = f"A pass that has nothing to do, {PASSES} passes each"
    record = Record("noop_reconcile", title, ("key", "CPU per pass, median", "90 %"))
    for key in await cluster.keys():
        spent = []
        for _ in range(PASSES):
            started = time.process_time_ns()
            await RECONCILERS[key.kind](cluster.world, key)
            spent.append((time.process_time_ns() - started) / 1e6)
        record.raw[key.kind] = spent
        record.add(key.kind, f"{statistics.median(spent):.2f} ms", f"{statistics.quantiles(spent, n=10)[-1]:.2f} ms")
    record.finish()
    assert (len(cluster.kube.writes), len(cluster.serve.puts)) == before, "a no-op pass writes nothing"
