"""Five hundred services on one edge and ten thousand updates of its maps, under load, while everything else happens as well."""

import sys
import time
from pathlib import Path

import pytest

from sundog_edge.split.assignment import unit_bucket

pytestmark = pytest.mark.haproxy

SERVICES = 500
WARMING = 24
"""Rounds until HAProxy's tables and allocator hold what they come to hold: some 38 MiB after 16, 57 from 20 on, and 57 after 60."""

ROUNDS = WARMING + 20
GROWTH_MIB = 24


def resident_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) // 1024


def documents(edge, number: int, header: str = "x-user-id"):
    """Every service changes its epoch and its weights, but for the one under load, which changes its epoch alone.

    `header` names the units of the first of the others; a name that HAProxy does not look for yet takes a reload.
    """
    share = number * 37 % 100 * 100
    halves = [
        edge.arm("stable", "digits-r7", [[5000, 10_000]]),
        edge.arm("canary", "digits-r8", [[0, 5000]], revision=8),
    ]
    others = [
        edge.service(
            f"s{place}",
            [
                edge.arm("stable", f"s{place}-r1", [[share, 10_000]]),
                edge.arm("canary", f"s{place}-r2", [[0, share]] if share else []),
            ],
            epoch=number,
        )
        for place in range(SERVICES - 1)
    ]
    others[0]["unit"] = {"kind": "header", "name": header}
    return [edge.service("digits", halves, epoch=number), *others]


async def refused(edge) -> bool:
    return "JSON" in (await edge.evidence())["document"]["error"]


async def replaced(edge, pid: int) -> bool:
    boots = (await edge.evidence())["boots"]
    serving = {boot["pid"] for boot in boots if not boot["endedAt"] and not boot["draining"]}
    return bool(serving - {pid}) and pid not in serving


def worker_of(evidence) -> int:
    return next(boot["pid"] for boot in evidence["boots"] if not boot["endedAt"] and not boot["draining"])


async def test_ten_thousand_updates_lose_no_request_reset_no_unit_and_leave_memory_bounded(edge, serve, digits):
    for place in range(SERVICES - 1):
        serve.targets |= {f"s{place}-r1": [], f"s{place}-r2": []}
    began = time.monotonic()
    await edge.apply(*documents(edge, 0))
    first = time.monotonic() - began
    await edge.up("digits", stable=1, canary=1)
    applied: list[float] = []
    async with edge.load(units=True) as load:
        await load.more(100)
        pid = worker_of(await edge.evidence())
        for number in range(1, ROUNDS + 1):
            if number == WARMING // 2:
                await edge.kill_agent()
                await edge.start_agent()
            if number == ROUNDS // 2:
                edge.write("{no document")
                await edge.comes_true(lambda: refused(edge), "the document refused")
                await load.more(20)
            began = time.monotonic()
            await edge.apply(*documents(edge, number))
            applied.append(time.monotonic() - began)
            await load.more(20)
            if number == WARMING:
                # Both have done all of it by now, and the agent stays the same from here on.
                warm = resident_mib(pid), resident_mib(edge.agent.pid)
        after = resident_mib(pid), resident_mib(edge.agent.pid)
        # No reload until now: the worker is the one that was there before the first change.
        assert worker_of(await edge.evidence()) == pid
        await edge.apply(*documents(edge, ROUNDS + 1, header="X-Another"))
        await edge.comes_true(lambda: replaced(edge, pid), "another worker, with all services")
        await load.more(200)
    assert load.failed == {}
    for unit, arms in load.arms_of.items():
        assert arms == {"canary" if unit_bucket("digits-salt", unit.encode()) < 5000 else "stable"}
    evidence = await edge.settled(load.sent)
    rows = [row for row in evidence["counters"] if row["service"] == "digits"]
    assert sum(row["assigned"] for row in rows) == load.sent
    assert {row["epoch"] for row in rows} == {*range(ROUNDS + 2)}
    median = sorted(applied)[ROUNDS // 2]
    sys.stdout.write(f"first apply {first:.2f} s, then {median:.2f} s; MiB of (worker, agent): {warm}, {after}\n")
    # Tables that linger for a moment, and an allocator that keeps what it had: bounded, not the sum of all changes.
    assert after[0] - warm[0] < GROWTH_MIB, (warm, after)
    assert after[1] - warm[1] < GROWTH_MIB, (warm, after)
