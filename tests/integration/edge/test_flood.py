"""A flood of units that never come again, against a real HAProxy, its agent and the store: what is kept of them is bounded."""

import asyncio
import logging
import re
import shutil
from pathlib import Path

import pytest

from waiting import patience

pytestmark = [pytest.mark.haproxy, pytest.mark.campaign, pytest.mark.timeout(patience(3600))]

log = logging.getLogger(__name__)

UNITS = 5_000_000
"""Of each half at least: the first fills all that is kept, the second finds no room for more."""

ROUND_S = 60

MAX_UNITS = 50_000
GROWTH_MIB = 24
HALVES = ([[0, 5000]], [[5000, 10_000]])
SCRIPT = """
local turn = 0
function init(args) begin = args[1] end
function request()
  turn = turn + 1
  return wrk.format("GET", nil, {["x-user-id"] = begin .. "-" .. turn})
end
"""


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


async def flood(edge, tmp_path, half: str) -> int:
    """How many answers there were, `UNITS` or more, each to a unit of its own."""
    script = tmp_path / "flood.lua"
    script.write_text(SCRIPT)
    found, turn = 0, 0
    while found < UNITS:
        found += await one_round(edge, script, f"{half}-{turn}")
        turn += 1
        log.info("%s half: %d units", half, found)
    return found


async def one_round(edge, script, begin: str) -> int:
    command = ("wrk", "-t1", "-c32", f"-d{ROUND_S}s", "-s", str(script), f"{edge.url}/digits/", "--", begin)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    told = (await process.communicate())[0].decode()
    return int(re.search(r"(\d+) requests in", told)[1])


def store_mib(edge) -> float:
    return sum(file.stat().st_size for file in edge.root.glob("feedback.db*")) / 2**20


async def worker(edge) -> int:
    """The pid of HAProxy's newest worker."""
    boots = (await edge.evidence())["boots"]
    return next(boot["pid"] for boot in boots if not boot["endedAt"] and not boot["draining"])


async def counted(edge, requests: int) -> bool:
    """Whether these have ended, and those that were under way when wrk did."""
    rows = (await edge.evidence())["counters"]
    return sum(row["assigned"] for row in rows) >= requests and not any(row["inFlight"] for row in rows)


async def test_ten_million_units_leave_agent_haproxy_and_store_bounded(edge, serve, tmp_path):
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed: apt-get install wrk")
    serve.targets = {"digits-r0": []}
    await edge.kill_agent()
    (edge.root / "key").write_text(bytes(range(32)).hex())
    edge.agent_options = ("--signing-key", str(edge.root / "key"), "--store", f"sqlite://{edge.root}/feedback.db")
    await edge.start_agent()
    arms = [edge.arm(f"a{n}", "digits-r0", own) for n, own in enumerate(HALVES)]
    feedback = {"metrics": ["converted"], "maxUnits": MAX_UNITS}
    await edge.apply(edge.service("digits", arms, feedback=feedback))

    sizes, units = [], []
    for half in ("first", "second"):
        units.append(await flood(edge, tmp_path, half))
        await edge.comes_true(lambda: counted(edge, sum(units)), "all of them counted")
        sizes.append((resident_mib(edge.agent.pid), resident_mib(await worker(edge)), store_mib(edge)))
    log.info("units %s; MiB of (agent, worker, store) after each half: %s", units, sizes)
    evidence = await edge.evidence()
    found = evidence["services"]["digits"]["feedback"]
    assert sum(count for _, _, count in found["exposed"]) == MAX_UNITS
    assert sum(row["assigned"] for row in evidence["counters"]) >= sum(units) >= 10_000_000
    for before, after in zip(*sizes, strict=True):
        assert after - before < GROWTH_MIB, sizes
