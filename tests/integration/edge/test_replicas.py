"""Following replicas: nothing is lost when they come, go, die, or when Serve forgets them."""

import asyncio
import csv
import json

import pytest

from sundog_edge.errors import HaproxyUnavailable
from sundog_edge.haproxy.client import HaproxyClient
from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy


async def one_arm(edge, **changes) -> None:
    await edge.apply(edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10_000]])], **changes))


async def servers(edge) -> dict[str, int]:
    return (await edge.evidence())["services"]["digits"]["arms"]["stable"]["servers"]


async def queued(edge) -> int:
    """Requests that wait for a replica."""
    haproxy = HaproxyClient(edge.root / "s" / "master.sock")
    answer = await haproxy.command("show stat -1 2 -1", (await haproxy.processes())[0].pid)
    return sum(int(row["qcur"]) for row in csv.DictReader(answer.removeprefix("# ").splitlines()))


async def test_a_replica_killed_under_load_fails_no_request(edge, serve, replica_process):
    (first, one), (_, two) = await replica_process("digits-r7"), await replica_process("digits-r7")
    serve.targets = {"digits-r7": [one, two]}
    await one_arm(edge)
    await edge.up("digits", stable=2)
    async with edge.load() as load:
        await load.more(200)
        first.kill()
        await first.wait()
        await edge.up("digits", stable=1)
        serve.targets = {"digits-r7": [two]}
        await load.more(200)
    assert load.failed == {}
    evidence = await edge.settled(load.sent)
    assert edge.ends(evidence) == {"ok": load.sent - edge.lost(evidence)}

    async def removed() -> bool:
        return await servers(edge) == {"up": 1, "down": 0, "draining": 0}

    await edge.comes_true(removed, "the dead replica forgotten")


async def test_late_checks_do_not_take_the_only_replica_out_and_one_of_another_application_does(edge, serve, replicas):
    only = await replicas("digits-r7")
    serve.targets = {"digits-r7": [only.address]}
    await one_arm(edge)
    await edge.up("digits", stable=1)

    async def checked_again() -> bool:
        return only.late_checks == 0 and only.checked > before

    before, only.late_checks = only.checked, 4
    async with edge.load() as load:
        await edge.comes_true(checked_again, "a check after four late ones")
    assert load.sent > 100
    assert load.failed == {}
    only.prefix = "/other-r1.app"
    await edge.up("digits", stable=0)
    only.prefix = "/digits-r7.app"
    await edge.up("digits", stable=1)


async def test_a_replica_whose_checks_are_late_is_out_while_another_answers_and_in_again_when_that_one_is_gone(
    edge, serve, replicas
):
    slow, quick = await replicas("digits-r7"), await replicas("digits-r7")
    serve.targets = {"digits-r7": [slow.address, quick.address]}
    await one_arm(edge)
    await edge.up("digits", stable=2)
    slow.late_checks = 1000
    await edge.up("digits", stable=1)
    await quick.stop()

    async def answered() -> bool:
        return (await edge.get("/digits/")).status == 200

    await edge.comes_true(answered, "the slow replica takes over")
    async with edge.load() as load:
        await load.more(100)
    assert load.failed == {}


async def test_a_removed_replica_finishes_what_it_has(edge, serve, replicas):
    old, new = await replicas("digits-r7"), await replicas("digits-r7")
    serve.targets = {"digits-r7": [old.address]}
    await one_arm(edge)
    await edge.up("digits", stable=1)
    slow = asyncio.create_task(edge.get("/digits/?hold"))
    await old.entered.wait()
    async with edge.load() as load:
        await load.more(50)
        serve.targets = {"digits-r7": [new.address]}

        async def moved() -> bool:
            counts = await servers(edge)
            return counts["up"] == 1 and counts["draining"] == 1

        await edge.comes_true(moved, "the old replica drains, the new one is up")
        served = len(old.seen)
        await load.more(50)
        assert len(old.seen) == served
    old.go_on.release()
    assert (await slow).status == 200
    assert load.failed == {}

    async def removed() -> bool:
        return await servers(edge) == {"up": 1, "down": 0, "draining": 0}

    await edge.comes_true(removed, "the old replica gone")


async def test_a_replica_that_refuses_is_checked_at_once_however_rarely_it_is_checked(edge, serve, replicas):
    first, second = await replicas("digits-r7"), await replicas("digits-r7")
    serve.targets = {"digits-r7": [first.address, second.address]}
    await one_arm(edge)
    await edge.up("digits", stable=2)
    layout = edge.root / "s" / "layout.json"

    async def remembered() -> bool:
        return len(json.loads(layout.read_text())["servers"]) == 2

    await edge.comes_true(remembered, "the servers in the layout")
    await edge.kill_agent()
    await edge.stop_haproxy()
    stored = json.loads(layout.read_text())
    stored["servers"] = [{**server, "check_ms": 600_000} for server in stored["servers"]]
    layout.write_text(json.dumps(stored))
    await edge.start_haproxy()
    haproxy = HaproxyClient(edge.root / "s" / "master.sock")

    async def up() -> set[str] | None:
        try:
            states = await haproxy.servers((await haproxy.processes())[0].pid)
        except HaproxyUnavailable:
            return None
        return {state.name for state in states if state.slot == "slot0" and state.running and state.since_s}

    async def both() -> bool:
        return await up() == {first.address, second.address}

    # The first checks have passed once a second has gone by, the next ones are minutes away.
    await edge.comes_true(both, "HAProxy back with both")
    await first.stop()

    async def noticed() -> bool:
        assert (await edge.get("/digits/")).status == 200
        return await up() == {second.address}

    await edge.comes_true(noticed, "the dead replica is down")


async def test_replicas_come_and_go_under_load(edge, serve, replicas):
    started = [await replicas("digits-r7") for _ in range(4)]
    addresses = [replica.address for replica in started]
    serve.targets = {"digits-r7": addresses[:1]}
    await one_arm(edge)
    await edge.up("digits", stable=1)
    async with edge.load() as load:
        for chosen in (addresses[:3], addresses[2:], addresses[3:], addresses[:2]):
            serve.targets = {"digits-r7": chosen}

            async def there(count: int = len(chosen)) -> bool:
                return await servers(edge) == {"up": count, "down": 0, "draining": 0}

            await edge.comes_true(there, f"{len(chosen)} replicas")
            await load.more(50)
    assert load.failed == {}
    evidence = await edge.settled(load.sent)
    assert edge.ends(evidence) == {"ok": load.sent - edge.lost(evidence)}


async def test_an_address_with_another_application_never_gets_a_request(edge, serve, replicas):
    mine, other = await replicas("digits-r7"), await replicas("digits-r70")
    serve.targets = {"digits-r7": [mine.address]}
    await one_arm(edge)
    await edge.up("digits", stable=1)

    async def known() -> bool:
        return await servers(edge) == {"up": 1, "down": 1, "draining": 0}

    async with edge.load() as load:
        await load.more(50)
        serve.targets = {"digits-r7": [mine.address, other.address]}
        await edge.comes_true(known, "one up, one refused")
        await load.more(300)
    assert load.failed == {}
    assert other.seen == []
    # The address changes hands while it is listed: down until it answers for the right application again.
    port = mine.port
    await mine.stop()

    async def nothing_up() -> bool:
        return (await servers(edge))["up"] == 0

    await edge.comes_true(nothing_up, "down")
    stranger = await replicas("digits-r71", port=port)

    async def checked() -> bool:
        return (await edge.get("/digits/")).status == 503 and await nothing_up()

    for _ in range(10):
        assert await checked()
    assert stranger.seen == []
    await stranger.stop()
    again = await replicas("digits-r7", port=port)
    await edge.up("digits", stable=1)
    assert (await edge.get("/digits/")).status == 200
    assert len(again.seen) == 1


async def test_healthy_replicas_stay_while_serve_is_silent_or_names_only_its_own_proxy(edge, serve, digits):
    async with edge.load() as load:
        serve.up = False
        await load.more(300)
        serve.up = True
        serve.fallback_for = {"digits-r7"}
        await load.more(300)
        serve.targets, serve.fallback_for = {}, set()
        await load.more(300)
    assert load.failed == {}
    assert len(digits["stable"].seen) == load.sent


async def test_a_limit_change_reaches_replicas_that_are_already_there(edge, serve, replicas):
    replica = await replicas("digits-r7")
    serve.targets = {"digits-r7": [replica.address]}
    await one_arm(edge, maxOngoingRequests=50)
    await edge.up("digits", stable=1)
    await one_arm(edge, maxOngoingRequests=1)

    async def one_at_a_time() -> bool:
        replica.seen.clear()
        replica.entered.clear()
        first = asyncio.create_task(edge.get("/digits/?events=1"))
        await replica.entered.wait()
        second = asyncio.create_task(edge.get("/digits/"))

        async def known() -> bool:
            return second.done() or await queued(edge) == 1

        await edge.comes_true(known, "the second request answered or waiting")
        waits = not second.done() and len(replica.seen) == 1
        replica.go_on.release()
        assert [(await first).status, (await second).status] == [200, 200]
        return waits and len(replica.seen) == 2

    await edge.comes_true(one_at_a_time, "the second request waits for the first")


async def test_requests_that_wait_for_an_arm_are_answered_by_it_although_it_leaves(edge, serve, replicas):
    leaving, staying = await replicas("digits-r8"), await replicas("digits-r7")
    serve.targets = {"digits-r8": [leaving.address], "digits-r7": [staying.address]}
    limits = {"maxOngoingRequests": 1, "queue": {"maxRequests": 9, "timeoutSeconds": PATIENCE_S}}
    arms = [edge.arm("stable", "digits-r7", []), edge.arm("canary", "digits-r8", [[0, 10_000]], revision=8)]
    await edge.apply(edge.service("digits", arms, **limits))
    await edge.up("digits", stable=1, canary=1)
    requests = [asyncio.create_task(edge.get("/digits/?hold")) for _ in range(4)]

    async def all_wait() -> bool:
        return len(leaving.seen) == 1 and await queued(edge) == 3

    await edge.comes_true(all_wait, "one request at the replica, three in the queue")
    # The servers follow the first document before the second one is read.
    for _ in range(2):
        await one_arm(edge, **limits)
    assert (await edge.get("/digits/")).headers["x-sundog-arm"] == "stable"
    for _ in requests:
        leaving.go_on.release()
    assert [answer.status for answer in await asyncio.gather(*requests)] == [200] * 4
    assert (len(leaving.seen), len(staying.seen)) == (4, 1)

    async def nothing_is_left() -> bool:
        return json.loads((edge.root / "s" / "layout.json").read_text())["leaving"] == []

    await edge.comes_true(nothing_is_left, "the slot is free")


async def test_an_application_that_left_gives_its_slot_back(edge, serve, replicas):
    def layout() -> dict:
        return json.loads((edge.root / "s" / "layout.json").read_text())

    async def nothing_is_left() -> bool:
        return layout()["leaving"] == []

    for revision in range(4):
        application = f"digits-r{revision}"
        replica = await replicas(application)
        serve.targets = {application: [replica.address]}
        others = [edge.arm(f"a{n}", f"old-{revision}-{n}", []) for n in range(5)]
        await edge.apply(edge.service("digits", [edge.arm("stable", application, [[0, 10_000]]), *others]))
        await edge.up("digits", stable=1)
        assert (await edge.get("/digits/")).status == 200
        await edge.comes_true(nothing_is_left, "the slots of the application before are free")
    # 24 arms were there, one after the other.
    assert layout()["slots"] == 16
