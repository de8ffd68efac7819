"""CPU of a pass that has nothing to do, over the ports' stand-ins: what the reconciler itself costs."""

import statistics
import time

from rich.console import Console
from rich.table import Table

from doubles.cluster import Cluster
from sundog_operator.app.loop import RECONCILERS

PASSES = 300


async def test_a_pass_with_nothing_to_do() -> None:
    cluster = Cluster()
    await cluster.apply()
    await cluster.settle(40)
    before = len(cluster.kube.writes), len(cluster.serve.puts)
    table = Table("key", "CPU per pass, median", "90 %", title=f"No-op reconcile, {PASSES} passes each")
    for key in await cluster.keys():
        spent = []
        for _ in range(PASSES):
            started = time.process_time_ns()
            await RECONCILERS[key.kind](cluster.world, key)
            spent.append((time.process_time_ns() - started) / 1e6)
        table.add_row(key.kind, f"{statistics.median(spent):.2f} ms", f"{statistics.quantiles(spent, n=10)[-1]:.2f} ms")
    Console().print(table)
    assert (len(cluster.kube.writes), len(cluster.serve.puts)) == before, "a no-op pass writes nothing"
