"""A candidate that gets copies of requests: callers see nothing of it, whatever becomes of the copies."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from sundog_edge.haproxy.rules.shadow import MAX_BODY_BYTES, MAX_MIRRORED_PER_SECOND
from sundog_edge.mirror.send import MAX_IN_FLIGHT
from waiting import PATIENCE_S

SHADOW = {"arm": "canary", "percent": 100, "comparator": {"kind": "tolerance", "rtol": 0.01}}
JSON = {"content-type": "application/json"}
ECHO = "/digits/v2/infer?echo="
BODY = b'{"outputs": [1.0, 2.5]}'


def mirrored(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """What was mirrored, over all boots. Checks on the way that nothing is counted twice, and nothing is missing."""
    total: dict[str, Any] = {"skipped": {}, "verdicts": {}, "sampled": 0}
    for row in evidence.get("shadows", ()):
        assert row["sampled"] == row["sent"] + row["dropped"] + sum(row["skipped"].values()) + row["waiting"], row
        assert row["sent"] == sum(row[name] for name in ("paired", "errors", "timeouts", "inFlight", "lost")), row
        assert all(sum(counted) == row["paired"] for counted in row["verdicts"].values()), row
        assert sum(row["slower"]) + sum(row["faster"]) == row["paired"], row
        assert sum(row["stable"]) == sum(row["candidate"]) == row["paired"], row
        assert min(row[name] for name in ("waiting", "dropped", "sent", "inFlight")) >= 0, row
        for name, value in row.items():
            if type(value) is int:
                total[name] = total.get(name, 0) + value
        for why, count in row["skipped"].items():
            total["skipped"][why] = total["skipped"].get(why, 0) + count
        for kind, counted in row["verdicts"].items():
            before = total["verdicts"].get(kind, [0, 0, 0])
            total["verdicts"][kind] = [a + b for a, b in zip(before, counted, strict=True)]
    return total


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Shadowed:
    """Service `digits`, of whose requests `canary` gets copies."""

    def __init__(self, edge: Any, replicas: dict[str, Any]) -> None:
        self.edge = edge
        self.stable, self.canary = replicas["stable"], replicas["canary"]

    async def begin(self, shadow: Mapping[str, Any] | None = SHADOW, **changes: Any) -> None:
        """Put it in force, and wait for the mirror."""
        arms = [
            self.edge.arm("stable", "digits-r7", [[0, 10000]]),
            self.edge.arm("canary", "digits-r8", [], revision=8),
        ]
        asked = {} if shadow is None else {"shadow": shadow}
        await self.edge.apply(self.edge.service("digits", arms, **asked, **changes))
        if shadow is not None:
            await self.edge.comes_true(self.mirroring, "a mirror runs")

    async def mirroring(self) -> bool:
        told = (await self.edge.evidence())["services"].get("digits", {}).get("shadow") or {}
        return bool(told.get("mirroring"))

    async def post(self, path: str = ECHO, body: bytes = BODY, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """The answer as a client sees it, without what differs from one to the next: a worker that was replaced closes connections."""
        async with self.edge.session.post(self.edge.url + path, data=body, headers={**JSON, **headers}) as response:
            told = {name.lower(): value for name, value in response.headers.items()}
            kept = {name: value for name, value in told.items() if name not in ("date", "x-request-id", "connection")}
            return response.status, kept, await response.read()

    async def settled(self, sampled: int) -> dict[str, Any]:
        """What was mirrored, once it is known of all that were sampled what became of them."""

        async def quiet() -> dict[str, Any] | None:
            found = mirrored(await self.edge.evidence())
            done = found["sampled"] == sampled and not found.get("waiting") and not found.get("inFlight")
            return found if done else None

        found: dict[str, Any] = await self.edge.comes_true(quiet, f"{sampled} accounted for")
        return found

    @property
    def mirrors(self) -> list[int]:
        """The processes that the agent has started."""
        agent = self.edge.agent.pid
        return [int(pid) for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split()]


@pytest.fixture
def shadowed(edge, digits) -> Shadowed:
    return Shadowed(edge, digits)


async def test_parts_are_compared_each_in_its_own_way(shadowed):
    parts = [{"kind": "argmax", "path": "$.outputs"}, {"kind": "exact", "path": "$.outputs[0]"}]
    await shadowed.begin({**SHADOW, "comparator": {"kind": "custom", "parts": parts}})
    assert (await shadowed.post())[0] == 200
    assert (await shadowed.post(body=b'{"scores": [1]}'))[0] == 200
    found = (await shadowed.settled(2))["verdicts"]
    assert found == {
        "custom": [1, 0, 1],
        "argmax $.outputs": [1, 0, 1],
        "exact $.outputs[0]": [1, 0, 1],
        "exact": [2, 0, 0],
    }
    async with shadowed.edge.session.get(f"http://127.0.0.1:{shadowed.edge.agent_port}/metrics") as response:
        assert 'comparator="argmax $.outputs"' in await response.text()


async def test_a_copy_is_the_request_without_credentials_and_its_pair_is_compared(shadowed):
    await shadowed.begin()
    headers = {"authorization": "Bearer secret", "cookie": "a=secret", "x-api-key": "secret", "x-request-id": "r-1"}
    status, _, body = await shadowed.post(ECHO + "1&x=%20y", **headers)
    assert (status, body) == (200, BODY)
    found = await shadowed.settled(1)
    assert (found["sent"], found["paired"], found["verdicts"]) == (1, 1, {"tolerance": [1, 0, 0], "exact": [1, 0, 0]})
    (copy,) = shadowed.canary.seen
    assert copy["path"] == "/digits-r8.app/v2/infer?echo=1&x=%20y"
    assert copy["size"] == len(BODY)
    told = {name.lower(): value for name, value in copy["headers"].items()}
    assert "secret" not in repr(copy)
    assert told["x-sundog-shadow"] == "1"
    assert told["x-request-id"] == "r-1" == shadowed.stable.seen[0]["headers"]["X-Request-ID"]
    assert told["content-type"] == "application/json"
    # Copies are in no counter of the arms.
    assert {row["arm"]: row["assigned"] for row in (await shadowed.edge.evidence())["counters"]} == {"stable": 1}


async def test_callers_see_the_same_bytes_with_and_without_a_shadow(shadowed):
    asked = [
        (ECHO, BODY),
        (ECHO, b"x" * MAX_BODY_BYTES),
        (ECHO, b"x" * (MAX_BODY_BYTES + 1)),
        (ECHO, b"x" * 60_000),
        ("/digits/?status=404", BODY),
        ("/digits/?status=503", BODY),
        ("/digits/?large=12000", BODY),
        ("/digits/?large=200000", BODY),
        ("/digits/?sleep=0.2", BODY),
        (ECHO, b""),
    ]
    await shadowed.begin(None)
    without = [await shadowed.post(*each) for each in asked]
    await shadowed.begin()
    assert [await shadowed.post(*each) for each in asked] == without
    found = await shadowed.settled(len(asked))
    assert found["paired"] >= 4


async def test_what_cannot_be_compared_is_left_out_and_counted(shadowed):
    await shadowed.begin()
    await shadowed.edge.get("/digits/")
    await shadowed.post(ECHO, b"x" * (MAX_BODY_BYTES + 1))
    await shadowed.post("/digits/?large=60000")
    await shadowed.post("/digits/?status=422")
    shadowed.stable.go_on.release()
    await shadowed.post("/digits/?events=1")
    found = await shadowed.settled(5)
    assert found["skipped"] == {"method": 1, "size": 2, "failed": 1, "streaming": 1}
    assert shadowed.canary.seen == []


async def test_a_probe_is_not_drawn(shadowed):
    await shadowed.begin()
    for _ in range(20):
        assert (await shadowed.edge.get("/digits/v2/health/ready")).status == 200
    await shadowed.post()
    found = await shadowed.settled(1)
    assert "method" not in found["skipped"]


async def test_answers_that_differ_are_distinguished_from_those_that_nearly_agree(shadowed):
    await shadowed.begin()
    shadowed.canary.always = {"large": "23"}
    await shadowed.post()
    found = await shadowed.settled(1)
    assert found["verdicts"] == {"tolerance": [0, 1, 0], "exact": [0, 1, 0]}
    # What stable answers is no JSON: that says nothing of the candidate.
    await shadowed.post(ECHO, b"no json")
    assert (await shadowed.settled(2))["verdicts"]["tolerance"] == [0, 1, 1]


@pytest.mark.parametrize(
    ("behaves", "counted"),
    [
        ({"die": "now"}, "errors"),
        ({"die": "after"}, "errors"),
        ({"status": "500"}, "errors"),
        ({"sleep": "60"}, "timeouts"),
        ({"sleep": "0.3", "echo": ""}, "paired"),
    ],
    ids=str,
)
async def test_whatever_a_candidate_does_no_caller_waits_for_it(shadowed, behaves, counted):
    await shadowed.begin(requestTimeoutSeconds=2.0)
    shadowed.canary.always = behaves
    answers = [await shadowed.post() for _ in range(10)]
    assert {(status, body) for status, _, body in answers} == {(200, BODY)}
    found = await shadowed.settled(10)
    assert found[counted] == found["sent"] == 10
    assert (await shadowed.edge.evidence())["services"]["digits"]["arms"]["stable"]["servers"]["up"] == 1


async def test_a_candidate_that_is_not_there_gets_nothing(shadowed):
    await shadowed.begin()
    await shadowed.canary.stop()

    async def away() -> bool:
        return (await shadowed.edge.evidence())["services"]["digits"]["arms"]["canary"]["servers"]["up"] == 0

    await shadowed.edge.comes_true(away, "the candidate is known to be away")

    async def none_to_send_to() -> bool:
        assert (await shadowed.post())[0] == 200
        return "noReplica" in mirrored(await shadowed.edge.evidence())["skipped"]

    await shadowed.edge.comes_true(none_to_send_to, "left out for want of a replica")


async def test_behind_a_hanging_candidate_copies_are_dropped_and_counted(shadowed):
    await shadowed.begin(requestTimeoutSeconds=15.0)
    shadowed.canary.always = {"sleep": "60"}
    asked = 0

    async def ask() -> None:
        nonlocal asked
        assert (await shadowed.post())[0] == 200
        asked += 1

    async def full() -> bool:
        # A mirror that gets no CPU for a moment drops some before it has as many under way as it may.
        await ask()
        return mirrored(await shadowed.edge.evidence()).get("inFlight") == MAX_IN_FLIGHT

    await shadowed.edge.comes_true(full, "as many under way as may be")
    for _ in range(20):
        await ask()
    found = await shadowed.settled(asked)
    assert found["timeouts"] == found["sent"] >= MAX_IN_FLIGHT
    assert found["dropped"] + found["sent"] + found["skipped"].get("rate", 0) == asked
    assert found["dropped"] > 0
    assert shadowed.canary.seen[MAX_IN_FLIGHT:] == [] or found["sent"] > MAX_IN_FLIGHT


async def test_a_mirror_that_is_killed_is_replaced_and_what_it_held_is_counted(shadowed):
    await shadowed.begin(requestTimeoutSeconds=PATIENCE_S)
    await shadowed.post()
    await shadowed.settled(1)
    shadowed.canary.always = {"sleep": "60"}
    await shadowed.post()

    async def under_way() -> bool:
        return mirrored(await shadowed.edge.evidence()).get("inFlight") == 1

    await shadowed.edge.comes_true(under_way, "a copy is under way")
    (pid,) = shadowed.mirrors
    os.kill(pid, signal.SIGKILL)
    assert (await shadowed.post())[0] == 200

    async def another() -> bool:
        return shadowed.mirrors not in ([], [pid]) and await shadowed.mirroring()

    await shadowed.edge.comes_true(another, "another mirror")
    shadowed.canary.always = {}
    await shadowed.post()
    found = await shadowed.settled(4)
    assert found["lost"] == 1
    assert found["paired"] >= 2
    assert found["paired"] + found["lost"] + found["dropped"] == 4


def hangs(pid: int) -> bool:
    """Whether it is stopped, and not yet killed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    return False


async def test_a_mirror_that_hangs_holds_up_nobody_and_is_replaced(shadowed):
    await shadowed.begin()
    (pid,) = shadowed.mirrors
    os.kill(pid, signal.SIGSTOP)
    answers, meanwhile = [], 0
    for _ in range(60):
        answers.append(await shadowed.post())
        meanwhile += hangs(pid)
    assert {(status, body) for status, _, body in answers} == {(200, BODY)}
    assert meanwhile > 0, "nobody was answered before the mirror was replaced"

    async def another() -> bool:
        return shadowed.mirrors not in ([], [pid]) and await shadowed.mirroring()

    await shadowed.edge.comes_true(another, "another mirror")
    found = await shadowed.settled(60)
    assert found["dropped"] > 0
    await shadowed.post()
    assert (await shadowed.settled(61))["paired"] >= 1


async def test_counts_outlive_the_agent_and_its_mirror_does_not(shadowed):
    await shadowed.begin()
    for _ in range(5):
        await shadowed.post()
    before = await shadowed.settled(5)
    (pid,) = shadowed.mirrors
    await shadowed.edge.kill_agent()

    async def gone() -> bool:
        return not is_running(pid)

    await shadowed.edge.comes_true(gone, "the mirror ends with its agent")
    await shadowed.edge.start_agent()
    await shadowed.edge.comes_true(shadowed.mirroring, "another mirror")
    assert await shadowed.settled(5) == before

    asked = 5

    async def goes_on() -> bool:
        # Copies are left out until the agent knows a replica again and its mirror has been told.
        nonlocal asked
        assert (await shadowed.post())[0] == 200
        asked += 1
        return (await shadowed.settled(asked))["paired"] > before["paired"]

    await shadowed.edge.comes_true(goes_on, "copies are paired again")
    found = await shadowed.settled(asked)
    assert found["paired"] == 6
    assert found["paired"] + found["dropped"] + sum(found["skipped"].values()) == asked


def arguments_of(pid: int) -> list[str]:
    """The command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


async def test_without_a_shadow_no_mirror_runs(shadowed):
    await shadowed.begin()
    (mirror,) = shadowed.mirrors
    # What lies in the agent's working directory is no module of its mirror's.
    assert "-P" in arguments_of(mirror)
    await shadowed.begin(None)

    async def none() -> bool:
        return not shadowed.mirrors

    await shadowed.edge.comes_true(none, "no mirror")
    await shadowed.post()
    assert mirrored(await shadowed.edge.evidence())["sampled"] == 0


async def test_in_a_bake_after_a_shadow_nothing_is_copied_and_both_arms_are_counted_apart(shadowed):
    await shadowed.begin()
    asked = 0

    async def paired() -> bool:
        # Copies are left out until the mirror has been told of a replica.
        nonlocal asked
        assert (await shadowed.post())[0] == 200
        asked += 1
        return (await shadowed.settled(asked))["paired"] >= 5

    await shadowed.edge.comes_true(paired, "copies are paired")
    before, copies = await shadowed.settled(asked), len(shadowed.canary.seen)
    arms = [
        shadowed.edge.arm("stable", "digits-r7", [[0, 500]]),
        shadowed.edge.arm("canary", "digits-r8", [[500, 10000]], revision=8),
    ]
    await shadowed.edge.apply(shadowed.edge.service("digits", arms, epoch=1))
    answered = Counter()
    for number in range(400):
        status, told, _ = await shadowed.post(**{"x-user-id": f"user-{number}"})
        assert status == 200
        answered[told["x-sundog-arm"]] += 1
    assert 0 < answered["stable"] < 60
    evidence = await shadowed.edge.settled(asked + 400)
    counted = {row["arm"]: row["assigned"] for row in evidence["counters"] if row["epoch"] == 1}
    assert counted == answered
    assert len(shadowed.canary.seen) == copies + answered["canary"]
    assert len(shadowed.stable.seen) == asked + answered["stable"]
    assert await shadowed.settled(asked) == before


async def test_a_share_is_drawn_and_a_rate_is_not_exceeded(shadowed):
    await shadowed.begin({**SHADOW, "percent": 20})
    for _ in range(400):
        await shadowed.post()
    # 400 draws at 0.2 are outside of this about once in a million runs.
    assert 40 <= mirrored(await shadowed.edge.evidence())["sampled"] <= 124
    await shadowed.begin(epoch=1)
    asked = 600
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(10):
            tasks.create_task(_some(shadowed, asked // 10))
    took = time.monotonic() - began
    rows = [row for row in (await shadowed.edge.evidence())["shadows"] if row["epoch"] == 1]
    rate = sum(row["skipped"].get("rate", 0) for row in rows)
    # HAProxy's rate is a sliding one: of two neighbouring seconds never much more than twice the limit.
    assert asked - rate <= 2 * MAX_MIRRORED_PER_SECOND * (took + 1)
    assert rate > 0 or took > asked / (2 * MAX_MIRRORED_PER_SECOND)


async def _some(shadowed: Shadowed, number: int) -> None:
    for _ in range(number):
        assert (await shadowed.post())[0] == 200


async def test_metrics_show_what_became_of_copies(shadowed):
    await shadowed.begin()
    await shadowed.post()
    await shadowed.edge.get("/digits/")
    await shadowed.settled(2)
    async with shadowed.edge.session.get(f"http://127.0.0.1:{shadowed.edge.agent_port}/metrics") as response:
        lines = (await response.text()).splitlines()
    assert 'sundog_edge_shadow_sampled_total{service="digits"} 2.0' in lines
    assert 'sundog_edge_shadow_copies_total{outcome="paired",service="digits"} 1.0' in lines
    assert 'sundog_edge_shadow_copies_total{outcome="method",service="digits"} 1.0' in lines
    assert 'sundog_edge_shadow_pairs_total{comparator="tolerance",service="digits",verdict="agree"} 1.0' in lines
